"""Operations that need no kernel of ours: what PyTorch computes is the law's, at every level of its vector code.

IEEE fixes the bits of one operation, and integers are exact, so PyTorch is trusted with them; this is where the trust
is tried, operation by operation as programs call them, over numbers that break careless arithmetic, in long arrays
(vector code) and in arrays of one (its tails). The square root is not among them: PyTorch asks a library for it that
rounds some six in a thousand wrongly.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch

from tolsey.numerics.reference import elementwise as reference
from tolsey.runtime.ops import OPS, float_hex

from .numbers import SPECIAL, bits, draw_all

CPU = torch.device("cpu")
LEVELS = ("default", "avx2", "avx512")

_SIDES = [side.reshape(-1) for side in numpy.meshgrid(SPECIAL, SPECIAL)]
A, B = (numpy.concatenate([draw_all(203, seed), side]) for seed, side in enumerate(_SIDES))
WHERE = numpy.arange(A.size) % 3 == 0
NUMBERS: list[float] = [0.1, -0.0, 0, 3, 2**24 + 1, 1 + 2**-24 + 2**-52, 1e-50, 1e-42, numpy.inf, numpy.nan]


def integers(kind: str) -> numpy.ndarray:
    limits = numpy.iinfo(kind)
    random = numpy.random.default_rng(1)
    some = random.integers(limits.min, limits.max, 300, dtype=kind, endpoint=True)
    return numpy.concatenate([some, numpy.array([limits.min, limits.max, 0, 1, limits.max - 1, 2], dtype=kind)])


def computed(name: str, *args: Any) -> Any:
    """The operation as a program calls it: arrays are its tensors, in order, everything else its attributes."""
    op, tensors, raw = OPS[name], [], []
    for arg, (_, kind) in zip(args, op.params, strict=True):
        if isinstance(arg, numpy.ndarray):
            raw.append(len(tensors))
            tensors.append(torch.from_numpy(numpy.ascontiguousarray(arg)))
        elif isinstance(arg, tuple):
            raw.append(list(range(len(tensors), len(tensors) + len(arg))))
            tensors += [torch.from_numpy(one) for one in arg]
        else:
            raw.append(float_hex(arg) if kind == "number" and isinstance(arg, float) else arg)
    result = op.build(op.parse(raw), CPU)(*tensors)
    return result.numpy()


def assert_same(found: numpy.ndarray, expected: numpy.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if found.dtype == numpy.float32:
        found, expected = bits(found), bits(expected)
    different = numpy.flatnonzero(found.reshape(-1) != expected.reshape(-1))
    assert not different.size, f"{different.size} differ, first at {different[0]}"


def assert_op(name: str, expected: numpy.ndarray, *args: Any) -> None:
    """Whole, and each of the last elements alone."""
    assert_same(computed(name, *args), expected)
    for place in range(A.size - 30, A.size):
        one = [arg[place : place + 1] if isinstance(arg, numpy.ndarray) else arg for arg in args]
        assert_same(computed(name, *one), expected[place : place + 1])


FLOATS: dict[str, Callable[..., numpy.ndarray]] = {
    "add": numpy.add,
    "sub": numpy.subtract,
    "mul": numpy.multiply,
    "div": numpy.divide,
    "eq": numpy.equal,
    "ne": numpy.not_equal,
    "lt": numpy.less,
    "le": numpy.less_equal,
    "gt": numpy.greater,
    "ge": numpy.greater_equal,
    "logical_and": numpy.logical_and,
    "logical_or": numpy.logical_or,
    "neg": numpy.negative,
    "abs": numpy.abs,
    "floor": numpy.floor,
    "ceil": numpy.ceil,
    "round": numpy.rint,
    "sign": reference.sign,
    "logical_not": numpy.logical_not,
}


@pytest.mark.parametrize("name", FLOATS)
def test_operation_on_binary32_is_the_law_s(name: str) -> None:
    given = [A, B][: len(OPS[name].params)]
    with numpy.errstate(all="ignore"):
        assert_op(name, FLOATS[name](*given), *given)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", ["add", "mul", "div", "rsub", "eq", "ne", "lt", "le", "gt", "ge"])
def test_operation_with_a_number_rounds_it_once(name: str, number: float) -> None:
    rule = FLOATS["sub" if name == "rsub" else name]
    fixed = reference.rounded(number)
    with numpy.errstate(all="ignore"):
        assert_op(f"{name}_scalar", rule(fixed, A) if name == "rsub" else rule(A, fixed), A, number)


@pytest.mark.parametrize("number", NUMBERS)
def test_filling_rounds_the_number_once(number: float) -> None:
    fixed = reference.rounded(number)
    assert_op("masked_fill", numpy.where(WHERE, fixed, A), A, WHERE, number)
    assert_same(computed("full", "float32", [37], number), numpy.full(37, fixed))
    assert_same(
        computed("pad", A.reshape(1, -1), [2, 3, 1, 0], number),
        numpy.pad(A.reshape(1, -1), [(1, 0), (2, 3)], constant_values=fixed),
    )


def test_choice_copies() -> None:
    assert_op("where", numpy.where(WHERE, A, B), WHERE, A, B)


INTEGERS = ("int64", "int32", "int16", "int8", "uint8")


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_wrap(kind: str) -> None:
    a = integers(kind)
    b = a[::-1].copy()
    number = 3
    with numpy.errstate(all="ignore"):
        for name in ("add", "sub", "mul", "eq", "lt", "ge", "logical_and"):
            assert_same(computed(name, a, b), FLOATS[name](a, b))
        assert_same(computed("neg", a), -a)
        assert_same(computed("abs", a), numpy.abs(a))
        assert_same(computed("sign", a), numpy.sign(a))
        assert_same(computed("add_scalar", a, number), a + numpy.array(number, kind))
        assert_same(computed("mul_scalar", a, number), a * numpy.array(number, kind))
        assert_same(computed("rsub_scalar", a, number), numpy.array(number, kind) - a)
        assert_same(computed("maximum", a, b), numpy.maximum(a, b))
        assert_same(computed("minimum", a, b), numpy.minimum(a, b))
        assert_same(computed("clamp", a, 2, 100), numpy.clip(a, numpy.array(2, kind), numpy.array(100, kind)))
        assert_same(computed("relu", a), numpy.maximum(a, numpy.array(0, kind)))
        for name in ("floor", "ceil", "round"):
            assert_same(computed(name, a), a)


@pytest.mark.parametrize("kind", INTEGERS)
def test_powers_of_integers_wrap(kind: str) -> None:
    a = integers(kind)
    bits_, signed = numpy.iinfo(kind).bits, numpy.iinfo(kind).min < 0
    powers = numpy.resize(
        numpy.array([0, 1, 2, 3, 7, 63, -1, -2, -3] if signed else [0, 1, 2, 3, 7, 63], kind), a.shape
    )

    def law(base: int, power: int) -> int:
        if power < 0:
            return {1: 1, -1: -1 if power % 2 else 1}.get(base, 0)
        wrapped = pow(base, power, 1 << bits_)
        return wrapped - (1 << bits_) if signed and wrapped >> (bits_ - 1) else wrapped

    expected = numpy.array([law(int(x), int(y)) for x, y in zip(a, powers, strict=True)], kind)
    assert_same(computed("pow", a, powers), expected)
    for power in (0, 1, 2, 3, 5):
        assert_same(computed("pow_scalar", a, power), numpy.array([law(int(x), power) for x in a], kind))


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_meet_binary32_rounded_once(kind: str) -> None:
    a = integers(kind)
    b, floats = a[::-1].copy(), numpy.resize(A, a.shape)
    wide, wide_b = reference.from_integer(a), reference.from_integer(b)
    tenth = reference.rounded(0.1)
    with numpy.errstate(all="ignore"):
        assert_same(computed("div", a, b), wide / wide_b)
        assert_same(computed("div_scalar", a, 7), wide / numpy.float32(7))
        assert_same(computed("add", a, floats), wide + floats)
        assert_same(computed("mul_scalar", a, 0.1), wide * tenth)
        assert_same(computed("ge_scalar", a, 0.5), wide >= numpy.float32(0.5))
        assert_same(computed("lt", a, floats), wide < floats)


@numpy.errstate(invalid="ignore")
def test_truth_values_add_as_or_and_multiply_as_and() -> None:
    yes, no = WHERE, ~WHERE
    assert_same(computed("add", yes, no), yes | no)
    assert_same(computed("mul", yes, no), yes & no)
    assert_same(computed("add", yes, A), yes.astype(numpy.float32) + A)


@pytest.mark.parametrize("source", (*INTEGERS, "bool", "float32"))
@pytest.mark.parametrize("target", (*INTEGERS, "bool", "float32"))
def test_conversion_that_c_defines_is_the_law_s(source: str, target: str) -> None:
    if source == "float32" and target in INTEGERS:
        pytest.skip("leaves the target's range: a kernel of ours")
    x = A if source == "float32" else WHERE if source == "bool" else integers(source)
    if target == "float32" and source in INTEGERS:
        expected = reference.from_integer(x)
    elif target == "bool":
        expected = x != 0
    else:
        with numpy.errstate(all="ignore"):
            expected = x.astype(target)
    assert_same(computed("cast", x, target), expected)


def test_integers_that_binary64_would_round_twice_are_rounded_once() -> None:
    x = numpy.array([(1 << top) + (1 << (top - 24)) + 1 for top in range(25, 62)], dtype=numpy.int64)
    assert_same(
        computed("cast", numpy.concatenate([x, -x]), "float32"), reference.from_integer(numpy.concatenate([x, -x]))
    )
    assert_same(
        computed("arange", "float32", int(x[5]), int(x[0]), 40), reference.from_integer(x[5] + x[0] * numpy.arange(40))
    )


def test_moving_keeps_bits_and_fills_with_positive_zero() -> None:
    a = numpy.resize(A, (9, 12))
    ones = numpy.ones_like(a, dtype=bool)
    upper, lower = numpy.triu(ones), numpy.tril(ones)
    zero = numpy.float32(0)
    into = numpy.zeros((9, 20), numpy.float32)
    into[:, 3:15] = a
    row = numpy.zeros((4, 9, 12), numpy.float32)
    row[2] = a
    assert_same(computed("triu", a, 0), numpy.where(upper, a, zero))
    assert_same(computed("tril", a, 0), numpy.where(lower, a, zero))
    assert_same(computed("slice_backward", a, [9, 20], 1, 3, 15, 1), into)
    assert_same(computed("select_backward", a, [4, 9, 12], 0, 2), row)
    assert_same(computed("cat", (a, a[::2].copy()), 0), numpy.concatenate([a, a[::2]]))
    assert_same(computed("stack", (a, a), 1), numpy.stack([a, a], 1))
    assert_same(computed("flip", a, [0, 1]), a[::-1, ::-1])
    assert_same(computed("roll", a, [2, -3], [0, 1]), numpy.roll(a, (2, -3), (0, 1)))
    assert_same(computed("repeat", a, [2, 1]), numpy.tile(a, (2, 1)))
    assert_same(computed("permute", a, [1, 0]), a.T)
    assert_same(computed("slice", a, 1, 2, 11, 3), a[:, 2:11:3])


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_of_vector_code_agrees(level: str) -> None:
    if os.environ.get("ATEN_CPU_CAPABILITY"):
        pytest.skip("this is one of the levels")
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "ATEN_CPU_CAPABILITY": level},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-2000:]
