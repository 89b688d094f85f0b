"""S and D, the one order of adding, and what is made of them: sums, means, variances, norms, running sums, extremes.

The law is docs/numerics/reductions.md, sections 1 and 2. Arrays are float32; a *list* is the last axis of an array, and
`lists` brings any reduction into that form, so that each function below is one line of the law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeVar

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference import functions
from tolsey.numerics.reference.numbers import fma, maximum, minimum

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]
Array = TypeVar("Array", F32, I64)

LANES: Final = 32
CHUNK: Final = 4096

quiet: Final = numpy.errstate(all="ignore")
"""Infinities and NaN are results like others."""


@quiet
def S(x: F32) -> F32:
    """The sum of each list."""
    if x.shape[-1] > CHUNK:
        return S(numpy.stack([S(chunk) for chunk in chunks(x)], axis=-1))
    lanes = numpy.zeros((*x.shape[:-1], LANES), numpy.float32)
    for first in range(0, x.shape[-1], LANES):
        block = x[..., first : first + LANES]
        lanes[..., : block.shape[-1]] += block
    return tree(lanes)


@quiet
def D(x: F32, y: F32) -> F32:
    """The sum of products of each pair of lists."""
    if x.shape[-1] > CHUNK:
        return S(numpy.stack([D(*pair) for pair in zip(chunks(x), chunks(y), strict=True)], axis=-1))
    lanes = numpy.zeros((*x.shape[:-1], LANES), numpy.float32)
    for first in range(0, x.shape[-1], LANES):
        here = slice(first, first + LANES)
        there = slice(0, x[..., here].shape[-1])
        lanes[..., there] = fma(x[..., here], y[..., here], lanes[..., there])
    return tree(lanes)


def chunks(x: F32) -> list[F32]:
    """The list cut into pieces of 4096; the last may be shorter."""
    return [x[..., first : first + CHUNK] for first in range(0, x.shape[-1], CHUNK)]


def tree(lanes: F32) -> F32:
    """The halving tree."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return numpy.asarray(lanes[..., 0])


def in_order(x: F32) -> F32:
    """What each list holds after each of its numbers, added one by one to +0."""
    sums = numpy.empty_like(x)
    running = numpy.zeros(x.shape[:-1], numpy.float32)
    for i in range(x.shape[-1]):
        running = running + x[..., i]
        sums[..., i] = running
    return sums


def axes_of(rank: int, dims: Sequence[int]) -> list[int]:
    """Dims counted from the front, ascending; all where none is named."""
    return sorted(dim % rank for dim in dims) if dims else list(range(rank))


def lists(x: F32, dims: Sequence[int]) -> F32:
    """The reduced elements of each result along a last axis, in row-major order of the reduced dims."""
    axes = axes_of(x.ndim, dims)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    count = math.prod(x.shape[axis] for axis in axes)
    return numpy.transpose(x, kept + axes).reshape(*(x.shape[axis] for axis in kept), count)


def shaped(result: Array, x: F32, dims: Sequence[int], keepdim: bool) -> Array:
    """The result with its reduced dims as size 1 where they are kept."""
    axes = axes_of(x.ndim, dims)
    return result.reshape([1 if axis in axes else size for axis, size in enumerate(x.shape)]) if keepdim else result


def count(n: int) -> numpy.float32:
    """fl(n)."""
    return numpy.float32(n)


def sum(x: F32, dims: Sequence[int] = (), keepdim: bool = False) -> F32:
    return shaped(S(lists(x, dims)), x, dims, keepdim)


@quiet
def mean(x: F32, dims: Sequence[int] = (), keepdim: bool = False) -> F32:
    of = lists(x, dims)
    return shaped(S(of) / count(of.shape[-1]), x, dims, keepdim)


@quiet
def variance(x: F32, dims: Sequence[int] = (), correction: float = 1, keepdim: bool = False) -> F32:
    of = lists(x, dims)
    n = of.shape[-1]
    d = of - (S(of) / count(n))[..., None]
    return shaped(D(d, d) / numpy.float32(max(0.0, n - float(correction))), x, dims, keepdim)


def amax(x: F32, dims: Sequence[int] = (), keepdim: bool = False) -> F32:
    """
    Raises:
        ValueError: a list without elements.
    """
    return shaped(largest(lists(x, dims)), x, dims, keepdim)


def amin(x: F32, dims: Sequence[int] = (), keepdim: bool = False) -> F32:
    """
    Raises:
        ValueError: a list without elements.
    """
    return shaped(smallest(lists(x, dims)), x, dims, keepdim)


def largest(x: F32) -> F32:
    _need_elements(x)
    found = x[..., 0] if x.shape[-1] else numpy.zeros(x.shape[:-1], numpy.float32)
    for i in range(x.shape[-1]):
        found = maximum(found, x[..., i])
    return found


def smallest(x: F32) -> F32:
    _need_elements(x)
    found = x[..., 0] if x.shape[-1] else numpy.zeros(x.shape[:-1], numpy.float32)
    for i in range(x.shape[-1]):
        found = minimum(found, x[..., i])
    return found


def _need_elements(x: F32) -> None:
    if x.shape[-1] == 0 and math.prod(x.shape[:-1]) > 0:
        raise ValueError("nothing to choose from")


@quiet
def vector_norm(x: F32, order: float, dims: Sequence[int] = (), keepdim: bool = False) -> F32:
    """
    Raises:
        ValueError: a list without elements, of an infinite or negative order.
    """
    of = lists(x, dims)
    size = numpy.abs(of)
    if order == 2:
        found = numpy.sqrt(D(of, of))
    elif order == 1:
        found = S(size)
    elif order == 0:
        found = S(numpy.where(of != 0, numpy.float32(1), numpy.float32(0)))
    elif order == math.inf:
        found = largest(size)
    elif order == -math.inf:
        found = smallest(size)
    else:
        if order < 0:
            _need_elements(of)
        q = numpy.array(order, numpy.float32)
        found = functions.pow(S(functions.pow(size, q)), numpy.float32(1) / q)
    return shaped(found, x, dims, keepdim)


def argmax(x: F32, dim: int | None = None, keepdim: bool = False) -> I64:
    """
    Raises:
        ValueError: a list without elements.
    """
    dims = () if dim is None else (dim,)
    of = lists(x, dims)
    _need_elements(of)
    place = numpy.zeros(of.shape[:-1], numpy.int64)
    for where in numpy.ndindex(place.shape):
        for i in range(1, of.shape[-1]):
            held, other = of[where][place[where]], of[where][i]
            if not numpy.isnan(held) and (numpy.isnan(other) or other > held):
                place[where] = i
    return shaped(place, x, dims, keepdim)


@quiet
def cumsum(x: F32, dim: int) -> F32:
    return numpy.ascontiguousarray(numpy.moveaxis(in_order(numpy.moveaxis(x, dim, -1)), -1, dim))
