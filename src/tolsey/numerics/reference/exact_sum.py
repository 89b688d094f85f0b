"""Sums of binary32 numbers without any rounding but the last, in fractions. The twin of native/exact_sum.c.

Law: docs/numerics/int8.md, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference.numbers import NAN, round_fraction

F32 = NDArray[numpy.float32]


def exact_sum(addends: Sequence[F32]) -> F32:
    """The sum of arrays of one shape, place by place; NaN where an addend is not finite, +0 where the sum is 0."""
    result = numpy.zeros(addends[0].shape, numpy.float32)
    for place in numpy.ndindex(*result.shape):
        numbers = [addend[place] for addend in addends]
        if not numpy.isfinite(numbers).all():
            result[place] = NAN
            continue
        total = sum((Fraction(float(number)) for number in numbers), Fraction(0))
        if total:
            result[place] = round_fraction(total)
    return result
