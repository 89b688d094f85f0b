"""Products of whole numbers by the law: each element from its two lists of terms. The twin of native/int8.c.

Every element is `element_of` its terms; the functions below only say which terms those are. Exponents come from the
numbers themselves (frexp), whole numbers from binary64, in which scaling by a power of two is exact, sums from 64-bit
integers, the one rounding from fractions. Law: docs/numerics/int8.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product as every

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference.numbers import NAN, round_fraction
from tolsey.numerics.reference.products import (
    add_bias,
    add_bias_of_channels,
    all_of,
    look,
    met_by,
    output_size,
    seen_from,
)

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]

NOTHING = -150
NOT_FINITE = 128


def shift(slices: int) -> int:
    """p of the law: 12 with two slices, 19 with three."""
    return 7 * slices - 2


def exponents(lanes: F32) -> I64:
    """Of each row of `lanes` [count, terms]: e with 2^e <= largest < 2^(e + 1); -150 of zeros, 128 of what is not
    finite."""
    if lanes.shape[1] == 0:
        return numpy.full(lanes.shape[0], NOTHING)
    finite = numpy.asarray(numpy.isfinite(lanes).all(axis=1))
    largest = numpy.abs(numpy.where(finite[:, None], lanes, 0)).max(axis=1).astype(numpy.float64)
    found = numpy.where(largest == 0, NOTHING, numpy.frexp(largest)[1] - 1)
    return numpy.where(finite, found, NOT_FINITE).astype(numpy.int64)


def whole(lanes: F32, exponent: I64, slices: int) -> I64:
    """Each row in units of 2^(e - p), rounded half to even; zeros where the row is not finite."""
    known = numpy.where(exponent[:, None] == NOT_FINITE, 0, lanes).astype(numpy.float64)
    return numpy.rint(numpy.ldexp(known, (shift(slices) - exponent)[:, None])).astype(numpy.int64)


def digits(numbers: I64, slices: int) -> list[I64]:
    """The slices q1, q2 (, q3): numbers = Σ q_i 2^(7 (slices - i)); all but q1 in -64 … 63."""
    found: list[I64] = []
    for _ in range(slices - 1):
        low = (numbers + 64) % 128 - 64
        found.insert(0, low)
        numbers = (numbers - low) // 128
    return [numbers, *found]


def sums(a: I64, b: I64) -> I64:
    """N of whole numbers a [m, k] and b [n, k]: integers do not overflow within the law's bound on k."""
    return numpy.asarray(a @ b.T, dtype=numpy.int64)


def rounded(n: I64, e_a: I64, e_b: I64, slices: int) -> F32:
    """N · 2^(e_a + e_b - 2p) rounded once; NaN where a row or a column is not finite."""
    result = numpy.zeros(n.shape, numpy.float32)
    for i, j in every(*map(range, n.shape)):
        if NOT_FINITE in (e_a[i], e_b[j]):
            result[i, j] = NAN
        elif n[i, j]:
            result[i, j] = round_fraction(
                Fraction(int(n[i, j])) * Fraction(2) ** int(e_a[i] + e_b[j] - 2 * shift(slices))
            )
    return result


def multiply(a: F32, b: F32, slices: int) -> F32:
    """Rows of terms a [m, k] with rows of terms b [n, k] -> [m, n]."""
    e_a, e_b = exponents(a), exponents(b)
    return rounded(sums(whole(a, e_a, slices), whole(b, e_b, slices)), e_a, e_b, slices)


def gemm(a: F32, b: F32, bias: F32 | None = None, *, slices: int) -> F32:
    """a [m, k] or [batch, m, k] times b likewise; then the bias, which broadcasts, is added once."""
    batch = numpy.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    wide_a, wide_b = (numpy.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    result = numpy.zeros((*batch, a.shape[-2], b.shape[-1]), numpy.float32)
    for place in numpy.ndindex(*batch):
        result[place] = multiply(wide_a[place], wide_b[place].T, slices)
    return add_bias(result, bias)


def convolution(
    x: F32,
    weight: F32,
    bias: F32 | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    slices: int,
) -> F32:
    """As reference/products.py's: terms (channel in the group, window) of weight and of what it sees."""
    images, _, *size = x.shape
    channels_out, channels_in, *kernel = weight.shape
    out = output_size(size, kernel, stride, padding, dilation)
    result = numpy.zeros((images, channels_out, *out), numpy.float32)
    per_group = channels_out // groups
    for group, image in every(range(groups), range(images)):
        mine = slice(group * per_group, (group + 1) * per_group)
        seen = x[image, group * channels_in : (group + 1) * channels_in]
        windows = [
            look(seen, seen_from(place, all_of(kernel), stride, padding, dilation)).ravel()
            for place in numpy.ndindex(*out)
        ]
        terms = numpy.array(windows, numpy.float32).reshape(-1, channels_in * int(numpy.prod(kernel)))
        result[image, mine] = multiply(weight[mine].reshape(per_group, -1), terms, slices).reshape(per_group, *out)
    return add_bias_of_channels(result, bias)


def convolution_backward_input(
    gradient: F32,
    weight: F32,
    bias: F32 | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    slices: int,
) -> F32:
    """Terms (channel out in the group, window) of weight and gradient, at each place those taps that reach it."""
    images, channels_out, *_ = gradient.shape
    _, channels_in, *kernel = weight.shape
    result = numpy.zeros((images, groups * channels_in, *size), numpy.float32)
    per_group = channels_out // groups
    for group, place in every(range(groups), numpy.ndindex(*size)):
        theirs, mine = (slice(group * n, (group + 1) * n) for n in (per_group, channels_in))
        taps, places = met_by(place, all_of(kernel), stride, padding, dilation)
        turned = weight[theirs][numpy.ix_(numpy.arange(per_group), numpy.arange(channels_in), *taps)]
        turned = numpy.moveaxis(turned, 1, 0).reshape(channels_in, -1)
        seen = numpy.array([look(gradient[image, theirs], places).ravel() for image in range(images)], numpy.float32)
        result[(slice(None), mine, *place)] = multiply(turned, seen.reshape(images, turned.shape[1]), slices).T
    return add_bias_of_channels(result, bias)


def convolution_backward_weight(
    gradient: F32,
    x: F32,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    slices: int,
) -> F32:
    """Terms (image, place of the output) of gradient and input."""
    _, channels_out, *out = gradient.shape
    per_group_out, per_group_in = channels_out // groups, x.shape[1] // groups
    rows = numpy.moveaxis(gradient, 1, 0).reshape(channels_out, -1)
    columns = []
    for tap in every(*map(range, kernel)):
        places = seen_from(all_of(out), tap, stride, padding, dilation)
        seen = numpy.array([look(image, places) for image in x], numpy.float32).reshape(len(x), x.shape[1], *out)
        columns.append(numpy.moveaxis(seen, 1, 0).reshape(x.shape[1], -1))
    result = numpy.zeros((channels_out, per_group_in, len(columns)), numpy.float32)
    for group, (tap_, terms) in every(range(groups), enumerate(columns)):
        mine, theirs = (slice(group * n, (group + 1) * n) for n in (per_group_out, per_group_in))
        result[mine, :, tap_] = multiply(rows[mine], terms[theirs], slices)
    return result.reshape(channels_out, per_group_in, *kernel)
