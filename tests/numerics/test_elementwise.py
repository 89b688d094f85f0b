"""Arithmetic, choice and conversion of single places: every build equals the slow twin bit by bit."""

from __future__ import annotations

from fractions import Fraction

import numpy
import pytest

from tolsey.numerics import elementwise
from tolsey.numerics.library import Library
from tolsey.numerics.reference import elementwise as reference
from tolsey.numerics.reference import numbers

from .numbers import F32, SPECIAL, assert_same_bits, draw, draw_all

ENDS = (None, -numpy.inf, -1.0, -0.0, 0.0, 0.5, numpy.inf, numpy.nan)
_SIDES = [side.reshape(-1) for side in numpy.meshgrid(SPECIAL, SPECIAL)]
A, B, C = (numpy.concatenate([draw_all(1_001, seed), _SIDES[seed % 2]]) for seed in range(3))
"""Of every kind, then all pairs of special numbers."""


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_larger_and_smaller_equal_reference(lib: Library, name: str) -> None:
    assert_same_bits(elementwise.binary(lib, name, A, B), getattr(numbers, name)(A, B))


@pytest.mark.parametrize("low", ENDS)
def test_clamp_equals_reference(lib: Library, low: float | None) -> None:
    for high in ENDS:
        ends = [None if end is None else numpy.float32(end) for end in (low, high)]
        assert_same_bits(elementwise.clamp(lib, A, low, high), reference.clamp(A, *ends))


@pytest.mark.parametrize("weight", [0.0, 0.1, -0.3, 0.49999997, 0.5, -0.5, 0.9, 1.0, 2.0, numpy.nan])
def test_lerp_equals_reference(lib: Library, weight: float) -> None:
    number = numpy.float32(weight)
    assert_same_bits(elementwise.lerp(lib, A, B, number), reference.lerp(A, B, number))


def test_lerp_arrives_at_both_ends(lib: Library) -> None:
    a, b = draw("unit", (1_000,), 1), draw("unit", (1_000,), 2)
    assert_same_bits(elementwise.lerp(lib, a, b, 0.0), a)
    assert_same_bits(elementwise.lerp(lib, a, b, 1.0), b)


@pytest.mark.parametrize("value", [1.0, 0.001, -3.0])
def test_addcmul_equals_reference(lib: Library, value: float) -> None:
    number = numpy.float32(value)
    assert_same_bits(elementwise.addcmul(lib, A, B, C, number), reference.addcmul(A, B, C, number))


@pytest.mark.parametrize("exponent", [0, -0.0, 1, 2, 3, 4, 5, -1, -2, -3, 0.5, -0.5, 1.5, numpy.nan, numpy.inf])
def test_pow_scalar_equals_reference(lib: Library, exponent: float) -> None:
    number = numpy.float32(exponent)
    assert_same_bits(elementwise.pow_scalar(lib, A, number), reference.pow_scalar(A, number))


@pytest.mark.parametrize("target", [numpy.int64, numpy.int32, numpy.int16, numpy.int8, numpy.uint8])
def test_conversion_to_integer_equals_reference(lib: Library, target: type[numpy.integer]) -> None:
    ends = numpy.array([float(end) for bits in (8, 16, 32, 64) for end in (2 ** (bits - 1), 2**bits)], numpy.float32)
    near = [numpy.nextafter(ends, 0), ends, numpy.nextafter(ends, numpy.inf), ends - 1, ends - 0.5]
    some = draw("unit", (1_001,), 5) * numpy.float32(300)
    x = numpy.concatenate([draw_all(301, 5), some, *near, *(-side for side in near)]).astype(numpy.float32)
    assert numpy.array_equal(elementwise.convert(lib, x, target), reference.to_integer(x, target))


def test_conversion_outside_the_target_gives_its_end_and_nan_gives_0() -> None:
    x = numpy.float32([3e9, -3e9, numpy.inf, -numpy.inf, numpy.nan, -1.9, 1.9, 255.9, 256.0])
    assert reference.to_integer(x, numpy.int32).tolist()[:7] == [2**31 - 1, -(2**31), 2**31 - 1, -(2**31), 0, -1, 1]
    assert reference.to_integer(x, numpy.uint8).tolist() == [255, 0, 255, 0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("source", [numpy.int64, numpy.int32])
def test_conversion_from_integer_rounds_once(lib: Library, source: type[numpy.signedinteger]) -> None:
    limits = numpy.iinfo(source)
    random = numpy.random.default_rng(6)
    x = random.integers(limits.min, limits.max, 3_000, dtype=source, endpoint=True)
    x >>= random.integers(0, limits.bits, x.shape, dtype=source)
    # Binary64 in between would round these twice.
    twice = [sign * ((1 << top) + (1 << (top - 24)) + 1) for top in range(25, limits.bits - 1) for sign in (1, -1)]
    x = numpy.concatenate([x, numpy.array([*twice, limits.min, limits.max, 0, 1, -1], dtype=source)])
    assert_same_bits(elementwise.convert(lib, x, numpy.float32), reference.from_integer(x))


@pytest.mark.parametrize(
    ("number", "bits"),
    [(1, 0x3F800000), (-0.0, 0x80000000), (0.1, 0x3DCCCCCD), (2**24 + 1, 0x4B800000), (2**24 + 3, 0x4B800002),
     (1 + 2**-24 + 2**-52, 0x3F800001), ((1 << 61) + (1 << 37) + 1, 0x5E000001), (1e-45, 1), (1e-60, 0),
     (float("inf"), 0x7F800000)],
)  # fmt: skip
def test_number_of_a_program_is_rounded_once(number: float, bits: int) -> None:
    assert reference.rounded(number).view(numpy.uint32) == bits


@pytest.mark.parametrize("number", [1e300, -3.5e38, float(Fraction(2) ** 128 - Fraction(2) ** 103)])
def test_number_beyond_binary32_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="beyond binary32"):
        reference.rounded(number)


@pytest.mark.parametrize("other", [numpy.zeros(4, "f4"), numpy.zeros((3, 2), "f4").T[:1].reshape(-1)[:2], None])
def test_inputs_of_other_shape_or_with_gaps_are_refused(lib: Library, other: F32 | None) -> None:
    x = numpy.zeros(6, "f4") if other is not None else numpy.zeros((4, 6), "f4")[:, ::2]
    with pytest.raises(ValueError, match="contiguous arrays of one shape"):
        elementwise.binary(lib, "maximum", x, x if other is None else other)
