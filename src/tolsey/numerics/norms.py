"""Layer, group and batch norm of NumPy arrays, forwards and backwards: what native/norms.c is called with.

Arguments and results are those of docs/ops.md; a weight or bias that is not there and a gradient that is not wanted are
None. The law of their bits is docs/numerics/reductions.md, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library
from tolsey.numerics.library import Library
from tolsey.numerics.reductions import row_major

F32 = NDArray[numpy.float32]
Gradients = tuple[F32 | None, F32 | None, F32 | None]
"""Of x, weight and bias."""

library.declare("tolsey_layer_norm", "f32* f32* f32* f32* f32* f32* i64 i64 f64")
library.declare("tolsey_layer_norm_backward", "f32* f32* f32* f32* f32* f32* f32* f32* i64 i64")
library.declare("tolsey_group_norm", "f32* f32* f32* f32* f32* f32* i64 i64 i64 i64 f64")
library.declare(
    "tolsey_group_norm_backward",
    "f32* f32* f32* f32* f32* f32* f32* f32* i64 i64 i64 i64",
)
library.declare(
    "tolsey_batch_norm",
    "f32* f32* f32* f32* f32* f32* f32* f32* f32* f32* i64 i64 i64 i32 f64 f64",
)
library.declare(
    "tolsey_batch_norm_backward",
    "f32* f32* f32* f32* f32* f32* f32* f32* i64 i64 i64 i32 f64",
)


def layer_norm(
    lib: Library,
    x: F32,
    shape: Sequence[int],
    weight: F32 | None,
    bias: F32 | None,
    eps: float,
) -> tuple[F32, F32, F32]:
    """y, mean, 1 / deviation; the latter two with 1 for each dim that was normalised over."""
    x = row_major(x)
    kept = x.shape[: x.ndim - len(shape)]
    y, mean, rstd = (
        numpy.empty_like(x),
        _empty(*kept, *[1] * len(shape)),
        _empty(*kept, *[1] * len(shape)),
    )
    sizes = math.prod(kept), math.prod(shape)
    lib.call(
        "tolsey_layer_norm",
        x,
        _given(weight),
        _given(bias),
        y,
        mean,
        rstd,
        *sizes,
        float(eps),
    )
    return y, mean, rstd


def layer_norm_backward(
    lib: Library,
    grad: F32,
    x: F32,
    shape: Sequence[int],
    mean: F32,
    rstd: F32,
    weight: F32 | None,
    wanted: Sequence[bool],
) -> Gradients:
    x = row_major(x)
    gradients = _gradients(x, tuple(shape), wanted)
    sizes = math.prod(x.shape[: x.ndim - len(shape)]), math.prod(shape)
    given = row_major(grad), x, row_major(mean), row_major(rstd), _given(weight)
    lib.call("tolsey_layer_norm_backward", *given, *gradients, *sizes)
    return gradients


def group_norm(
    lib: Library, x: F32, weight: F32 | None, bias: F32 | None, groups: int, eps: float
) -> tuple[F32, F32, F32]:
    """y, mean, 1 / deviation; the latter two are [examples, groups]."""
    x = row_major(x)
    y, mean, rstd = (
        numpy.empty_like(x),
        _empty(x.shape[0], groups),
        _empty(x.shape[0], groups),
    )
    lib.call(
        "tolsey_group_norm",
        x,
        _given(weight),
        _given(bias),
        y,
        mean,
        rstd,
        *_channels(x),
        groups,
        float(eps),
    )
    return y, mean, rstd


def group_norm_backward(
    lib: Library,
    grad: F32,
    x: F32,
    mean: F32,
    rstd: F32,
    weight: F32 | None,
    groups: int,
    wanted: Sequence[bool],
) -> Gradients:
    x = row_major(x)
    gradients = _gradients(x, x.shape[1:2], wanted)
    given = row_major(grad), x, row_major(mean), row_major(rstd), _given(weight)
    lib.call("tolsey_group_norm_backward", *given, *gradients, *_channels(x), groups)
    return gradients


def batch_norm(
    lib: Library,
    x: F32,
    weight: F32 | None,
    bias: F32 | None,
    mean: F32,
    variance: F32,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[F32, F32, F32, F32, F32]:
    """y, saved mean and 1 / deviation (empty where not training), new running mean and variance."""
    x = row_major(x)
    channels, saved = x.shape[1], x.shape[1] if training else 0
    results = (
        numpy.empty_like(x),
        _empty(saved),
        _empty(saved),
        _empty(channels),
        _empty(channels),
    )
    given = x, _given(weight), _given(bias), row_major(mean), row_major(variance)
    lib.call(
        "tolsey_batch_norm",
        *given,
        *results,
        *_channels(x),
        int(training),
        float(momentum),
        float(eps),
    )
    return results


def batch_norm_backward(
    lib: Library,
    grad: F32,
    x: F32,
    weight: F32 | None,
    mean: F32 | None,
    variance: F32 | None,
    saved_mean: F32 | None,
    saved_rstd: F32 | None,
    training: bool,
    eps: float,
    wanted: Sequence[bool],
) -> Gradients:
    x = row_major(x)
    gradients = _gradients(x, x.shape[1:2], wanted)
    statistics = (_given(saved_mean), _given(saved_rstd)) if training else (_given(mean), _given(variance))
    given = row_major(grad), x, _given(weight), *statistics
    lib.call(
        "tolsey_batch_norm_backward",
        *given,
        *gradients,
        *_channels(x),
        int(training),
        float(eps),
    )
    return gradients


def _channels(x: F32) -> tuple[int, int, int]:
    """Examples, channels, places."""
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _empty(*shape: int) -> F32:
    return numpy.empty(shape, numpy.float32)


def _given(array: F32 | None) -> F32 | None:
    return None if array is None else row_major(array)


def _gradients(x: F32, shape: tuple[int, ...], wanted: Sequence[bool]) -> Gradients:
    of_x, of_weight, of_bias = wanted
    return (
        numpy.empty_like(x) if of_x else None,
        _empty(*shape) if of_weight else None,
        _empty(*shape) if of_bias else None,
    )
