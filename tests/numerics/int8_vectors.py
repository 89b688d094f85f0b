"""Vectors for docs/numerics/int8.md: operations under a number of slices, and exact sums.

    python -m tests.numerics.int8_vectors        # writes int8.json of the package's vectors anew

The cases stand here and the slow twins write their outputs; selftest.py, which reads them, says what a case is. Of a
matrix product, exponents and sums are outputs too, so that an implementation sees where it leaves the law.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import selftest
from tolsey.numerics.reference import draws, exact_sum
from tolsey.numerics.reference import int8 as reference
from tolsey.numerics.selftest import VECTORS, Case

from . import product_vectors, reduction_vectors
from .product_vectors import ALL, SlowDirections, seed

FILE: Final = VECTORS / "int8.json"
F32 = NDArray[numpy.float32]
CONVOLUTIONS: Final = (
    ((2, 4, 5, 6), (4, 2, 2, 3), [2, 1], [1, 1], [1, 2], False, [0, 0], 2),
    ((1, 2, 7), (2, 1, 3), [1], [1], [1], False, [0], 2),  # one channel of each group
    ((1, 4, 3), (4, 1, 3), [2], [1], [1], True, [1], 2),
)


def cases() -> Iterator[Case]:
    """Every case without its outputs."""
    for slices in (2, 3):
        for place, (m, n, k) in enumerate([(1, 1, 1), (3, 5, 7), (2, 3, 31), (4, 3, 64), (2, 2, 0), (1, 2, 300)]):
            for kind in ("ordinary", "wide", "any bits"):
                yield case("mm", slices, some(kind, (m, k), 3 * place), some(kind, (k, n), 3 * place + 1))
        for last in (0x7F800000, 0xFF800000, 0x7FC00000, 0x00000001, 0x807FFFFF, 0x7F7FFFFF):
            a = some("ordinary", (2, 3), 5)
            a[0, 2] = numpy.uint32(last).view(numpy.float32)
            yield case("mm", slices, a, some("ordinary", (3, 2), 6))
        largest = numpy.full((1, 100), 0x3FFFFFFF, numpy.uint32).view(numpy.float32)
        yield case("mm", slices, largest, largest.T)
        yield case("mm", slices, largest * numpy.float32(2.0**-75), largest.T * numpy.float32(2.0**-70))
        yield case("mm", slices, largest * numpy.float32(2.0**65), largest.T * numpy.float32(2.0**62))
        yield case("mm", slices, seed(1, 7, 5000), seed(2, 5000, 9))  # more terms than are made whole at once
        a, b, bias = (some("ordinary", shape, 7 + place) for place, shape in enumerate([(3, 9), (9, 4), (4,)]))
        yield case("addmm", slices, bias, a, b)
        yield case("bmm", slices, some("wide", (2, 3, 4), 10), some("wide", (2, 4, 5), 11))
        for x_shape, weight_shape, *given in CONVOLUTIONS:
            x, weight = some("ordinary", x_shape, 1), some("ordinary", weight_shape, 2)
            out = product_vectors.convolve("convolution", [x, weight, None, *given])
            bias = some("ordinary", out.shape[1:2], 3)
            yield case("convolution", slices, x, weight, bias, *given)
            yield case("convolution_backward", slices, some("ordinary", out.shape, 4), x, weight, None, *given, ALL)
    for kind in ("ordinary", "wide", "any bits"):
        yield reduction_vectors.case("exact_sum", *(some(kind, (12,), seed) for seed in range(7)))


def case(op: str, slices: int, *args: Any) -> Case:
    return {**reduction_vectors.case(op, *args), "slices": slices}


def written(given: Case) -> Case:
    """A case with its outputs by the slow twins, or with their digest where the inputs are given by seeds."""
    outputs = expected(given)
    if any(isinstance(arg, dict) and "seed" in arg for arg in given["args"]):
        return {**given, "sha256": selftest.digest(outputs)}
    return {**given, "outputs": selftest.written(given, outputs)}


def expected(given: Case) -> list[Any]:
    """The outputs by the slow twins, as arrays."""
    op, args = given["op"], [selftest.read(arg, reduction_vectors.words) for arg in given["args"]]
    if op == "exact_sum":
        return [exact_sum.exact_sum(args)]
    slices = given["slices"]
    if op.startswith("convolution"):
        result = selftest.convolved(SlowDirections(reference, slices=slices), op, args)
        return list(result) if isinstance(result, tuple) else [result]
    if op != "mm":
        bias, a, b = args if op == "addmm" else (None, *args)
        return [reference.gemm(a, b, bias, slices=slices)]
    a, b = args
    rows, columns = reference.exponents(a), reference.exponents(b.T)
    sums = reference.sums(reference.whole(a, rows, slices), reference.whole(b.T, columns, slices))
    return [reference.gemm(a, b, slices=slices), rows.astype(numpy.int32), columns.astype(numpy.int32), sums]


def some(kind: str, shape: tuple[int, ...], seed: int) -> F32:
    """Numbers between 2^-4 and 2^4, between 2^-60 and 2^60, or any bits but infinities and NaN."""
    words = draws.words(seed, domain=0, stream=8, first_index=0, count=int(numpy.prod(shape)))
    exponent = words >> 23 & 255
    if kind == "ordinary":
        exponent = 123 + exponent % 8
    elif kind == "wide":
        exponent = 67 + exponent % 120
    else:
        exponent = numpy.minimum(exponent, 254)
    bits = (words & 0x807FFFFF) | exponent << 23
    return bits.astype(numpy.uint32).view(numpy.float32).reshape(shape)


def main() -> None:
    rows = [json.dumps(written(given)) for given in cases()]
    FILE.write_text('{"cases": [\n' + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
