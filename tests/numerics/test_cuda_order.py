"""A changed order, lane or rounding in a GPU kernel is seen by the comparison with the twins, emulated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from tolsey.numerics import lookups, products, reductions, softmax
from tolsey.numerics.cuda import compile
from tolsey.numerics.cuda.library import GpuLibrary
from tolsey.numerics.reference import lookups as slow_lookups
from tolsey.numerics.reference import products as slow_products
from tolsey.numerics.reference import reductions as slow_reductions
from tolsey.numerics.reference import softmax as slow_softmax

from .emulated import Emulated, compile_units
from .numbers import F32, bits, draw

Both = Callable[[GpuLibrary], tuple[F32, F32]]


def product(lib: GpuLibrary) -> tuple[F32, F32]:
    a, b = draw("unit", (70, 21), 1), draw("unit", (21, 66), 2)
    return products.gemm(lib, a, b), slow_products.gemm(a, b)


def weights_gradient(lib: GpuLibrary) -> tuple[F32, F32]:
    gradient, x = draw("unit", (1, 3, 100), 1), draw("unit", (1, 2, 101), 2)
    steps = {"stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1}
    geometry = products.Geometry.of(x.shape, (3, 2, 2), **steps)
    found = products.convolution_backward_weight(lib, geometry, gradient, x)
    return found, slow_products.convolution_backward_weight(gradient, x, (2,), **steps)


def total(lib: GpuLibrary) -> tuple[F32, F32]:
    x = draw("unit", (3, 5000), 1)
    return reductions.sum(lib, x, (1,)), slow_reductions.sum(x, (1,))


def probabilities(lib: GpuLibrary) -> tuple[F32, F32]:
    x = draw("unit", (9, 300), 1)
    return softmax.softmax(lib, x, 1), slow_softmax.softmax(x, 1)


def rows_of_table(lib: GpuLibrary) -> tuple[F32, F32]:
    grad, index = draw("unit", (600, 3), 1), numpy.arange(600) % 7
    args = (grad, index, 7, -1, False)
    return lookups.embedding_backward(lib, *args), slow_lookups.embedding_backward(*args)


MUTATIONS: dict[str, tuple[str, Both, str, str, str]] = {
    "two roundings": (
        *("gemm", product, "gemm.h"),
        *("at[i][j] = sfma(left, right, at[i][j])", "at[i][j] = left * right + at[i][j]"),
    ),
    "a part of the chain backwards": (
        *("gemm", product, "gemm.h"),
        *("(s + 1) % K, row, column", "(K - 1 - s) % K, row, column"),
    ),
    "no barrier before the next tile": (
        *("gemm", product, "gemm.h"),
        *("                __syncthreads();\n", ""),
    ),
    "a part of a small tile's chain backwards": (
        *("conv", weights_gradient, "conv.cu"),
        *("s < DEPTH; s++) go_on(s)", "s < DEPTH; s++) go_on(DEPTH - 1 - s)"),
    ),
    "chunks of 2048": ("reduce", total, "warps.h", "CHUNK = 4096", "CHUNK = 2048"),
    "tree over neighbours": (
        *("reduce", total, "warps.h"),
        *("half = LANES / 2; half > 0; half /= 2", "half = 1; half < LANES; half *= 2"),
    ),
    "neighbours kept by one thread": (
        *("softmax", probabilities, "warps.h"),
        *("own * LANES + thread()", "thread() * KEPT + own"),
    ),
    "a sort that is not stable": (
        *("lookups", rows_of_table, "lookups.cu"),
        *("t < threadIdx.x; t++) to +=", "t < BLOCK; t++) to += t > (int)threadIdx.x &&"),
    ),
}
"""What is done: the unit, what is computed with it, the file, an old text that stands there once, a new one."""


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_changed_kernel_is_caught(mutation: str, tmp_path: Path) -> None:
    unit, both, file, old, new = MUTATIONS[mutation]
    sources = tmp_path / "cuda"
    shutil.copytree(compile.SOURCES, sources, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = (sources / file).read_text()
    assert text.count(old) == 1, f"{file} does not say {old!r} once"
    (sources / file).write_text(text.replace(old, new))
    lib = GpuLibrary(Emulated(compile_units(tmp_path, sources, [unit])))
    found, expected = both(lib)
    assert (bits(found) != bits(expected)).any()
