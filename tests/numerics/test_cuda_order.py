"""A changed order, lane or rounding in a GPU kernel is seen by the comparison with the twins, emulated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from tolsey.numerics import int8, lookups, products, reductions, softmax
from tolsey.numerics.cuda import compile
from tolsey.numerics.cuda.library import GpuLibrary
from tolsey.numerics.products import Geometry
from tolsey.numerics.reference import int8 as slow_int8
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


def whole(lib: GpuLibrary) -> tuple[F32, F32]:
    """Three slices, several tiles, more steps of k than are under way."""
    a, b = draw("wide", (70, 300), 1), draw("unit", (300, 66), 2)
    return products.gemm(int8.kernels(lib, 3), a, b), slow_int8.gemm(a, b, slices=3)


def whole_with_shared_terms(lib: GpuLibrary) -> tuple[F32, F32]:
    """Two blocks add what they have to sums."""
    a, b = draw("unit", (20, 2048), 1), draw("unit", (2048, 30), 2)
    return products.gemm(int8.kernels(lib, 2), a, b), slow_int8.gemm(a, b, slices=2)


def window(lib: GpuLibrary) -> tuple[F32, F32]:
    """The gradient of an input, where positions, taps and borders are decoded."""
    shape = Geometry.of((2, 3, 9, 7), (4, 3, 3, 2), stride=[2, 1], padding=[1, 1], dilation=[1, 2], groups=1)
    gradient, weight = draw("unit", shape.output_shape, 1), draw("unit", shape.weight_shape, 2)
    expected = slow_int8.convolution_backward_input(
        gradient, weight, None, shape.size, shape.stride, shape.padding, shape.dilation, 1, slices=2
    )
    return products.convolution_backward_input(int8.kernels(lib, 2), shape, gradient, weight), expected


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
    "a part's sum dropped": (
        *("int8", whole, "int8.cu"),
        *("for (int s = 0; s < Shape::PARTS; s++)", "for (int s = 0; s < Shape::PARTS - 1; s++)"),
    ),
    "sums of digits that carry into their neighbours": (
        *("int8", whole, "int8.cu"),
        *("((x & 0x7f7f7f7f) + (y & 0x7f7f7f7f)) ^ ((x ^ y) & 0x80808080)", "x + y"),
    ),
    "digits without a sign": (
        *("int8", whole, "int8.cu"),
        *("low = digit ? ((whole[w][e] + 64) & 127) - 64", "low = digit ? whole[w][e] & 127"),
    ),
    "digits multiplied before they are there": (
        *("int8", whole, "int8.cu"),
        *("wait_until_under_way<STAGES - 2>()", "wait_until_under_way<STAGES - 1>()"),
    ),
    "no barrier before a step's place is filled anew": (
        *("int8", whole, "int8.cu"),
        *("__syncthreads(); /* and all are", "/* and all are"),
    ),
    "exponents of the first terms alone": (
        *("int8", whole, "int8.cu"),
        *("here < least(depth, k + AT_ONCE); here += KS", "here < least(depth, k + KS); here += KS"),
    ),
    "sums of one block forget another's": (
        *("int8", whole_with_shared_terms, "int8.cu"),
        *(
            "atomicAdd(to + r * it.sums_row_step, (uint64_t)sums[r][lane()])",
            "to[r * it.sums_row_step] = sums[r][lane()]",
        ),
    ),
    "borders read as numbers": (
        *("int8", window, "int8.cu"),
        *("inside = inside && seen >= 0 && seen < it.size[d]", "inside = inside && seen >= 0"),
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
    lib = GpuLibrary(Emulated(compile_units(tmp_path, sources, [unit]), multiprocessors=2))
    found, expected = both(lib)
    assert (bits(found) != bits(expected)).any()
