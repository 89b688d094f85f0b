"""Layer, group and batch norm, forwards and backwards: docs/numerics/reductions.md, section 4.

Each brings its tensor into lists of elements that are normalised together, [lists, n], and takes it back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference.numbers import fma
from tolsey.numerics.reference.reductions import D, S, count, lists, quiet

F32 = NDArray[numpy.float32]


@quiet
def statistics(x: F32, eps: float) -> tuple[F32, F32, F32]:
    """Mean and 1 / deviation of each list, and D(d, d) of its deviations."""
    n = count(x.shape[-1])
    m = S(x) / n
    d = x - m[..., None]
    squares = D(d, d)
    return m, spread(squares / n, eps), squares


@quiet
def spread(v: F32, eps: float) -> F32:
    return numpy.asarray(numpy.float32(1) / numpy.sqrt(v + numpy.float32(eps)))


@quiet
def normalised(x: F32, m: F32, r: F32) -> F32:
    return (x - m) * r


@quiet
def scale(h: F32, weight: F32 | None, bias: F32 | None) -> F32:
    if weight is not None and bias is not None:
        return fma(h, weight, bias)
    if weight is not None:
        return h * weight
    return h if bias is None else h + bias


@quiet
def _centred(g: F32, h: F32, r: F32) -> F32:
    """dx of each list, g the gradient that reaches h."""
    n = count(g.shape[-1])
    s, t = (S(g) / n)[..., None], (D(g, h) / n)[..., None]
    return (g - fma(h, t, s)) * r


def layer_norm(x: F32, shape: Sequence[int], weight: F32 | None, bias: F32 | None, eps: float) -> tuple[F32, F32, F32]:
    rows = x.reshape(*x.shape[: x.ndim - len(shape)], math.prod(shape))
    m, r, _ = statistics(rows, eps)
    h = normalised(rows, m[..., None], r[..., None])
    y = scale(h, _flat(weight), _flat(bias))
    kept = (*m.shape, *[1] * len(shape))
    return y.reshape(x.shape), m.reshape(kept), r.reshape(kept)


@quiet
def layer_norm_backward(
    grad: F32,
    x: F32,
    shape: Sequence[int],
    mean: F32,
    rstd: F32,
    weight: F32 | None,
    wanted: Sequence[bool],
) -> tuple[F32 | None, F32 | None, F32 | None]:
    n = math.prod(shape)
    g, rows = grad.reshape(-1, n), x.reshape(-1, n)
    m, r = mean.reshape(-1, 1), rstd.reshape(-1, 1)
    h = normalised(rows, m, r)
    dx = _centred(scale(g, _flat(weight), None), h, r).reshape(x.shape)
    dweight, dbias = D(g.T, h.T).reshape(shape), S(g.T).reshape(shape)
    return (
        dx if wanted[0] else None,
        dweight if wanted[1] else None,
        dbias if wanted[2] else None,
    )


def group_norm(x: F32, weight: F32 | None, bias: F32 | None, groups: int, eps: float) -> tuple[F32, F32, F32]:
    examples, channels = x.shape[:2]
    m, r, _ = statistics(x.reshape(examples, groups, -1), eps)
    h = normalised(_by_channel(x), _of_channels(m, channels), _of_channels(r, channels))
    return scale(h, _column(weight), _column(bias)).reshape(x.shape), m, r


@quiet
def group_norm_backward(
    grad: F32,
    x: F32,
    mean: F32,
    rstd: F32,
    weight: F32 | None,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[F32 | None, F32 | None, F32 | None]:
    examples, channels = x.shape[:2]
    h = normalised(_by_channel(x), _of_channels(mean, channels), _of_channels(rstd, channels))
    g = _by_channel(grad)
    weighted = scale(g, _column(weight), None)
    grouped = (examples, groups, channels // groups * h.shape[2])
    dx = _centred(weighted.reshape(grouped), h.reshape(grouped), rstd[..., None]).reshape(x.shape)
    dweight, dbias = D(lists(g, (0, 2)), lists(h, (0, 2))), S(lists(g, (0, 2)))
    return (
        dx if wanted[0] else None,
        dweight if wanted[1] else None,
        dbias if wanted[2] else None,
    )


@quiet
def batch_norm(
    x: F32,
    weight: F32 | None,
    bias: F32 | None,
    mean: F32,
    variance: F32,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[F32, F32, F32, F32, F32]:
    of = lists(_by_channel(x), (0, 2))
    if training:
        m, r, squares = statistics(of, eps)
        a, k = (numpy.array(share, numpy.float32) for share in (momentum, 1 - float(momentum)))
        new_mean = fma(m, a, mean * k)
        new_variance = fma(squares / count(of.shape[-1] - 1), a, variance * k)
        saved = m, r
    else:
        m, r = mean, spread(variance, eps)
        new_mean, new_variance = mean.copy(), variance.copy()
        saved = numpy.empty(0, numpy.float32), numpy.empty(0, numpy.float32)
    h = normalised(_by_channel(x), m[:, None], r[:, None])
    return (
        scale(h, _column(weight), _column(bias)).reshape(x.shape),
        *saved,
        new_mean,
        new_variance,
    )


@quiet
def batch_norm_backward(
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
) -> tuple[F32 | None, F32 | None, F32 | None]:
    if training:
        assert saved_mean is not None and saved_rstd is not None
        m, r = saved_mean, saved_rstd
    else:
        assert mean is not None and variance is not None
        m, r = mean, spread(variance, eps)
    g, h = _by_channel(grad), normalised(_by_channel(x), m[:, None], r[:, None])
    of_g, of_h = lists(g, (0, 2)), lists(h, (0, 2))
    dweight, dbias = D(of_g, of_h), S(of_g)
    factor = (r if weight is None else r * weight)[:, None]
    if training:
        n = count(of_g.shape[-1])
        dx = (g - fma(h, (dweight / n)[:, None], (dbias / n)[:, None])) * factor
    else:
        dx = g * factor
    return (
        dx.reshape(x.shape) if wanted[0] else None,
        dweight if wanted[1] else None,
        dbias if wanted[2] else None,
    )


def _by_channel(x: F32) -> F32:
    """[examples, channels, places]."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def _of_channels(statistic: F32, channels: int) -> F32:
    """What holds for each group, for each of its channels: [examples, channels, 1]."""
    return numpy.repeat(statistic, channels // statistic.shape[1], axis=1)[..., None]


def _flat(weight: F32 | None) -> F32 | None:
    return None if weight is None else weight.reshape(-1)


def _column(weight: F32 | None) -> F32 | None:
    return None if weight is None else weight[:, None]
