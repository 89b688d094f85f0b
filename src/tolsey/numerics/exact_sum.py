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

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Generic, Protocol, Self, TypeVar

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

    Addends count beside the words that they were carried into, since no allocator has to give memory back at once, and
    the largest sum's words once more: they are made to round it, or, where there are some, memory that is free may lie
    in pieces too small for them.
    """
    words, number = WORDS * 8, 4
    held = min(addends, MOST_KEPT - 1) * number + (words if addends >= MOST_KEPT else 0)
    return sum(places) * (held + number) + max(places, default=0) * (words + number)


class Shaped(Protocol):
    """An array, whoever's."""

    @property
    def shape(self) -> tuple[int, ...]: ...


Array = TypeVar("Array", bound=Shaped)


class Sum(ABC, Generic[Array]):
    """A sum of arrays of one shape, wherever they lie: what a subclass says."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.places = math.prod(self.shape)
        self._words: Array | None = None
        self._kept: list[Array] = []

    def add(self, addend: Array) -> None:
        """Adds an array, which must not change afterwards. Raises ValueError: it has another shape."""
        if tuple(addend.shape) != self.shape:
            raise ValueError(f"an addend of {tuple(addend.shape)} to a sum of {self.shape}")
        self._kept.append(addend)
        if len(self._kept) == MOST_KEPT:
            self._words, self._kept = self._carried(), []

    def merge(self, other: Self) -> None:
        """Adds what another sum has seen. Raises ValueError: it has another shape."""
        if other.shape != self.shape:
            raise ValueError(f"a sum of {other.shape} to a sum of {self.shape}")
        self._words, self._kept = self._total(self._carried(), other._carried()), []

    @property
    def words(self) -> Array:
        """The sum's state, int64 [8, places]: integers that a network may carry."""
        return self._total(self._carried())

    def rounded(self) -> Array:
        """The sum, rounded once; NaN where an addend was not finite, +0 where it is 0."""
        return self._rounded(self._carried())

    def _carried(self) -> Array:
        """The words with all addends. Where there are some already they take in what was kept; else the addends, which
        are smaller, stay what there is of the sum."""
        words = self._total() if self._words is None else self._words
        for addend in self._kept:
            self._carry(addend, words)
        if self._words is not None:
            self._kept = []
        return words

    @abstractmethod
    def _total(self, *words: Array) -> Array:
        """The words of some sums added up, in memory of their own."""

    @abstractmethod
    def _carry(self, addend: Array, words: Array) -> None:
        """tolsey_exact_sum_add."""

    @abstractmethod
    def _rounded(self, words: Array) -> Array:
        """tolsey_exact_sum_round, into memory of its own."""


class ExactSum(Sum[NDArray[Any]]):
    """A sum of NumPy arrays."""

    def __init__(self, lib: Library, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self._lib = lib

    def _total(self, *words: I64) -> I64:
        total = numpy.zeros((WORDS, self.places), numpy.int64)
        for one in words:
            total += one
        return total

    def _carry(self, addend: F32, words: I64) -> None:
        self._lib.call("tolsey_exact_sum_add", self.places, numpy.ascontiguousarray(addend), words)

    def _rounded(self, words: I64) -> F32:
        result = numpy.empty(self.shape, numpy.float32)
        self._lib.call("tolsey_exact_sum_round", self.places, words, result)
        return result
