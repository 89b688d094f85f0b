"""Measures the exact kernels against the best vendor kernel of this machine, as `tolsey bench kernels` does.

    python tests/bench/bench_kernels.py [--quick] [--isa NAME …]

Vendors: torch's own kernels (products by MKL, where torch was built with it) and oneDNN's products through torch, held
to the instructions that the build uses (vendors.py), so each build has a process of its own. How rates and ratios are
taken is said in src/tolsey/numerics/bench.py.

A thread that waits for more of PyTorch's work spins for a while, on a core that ours needs. So PyTorch's threads are
told to sleep at once (OMP_WAIT_POLICY), which costs them a few microseconds a call.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from vendors import LIMITS, environment

from tolsey.numerics import bench, build, library
from tolsey.runtime.rivals import Torch


def measure(names: list[str], *, quick: bool) -> None:
    """Prints a line for each kernel, build and number of threads."""
    libs = [library.load(name) for name in names]
    vendors = Torch()
    print(vendors.name)
    for threads in (1, 2):
        for contest, rounds in bench.contests(quick=quick):
            for one in bench.measure(contest, libs, threads, rounds, vendors):
                ratio = "" if one.ratio is None else f"  ratio {one.ratio:.2f}"
                what = f"{one.what}, {threads} thread(s)"
                print(f"{what:<56} {one.who:<8} {one.rate:8.1f} {one.unit}{ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes")
    parser.add_argument("--isa", nargs="*", help="builds to run (all but baseline)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.isa or [name for name in LIMITS if name in build.runnable()]
    if options.here:
        measure(names, quick=options.quick)
        return
    for name in names:
        command = [sys.executable, "-u", __file__, "--here", "--isa", name, *["--quick"] * options.quick]
        subprocess.run(command, env=environment(name) | {"OMP_WAIT_POLICY": "passive"}, check=True)


if __name__ == "__main__":
    main()
