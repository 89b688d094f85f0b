"""The single operations that every kernel is made of, callable one by one: what a build is tried with first."""

from __future__ import annotations

from typing import Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library
from tolsey.numerics.library import Library

OPERATIONS: Final = (
    *("fma", "fma_one", "sqrt", "sqrt_one", "round", "round_one"),
    *("max", "min", "canonical", "add", "sub", "mul", "div"),
)
"""As native/probe.c numbers them; `_one` is the form for a single number, of the same result."""

library.declare("tolsey_probe", "i64 f32* f32* f32* f32* i64")

F32 = NDArray[numpy.float32]


def probe(lib: Library, operation: str, a: F32, b: F32 | None = None, c: F32 | None = None) -> F32:
    """The operation on each element of equally long arrays; what it does not need may be left out."""
    out = numpy.empty_like(a)
    lib.call("tolsey_probe", OPERATIONS.index(operation), a, a if b is None else b, a if c is None else c, out, a.size)
    return out
