"""Measures the exact kernels on a GPU against PyTorch's own on the same one, TF32 off.

    python tests/bench/bench_gpu.py [--quick]

Needs a CUDA build of PyTorch and a GPU; says so and ends where there is none. Both run by turns in one process, each
round until the device has finished; the ratio is the median over rounds of (our time / PyTorch's). Products are those
of every exact profile; up to 2048 they are also compared: ours on the GPU with ours on the CPU, to the bit.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import table
import torch

from tolsey.errors import ConfigError
from tolsey.numerics import PROFILE, int8, library, products, softmax  # noqa: F401  # softmax is called by its name in C
from tolsey.numerics.cuda import library as gpu

Work = Callable[[], object]
TARGET = 1.3


def by_turns(ours: Work, theirs: Work, rounds: int) -> tuple[float, float]:
    """Seconds of our best round, and the median ratio to theirs."""
    taken: list[list[float]] = [[], []]
    for round_ in range(rounds + 2):
        for times, work in zip(taken, (ours, theirs), strict=True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            if round_ > 1:  # the first ones warm up
                times.append(time.perf_counter() - start)
    return min(taken[0]), statistics.median(mine / other for mine, other in zip(*taken, strict=True))


def multiplied(lib: gpu.GpuLibrary, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> Work:
    m, n, k = a.shape[0], b.shape[1], a.shape[1]
    steps = [(x.data_ptr(), 0, *x.stride()) for x in (a, b, out)]
    kernel = lib.function("tolsey_gemm")
    return lambda: kernel(1, m, n, k, *steps[0], *steps[1], None, 0, 0, 0, *steps[2])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    try:
        lib = gpu.current()
        if not torch.cuda.is_available():
            raise ConfigError("PyTorch here has no CUDA")
    except ConfigError as missing:
        print(f"not measured: {missing}")
        return 0
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    print(torch.cuda.get_device_name(), lib, flush=True)
    table.head()
    cpu = library.current()
    laws = {PROFILE: (lib, cpu)}
    laws |= {name: (int8.kernels(lib, slices), int8.kernels(cpu, slices)) for name, slices in int8.SLICES.items()}
    equal = True
    for n in (512, 2048) if quick else (512, 1024, 2048, 4096, 8192):
        a, b = (torch.randn(n, n, device="cuda") for _ in range(2))
        out = torch.empty(n, n, device="cuda")
        layouts = ("NN", a, b), ("NT", a, b.T), ("TN", a.T, b)
        for (law, (mine, host)), (name, left, right) in itertools.product(laws.items(), layouts):
            ours = multiplied(mine, left, right, out)
            best, ratio = by_turns(ours, partial(torch.mm, left, right, out=torch.empty_like(out)), 5)
            rate = f"{2 * n**3 / best / 1e12:.1f} TFLOP/s, {ratio:.2f} of PyTorch's time"
            table.row(f"product {n} {name}, {law}", rate, f"<= {TARGET}", ratio <= TARGET)
            if n <= 2048:
                ours()
                found = products.gemm(host, left.cpu().numpy(), right.cpu().numpy())
                equal &= bool((out.cpu() == torch.from_numpy(found)).all())
    x = torch.randn(8192, 1024, device="cuda")
    y = torch.empty_like(x)
    row = (x.data_ptr(), y.data_ptr(), 8192, 1024, 1)
    for what, mine, other in (
        ("softmax 8192 x 1024", lambda: lib.function("tolsey_softmax")(*row), lambda: torch.softmax(x, 1)),
        ("exp 8 M", lambda: lib.function("tolsey_exp")(*row[:2], x.numel()), lambda: torch.exp(x)),
    ):
        best, ratio = by_turns(mine, other, 9)
        table.row(what, f"{best * 1e6:.0f} us, {ratio:.2f} of PyTorch's time", f"<= {TARGET}", ratio <= TARGET)
    table.row("products equal to the CPU's bits", "all" if equal else "not all", "all", equal)
    return 0


if __name__ == "__main__":
    sys.exit(main())
