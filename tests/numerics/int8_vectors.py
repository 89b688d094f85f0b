"""Vectors for docs/numerics/int8.md: operands and results as bits, for implementations in other languages.

    python -P tests/numerics/int8_vectors.py        # writes src/tolsey/numerics/vectors/int8.json anew

A case is {"op", "slices", "shapes", "numbers", "inputs", "output"}: arrays row-major as hex words of binary32 separated
by spaces, NaN canonical in outputs; in "numbers" what a convolution is called with. Of a gemm, exponents and sums are
given too, so that an implementation sees where it leaves the law. The slow twin writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import int8, products
from tolsey.numerics.exact_sum import ExactSum
from tolsey.numerics.library import Library
from tolsey.numerics.products import Geometry
from tolsey.numerics.reference import draws, exact_sum
from tolsey.numerics.reference import int8 as reference
from tolsey.numerics.selftest import VECTORS

FILE: Final = VECTORS / "int8.json"
Case = dict[str, Any]
F32 = NDArray[numpy.float32]


def cases() -> Iterator[Case]:
    """Every case without what is computed of it."""
    for slices in (2, 3):
        for place, (m, n, k) in enumerate([(1, 1, 1), (3, 5, 7), (2, 3, 31), (4, 3, 64), (2, 2, 0), (1, 2, 300)]):
            for kind in ("ordinary", "wide", "any bits"):
                yield case("gemm", slices, some(kind, (m, k), 3 * place), some(kind, (k, n), 3 * place + 1))
        for last in (0x7F800000, 0xFF800000, 0x7FC00000, 0x00000001, 0x807FFFFF, 0x7F7FFFFF):
            a = some("ordinary", (2, 3), 5)
            a[0, 2] = numpy.uint32(last).view(numpy.float32)
            yield case("gemm", slices, a, some("ordinary", (3, 2), 6))
        largest = numpy.full((1, 20), 0x3FFFFFFF, numpy.uint32).view(numpy.float32)
        yield case("gemm", slices, largest, largest.T)
        yield case("gemm", slices, largest * numpy.float32(2.0**-75), largest.T * numpy.float32(2.0**-70))
        yield case("gemm", slices, largest * numpy.float32(2.0**65), largest.T * numpy.float32(2.0**62))
        bent = {"stride": [2, 1], "padding": [1, 1], "dilation": [1, 2], "groups": 2}
        x, weight = some("ordinary", (2, 4, 5, 6), 1), some("ordinary", (4, 2, 2, 3), 2)
        gradient = some("ordinary", Geometry.of(x.shape, weight.shape, **bent).output_shape, 3)
        yield case("convolution", slices, x, weight, **bent)
        yield case("convolution_backward_input", slices, gradient, weight, **bent, size=[5, 6])
        yield case("convolution_backward_weight", slices, gradient, x, **bent, kernel=[2, 3])
        deep = {"stride": [1], "padding": [1], "dilation": [1], "groups": 2}  # one channel of each group
        x, weight, gradient = (
            some("ordinary", size, seed) for seed, size in enumerate([(1, 2, 7), (2, 1, 3), (1, 2, 7)])
        )
        yield case("convolution", slices, x, weight, **deep)
        yield case("convolution_backward_input", slices, gradient, weight, **deep, size=[7])
    for kind in ("ordinary", "wide", "any bits"):
        yield case("exact_sum", 0, *(some(kind, (12,), seed) for seed in range(7)))


def case(op: str, slices: int, *inputs: F32, **numbers: Any) -> Case:
    shapes = [list(given.shape) for given in inputs]
    return {"op": op, "slices": slices, "shapes": shapes, "numbers": numbers, "inputs": [pattern(x) for x in inputs]}


def computed(given: Case, lib: Library | None) -> Case:
    """What a build, or the slow twin, makes of it."""
    inputs = [array(text, shape) for text, shape in zip(given["inputs"], given["shapes"], strict=True)]
    op, slices, numbers = given["op"], given["slices"], dict(given["numbers"])
    if op == "exact_sum":
        return {"output": pattern(exact_sum.exact_sum(inputs) if lib is None else summed(lib, inputs))}
    if op == "gemm":
        return multiplied(lib, *inputs, slices)
    if lib is None:
        bias = [] if op == "convolution_backward_weight" else [None]
        return {"output": pattern(getattr(reference, op)(*inputs, *bias, slices=slices, **numbers))}
    size, kernel = numbers.pop("size", None), numbers.pop("kernel", None)
    gradient, other = inputs
    if size is not None:
        whole = (gradient.shape[0], numbers["groups"] * other.shape[1], *size), other.shape
    elif kernel is not None:
        whole = other.shape, (gradient.shape[1], other.shape[1] // numbers["groups"], *kernel)
    else:
        whole = gradient.shape, other.shape
    shape = Geometry.of(*whole, **numbers)
    return {"output": pattern(getattr(products, op)(int8.kernels(lib, slices), shape, *inputs))}


def summed(lib: Library, addends: list[F32]) -> F32:
    total = ExactSum(lib, addends[0].shape)
    for addend in addends:
        total.add(addend)
    return total.rounded()


def multiplied(lib: Library | None, a: F32, b: F32, slices: int) -> Case:
    """A product and what lies on the way to it."""
    if lib is None:
        e_a, e_b = reference.exponents(a), reference.exponents(b.T)
        sums = reference.sums(reference.whole(a, e_a, slices), reference.whole(b.T, e_b, slices))
        result = reference.gemm(a, b, slices=slices)
    else:
        rows, columns = int8.exponents(lib, a), int8.exponents(lib, b.T)
        sums = numpy.zeros((a.shape[0], b.shape[1]), numpy.int64)
        int8.add_terms(lib, a, b, rows, columns, sums, slices=slices)
        e_a, e_b = rows.astype(numpy.int64), columns.astype(numpy.int64)
        result = products.gemm(int8.kernels(lib, slices), a, b)
    return {
        "row_exponents": e_a.tolist(),
        "column_exponents": e_b.tolist(),
        "sums": [str(n) for n in sums.reshape(-1).tolist()],
        "output": pattern(result),
    }


def pattern(numbers: F32) -> str:
    """Hex words; a NaN is the canonical one."""
    found = numpy.ascontiguousarray(numbers).reshape(-1).view(numpy.uint32).copy()
    found[numpy.isnan(numbers).reshape(-1)] = 0x7FC00000
    return " ".join(f"{int(word):08x}" for word in found)


def array(text: str, shape: list[int]) -> F32:
    """What `pattern` wrote."""
    words = numpy.array([int(word, 16) for word in text.split()], numpy.uint32)
    return words.view(numpy.float32).reshape(shape)


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
    rows = [json.dumps({**given, **computed(given, None)}) for given in cases()]
    FILE.write_text('{"cases": [\n' + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
