"""Softmax and log-softmax of lists, forwards and backwards: docs/numerics/reductions.md, section 3."""

from __future__ import annotations

from collections.abc import Callable

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference import functions
from tolsey.numerics.reference.numbers import fma
from tolsey.numerics.reference.reductions import D, S, largest, quiet

F32 = NDArray[numpy.float32]


def along(dim: int, of_lists: Callable[..., F32], *arrays: F32) -> F32:
    """A function of lists, given the lists along `dim`."""
    moved = [numpy.moveaxis(array, dim, -1) for array in arrays]
    if moved[0].shape[-1] == 0:
        return arrays[0].copy()
    return numpy.ascontiguousarray(numpy.moveaxis(of_lists(*moved), -1, dim))


def softmax(x: F32, dim: int) -> F32:
    return along(dim, _softmax, x)


def safe_softmax(x: F32, dim: int) -> F32:
    return along(dim, _safe_softmax, x)


def log_softmax(x: F32, dim: int) -> F32:
    return along(dim, _log_softmax, x)


def softmax_backward(grad: F32, y: F32, dim: int) -> F32:
    return along(dim, _softmax_backward, grad, y)


def log_softmax_backward(grad: F32, y: F32, dim: int) -> F32:
    return along(dim, _log_softmax_backward, grad, y)


@quiet
def _softmax(x: F32) -> F32:
    e = functions.exp(x - largest(x)[..., None])
    return e * (numpy.float32(1) / S(e))[..., None]


def _safe_softmax(x: F32) -> F32:
    masked = (x == -numpy.inf).all(axis=-1, keepdims=True)
    return numpy.where(masked, numpy.float32(0), _softmax(x))


@quiet
def _log_softmax(x: F32) -> F32:
    d = x - largest(x)[..., None]
    return d - functions.log(S(functions.exp(d)))[..., None]


@quiet
def _softmax_backward(grad: F32, y: F32) -> F32:
    return (grad - D(grad, y)[..., None]) * y


@quiet
def _log_softmax_backward(grad: F32, y: F32) -> F32:
    return fma(-functions.exp(y), S(grad)[..., None], grad)
