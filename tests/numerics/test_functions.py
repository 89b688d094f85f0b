"""Functions of the law: every build equals the slow twin bit by bit, and both are near the truth."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy
import pytest
import torch

from tolsey.numerics import build, elementwise
from tolsey.numerics.library import Library
from tolsey.numerics.reference import activations, functions

from .numbers import F32, SPECIAL, assert_same_bits, draw, draw_all

PAGE = Path(__file__).resolve().parents[2] / "docs" / "numerics" / "functions.md"
FUNCTIONS = tuple(name for name in elementwise.UNARY if hasattr(functions, name))

# Where a function turns from one branch to the next, overflows or vanishes; with both neighbours.
EDGES = numpy.array(
    [
        *(88.72284, 88.0, 89.0, -87.33655, -103.27893, -103.97208, -104.0, -17.328680, -18.7, -19.0, 0.34657359),
        *(0.6666667, 1.3333334, 2.0, -0.33333334, 0.33333334, -0.5, -0.99999994, -1.0, 16777216.0, 2.0**64, 2.0**127),
        *(0.625, 9.0, 1.0, 3.92, 4.0, 0.7853982, 1.5707964, 2.3561945, 3.1415927, 6.2831855, 2.0**24, 2.0**30),
        *(16367173.0 * 2.0**72, 1.1754944e-38, 2.0**-149, 2.0**-126 - 2.0**-149, 3.4028235e38),
    ],
    dtype=numpy.float32,
)
with numpy.errstate(over="ignore"):
    EDGES = numpy.concatenate([EDGES, numpy.nextafter(EDGES, 0), numpy.nextafter(EDGES, numpy.inf)]).astype("f4")
EDGES = numpy.concatenate([EDGES, -EDGES])

BOUNDS = {
    "exp": 1.02, "expm1": 1.44, "log": 0.94, "log1p": 1.55, "sin": 1.58, "cos": 1.58, "tanh": 1.34, "erf": 1.11,
    "sigmoid": 2.41, "sqrt": 0.5, "rsqrt": 1.5, "reciprocal": 0.5, "pow": 1.79,
}  # fmt: skip
"""Largest error in units in the last place that the page states; tests/numerics/exhaustive.py finds it."""

EXACT = {
    "sigmoid": lambda x: numpy.where(x < 0, numpy.exp(-abs(x)), 1) / (1 + numpy.exp(-abs(x))),
    "erf": lambda x: torch.erf(torch.from_numpy(x)).numpy(),
    "rsqrt": lambda x: 1 / numpy.sqrt(x),
    "reciprocal": lambda x: 1 / x,
}


INPUTS = numpy.concatenate([draw_all(2_001, 7), EDGES])


@cache
def reference(name: str) -> F32:
    """What the law makes of `INPUTS`."""
    result: F32 = getattr(functions, name)(INPUTS)
    return result


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_of_each_build_equals_reference(lib: Library, name: str) -> None:
    assert_same_bits(elementwise.unary(lib, name, INPUTS), reference(name))


@pytest.mark.parametrize("count", [0, 1, 3, 15, 16, 17, 8191, 8192, 8193])
def test_function_any_count_even_over_its_input(lib: Library, count: int) -> None:
    room = draw("unit", (count + 8,), 3)
    before = room.copy()
    lib.call("tolsey_exp", room, room, count)
    assert_same_bits(room[:count], functions.exp(before[:count]))
    assert_same_bits(room[count:], before[count:])


def test_function_negative_count_refused(lib: Library) -> None:
    with pytest.raises(ValueError, match="tolsey_exp refused"):
        lib.call("tolsey_exp", numpy.zeros(1, "f4"), numpy.zeros(1, "f4"), -1)


@cache
def powers() -> tuple[F32, F32, F32]:
    """Bases, exponents, results: of every kind, and all pairs of special and whole numbers."""
    whole = numpy.float32([2, 3, -2, 5, 16777215, -16777215, 0.5, 2.5, 1e30])
    some = numpy.concatenate([SPECIAL, whole, -whole])
    sides = (side.reshape(-1) for side in numpy.meshgrid(some, some))
    x, y = (numpy.concatenate([draw_all(2_001, seed), side]) for seed, side in enumerate(sides))
    return x, y, functions.pow(x, y)


def test_pow_of_each_build_equals_reference(lib: Library) -> None:
    x, y, expected = powers()
    assert_same_bits(elementwise.binary(lib, "pow", x, y), expected)


@pytest.mark.parametrize("name", [*FUNCTIONS, "pow"])
def test_reference_stays_within_the_stated_error(name: str) -> None:
    random = numpy.random.default_rng(5)
    x = numpy.concatenate(
        [draw("unit", (30_000,), 1) * 3, draw("wide", (10_000,), 2), draw("tiny", (2_000,), 3), EDGES]
    )
    exact = EXACT.get(name, getattr(numpy, "power" if name == "pow" else name, None))
    with numpy.errstate(all="ignore"):
        if name == "pow":
            y = (random.standard_normal(x.size) * 5).astype(numpy.float32)
            found, wanted = functions.pow(x, y), exact(x.astype(numpy.float64), y.astype(numpy.float64))
        else:
            found, wanted = getattr(functions, name)(x), exact(x.astype(numpy.float64))
        unit = 2.0 ** (numpy.clip(numpy.frexp(wanted)[1] - 1, -126, 127) - 23)
        near = numpy.abs(found.astype(numpy.float64) - wanted) <= BOUNDS[name] * unit
        overflown = numpy.isinf(found) & (numpy.abs(wanted) > 3.4028234e38)
    assert (near | overflown | (numpy.isnan(found) & numpy.isnan(wanted))).all()


INF, NAN = numpy.inf, numpy.nan


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("exp", [INF, -INF, NAN, 0.0, -0.0, 89.0, -104.0], [INF, 0.0, NAN, 1.0, 1.0, INF, 0.0]),
        ("expm1", [INF, -INF, NAN, 0.0, -0.0, 2.0**-149, -200.0], [INF, -1.0, NAN, 0.0, -0.0, 2.0**-149, -1.0]),
        ("log", [INF, -INF, NAN, 0.0, -0.0, 1.0, -1.0], [INF, NAN, NAN, -INF, -INF, 0.0, NAN]),
        ("log1p", [INF, -INF, NAN, 0.0, -0.0, -1.0, -1.5], [INF, NAN, NAN, 0.0, -0.0, -INF, NAN]),
        ("tanh", [INF, -INF, NAN, 0.0, -0.0], [1.0, -1.0, NAN, 0.0, -0.0]),
        ("erf", [INF, -INF, NAN, 0.0, -0.0], [1.0, -1.0, NAN, 0.0, -0.0]),
        ("sin", [INF, -INF, NAN, 0.0, -0.0], [NAN, NAN, NAN, 0.0, -0.0]),
        ("cos", [INF, -INF, NAN, 0.0, -0.0], [NAN, NAN, NAN, 1.0, 1.0]),
        ("sigmoid", [INF, -INF, NAN, 0.0, -0.0], [1.0, 0.0, NAN, 0.5, 0.5]),
        ("rsqrt", [INF, -INF, NAN, 0.0, -0.0, -1.0], [0.0, NAN, NAN, INF, -INF, NAN]),
        ("reciprocal", [INF, -INF, NAN, 0.0, -0.0], [0.0, -0.0, NAN, INF, -INF]),
    ],
)
def test_function_special_values_are_the_page_s(name: str, x: list[float], expected: list[float]) -> None:
    assert_same_bits(getattr(functions, name)(numpy.float32(x)), numpy.float32(expected))


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (NAN, 0.0, 1.0), (1.0, NAN, 1.0), (NAN, 1.0, NAN), (2.0, NAN, NAN), (-1.0, INF, 1.0), (-1.0, -INF, 1.0),
        (-2.0, 0.5, NAN), (-2.0, 3.0, -8.0), (-2.0, 2.0, 4.0), (-8.0, -1.0, -0.125), (3.0, 4.0, 81.0),
        (0.0, -1.0, INF), (-0.0, -1.0, -INF), (-0.0, -2.0, INF), (-0.0, 3.0, -0.0), (-0.0, 0.5, 0.0), (0.0, -0.5, INF),
        (-INF, 3.0, -INF), (-INF, 0.5, INF), (-INF, -3.0, -0.0), (INF, -0.5, 0.0), (INF, INF, INF), (0.5, INF, 0.0),
        (0.5, -INF, INF), (2.0, -INF, 0.0), (0.0, INF, 0.0), (0.0, -INF, INF), (2.0, 128.0, INF),
        (2.0, -149.0, 2.0**-149), (2.0, -151.0, 0.0), (-1.0, 16777217.0, 1.0), (-1.0, 16777215.0, -1.0),
    ],
)  # fmt: skip
def test_pow_special_values_are_the_page_s(x: float, y: float, expected: float) -> None:
    assert_same_bits(functions.pow(numpy.float32([x]), numpy.float32([y])), numpy.float32([expected]))


def test_sin_is_exact_to_the_end_of_the_range() -> None:
    # Of all binary32 numbers, 16367173 * 2^72 comes nearest to a multiple of pi/2 (Muller, Elementary Functions).
    x = numpy.float32([16367173.0 * 2.0**72, 3.4028235e38])
    exact = numpy.float32([-1.61e-9, -0.5218765])
    assert numpy.allclose(functions.cos(x)[:1], exact[:1], rtol=1e-2)
    assert numpy.allclose(functions.sin(x)[1:], exact[1:], rtol=1e-6)


def test_page_reference_and_kernels_have_the_same_coefficients() -> None:
    # A last bit of a high coefficient changes so few results that inputs alone might not show it.
    def coefficients(*files: str | Path) -> set[str]:
        text = "".join(Path(path).read_text() for path in files)
        found = re.findall(r"0x1\.[0-9a-f]{4,}p-?[0-9]+|0x3[fF][0-9a-fA-F]{6}", text)
        # The upper ends of two ranges stand on the page alone.
        return set(map(str.lower, found)) - {"0x3faaaaab", "0x3fb504f3"}

    twins = coefficients(str(functions.__file__), str(activations.__file__))
    assert len(twins) > 50
    assert coefficients(build.SOURCES / "functions.h", build.SOURCES / "activations.c") == twins
    assert coefficients(PAGE) == twins
    assert f"{functions.TWO_OVER_PI:#X}".replace("X", "x") in PAGE.read_text()
