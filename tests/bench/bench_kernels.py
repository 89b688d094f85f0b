"""Measures the exact kernels against the best vendor kernel of this machine, as `tolsey bench kernels` does.

    python tests/bench/bench_kernels.py [--quick] [--isa NAME …]

Vendors: torch's own kernels (products by MKL, where torch was built with it) and oneDNN's products through torch. How
rates and ratios are taken is said in src/tolsey/numerics/bench.py. A build narrower than the machine is still compared
with vendors that use all of it.
"""

from __future__ import annotations

import argparse

from tolsey.numerics import bench, build, library
from tolsey.runtime.rivals import Torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes")
    parser.add_argument("--isa", nargs="*", help="builds to run (all but baseline)")
    options = parser.parse_args()
    libs = [library.load(name) for name in options.isa or [name for name in build.runnable() if name != "baseline"]]
    vendors = Torch()
    print(vendors.name)
    for threads in (1, 2):
        for contest, rounds in bench.contests(quick=options.quick):
            for one in bench.measure(contest, libs, threads, rounds, vendors):
                ratio = "" if one.ratio is None else f"  ratio {one.ratio:.2f}"
                what = f"{one.what}, {threads} thread(s)"
                print(f"{what:<56} {one.who:<8} {one.rate:8.1f} {one.unit}{ratio}", flush=True)


if __name__ == "__main__":
    main()
