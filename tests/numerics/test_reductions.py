"""Sums, means, variances, norms, extremes, running sums: kernels against their twins and against float64."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy
import pytest
import torch

from tolsey.numerics import reductions
from tolsey.numerics.library import Library
from tolsey.numerics.reference import reductions as reference

from .numbers import KINDS, SPECIAL, assert_same_bits, draw
from .twins import assert_close, assert_same, assert_twins, wide

SHAPES: list[tuple[int, ...]] = [
    *((), (1,), (5,), (33,), (4096,), (4097,), (9000,)),
    *((3, 40), (40, 3), (200, 70), (4100, 3), (3, 4100), (0, 4), (4, 0)),
    *((2, 3, 4), (3, 33, 65), (5, 1, 4), (2, 5, 3, 6), (1, 130, 2, 66)),
]
"""Around the 32 lanes, the chunk of 4096 and the panel of 64 columns; dims of 0 and 1."""

ORDERS = (0, 1, 2, math.inf, -math.inf, 3, 0.5, -1, math.nan)


def subsets(rank: int) -> list[tuple[int, ...]]:
    """All choices of dims; the empty one means all."""
    return [dims for count in range(rank + 1) for dims in itertools.combinations(range(rank), count)]


CASES = [(shape, kind) for place, shape in enumerate(SHAPES) for kind in numpy.roll(KINDS, place).tolist()[:3]]
"""Three kinds of numbers for each shape, all kinds together."""


@pytest.mark.parametrize("shape, kind", CASES, ids=str)
def test_reductions_over_any_dims_are_the_law_s(lib: Library, shape: tuple[int, ...], kind: str) -> None:
    x = draw(kind, shape, len(shape))
    for dims in subsets(len(shape)):
        assert_twins(lib, reductions, "sum", x, dims)
        assert_twins(lib, reductions, "mean", x, dims, True)
        for correction in (0, 1, 2.5):
            assert_twins(lib, reductions, "variance", x, dims, correction)
        if reference.lists(x, dims).shape[-1] > 0:
            assert_twins(lib, reductions, "amax", x, dims)
            assert_twins(lib, reductions, "amin", x, dims)


@pytest.mark.parametrize("shape, kind", CASES[::3], ids=str)
def test_vector_norm_of_any_order_is_the_law_s(lib: Library, shape: tuple[int, ...], kind: str) -> None:
    x = draw(kind, shape, 3)
    for dims in [(), *subsets(len(shape))[:3]]:
        for order in ORDERS:
            if order in (0, 1, 2) or reference.lists(x, dims).shape[-1] > 0:
                assert_twins(lib, reductions, "vector_norm", x, order, dims)


@pytest.mark.parametrize("shape, kind", CASES[3:], ids=str)
def test_cumsum_and_argmax_along_any_dim_are_the_law_s(lib: Library, shape: tuple[int, ...], kind: str) -> None:
    with numpy.errstate(all="ignore"):
        x = numpy.round(draw(kind, shape, 4))  # many equal ones
    for dim in range(len(shape)):
        assert_twins(lib, reductions, "cumsum", x, dim)
        if shape[dim]:
            assert_twins(lib, reductions, "argmax", x, dim, True)
    if x.size:
        assert_twins(lib, reductions, "argmax", x)


@cache
def long_list() -> tuple[numpy.ndarray, numpy.ndarray]:
    """More than 4096 chunks: S of S of S."""
    x = draw("unit", (4096 * 4096 + 4096 + 7,), 5)
    return x, reference.S(x)


def test_list_of_more_than_4096_chunks_is_added_at_three_levels(lib: Library) -> None:
    x, total = long_list()
    assert_same(reductions.sum(lib, x), total)


def test_order_shows_in_ordinary_numbers() -> None:
    """Else equality with the twin would say nothing about order."""
    x = draw("unit", (64, 1000), 6)
    others = [
        numpy.cumsum(x, axis=1)[:, -1],
        numpy.sum(x, axis=1),
        reference.S(x[:, ::-1]),
        reference.S(x[:, 1:]) + x[:, 0],
    ]
    for other in others:
        assert (other != reference.S(x)).mean() > 0.5


def test_sum_of_minus_zeros_is_plus_zero(lib: Library) -> None:
    minus = numpy.full((3, 40), -0.0, numpy.float32)
    for dims in subsets(2):
        assert not numpy.signbit(reductions.sum(lib, minus, dims)).any()
    assert not numpy.signbit(reductions.sum(lib, minus[:, :1], (1,))).any()


@pytest.mark.parametrize("place", [0, 31, 40, 4095, 5000])
@pytest.mark.parametrize("number", SPECIAL[:11], ids=lambda number: hex(number.view(numpy.uint32)))
def test_special_number_anywhere_is_reduced_by_the_law(lib: Library, number: numpy.float32, place: int) -> None:
    x = numpy.zeros(5001, numpy.float32)
    x[place] = number
    for name in ("sum", "mean", "amax", "amin", "variance"):
        assert_twins(lib, reductions, name, x)
        assert_twins(lib, reductions, name, numpy.stack([x, -x], axis=1), (0,))
    assert_twins(lib, reductions, "argmax", x)
    assert_twins(lib, reductions, "cumsum", x, 0)


def test_any_layout_and_negative_dims_are_taken(lib: Library) -> None:
    x = draw("unit", (6, 7, 8), 7)
    for view in (x.transpose(2, 0, 1), x[::2, ::-1], numpy.broadcast_to(x[:, :1], x.shape)):
        plain = numpy.ascontiguousarray(view)
        for dims in ((-1,), (0, -1), (-2, 0)):
            assert_same(reductions.sum(lib, view, dims, True), reductions.sum(lib, plain, dims, True))
        assert_same(reductions.cumsum(lib, view, -2), reductions.cumsum(lib, plain, 1))
        assert_same(reductions.argmax(lib, view, -1), reductions.argmax(lib, plain, 2))


@pytest.mark.parametrize("call", [
    lambda lib, x: reductions.amax(lib, x, (0,)),
    lambda lib, x: reductions.amin(lib, x),
    lambda lib, x: reductions.argmax(lib, x, 0),
    lambda lib, x: reductions.argmax(lib, x),
    lambda lib, x: reductions.vector_norm(lib, x, math.inf, (0,)),
    lambda lib, x: reductions.vector_norm(lib, x, -2, (0,)),
])  # fmt: skip
def test_choice_among_nothing_is_refused(lib: Library, call) -> None:
    with pytest.raises(ValueError, match="refused its arguments"):
        call(lib, numpy.empty((0, 3), numpy.float32))


def test_results_without_elements_need_no_choice(lib: Library) -> None:
    assert reductions.amax(lib, numpy.empty((0, 3), numpy.float32), (1,)).shape == (0,)
    assert reductions.argmax(lib, numpy.empty((0, 3), numpy.float32), 1, True).shape == (0, 1)


@pytest.mark.parametrize("rank, dims", [(9, 0), (2, 4)])
def test_impossible_dims_are_refused(lib: Library, rank: int, dims: int) -> None:
    x = numpy.zeros(1, numpy.float32)
    with pytest.raises(ValueError, match="refused its arguments"):
        lib.call("tolsey_sum", x, x.copy(), rank, numpy.ones(16, numpy.int64), dims)


def test_values_are_pytorch_s(lib: Library) -> None:
    """Within 2 ULP of the largest number, but for orders that need pow."""
    x = draw("unit", (30, 50, 7), 8)
    for dims in ((0,), (1,), (2,), (0, 2), (0, 1, 2)):
        for keepdim in (False, True):
            found = [
                reductions.sum(lib, x, dims, keepdim),
                reductions.mean(lib, x, dims, keepdim),
                reductions.variance(lib, x, dims, 1, keepdim),
                reductions.amax(lib, x, dims, keepdim),
                reductions.amin(lib, x, dims, keepdim),
            ]
            xw = wide(x)
            expected = [
                xw.sum(dims, keepdim),
                xw.mean(dims, keepdim),
                torch.var(xw, dims, correction=1, keepdim=keepdim),
                xw.amax(dims, keepdim),
                xw.amin(dims, keepdim),
            ]
            assert_close(found, expected, 2**-21)
            for order in ORDERS[:-1]:
                norm = torch.linalg.vector_norm(wide(x), order, dims, keepdim)
                assert_close([reductions.vector_norm(lib, x, order, dims, keepdim)], [norm], 2**-20)
    assert_close([reductions.cumsum(lib, x, 1)], [wide(x).cumsum(1)], 2**-20)
    tied = numpy.round(x)
    for dim in range(3):
        expected = torch.argmax(torch.from_numpy(tied), dim, keepdim=True).numpy()
        assert_same(reductions.argmax(lib, tied, dim, True), expected)
    assert_same_bits(reductions.variance(lib, x[:1, 0, 0], (0,), 1)[None], numpy.full(1, numpy.nan, numpy.float32))
