"""Sums, means, variances, norms, extremes and running sums of NumPy arrays: what native/reduce.c is called with.

Functions are named and take their arguments as in docs/ops.md; arrays are float32 of any layout (a kernel sees a
row-major copy where they are not). The law of their bits is docs/numerics/reductions.md, sections 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library
from tolsey.numerics.library import Library

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]

OVER_DIMS = "f32* f32* i64 i64* u32"
"""Input, output, rank, sizes, and the reduced dims as bits."""
ALONG_DIM = "i64 i64 i64"
"""The sizes of what lies before a dim, in it, and after it."""

for _name in ("sum", "mean", "amax", "amin"):
    library.declare(f"tolsey_{_name}", OVER_DIMS)
for _name in ("variance", "vector_norm"):
    library.declare(f"tolsey_{_name}", f"{OVER_DIMS} f64")
library.declare("tolsey_cumsum", f"f32* f32* {ALONG_DIM}")
library.declare("tolsey_argmax", f"f32* i64* {ALONG_DIM}")


def sum(lib: Library, x: F32, dims: Sequence[int] = (), keepdim: bool = False) -> F32:
    return _over_dims(lib, "sum", x, dims, keepdim)


def mean(lib: Library, x: F32, dims: Sequence[int] = (), keepdim: bool = False) -> F32:
    return _over_dims(lib, "mean", x, dims, keepdim)


def variance(
    lib: Library,
    x: F32,
    dims: Sequence[int] = (),
    correction: float = 1,
    keepdim: bool = False,
) -> F32:
    return _over_dims(lib, "variance", x, dims, keepdim, float(correction))


def amax(lib: Library, x: F32, dims: Sequence[int] = (), keepdim: bool = False) -> F32:
    """
    Raises:
        ValueError: there is no element to choose from.
    """
    return _over_dims(lib, "amax", x, dims, keepdim)


def amin(lib: Library, x: F32, dims: Sequence[int] = (), keepdim: bool = False) -> F32:
    """
    Raises:
        ValueError: there is no element to choose from.
    """
    return _over_dims(lib, "amin", x, dims, keepdim)


def vector_norm(lib: Library, x: F32, order: float, dims: Sequence[int] = (), keepdim: bool = False) -> F32:
    """
    Raises:
        ValueError: no element, and an infinite or negative order.
    """
    return _over_dims(lib, "vector_norm", x, dims, keepdim, float(order))


def argmax(lib: Library, x: F32, dim: int | None = None, keepdim: bool = False) -> I64:
    """
    Raises:
        ValueError: there is no element to choose from.
    """
    x = row_major(x)
    sizes = (1, x.size, 1) if dim is None else around(x.shape, dim)
    place = numpy.empty(sizes[0] * sizes[2], numpy.int64)
    lib.call("tolsey_argmax", x, place, *sizes)
    return place.reshape(left(x.shape, () if dim is None else (dim,), keepdim))


def cumsum(lib: Library, x: F32, dim: int) -> F32:
    x = row_major(x)
    y = numpy.empty_like(x)
    lib.call("tolsey_cumsum", x, y, *around(x.shape, dim))
    return y


def _over_dims(lib: Library, name: str, x: F32, dims: Sequence[int], keepdim: bool, *numbers: float) -> F32:
    x = row_major(x)
    bits, sizes, shape = _plan(x.shape, tuple(dims), keepdim)
    y = numpy.empty(shape, numpy.float32)
    lib.call(f"tolsey_{name}", x, y, x.ndim, sizes, bits, *numbers)
    return y


@lru_cache(maxsize=1 << 12)
def _plan(shape: tuple[int, ...], dims: tuple[int, ...], keepdim: bool) -> tuple[int, I64, list[int]]:
    """Reduced dims as bits, sizes as a kernel reads them, the shape of the result; programs ask for the same again."""
    return dim_bits(len(shape), dims), numpy.array(shape, numpy.int64), left(shape, dims, keepdim)


def row_major(x: F32) -> F32:
    """The array as kernels read it."""
    return numpy.asarray(x, dtype=numpy.float32, order="C")


def dim_bits(rank: int, dims: Sequence[int]) -> int:
    """Reduced dims as kernels take them: bit d is dim d; all where none is named."""
    if not dims:
        return (1 << rank) - 1
    bits = 0
    for dim in dims:
        bits |= 1 << dim % rank
    return bits


def left(shape: tuple[int, ...], dims: Sequence[int], keepdim: bool) -> list[int]:
    """The shape of what a reduction gives."""
    bits = dim_bits(len(shape), dims)
    if keepdim:
        return [1 if bits >> dim & 1 else size for dim, size in enumerate(shape)]
    return [size for dim, size in enumerate(shape) if not bits >> dim & 1]


@lru_cache(maxsize=1 << 12)
def around(shape: tuple[int, ...], dim: int) -> tuple[int, int, int]:
    """Elements before a dim, in it, and after it."""
    dim = dim % len(shape) if shape else 0
    return (
        math.prod(shape[:dim]),
        math.prod(shape[dim : dim + 1]),
        math.prod(shape[dim + 1 :]),
    )
