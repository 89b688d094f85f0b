"""Exact sums: the twin's bits whatever the order of addends, however they were dealt out."""

from __future__ import annotations

import numpy
import pytest

from tolsey.numerics.exact_sum import ExactSum
from tolsey.numerics.library import Library
from tolsey.numerics.reference.exact_sum import exact_sum

from .numbers import F32, KINDS, SPECIAL, assert_same_bits, draw


def summed(lib: Library, addends: list[F32]) -> ExactSum:
    total = ExactSum(lib, addends[0].shape)
    for addend in addends:
        total.add(addend)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_sum_equals_twin_in_any_order_and_split(lib: Library, kind: str) -> None:
    addends = [draw(kind, (41, 5), seed) for seed in range(35)]
    expected = exact_sum(addends)
    assert_same_bits(summed(lib, addends).rounded(), expected)
    for seed in range(3):
        order = numpy.random.default_rng(seed).permutation(35)
        dealt = [addends[place] for place in order]
        total = summed(lib, dealt[28:])
        total.merge(summed(lib, dealt[:2]))
        total.merge(summed(lib, dealt[2:28]))
        assert_same_bits(total.rounded(), expected)


def test_special_numbers_meet_each_other(lib: Library) -> None:
    left, right = numpy.repeat(SPECIAL, SPECIAL.size), numpy.tile(SPECIAL, SPECIAL.size)
    assert_same_bits(summed(lib, [left, right]).rounded(), exact_sum([left, right]))
    assert_same_bits(summed(lib, [left, right, -left, right]).rounded(), exact_sum([left, right, -left, right]))


def test_halves_are_told_from_what_lies_beside_them(lib: Library) -> None:
    """1 + 2^-24 is a half; a number 2^-149 decides it, and one of the other sign, from however far below."""
    one = numpy.float32(1)
    rows = []
    for far in range(-149, 0):
        for sign in (-1, 0, 1):
            rows.append([one, numpy.float32(2.0**-24), numpy.float32(sign * 2.0**far)])
            rows.append([one, numpy.float32(3 * 2.0**-24), numpy.float32(sign * 2.0**far)])
    addends = list(numpy.array(rows, numpy.float32).T.copy())
    assert_same_bits(summed(lib, addends).rounded(), exact_sum(addends))
    assert_same_bits(summed(lib, [-x for x in addends]).rounded(), exact_sum([-x for x in addends]))


def test_many_of_the_largest_do_not_overflow(lib: Library) -> None:
    largest, count = numpy.full(3, numpy.finfo(numpy.float32).max), 3000
    total = summed(lib, [largest] * count)
    assert numpy.isinf(total.rounded()).all()
    total.merge(summed(lib, [-largest] * (count - 1)))
    assert_same_bits(total.rounded(), largest)
    total.add(-largest)
    assert_same_bits(total.rounded(), numpy.zeros(3, numpy.float32))


def test_other_shape_refused(lib: Library) -> None:
    total = ExactSum(lib, (3, 2))
    with pytest.raises(ValueError, match=r"an addend of \(2, 3\)"):
        total.add(numpy.zeros((2, 3), numpy.float32))
    with pytest.raises(ValueError, match="a sum of"):
        total.merge(ExactSum(lib, (6,)))
