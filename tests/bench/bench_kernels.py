"""Measures the exact products against the best vendor kernel of this machine.

    python tests/bench/bench_kernels.py [--quick] [--isa NAME …]

Vendors: torch's own product (MKL, where torch was built with it) and oneDNN's through torch, held to the instructions
that the build uses (vendors.py), so each build has a process of its own. In it all run by turns, so that a busy machine
hits all alike. GFLOP/s are of the best round; the ratio is the median over rounds of (best vendor's time / ours):
above 1 we are faster. With one thread, time is what the thread computed; with more, what passed on the wall.

A thread of PyTorch's that waits for more work spins for a while, on a core that ours needs next. So they are told to
sleep at once (OMP_WAIT_POLICY), which costs them a few microseconds a call.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from vendors import LIMITS, environment

from tolsey.numerics import build, library, products
from tolsey.numerics.library import Library

Work = Callable[[], object]


def by_turns(works: dict[str, Work], rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds of each work in each round."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            start = clock()
            work()
            if round_:  # the first warms up
                taken[name].append(clock() - start)
    return taken


def report(what: str, flop: float, taken: dict[str, list[float]], vendors: tuple[str, ...] = ("torch",)) -> None:
    """One line a contestant; ratios to the vendor that was best in the same round."""
    best_vendor = [min(times) for times in zip(*(taken[name] for name in vendors), strict=True)]
    for name, times in taken.items():
        ratio = statistics.median(theirs / ours for theirs, ours in zip(best_vendor, times, strict=True))
        shown = "" if name in vendors else f"  ratio {ratio:.2f}"
        print(f"{what:<46} {name:<8} {flop / min(times) / 1e9:8.1f} GFLOP/s{shown}", flush=True)


def multiplied(lib: Library, a: Tensor, b: Tensor, out: Tensor) -> Work:
    """The kernel on matrices or batches of them, of any strides."""
    steps = [(0, *t.stride()) if t.dim() == 2 else t.stride() for t in (a, b, out)]
    batch = 1 if a.dim() == 2 else a.shape[0]
    return partial(
        lib.function("tolsey_gemm"),
        *(batch, a.shape[-2], b.shape[-1], a.shape[-1]),
        *(a.data_ptr(), *steps[0], b.data_ptr(), *steps[1], None, 0, 0, 0, out.data_ptr(), *steps[2]),
    )


def square_products(libs: list[Library], sizes: list[int], rounds: int, threads: int) -> None:
    for n in sizes:
        a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        for layout, left, right in (("NN", a, b), ("NT", a, b.t()), ("TN", a.t(), b)):
            works: dict[str, Work] = {"torch": partial(torch.mm, left, right, out=out)}
            if torch.backends.mkldnn.is_available():
                onednn = torch.ops.mkldnn._linear_pointwise
                works["onednn"] = partial(onednn, left, right.t(), None, "none", [], "")
            vendors = tuple(works)
            works |= {lib.isa: multiplied(lib, left, right, out) for lib in libs}
            taken = by_turns(works, max(3, int(rounds * (512 / n) ** 2)), threads)
            report(f"{n} x {n} x {n} {layout}, {threads} thread(s)", 2.0 * n**3, taken, vendors)


def model_products(libs: list[Library], rounds: int, threads: int) -> None:
    """What a small transformer multiplies: tokens by width, few tokens, attention heads."""
    for m, n, k in ((1024, 768, 256), (1024, 256, 768), (256, 768, 1024), (1024, 256, 128), (8, 4096, 1024)):
        a, weight, out = torch.randn(m, k), torch.randn(n, k), torch.empty(m, n)
        works: dict[str, Work] = {"torch": partial(torch.mm, a, weight.t(), out=out)}
        works |= {lib.isa: multiplied(lib, a, weight.t(), out) for lib in libs}
        report(f"{m} x {n} x {k} NT, {threads} thread(s)", 2.0 * m * n * k, by_turns(works, rounds, threads))
    for batch, m, n, k in ((64, 64, 64, 32), (64, 64, 32, 64), (32, 256, 64, 256)):
        a, b, out = torch.randn(batch, m, k), torch.randn(batch, k, n), torch.empty(batch, m, n)
        works = {"torch": partial(torch.bmm, a, b, out=out)}
        works |= {lib.isa: multiplied(lib, a, b, out) for lib in libs}
        flop = 2.0 * batch * m * n * k
        report(f"{batch} of {m} x {n} x {k}, {threads} thread(s)", flop, by_turns(works, rounds, threads))


def convolutions(libs: list[Library], rounds: int, threads: int) -> None:
    """Layers of ResNets for small and for large images, one depthwise; forward and both gradients."""
    for images, channels, size, channels_out, kernel, stride, groups in (
        (32, 64, 32, 64, 3, 1, 1),
        (32, 64, 32, 128, 3, 2, 1),
        (32, 512, 4, 512, 3, 1, 1),
        (8, 256, 14, 1024, 1, 1, 1),
        (16, 96, 28, 96, 3, 1, 96),
    ):
        x = torch.randn(images, channels, size, size)
        weight = torch.randn(channels_out, channels // groups, kernel, kernel)
        strides, padding, dilation = [stride] * 2, [kernel // 2] * 2, [1, 1]
        shape = products.Geometry.of(
            x.shape, weight.shape, stride=strides, padding=padding, dilation=dilation, groups=groups
        )
        packed, gradient = shape.packed(), torch.randn(shape.output_shape)
        backward = partial(torch.ops.aten.convolution_backward, gradient, x, weight, None, strides, padding, dilation)
        for part, theirs, name, operands, result in (
            ("forward", partial(torch.conv2d, x, weight, None, strides, padding, dilation, groups),
             "tolsey_convolution", (x, weight, None), torch.empty_like(gradient)),
            ("input", partial(backward, False, [0, 0], groups, [True, False, False]),
             "tolsey_convolution_backward_input", (gradient, weight, None), torch.empty_like(x)),
            ("weight", partial(backward, False, [0, 0], groups, [False, True, False]),
             "tolsey_convolution_backward_weight", (gradient, x), torch.empty_like(weight)),
        ):  # fmt: skip
            places = [None if t is None else t.data_ptr() for t in (*operands, result)]
            works: dict[str, Work] = {"torch": theirs}
            works |= {lib.isa: partial(lib.function(name), packed.ctypes.data, *places) for lib in libs}
            what = f"conv {images}x{channels}x{size}² to {channels_out}, {kernel}²/{stride}"
            what += (f" g{groups}" if groups > 1 else "") + f" {part}, {threads} thread(s)"
            flop = 2.0 * gradient.numel() * weight[0].numel()
            report(what, flop, by_turns(works, max(3, rounds // 4), threads))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes")
    parser.add_argument("--isa", nargs="*", help="builds to run (all but baseline)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.isa or [name for name in LIMITS if name in build.runnable()]
    if not options.here:
        for name in names:
            command = [sys.executable, "-u", __file__, "--here", "--isa", name, *["--quick"] * options.quick]
            subprocess.run(command, env=environment(name) | {"OMP_WAIT_POLICY": "passive"}, check=True)
        return
    libs = [library.load(name) for name in names]
    rounds, sizes = (8, [256, 512]) if options.quick else (40, [256, 512, 1024, 2048])
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} CPUs")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for lib in libs:
            lib.threads = threads
        square_products(libs, sizes, rounds, threads)
        model_products(libs, rounds, threads)
        convolutions(libs, rounds, threads)


if __name__ == "__main__":
    main()
