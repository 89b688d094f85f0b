"""Look-ups and their gradients: docs/numerics/reductions.md, section 6. Indices are checked, values added in order."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference.reductions import count, quiet

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]


def checked(index: int, size: int) -> int:
    """
    Raises:
        IndexError: it is outside 0 … size - 1.
    """
    if not 0 <= index < size:
        raise IndexError(f"index {index} of {size}")
    return index


def embedding(weight: F32, index: I64) -> F32:
    rows = numpy.empty((*index.shape, *weight.shape[1:]), weight.dtype)
    for place in numpy.ndindex(index.shape):
        rows[place] = weight[checked(int(index[place]), len(weight))]
    return rows


def gather(x: F32, dim: int, index: I64) -> F32:
    picked = numpy.empty(index.shape, x.dtype)
    for place in numpy.ndindex(index.shape):
        picked[place] = x[_moved(place, dim % x.ndim, checked(int(index[place]), x.shape[dim]))]
    return picked


def index_select(x: F32, dim: int, index: I64) -> F32:
    return numpy.stack([x.take(checked(int(i), x.shape[dim]), axis=dim) for i in index], axis=dim)


@quiet
def embedding_backward(grad: F32, index: I64, rows: int, padding_index: int, scale: bool) -> F32:
    dweight = numpy.zeros((rows, grad.shape[-1]), numpy.float32)
    times = [0] * rows
    for place in numpy.ndindex(index.shape):
        if index[place] == padding_index:
            continue
        row = checked(int(index[place]), rows)
        dweight[row] = dweight[row] + grad[place]
        times[row] += 1
    for row in range(rows):
        if scale and times[row]:
            dweight[row] = dweight[row] / count(times[row])
    return dweight


@quiet
def scatter_add(x: F32, dim: int, index: I64, source: F32) -> F32:
    y = x.copy()
    for place in numpy.ndindex(index.shape):
        to = _moved(place, dim % x.ndim, checked(int(index[place]), x.shape[dim]))
        y[to] = y[to] + source[place]
    return y


def _moved(place: tuple[int, ...], dim: int, index: int) -> tuple[int, ...]:
    return (*place[:dim], index, *place[dim + 1 :])
