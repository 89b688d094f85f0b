"""Measures sums, norms, softmax, losses, look-ups and pooling against torch, at shapes of a small GPT and a small CNN.

    python tests/bench/bench_reductions.py [--quick] [--isa NAME …]

Both run by turns, as in src/tolsey/numerics/bench.py, whose ratio this is: the median over rounds of (torch's time /
ours), above 1 we are faster. Torch allocates what it gives, as a graph's nodes do; the allocator is told to keep
memory, so that no page is faulted in anew. One thread: time that the thread computed; two: on the wall.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tolsey.numerics import build, library, lookups, losses, norms, pooling, reductions, softmax  # noqa: F401  # they declare their kernels
from tolsey.numerics.bench import Work, by_turns
from tolsey.numerics.library import Library

ATEN = torch.ops.aten
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
Contest = tuple[str, Callable[[Library], Work], Work]
"""What, ours for a build, torch's."""


def ours(name: str, *args: Any) -> Callable[[Library], Work]:
    """A kernel on tensors, which it keeps alive."""

    def bound(lib: Library) -> Work:
        kernel = lib.function(f"tolsey_{name}")
        places = [arg.data_ptr() if isinstance(arg, Tensor) else arg for arg in args]
        return lambda: (kernel(*places), args)

    return bound


def sizes(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def sums() -> Iterator[Contest]:
    for shape, dims in (((1024, 768), [0]), ((1024, 3072), [0]), ((1024, 768), [1]), ((64, 32, 16, 16), [0, 2, 3])):
        x, bits = torch.randn(shape), sum(1 << dim for dim in dims)
        y = torch.empty([size for dim, size in enumerate(shape) if dim not in dims])
        theirs = partial(ATEN.sum.dim_IntList, x, dims, False)
        yield f"sum {shape} over {dims}", ours("sum", x, y, len(shape), sizes(*shape), bits), theirs
    x, y = torch.randn(1024, 768), torch.empty(1024)
    yield "mean (1024, 768) over [1]", ours("mean", x, y, 2, sizes(1024, 768), 2), partial(ATEN.mean.dim, x, [1], False)
    x, y = torch.randn(768, 3072), torch.empty(())
    yield (
        "2-norm (768, 3072)",
        ours("vector_norm", x, y, 2, sizes(768, 3072), 3, 2.0),
        partial(ATEN.linalg_vector_norm.default, x),
    )


def softmaxes() -> Iterator[Contest]:
    for shape, dim in (((12, 256, 256), 2), ((1024, 256), 1), ((256, 50257), 1), ((8, 21, 64, 64), 1)):
        x, grad, y = torch.randn(shape), torch.randn(shape), torch.empty(shape)
        around = reductions.around(shape, dim)
        for name, forward, backward in (
            ("softmax", ATEN._softmax.default, ATEN._softmax_backward_data.default),
            ("log_softmax", ATEN._log_softmax.default, ATEN._log_softmax_backward_data.default),
        ):
            given = forward(x, dim, False)
            yield f"{name} {shape} along {dim}", ours(name, x, y, *around), partial(forward, x, dim, False)
            theirs = partial(backward, grad, given, dim, torch.float32)
            yield f"{name}_backward {shape} along {dim}", ours(f"{name}_backward", grad, given, y, *around), theirs


def losses_and_lookups() -> Iterator[Contest]:
    for rows, classes in ((1024, 256), (256, 50257)):
        x, target = torch.log_softmax(torch.randn(rows, classes), 1), torch.randint(0, classes, (rows,))
        loss, total, grad, dx = torch.empty(()), torch.tensor(float(rows)), torch.ones(()), torch.empty(rows, classes)
        given = rows, classes, 1, 1, -100
        theirs = partial(ATEN.nll_loss_forward.default, x, target, None, 1, -100)
        yield f"nll_loss ({rows}, {classes})", ours("nll_loss", x, target, None, loss, torch.empty(()), *given), theirs
        back = partial(ATEN.nll_loss_backward.default, grad, x, target, None, 1, -100, total)
        yield (
            f"nll_loss_backward ({rows}, {classes})",
            ours("nll_loss_backward", grad, target, None, total, dx, *given),
            back,
        )
    grad = torch.randn(1024, 768)
    for rows in (256, 50257):
        index, table = torch.randint(0, rows, (1024,)), torch.empty(rows, 768)
        kernel = ours("embedding_backward", grad, index, table, 1024, rows, 768, -1, 0)
        theirs = partial(ATEN.embedding_dense_backward.default, grad, index, rows, -1, False)
        yield f"embedding_backward (1024, 768) of {rows}", kernel, theirs


def norm_layers() -> Iterator[Contest]:
    for rows, n in ((1024, 768), (1024, 128), (4096, 512)):
        x, grad, y, (weight, bias) = torch.randn(rows, n), torch.randn(rows, n), torch.empty(rows, n), torch.randn(2, n)
        _, mean, rstd = ATEN.native_layer_norm.default(x, [n], weight, bias, 1e-5)
        kernel = ours("layer_norm", x, weight, bias, y, torch.empty(rows), torch.empty(rows), rows, n, 1e-5)
        yield f"layer_norm ({rows}, {n})", kernel, partial(ATEN.native_layer_norm.default, x, [n], weight, bias, 1e-5)
        kernel = ours("layer_norm_backward", grad, x, mean, rstd, weight, y, torch.empty(n), torch.empty(n), rows, n)
        yield (
            f"layer_norm_backward ({rows}, {n})",
            kernel,
            partial(ATEN.native_layer_norm_backward.default, grad, x, [n], mean, rstd, weight, bias, [True] * 3),
        )
    shape = 64, 32, 256
    x, grad, y = (torch.randn(64, 32, 16, 16) for _ in range(3))
    weight, bias, mean, variance, *out = torch.rand(10, 32)
    kernel = ours("batch_norm", x, weight, bias, mean, variance, y, *out[:4], *shape, 1, 0.1, 1e-5)
    yield (
        "batch_norm 64x32x16x16",
        kernel,
        partial(ATEN._native_batch_norm_legit_functional.default, x, weight, bias, mean, variance, True, 0.1, 1e-5),
    )
    kernel = ours("batch_norm_backward", grad, x, weight, mean, variance, y, out[4], out[5], *shape, 1, 1e-5)
    yield (
        "batch_norm_backward 64x32x16x16",
        kernel,
        partial(
            ATEN.native_batch_norm_backward.default,
            grad,
            x,
            weight,
            mean,
            variance,
            mean,
            variance,
            True,
            1e-5,
            [True] * 3,
        ),
    )
    statistics_ = torch.rand(64, 8), torch.rand(64, 8)
    kernel = ours("group_norm", x, weight, bias, y, *statistics_, *shape, 8, 1e-5)
    yield (
        "group_norm 64x32x16x16 by 8",
        kernel,
        partial(ATEN.native_group_norm.default, x, weight, bias, *shape, 8, 1e-5),
    )
    kernel = ours("group_norm_backward", grad, x, *statistics_, weight, y, out[4], out[5], *shape, 8)
    yield (
        "group_norm_backward 64x32x16x16 by 8",
        kernel,
        partial(ATEN.native_group_norm_backward.default, grad, x, *statistics_, weight, *shape, 8, [True] * 3),
    )


def pools() -> Iterator[Contest]:
    x, dx, grad, y = torch.randn(64, 32, 16, 16), torch.empty(64, 32, 16, 16), *torch.randn(2, 64, 32, 8, 8)
    places, planes = torch.empty_like(y, dtype=torch.int64), (2048, 16, 16, 8, 8)
    two, three, one, none = (sizes(size, size) for size in (2, 3, 1, 0))
    largest, average = ATEN.max_pool2d_with_indices.default, ATEN.avg_pool2d.default
    yield (
        "max_pool2d 64x32x16x16 by 2",
        ours("max_pool2d", x, y, places, *planes, two, two, none, one),
        partial(largest, x, [2], [2]),
    )
    yield (
        "max_pool2d 64x32x16x16 by 3/2",
        ours("max_pool2d", x, y, places, *planes, three, two, one, one),
        partial(largest, x, [3], [2], [1]),
    )
    _, found = largest(x, [2], [2])
    yield (
        "max_pool2d_backward",
        ours("max_pool2d_backward", grad, found, dx, *planes),
        partial(ATEN.max_pool2d_with_indices_backward.default, grad, x, [2], [2], [0], [1], False, found),
    )
    yield (
        "avg_pool2d 64x32x16x16 by 2",
        ours("avg_pool2d", x, y, *planes, two, two, none, 1, 0),
        partial(average, x, [2], [2]),
    )
    yield (
        "avg_pool2d_backward",
        ours("avg_pool2d_backward", grad, dx, *planes, two, two, none, 1, 0),
        partial(ATEN.avg_pool2d_backward.default, grad, x, [2], [2], [0], False, True, None),
    )
    yield (
        "adaptive_avg_pool2d to 1",
        ours("adaptive_avg_pool2d", x, y, 2048, 16, 16, 1, 1),
        partial(ATEN._adaptive_avg_pool2d.default, x, [1, 1]),
    )
    ones = grad[:, :, :1, :1].contiguous()
    yield (
        "adaptive_avg_pool2d_backward from 1",
        ours("adaptive_avg_pool2d_backward", ones, dx, 2048, 16, 16, 1, 1),
        partial(ATEN._adaptive_avg_pool2d_backward.default, ones, x),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--isa", nargs="*", help="builds to run (all but baseline)")
    options = parser.parse_args()
    ctypes.CDLL(None).mallopt(M_MMAP_MAX, 0)
    ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libs = [library.load(name) for name in options.isa or [name for name in build.runnable() if name != "baseline"]]
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for lib in libs:
            lib.threads = threads
        for group in (sums, softmaxes, losses_and_lookups, norm_layers, pools):
            for what, mine, theirs in group():
                taken = by_turns(
                    {"torch": theirs} | {lib.isa: mine(lib) for lib in libs}, 10 if options.quick else 60, threads
                )
                shown = []
                for lib in libs:
                    pairs = zip(taken["torch"], taken[lib.isa], strict=True)
                    ratio = statistics.median(torch_s / our_s for torch_s, our_s in pairs)
                    shown.append(f"{lib.isa} {min(taken[lib.isa]) * 1e6:8.0f} us  ratio {ratio:5.2f}")
                what += f", {threads} thread(s)"
                print(f"{what:<52} torch {min(taken['torch']) * 1e6:8.0f} us  {'  '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
