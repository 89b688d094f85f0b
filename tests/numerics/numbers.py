"""Inputs that break careless arithmetic, and equality of bits with NaN as one value."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

F32 = NDArray[numpy.float32]

CANONICAL_NAN = 0x7FC00000

SPECIAL = numpy.array(
    [
        0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000,  # 0, 1, infinity
        0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF,  # NaN: quiet, signalling, with payloads
        0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000,  # subnormals and the least normals
        0x7F7FFFFF, 0xFF7FFFFF, 0x7F000000, 0x3F7FFFFF, 0x3F800001, 0x4B000000, 0x4B7FFFFF, 0x34000000,
    ],
    dtype=numpy.uint32,
).view(numpy.float32)  # fmt: skip

KINDS = ("unit", "bits", "tiny", "huge", "special", "cancelling", "wide")
"""What `draw` knows."""


def draw(kind: str, shape: tuple[int, ...], seed: int = 0) -> F32:
    """Numbers of one kind.

    unit: normal deviates. bits: any bit pattern. tiny, huge: near the ends of the range, so that products under- and
    overflow. special: many zeros, infinities, NaN with payloads, subnormals among ordinary ones. cancelling: pairs that
    nearly undo each other. wide: exponents from all over.
    """
    random = numpy.random.default_rng([seed, KINDS.index(kind)])
    unit = random.standard_normal(shape).astype(numpy.float32)
    if kind == "unit":
        return unit
    if kind == "bits":
        return random.integers(0, 1 << 32, shape, dtype=numpy.uint32).view(numpy.float32)
    if kind == "tiny":
        return unit * numpy.float32(2.0**-70)
    if kind == "huge":
        return unit * numpy.float32(2.0**63)
    if kind == "special":
        return numpy.where(random.random(shape) < 0.1, random.choice(SPECIAL, shape), unit)
    if kind == "cancelling":
        flat = unit.reshape(-1)
        flat[1::2] = -flat[: flat.size - flat.size % 2 : 2] * numpy.float32(1 + 2.0**-22)
        return flat.reshape(shape)
    return numpy.ldexp(unit, random.integers(-60, 60, shape)).astype(numpy.float32)


def draw_all(count: int, seed: int = 0) -> F32:
    """Numbers of every kind, one after another, `count` of each, and the special ones."""
    return numpy.concatenate([*(draw(kind, (count,), seed) for kind in KINDS), SPECIAL]).astype(numpy.float32)


def bits(numbers: F32) -> NDArray[numpy.uint32]:
    """Bit patterns, every NaN as the canonical one."""
    found = numpy.ascontiguousarray(numbers, dtype=numpy.float32).view(numpy.uint32).copy()
    found[numpy.isnan(numbers)] = CANONICAL_NAN
    return found


def assert_same_bits(found: F32, expected: F32) -> None:
    """Shapes equal, and every bit of every number but for the bits of NaN."""
    assert found.shape == expected.shape
    different = numpy.argwhere(bits(found) != bits(expected))
    if different.size:
        place = tuple(int(i) for i in different[0])
        raise AssertionError(
            f"{len(different)} of {found.size} differ, first at {place}: "
            f"{float(found[place]).hex()} instead of {float(expected[place]).hex()}"
        )
