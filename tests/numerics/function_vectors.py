"""Vectors for docs/numerics/functions.md: inputs and outputs as bits, for implementations in other languages.

    python -P tests/numerics/function_vectors.py        # writes functions.json of the package's vectors anew

The cases stand here and the slow twins write their outputs; selftest.py, which reads them, says what a case is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import elementwise
from tolsey.numerics.reference import activations, draws, functions, numbers, optimisers
from tolsey.numerics.reference import elementwise as single
from tolsey.numerics.selftest import VECTORS, array_of
from tolsey.numerics.selftest import words as pattern

FILE: Final = VECTORS / "functions.json"
Case = dict[str, Any]
Array = NDArray[Any]

SPECIAL: Final = numpy.array(
    [
        0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFF812345, 0x00000001,
        0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F000000, 0xBF000000, 0x3F7FFFFF, 0x3F800001,
        0x40400000, 0xC0400000, 0x3FC00000, 0x4B7FFFFF, 0xCB800001, 0x3F1FFFFF, 0x3F200000, 0x3F490FDB, 0x3F490FDC,
        0x40490FDB, 0x42B17218, 0x42B17219, 0xC2CFF1B4, 0xC2CFF1B5, 0x3EAAAAAB, 0x3F2AAAAB, 0x3FAAAAAB, 0xBF7FFFFF,
        0x6F79BE45, 0xC1980000, 0x40800000, 0x5F000000, 0x4F000000, 0xCF000001, 0x437F8000, 0xC3008000,
    ],
    dtype=numpy.uint32,
).view(numpy.float32)  # fmt: skip

MODULES: Final = (functions, activations, numbers, single)


def cases() -> Iterator[Case]:
    """Every case without its outputs."""
    for name in elementwise.UNARY:
        yield case(name, some(40, seed=1))
    left, right = numpy.repeat(SPECIAL, SPECIAL.size), numpy.tile(SPECIAL, SPECIAL.size)
    for name in elementwise.BINARY:
        if name == "pow":
            yield case(name, numpy.concatenate([left, some(200, 1)]), numpy.concatenate([right, some(200, 2)]))
        yield case(name, some(60, 1), some(60, 2))
    for exponent in (0.0, 1.0, 2.0, 3.0, 4.0, 0.5, -0.5, -1.0, -2.0, 5.0, -1.5):
        yield case("pow_scalar", some(8, 1), exponent=exponent)
    for low, high in ((-1.0, 1.0), (0.0, None), (None, -0.0), (2.0, 1.0)):
        yield case("clamp", some(8, 1), low=low, high=high)
    for weight in (0.1, 0.5, -0.25, 0.9):
        yield case("lerp", some(20, 1), some(20, 2), weight=weight)
    yield case("addcmul", some(40, 1), some(40, 2), some(40, 3), value=0.001)
    yield case("threshold_backward", some(40, 1), some(40, 2), threshold=0.0)
    for (source, target), name in elementwise.CONVERSIONS.items():
        given = some(40, 1) if source == numpy.float32 else words(60, 4).view(numpy.int32).astype(source)
        if source == numpy.int64:
            given = numpy.concatenate([given << 32 | 0x80000001, given])
        yield case("convert", given, target=target.name, kernel=name)
    tensors = [some(20, seed) for seed in range(1, 5)]
    rates = {"factor": 0.5, "decay": 0.9999, "step_size": 0.0013, "correction": 1.7}
    yield case("adamw", *tensors, **rates, weight1=0.1, beta2=0.95, weight2=0.05, eps=1e-8)
    for nesterov, weight_decay in ((False, 0.0), (True, 0.01)):
        rates = {"factor": 1.0, "weight_decay": weight_decay, "momentum": 0.9, "lr": 0.07}
        yield case("sgd", *tensors[:3], **rates, nesterov=nesterov)
    yield case("lion", *tensors[:3], factor=1.0, decay=0.9999, lr=0.0003, weight1=0.1, weight2=0.01)
    name = {"seed": 0x0123456789ABCDEF, "stream": 7}
    yield case("words", **name, domain=1, first_index=(1 << 32) - 2, count=21)
    yield case("keep_mask", **name, position=5, threshold=15_099_494, count=70)


def case(op: str, *inputs: Array, **fixed: Any) -> Case:
    """Floats among the numbers are rounded as a program's are."""
    rounded = {name: float(single.rounded(n)) if isinstance(n, float) else n for name, n in fixed.items()}
    kinds = [given.dtype.name for given in inputs]
    return {"op": op, "numbers": rounded, "types": kinds, "inputs": [pattern(given) for given in inputs]}


def expected(given: Case) -> list[str]:
    """The outputs by the slow twins."""
    op, fixed = given["op"], dict(given["numbers"])
    inputs = [array_of(text, kind) for text, kind in zip(given["inputs"], given["types"], strict=True)]
    if op == "convert":
        target = numpy.dtype(fixed["target"]).type
        return [
            pattern(single.from_integer(inputs[0]) if target is numpy.float32 else single.to_integer(inputs[0], target))
        ]
    if op in ("words", "keep_mask"):
        result = getattr(draws, op)(**fixed)
    else:
        exact = {name: numpy.float32(n) if isinstance(n, float) else n for name, n in fixed.items()}
        places = optimisers if op in ("adamw", "sgd", "lion") else next(m for m in MODULES if hasattr(m, op))
        result = getattr(places, op)(*inputs, **exact)
    results = result if isinstance(result, tuple) else (result,)
    return [pattern(one if op != "keep_mask" else one.astype(numpy.uint8), canonical=True) for one in results]


def words(count: int, seed: int) -> NDArray[numpy.uint32]:
    return draws.words(seed, domain=0, stream=0, first_index=0, count=count)


def some(count: int, seed: int) -> numbers.F32:
    """Special numbers in an order of their own, any bits, and numbers between 2^-6 and 2^6."""
    drawn = words(2 * count, seed)
    ordinary = (drawn[count:] & 0x80FFFFFF) + 0x3C000000 + ((drawn[count:] >> 24 & 7) << 23)
    special = numpy.roll(SPECIAL, 7 * seed)
    return numpy.concatenate(
        [special, drawn[:count].view(numpy.float32), ordinary.astype(numpy.uint32).view(numpy.float32)]
    )


def main() -> None:
    rows = [json.dumps({**given, "outputs": expected(given)}) for given in cases()]
    FILE.write_text('{"cases": [\n' + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
