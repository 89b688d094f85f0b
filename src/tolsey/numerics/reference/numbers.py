"""The operations that all others are made of, on arrays, without trusting a machine's fma.

NumPy's + - * / and sqrt on float32 are IEEE binary32, rounded to nearest even, as long as the process keeps
subnormals; so they need no twin. What NumPy lacks is here: fma, and max and min by the law. `fma_exact` is the
definition, one number at a time, in fractions; `fma` is the same by a proof (native/base.h gives it), fast enough for
whole products.
"""

from __future__ import annotations

from fractions import Fraction

import numpy
from numpy.typing import NDArray

F32 = NDArray[numpy.float32]

NAN = numpy.uint32(0x7FC00000).view(numpy.float32)
"""The one NaN, in the bits that are hashed and compared."""


def fma(a: F32, b: F32, c: F32) -> F32:
    """a * b + c rounded once, with broadcasting.

    In binary64 the product is exact, and the sum is split into what it rounds to and the rest; rounding to odd first
    makes the second rounding, to binary32, the right one.
    """
    with numpy.errstate(all="ignore"):
        product = numpy.multiply(a, b, dtype=numpy.float64)
        wide = numpy.asarray(c, dtype=numpy.float64)
        total = numpy.asarray(product + wide)
        back = total - product
        rest = (product - (total - back)) + (wide - back)
        # Where something is not finite, rest is NaN and compares false.
        inexact = (rest > 0) | (rest < 0)
        even = (total.view(numpy.int64) & 1) == 0
        outward = numpy.signbit(rest) == numpy.signbit(total)
        step = numpy.where(inexact & even, numpy.where(outward, 1, -1), 0)
        return (total.view(numpy.int64) + step).view(numpy.float64).astype(numpy.float32)


def fma_exact(a: float, b: float, c: float) -> numpy.float32:
    """a * b + c for three binary32 numbers by the definition: exact in fractions, rounded once, half to even."""
    with numpy.errstate(all="ignore"):  # binary64 is right where a number is not finite, and for the sign of a zero
        total = numpy.float64(a) * numpy.float64(b) + numpy.float64(c)
    if not numpy.isfinite([a, b, c]).all():
        return numpy.float32(total)
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return numpy.float32(total)
    return round_fraction(exact)


def round_fraction(exact: Fraction) -> numpy.float32:
    """The binary32 number nearest to a fraction other than 0, half to even; infinite from 2^128 - 2^103 on."""
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if size < Fraction(2) ** exponent:
        exponent -= 1  # now 2^exponent <= size < 2^(exponent + 1)
    unit = max(exponent, -126) - 23
    places = round(size / Fraction(2) ** unit)  # round() of a fraction is half to even
    if places.bit_length() + unit > 128:
        value = numpy.float32(numpy.inf)
    else:
        value = numpy.ldexp(numpy.float64(places), unit).astype(numpy.float32)
    return -value if exact < 0 else value


def maximum(a: F32, b: F32) -> F32:
    """The larger; NaN where either is; +0 is above -0."""
    larger = numpy.where(a > b, a, b)
    zeros = (a == 0) & (b == 0)
    signed = numpy.where(numpy.signbit(a) & numpy.signbit(b), numpy.float32(-0.0), numpy.float32(0.0))
    larger = numpy.where(zeros, signed, larger)
    return numpy.where(numpy.isnan(a) | numpy.isnan(b), NAN, larger).astype(numpy.float32)


def minimum(a: F32, b: F32) -> F32:
    """The smaller; NaN where either is; -0 is below +0."""
    return numpy.negative(maximum(numpy.negative(a), numpy.negative(b)))
