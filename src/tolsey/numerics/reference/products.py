"""Products by the law: one chain of fma for each element, in the one order. The twin of native/gemm.c and conv*.c.

Written so that the order can be read off: the loops over k are Python's, only independent elements share an array.
Law: docs/numerics/products.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as every
from typing import Any

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference.numbers import fma

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]
Places = Sequence[int | I64]
"""In each dimension one place, or a range of them."""


def gemm(a: F32, b: F32, bias: F32 | None = None) -> F32:
    """C[…, i, j] = chain over k of A[…, i, k] * B[…, k, j]; then the bias, which broadcasts, is added once."""
    acc = numpy.zeros((*numpy.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), numpy.float32)
    for k in range(a.shape[-1]):
        acc = fma(a[..., :, k : k + 1], b[..., k : k + 1, :], acc)
    return add_bias(acc, bias)


def add_bias(chain: F32, bias: F32 | None) -> F32:
    """The chain's end and the bias, one addition."""
    with numpy.errstate(all="ignore"):
        return chain if bias is None else numpy.asarray(chain + bias, dtype=numpy.float32)


def convolution(
    x: F32,
    weight: F32,
    bias: F32 | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> F32:
    """x [images, channels, size…], weight [channels out, channels in a group, kernel…] -> [images, channels out, …].

    Chain over (channel in the group, window) ascending; what lies in the padding takes part as +0.
    """
    images, _, *size = x.shape
    channels_out, channels_in, *kernel = weight.shape
    out = output_size(size, kernel, stride, padding, dilation)
    acc = numpy.zeros((images, channels_out, *out), numpy.float32)
    per_group = channels_out // groups
    for group in range(groups):
        mine = slice(group * per_group, (group + 1) * per_group)
        for channel, *tap in every(range(channels_in), *map(range, kernel)):
            seen = look(x[:, group * channels_in + channel], seen_from(all_of(out), tap, stride, padding, dilation))
            w = pick(weight, mine, channel, *tap).reshape(1, -1, *[1] * len(out))
            acc[:, mine] = fma(w, seen[:, None], acc[:, mine])
    return add_bias_of_channels(acc, bias)


def convolution_backward_input(
    gradient: F32,
    weight: F32,
    bias: F32 | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> F32:
    """Gradient of x, whose size is given; also the forward of a transposed convolution, which may have a bias.

    Chain over (channel out in the group, window) ascending. A tap takes part at the places whose distance divides by
    the stride; where it then points outside of the output, as +0.
    """
    images, channels_out, *out = gradient.shape
    _, channels_in, *kernel = weight.shape
    acc = numpy.zeros((images, groups * channels_in, *size), numpy.float32)
    per_group = channels_out // groups
    for group in range(groups):
        mine = slice(group * channels_in, (group + 1) * channels_in)
        for channel, *tap in every(range(group * per_group, (group + 1) * per_group), *map(range, kernel)):
            met, places = met_by(all_of(size), tap, stride, padding, dilation)
            seen = look(gradient[:, channel], places)
            w = pick(weight, channel, slice(None), *tap).reshape(1, -1, *[1] * len(out))
            here = numpy.ix_(numpy.arange(images), numpy.arange(mine.start, mine.stop), *met)
            acc[here] = fma(w, seen[:, None], acc[here])
    return add_bias_of_channels(acc, bias)


def convolution_backward_weight(
    gradient: F32,
    x: F32,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> F32:
    """Gradient of the weight: chain over (image, place of the output) ascending; the padding takes part as +0."""
    images, channels_out, *out = gradient.shape
    per_group_out, per_group_in = channels_out // groups, x.shape[1] // groups
    acc = numpy.zeros((groups, per_group_out, per_group_in, *kernel), numpy.float32)
    for image, *place in every(range(images), *map(range, out)):
        places = seen_from(place, all_of(kernel), stride, padding, dilation)
        seen = look(x[image], places).reshape(groups, 1, per_group_in, *kernel)
        grown = pick(gradient, image, slice(None), *place).reshape(groups, per_group_out, 1, *[1] * len(out))
        acc = fma(grown, seen, acc)
    return acc.reshape(channels_out, per_group_in, *kernel)


def add_bias_of_channels(chain: F32, bias: F32 | None) -> F32:
    """`add_bias` of a number for each channel of [images, channels, …]."""
    return add_bias(chain, None if bias is None else bias.reshape(1, -1, *[1] * (chain.ndim - 2)))


def output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Places of the output in each dimension."""
    each = zip(size, kernel, stride, padding, dilation, strict=True)
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in each]


def all_of(size: Sequence[int]) -> list[I64]:
    """Every place of each dimension."""
    return [numpy.arange(n) for n in size]


def seen_from(
    out: Places, tap: Places, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[I64]:
    """Where in the input places of the output look through taps; one of the two is a range."""
    each = zip(out, tap, stride, padding, dilation, strict=True)
    return [numpy.asarray(i * s + t * d - p) for i, t, s, p, d in each]


def met_by(
    at: Places, tap: Places, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[list[I64], list[I64]]:
    """The other way round: which of a range of the input's places, or of taps, take part; and the output's places."""
    met, places = [], []
    for i, t, s, p, d in zip(at, tap, stride, padding, dilation, strict=True):
        distance = numpy.asarray(i + p - t * d)
        met.append(numpy.flatnonzero(distance % s == 0))
        places.append(distance[met[-1]] // s)
    return met, places


def pick(source: F32, *index: Any) -> F32:
    """source[index], typed."""
    picked: F32 = source[index]
    return picked


def look(source: F32, places: Sequence[NDArray[numpy.int64]]) -> F32:
    """source[:, …] at every combination of places in its last dimensions; +0 where one lies outside."""
    inside = [(at >= 0) & (at < n) for at, n in zip(places, source.shape[1:], strict=True)]
    found = numpy.zeros((source.shape[0], *(len(at) for at in places)), numpy.float32)
    lines = numpy.arange(source.shape[0])
    there = numpy.ix_(lines, *(numpy.flatnonzero(ok) for ok in inside))
    found[there] = source[numpy.ix_(lines, *(at[ok] for at, ok in zip(places, inside, strict=True)))]
    return found
