"""exp, log, tanh and their kin, step by step as docs/numerics/functions.md, section 3, has them.

Everything is binary32: + - * / and sqrt of NumPy, and fma. Each function takes an array and gives one of its shape.
"""

from __future__ import annotations

from typing import Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference.numbers import F32, NAN, fma

I32 = NDArray[numpy.int32]


def number(digits: str) -> F32:
    """A binary32 number from its exact hexadecimal digits, as an array without dims."""
    value = numpy.array(float.fromhex(digits), dtype=numpy.float32)
    assert float(value) == float.fromhex(digits), digits
    return value


def numbers(digits: str) -> list[F32]:
    return [number(one) for one in digits.split()]


ZERO: Final = number("0x0p0")
HALF: Final = number("0x1p-1")
ONE: Final = number("0x1p0")
TWO: Final = number("0x1p1")
INFINITY: Final = number("inf")
LEAST_NORMAL: Final = number("0x1p-126")
TO_NORMAL: Final = number("0x1p23")


EXP: Final = numbers("0x1.6a539cp-10 0x1.123994p-7 0x1.5558acp-5 0x1.555492p-3 0x1.fffffcp-2")
EXPM1: Final = numbers("0x1.9e775ap-13 0x1.6d3a5ep-10 0x1.1112d6p-7 0x1.5554f8p-5 0x1.555554p-3 0x1p-1")
LOG: Final = numbers(
    "-0x1.07ddfep-3 0x1.1e7786p-3 -0x1.f325p-4 0x1.1ed3b2p-3 -0x1.559cfcp-3 0x1.99d06p-3 -0x1.fffef6p-3 0x1.555506p-2 "
    "-0x1p-1"
)
TANH: Final = numbers("-0x1.750ddp-8 0x1.51f8eep-6 -0x1.b835a6p-5 0x1.1106f6p-3 -0x1.555532p-2")
ERF: Final = numbers(
    "0x1.4b6eb2p-14 -0x1.a4c72p-11 0x1.5425bp-8 -0x1.b7fdb2p-6 0x1.ce2d48p-4 -0x1.81274p-2 0x1.06eba8p-3"
)
ERFC: Final = numbers("-0x1.b9c22ep-13 0x1.a1b93p-9 -0x1.758816p-6 0x1.ae8e6cp-4 0x1.458bbp-1 0x1.20e412p0")
SIN: Final = numbers("-0x1.9953fep-13 0x1.110778p-7 -0x1.555546p-3")
COS: Final = numbers("0x1.99e92p-16 -0x1.6c0c2ap-10 0x1.55554ap-5")
ATANH: Final = numbers("0x1.d775eap-4 0x1.248e9cp-3 0x1.9998f4p-3 0x1.555556p-2")

LOG2_E: Final = number("0x1.715476p0")
LN_2: Final = number("0x1.62e43p-1")
LN_2_HIGH: Final = number("0x1.62e4p-1")
LN_2_LOW: Final = number("0x1.7f7d1cp-20")
HALF_PI_HIGH: Final = number("0x1.921fb6p0")
HALF_PI_LOW: Final = number("-0x1.777a5cp-25")
QUARTER_PI: Final = number("0x1.921fb6p-1")
SHIFT: Final = number("0x1.8p23")

EXP_MOST: Final = number("0x1.64p6")
EXP_LEAST: Final = number("-0x1.ap6")
EXPM1_LEAST: Final = number("-0x1.3p4")
TANH_SMALL: Final = number("0x1.4p-1")
ERF_ONE: Final = number("0x1p2")

TWO_OVER_PI: Final = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163AB
"""floor(2/pi * 2^224)."""


def polynomial(x: F32, coefficients: list[F32]) -> F32:
    """Horner's rule by fma, highest power first."""
    total = numpy.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = fma(total, x, coefficient)
    return total


def halve(x: F32) -> tuple[F32, I32]:
    """r and n with x = n ln 2 + r, n whole."""
    n = fma(x, LOG2_E, SHIFT) - SHIFT
    r = fma(n, -LN_2_LOW, fma(n, -LN_2_HIGH, x))
    return r, numpy.where(numpy.isnan(n), 0, n).astype(numpy.int32)


def scale(y: F32, n: I32) -> F32:
    """y * 2^n, rounded once."""
    return numpy.ldexp(y.astype(numpy.float64), n).astype(numpy.float32)


def exp_reduced(r: F32, n: I32) -> F32:
    """e^r * 2^n."""
    return scale(fma(r * r, polynomial(r, EXP), r) + ONE, n)


def exp(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        return exp_reduced(*halve(numpy.clip(x, EXP_LEAST, EXP_MOST)))


def expm1(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        r, n = halve(numpy.clip(x, EXPM1_LEAST, EXP_MOST))
        p = fma(r * r, polynomial(r, EXPM1), r)
        t = scale(numpy.ones_like(x), n - 1)
        u = fma(p, t, t - HALF)
        return numpy.copysign(numpy.where(n == 0, p, u + u), x)


def log_reduced(f: F32, e: I32) -> F32:
    """ln(1 + f) + e ln 2."""
    return fma(e.astype(numpy.float32), LN_2, fma(f * f, polynomial(f, LOG), f))


def exponent(x: F32, least: int) -> I32:
    """e such that the bits of x * 2^-e lie from `least` on and below `least` + 2^23."""
    return (x.view(numpy.int32) - numpy.int32(least)) >> 23


def log_special(x: F32) -> F32:
    """The logarithm of what is not a finite number above 0."""
    return numpy.where(x == 0, -INFINITY, numpy.where(x == INFINITY, INFINITY, NAN))


def log(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        ordinary = (x > 0) & (x < INFINITY)
        some = numpy.where(ordinary, x, ONE)
        tiny = some < LEAST_NORMAL
        scaled = numpy.where(tiny, some * TO_NORMAL, some)
        e = exponent(scaled, 0x3F2AAAAB)
        y = log_reduced(scale(scaled, -e) - ONE, e - numpy.where(tiny, 23, 0).astype(numpy.int32))
        return numpy.where(ordinary, y, log_special(x))


def log1p(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        u = x + ONE
        ordinary = (u > 0) & (u < INFINITY)
        e = exponent(numpy.where(ordinary, u, ONE), 0x3F2AAAAB)
        some = numpy.where(ordinary, x, ZERO)
        f = scale(some, -e) + (scale(numpy.ones_like(x), -e) - ONE)
        y = numpy.where(ordinary, log_reduced(f, e), log_special(u))
        return numpy.where(x == 0, x, y)


def tanh(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        a = numpy.abs(x)
        z = a * a
        small = fma(z * polynomial(z, TANH), a, a)
        large = ONE - TWO / (exp(a + a) + ONE)
        return numpy.copysign(numpy.where(a < TANH_SMALL, small, large), x)


def sigmoid(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        e = exp(-numpy.abs(x))
        above: F32 = numpy.where(x < 0, e, ONE)
        return above / (ONE + e)


def erf(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        a = numpy.abs(x)
        small = fma(polynomial(a * a, ERF), a, a)
        t = numpy.where(a > ERF_ONE, ERF_ONE, a)
        large = ONE - exp(-(polynomial(t, ERFC) * t))
        return numpy.copysign(numpy.where(a < 1, small, large), x)


def turn(a: F32) -> tuple[F32, NDArray[numpy.int64]]:
    """r and q with a = q quarter turns + r, q modulo 4, for finite a >= 0; by whole numbers."""
    parts = numpy.zeros((4, *a.shape))
    for place in numpy.ndindex(a.shape):
        bits = int(a[place].view(numpy.uint32))
        k, m = (bits >> 23) - 126, (bits & 0x7FFFFF) | 0x800000
        if a[place] <= QUARTER_PI:
            continue
        window = (TWO_OVER_PI >> (154 - k)) & ((1 << 96) - 1)
        turns = ((m * window) >> 32) & ((1 << 64) - 1)
        quarter = (turns + (1 << 61)) >> 62
        rest = turns - (quarter << 62)
        parts[(slice(None), *place)] = (
            (rest >> 38) * 2.0**-24,
            ((rest >> 14) & 0xFFFFFF) * 2.0**-48,
            (rest & 0x3FFF) * 2.0**-62,
            quarter & 3,
        )
    f0, f1, f2 = parts[:3].astype(numpy.float32)
    t = f0 + f1
    f = t + f2
    left = ((f0 - t) + f1) + ((t - f) + f2)
    r = fma(f, HALF_PI_HIGH, fma(f, HALF_PI_LOW, left * HALF_PI_HIGH))
    return numpy.where(a <= QUARTER_PI, a, r), parts[3].astype(numpy.int64)


def sine_of(r: F32, quarter: NDArray[numpy.int64]) -> F32:
    """The sine of r and so many quarter turns."""
    z = r * r
    sine = fma(z * r, polynomial(z, SIN), r)
    cosine = fma(z * z, polynomial(z, COS), fma(-HALF, z, ONE))
    y = numpy.where(quarter % 2 == 1, cosine, sine)
    return numpy.where(quarter % 4 >= 2, -y, y)


def sin(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        finite = numpy.isfinite(x)
        y = sine_of(*turn(numpy.where(finite, numpy.abs(x), ZERO)))
        return numpy.where(finite, numpy.where(numpy.signbit(x), -y, y), NAN)


def cos(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        finite = numpy.isfinite(x)
        r, quarter = turn(numpy.where(finite, numpy.abs(x), ZERO))
        return numpy.where(finite, sine_of(r, quarter + 1), NAN)


def log_pair(a: F32) -> tuple[F32, F32]:
    """ln a as a sum of two numbers, for 0 < a < infinity."""
    tiny = a < LEAST_NORMAL
    scaled = numpy.where(tiny, a * TO_NORMAL, a)
    e = exponent(scaled, 0x3F3504F3)
    f = scale(scaled, -e) - ONE
    n = (e - numpy.where(tiny, 23, 0)).astype(numpy.float32)
    reciprocal = ONE / (f + TWO)
    q = f * reciprocal
    ql = reciprocal * fma(q, -f, fma(-TWO, q, f))
    s = q * q
    sl = fma(q, ql + ql, fma(q, q, -s))
    c = s * q
    cl = fma(s, ql, fma(sl, q, fma(s, q, -c)))
    p = polynomial(s, ATANH)
    tail = fma(p, c, fma(p, cl, ql))
    whole, twice = n * LN_2_HIGH, q + q
    total = whole + twice
    rest = fma(n, LN_2_LOW, fma(TWO, tail, twice - (total - whole)))
    high = total + rest
    return high, (total - high) + rest


def pow_size(a: F32, y: F32) -> F32:
    """a to the y for a >= 0, where a is not 1 and neither is NaN."""
    ordinary = (a > 0) & (a < INFINITY)
    high, low = log_pair(numpy.where(ordinary, a, TWO))
    high = numpy.where(ordinary, high, numpy.where(a == 0, -INFINITY, INFINITY))
    product = high * y
    error = fma(low, y, fma(high, y, -product))
    clipped = numpy.clip(product, EXP_LEAST, EXP_MOST)
    r, n = halve(clipped)
    return exp_reduced(r + numpy.where(clipped == product, error, ZERO), n)


def pow(x: F32, y: F32) -> F32:
    with numpy.errstate(all="ignore"):
        x, y = numpy.broadcast_arrays(x, y)
        a = numpy.abs(x)
        half = y * HALF
        is_whole = numpy.rint(y) == y
        is_odd = is_whole & (numpy.rint(half) != half)
        size = numpy.where((a == 1) & numpy.isinf(y), ONE, pow_size(a, y))
        result = numpy.where(is_odd & numpy.signbit(x), -size, size)
        undefined = (x < 0) & (x > -INFINITY) & ~is_whole
        result = numpy.where(undefined | numpy.isnan(x) | numpy.isnan(y), NAN, result)
        return numpy.where((y == 0) | (x == 1), ONE, result)


def sqrt(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        return numpy.sqrt(x)


def rsqrt(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        return reciprocal(numpy.sqrt(x))


def reciprocal(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        return ONE / x
