"""Products of whole numbers: the kernels of profiles `exact-int8/1` and `exact-int8x3/1`.

Their C functions are those of products.py with a number of slices before all other arguments and `_int8` behind the
name; `kernels` gives a build in which the plain names lead to them, so whatever multiplies through products.py or the
runtime's operations takes either law unchanged:

    products.gemm(lib, a, b)                       # the chain
    products.gemm(int8.kernels(lib, 2), a, b)      # exact-int8/1

One product whose terms lie on several shards is made of three parts: `exponents` (agreed on as a maximum), `add_terms`
(sums of integers, added in any order), `rounded`. Law: docs/numerics/int8.md. Twin: reference/int8.py.
"""

from __future__ import annotations

from typing import Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library, products
from tolsey.numerics.library import Library

F32 = NDArray[numpy.float32]
I32 = NDArray[numpy.int32]
I64 = NDArray[numpy.int64]

SLICES: Final = {"exact-int8/1": 2, "exact-int8x3/1": 3}
"""The profiles, and how many 7-bit slices hold one of their operands."""
MOST_TERMS: Final = 1 << 22
NOTHING: Final = -150
"""The exponent of nothing but zeros."""
SCRATCH_BYTES: Final = 36 << 20
"""A thread's working memory for products, at most: SHARED_BYTES, SUMS_BYTES and a few panels of int8.c."""

for _name in products.KERNELS:
    library.declare(f"{_name}_int8", " ".join(("i64", *library.declared()[_name])))
library.declare("tolsey_int8_exponents", "i64 i64 f32* i64 i64 i32*")
library.declare("tolsey_int8_add_terms", "i64 i64 i64 i64  f32* i64 i64 i32*  f32* i64 i64 i32*  i64*")
library.declare("tolsey_int8_round", "i64 i64 i64 i32* i32* i64* f32*")


def kernels(lib: Library, slices: int) -> Library:
    """The same build, whose products are those of whole numbers of 2 or 3 slices."""
    return lib.replacing({name: (f"{name}_int8", slices) for name in products.KERNELS})


def exponents(lib: Library, lanes: F32) -> I32:
    """Of each row of `lanes` [count, terms], any strides: that of its largest number; -150 of nothing but zeros, 128
    where one is not finite. Of several shards' the maximum holds for all terms."""
    found = numpy.empty(lanes.shape[0], numpy.int32)
    steps = (stride // lanes.itemsize for stride in lanes.strides)
    lib.call("tolsey_int8_exponents", *lanes.shape, lanes, *steps, found)
    return found


def add_terms(lib: Library, a: F32, b: F32, exponents_a: I32, exponents_b: I32, sums: I64, *, slices: int) -> None:
    """Adds to `sums` [m, n] the terms of a [m, k] and b [k, n], any strides, as whole numbers under given exponents.

    Raises:
        ValueError: shapes that do not fit, exponents below the numbers' own, or more than MOST_TERMS terms.
    """
    (m, k), n = a.shape, b.shape[1]
    if b.shape[0] != k or (exponents_a.shape, exponents_b.shape, sums.shape) != ((m,), (n,), (m, n)):
        raise ValueError(f"sums of {sums.shape} and exponents of {len(exponents_a)} and {len(exponents_b)} lanes")
    if (exponents(lib, a) > exponents_a).any() or (exponents(lib, b.T) > exponents_b).any():
        raise ValueError("a lane has numbers above the exponent that was agreed on for it")
    steps_a, steps_b = ([stride // x.itemsize for stride in x.strides] for x in (a, b))
    lib.call(
        "tolsey_int8_add_terms",
        *(slices, m, n, k),
        *(a, *steps_a, exponents_a),
        *(b, *steps_b, exponents_b),
        numpy.require(sums, requirements="C"),
    )


def rounded(lib: Library, sums: I64, exponents_a: I32, exponents_b: I32, *, slices: int) -> F32:
    """The product whose sums these are, each rounded once."""
    m, n = sums.shape
    result = numpy.empty((m, n), numpy.float32)
    lib.call("tolsey_int8_round", slices, m, n, exponents_a, exponents_b, numpy.ascontiguousarray(sums), result)
    return result
