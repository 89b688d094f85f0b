"""Negative log likelihood and squared error, forwards and backwards: docs/numerics/reductions.md, section 5."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference.reductions import D, S, count, quiet

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]

NONE, MEAN, SUM = range(3)

ZERO: Final = numpy.float32(0)


def positions(x: F32, target: I64, ignored: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """For each target that counts: its place among the targets, and the place in x that it means.

    Raises:
        IndexError: a target that is neither a class nor the ignored one.
    """
    for place in numpy.ndindex(target.shape):
        chosen = int(target[place])
        if chosen == ignored:
            continue
        if not 0 <= chosen < x.shape[1 if x.ndim > 1 else 0]:
            raise IndexError(f"target {chosen}")
        yield place, (*place[:1], chosen, *place[1:])


@quiet
def nll_loss(x: F32, target: I64, weight: F32 | None, reduction: int, ignored: int) -> tuple[F32, F32]:
    """x is [N, C, …] and target [N, …], or x [C] and target []."""
    v, w = (
        numpy.zeros(target.shape, numpy.float32),
        numpy.zeros(target.shape, numpy.float32),
    )
    for place, chosen in positions(x, target, ignored):
        w[place] = 1 if weight is None else weight[target[place]]
        v[place] = -x[chosen] * w[place]
    if reduction == NONE:
        return v, numpy.asarray(ZERO)
    total = S(w.reshape(-1))
    return (S(v.reshape(-1)) / total if reduction == MEAN else S(v.reshape(-1))), total


@quiet
def nll_loss_backward(
    grad: F32,
    x: F32,
    target: I64,
    weight: F32 | None,
    reduction: int,
    ignored: int,
    total: F32,
) -> F32:
    dx = numpy.zeros_like(x)
    for place, chosen in positions(x, target, ignored):
        w = numpy.float32(1) if weight is None else weight[target[place]]
        q = grad[place] if reduction == NONE else grad / total if reduction == MEAN else grad
        dx[chosen] = -w * q
    return dx


@quiet
def mse_loss(x: F32, target: F32, reduction: int) -> F32:
    d = x - target
    if reduction == NONE:
        return d * d
    squares = D(d.reshape(-1), d.reshape(-1))
    return squares / count(x.size) if reduction == MEAN else squares


@quiet
def mse_loss_backward(grad: F32, x: F32, target: F32, reduction: int) -> F32:
    c = numpy.float32(2) / count(x.size) if reduction == MEAN else numpy.float32(2)
    return (c * (x - target)) * grad
