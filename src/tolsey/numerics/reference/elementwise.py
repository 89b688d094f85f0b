"""Arithmetic, choice and conversion of single places, as docs/numerics/functions.md, sections 2 and 4, has them.

What NumPy's own operators compute by the law is not repeated here: + - * / negation, magnitude, floor, ceil, rint,
comparison, and the conversions that cannot leave the target's range.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference import functions
from tolsey.numerics.reference.functions import ONE, ZERO
from tolsey.numerics.reference.numbers import F32, maximum, minimum, round_fraction


def rounded(number: float) -> numpy.float32:
    """A number of a program as binary32: rounded once, half to even.

    Raises:
        ValueError: it is finite and its binary32 is not. Such a program is refused.
    """
    if isinstance(number, float) and (number != number or number in (0.0, float("inf"), -float("inf"))):
        return numpy.float32(number)
    exact = Fraction(number)
    result = round_fraction(exact) if exact else numpy.float32(0)
    if numpy.isinf(result):
        raise ValueError(f"{number} is beyond binary32")
    return result


def sign(x: F32) -> F32:
    """1, -1, and +0 for zeros and NaN."""
    return numpy.where(x > 0, ONE, numpy.where(x < 0, -ONE, ZERO))


def clamp(x: F32, low: numpy.float32 | None, high: numpy.float32 | None) -> F32:
    """At least `low`, then at most `high`."""
    if low is not None:
        x = maximum(x, numpy.full_like(x, low))
    if high is not None:
        x = minimum(x, numpy.full_like(x, high))
    return x


def lerp(x: F32, end: F32, weight: numpy.float32) -> F32:
    """From x towards end, counted from the nearer one."""
    with numpy.errstate(all="ignore"):
        way = end - x
        if abs(weight) < 0.5:
            return x + weight * way
        return end - way * numpy.float32(1 - weight)


def addcmul(x: F32, a: F32, b: F32, value: numpy.float32) -> F32:
    with numpy.errstate(all="ignore"):
        return x + (value * a) * b


def pow_scalar(x: F32, exponent: numpy.float32) -> F32:
    """x to a number; some exponents have a rule of their own."""
    with numpy.errstate(all="ignore"):
        own: dict[float, Callable[[], F32]] = {
            0.0: lambda: numpy.ones_like(x),
            1.0: lambda: x,
            2.0: lambda: x * x,
            3.0: lambda: (x * x) * x,
            4.0: lambda: (x * x) * (x * x),
            0.5: lambda: functions.sqrt(x),
            -0.5: lambda: functions.rsqrt(x),
            -1.0: lambda: functions.reciprocal(x),
            -2.0: lambda: functions.reciprocal(x * x),
        }
        if float(exponent) in own:
            return own[float(exponent)]()
        return functions.pow(x, numpy.full_like(x, exponent))


def to_integer(x: F32, target: type[numpy.integer[Any]]) -> NDArray[Any]:
    """Cut towards 0; what lies outside the target gives its nearest end, NaN gives 0."""
    ends = numpy.iinfo(target)
    out = numpy.zeros(x.shape, dtype=target)
    for place in numpy.ndindex(x.shape):
        value = float(x[place])
        if value == value:
            cut = int(value) if abs(value) < 2.0**80 else (1 if value > 0 else -1) << 80
            out[place] = min(max(cut, int(ends.min)), int(ends.max))
    return out


def from_integer(x: NDArray[Any]) -> F32:
    """Rounded once, half to even."""
    out = numpy.zeros(x.shape, dtype=numpy.float32)
    for place in numpy.ndindex(x.shape):
        value = int(x[place])
        out[place] = round_fraction(Fraction(value)) if value else 0
    return out
