"""Gradients of look-ups of NumPy arrays: what native/lookups.c is called with.

Look-ups themselves copy, which any library can. The law of their bits is docs/numerics/reductions.md, section 6.
"""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library
from tolsey.numerics.library import Library
from tolsey.numerics.reductions import row_major

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]

library.declare("tolsey_embedding_backward", "f32* i64* f32* i64 i64 i64 i64 i32")
library.declare("tolsey_scatter_add", "f32* i64* f32* f32* i64 i64* i64* i64* i64")


def embedding_backward(lib: Library, grad: F32, index: I64, rows: int, padding_index: int, scale: bool) -> F32:
    """The gradient of the table: [rows, width].

    Raises:
        IndexError: an index that is neither a row nor `padding_index`.
    """
    grad, index = row_major(grad), numpy.asarray(index, dtype=numpy.int64, order="C")
    dweight = numpy.empty((rows, grad.shape[-1]), numpy.float32)
    sizes = index.size, rows, grad.shape[-1]
    lib.call(
        "tolsey_embedding_backward",
        grad,
        index,
        dweight,
        *sizes,
        padding_index,
        int(scale),
    )
    return dweight


def scatter_add(lib: Library, x: F32, dim: int, index: I64, source: F32) -> F32:
    """x plus source at the places along dim that index names.

    Raises:
        IndexError: an index outside the dim.
        ValueError: index is larger than source, or than x beside dim.
    """
    x, source, index = (
        row_major(x),
        row_major(source),
        numpy.asarray(index, dtype=numpy.int64, order="C"),
    )
    y = numpy.empty_like(x)
    sizes = [numpy.array(array.shape, numpy.int64) for array in (x, index, source)]
    lib.call("tolsey_scatter_add", x, index, source, y, x.ndim, *sizes, dim % max(x.ndim, 1))
    return y
