"""Sums of binary32 numbers that do not depend on the order of their addends: exact, rounded once at the end.

    total = ExactSum(lib, shape)
    total.add(x)                # [shape] binary32; up to 2^23 of them
    total.merge(other)          # another shard's sum of the same places
    total.rounded()             # [shape] binary32

`words` is all there is of a sum: int64 [8, places], added to another's word by word. 64 bytes a place are the price of
never rounding, since binary32 spans 277 bits; until as much is there, addends are kept as they are. Law:
docs/numerics/int8.md, section 6. Twin: reference/exact_sum.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library
from tolsey.numerics.library import Library

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]

WORDS: Final = 8
MOST_KEPT: Final = 16
"""So many addends take as much memory as the words."""

SIGNATURES: Final = {"tolsey_exact_sum_add": "i64 f32* i64*", "tolsey_exact_sum_round": "i64 i64* f32*"}
for _name, _signature in SIGNATURES.items():
    library.declare(_name, _signature)


def most_bytes(places: Sequence[int], addends: int) -> int:
    """The most memory that sums of so many places each take while arrays are added to each and all are rounded.

    Addends count beside the words that they were carried into, since no allocator has to give memory back at once; one
    sum at a time is copied, to be carried or rounded.
    """
    words, number = WORDS * 8, 4
    held = min(addends, MOST_KEPT - 1) * number + (words if addends >= MOST_KEPT else 0)
    return sum(places) * (held + number) + max(places, default=0) * (words + number)


class ExactSum:
    """A sum of arrays of one shape."""

    def __init__(self, lib: Library, shape: Sequence[int]) -> None:
        self._lib = lib
        self._shape = tuple(shape)
        self._words: I64 | None = None
        self._kept: list[F32] = []

    def add(self, addend: F32) -> None:
        """Adds an array, which must not change afterwards. Raises ValueError: it has another shape."""
        if addend.shape != self._shape:
            raise ValueError(f"an addend of {addend.shape} to a sum of {self._shape}")
        self._kept.append(addend)
        if len(self._kept) == MOST_KEPT:
            self._words, self._kept = self.words, []

    def merge(self, other: ExactSum) -> None:
        """Adds what another sum has seen. Raises ValueError: it has another shape."""
        if other._shape != self._shape:
            raise ValueError(f"a sum of {other._shape} to a sum of {self._shape}")
        self._words, self._kept = self.words + other.words, []

    @property
    def words(self) -> I64:
        """The sum's state, int64 [8, places]: integers that a network may carry."""
        places = int(numpy.prod(self._shape, dtype=numpy.int64))
        words = numpy.zeros((WORDS, places), numpy.int64) if self._words is None else self._words.copy()
        for addend in self._kept:
            self._lib.call("tolsey_exact_sum_add", places, numpy.ascontiguousarray(addend), words)
        return words

    def rounded(self) -> F32:
        """The sum, rounded once; NaN where an addend was not finite, +0 where it is 0."""
        result = numpy.empty(self._shape, numpy.float32)
        self._lib.call("tolsey_exact_sum_round", result.size, self.words, result)
        return result
