"""Negative log likelihood and squared error of NumPy arrays and their gradients: what native/losses.c is called with.

`reduction` is 0 none, 1 mean, 2 sum, as in docs/ops.md; nll_loss2d is nll_loss of an array with more dims. The law of
their bits is docs/numerics/reductions.md, section 5.
"""

from __future__ import annotations

import math

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library
from tolsey.numerics.library import Library
from tolsey.numerics.reductions import row_major

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]

library.declare("tolsey_nll_loss", "f32* i64* f32* f32* f32* i64 i64 i64 i32 i64")
library.declare("tolsey_nll_loss_backward", "f32* i64* f32* f32* f32* i64 i64 i64 i32 i64")
library.declare("tolsey_mse_loss", "f32* f32* f32* i64 i32")
library.declare("tolsey_mse_loss_backward", "f32* f32* f32* f32* i64 i32")


def nll_loss(lib: Library, x: F32, target: I64, weight: F32 | None, reduction: int, ignored: int) -> tuple[F32, F32]:
    """Loss and total weight of x [N, C, …] and target [N, …], or x [C] and target [].

    Raises:
        IndexError: a target that is neither a class nor the ignored one.
    """
    x, target = row_major(x), _row_major_indices(target)
    loss, total = (
        numpy.empty(() if reduction else target.shape, numpy.float32),
        numpy.empty((), numpy.float32),
    )
    given = x, target, None if weight is None else row_major(weight)
    lib.call(
        "tolsey_nll_loss",
        *given,
        loss,
        total,
        *class_sizes(x.shape),
        reduction,
        ignored,
    )
    return loss, total


def nll_loss_backward(
    lib: Library,
    grad: F32,
    x: F32,
    target: I64,
    weight: F32 | None,
    reduction: int,
    ignored: int,
    total: F32,
) -> F32:
    """The gradient of x; only the shape of x is read.

    Raises:
        IndexError: a target that is neither a class nor the ignored one.
    """
    dx = numpy.empty(x.shape, numpy.float32)
    given = (
        row_major(grad),
        _row_major_indices(target),
        None if weight is None else row_major(weight),
        row_major(total),
    )
    lib.call(
        "tolsey_nll_loss_backward",
        *given,
        dx,
        *class_sizes(x.shape),
        reduction,
        ignored,
    )
    return dx


def mse_loss(lib: Library, x: F32, target: F32, reduction: int) -> F32:
    x = row_major(x)
    loss = numpy.empty(() if reduction else x.shape, numpy.float32)
    lib.call("tolsey_mse_loss", x, row_major(target), loss, x.size, reduction)
    return loss


def mse_loss_backward(lib: Library, grad: F32, x: F32, target: F32, reduction: int) -> F32:
    x = row_major(x)
    dx = numpy.empty_like(x)
    lib.call(
        "tolsey_mse_loss_backward",
        row_major(grad),
        x,
        row_major(target),
        dx,
        x.size,
        reduction,
    )
    return dx


def class_sizes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Examples, classes, places of an input of nll_loss."""
    if len(shape) == 1:
        return 1, shape[0], 1
    return shape[0], shape[1], math.prod(shape[2:])


def _row_major_indices(index: I64) -> I64:
    return numpy.asarray(index, dtype=numpy.int64, order="C")
