"""Pooling, forwards and backwards: kernels against their twins and float64 autograd; places, ties and NaN."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from tolsey.numerics import pooling
from tolsey.numerics.library import Library
from tolsey.numerics.reference import pooling as reference

from .numbers import KINDS, draw
from .twins import assert_close, assert_same, assert_twins, wide

SHAPES: list[tuple[int, ...]] = [(2, 3, 8, 9), (1, 7, 7), (2, 1, 5, 2), (1, 1, 40, 41)]
WINDOWS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]] = [
    ((2, 2), (2, 2), (0, 0), False),
    ((3, 3), (2, 2), (1, 1), False),
    ((3, 2), (1, 2), (1, 1), True),
    ((3,), (), (1,), True),
    ((7, 2), (3, 3), (3, 1), True),
    ((5, 7), (1, 1), (2, 3), False),
]
"""Kernel, stride, padding, ceil mode."""


def fits(shape: tuple[int, ...], window: tuple[Any, ...], dilation: tuple[int, ...] = (1,)) -> bool:
    kernel, stride, padding, ceil_mode = window
    sizes = pooling.pairs(kernel, stride, padding, dilation)
    return min(pooling.out_sizes(shape, sizes, ceil_mode)) > 0


CASES = [(shape, window) for shape in SHAPES for window in WINDOWS if fits(shape, window)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape, window", CASES, ids=str)
def test_max_pool2d_is_the_law_s(lib: Library, shape: tuple[int, ...], window: tuple[Any, ...], kind: str) -> None:
    """Rounded numbers: many equal ones."""
    kernel, stride, padding, ceil_mode = window
    with numpy.errstate(all="ignore"):
        x = numpy.round(draw(kind, shape, 1))
    for dilation in ((1, 1), (2, 2)):
        if dilation == (2, 2) and (padding != (0, 0) or not fits(shape, window, dilation)):
            continue
        y, places = assert_twins(lib, pooling, "max_pool2d", x, kernel, stride, padding, dilation, ceil_mode)
        assert_twins(lib, pooling, "max_pool2d_backward", draw(kind, y.shape, 2), x, places)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape, window", CASES, ids=str)
def test_avg_pool2d_is_the_law_s(lib: Library, shape: tuple[int, ...], window: tuple[Any, ...], kind: str) -> None:
    x = draw(kind, shape, 1)
    for count_padding, divisor in ((True, None), (False, None), (True, 5)):
        y = assert_twins(lib, pooling, "avg_pool2d", x, *window, count_padding, divisor)
        grad = draw(kind, y.shape, 2)
        assert_twins(lib, pooling, "avg_pool2d_backward", grad, x, *window, count_padding, divisor)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (9, 11)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adaptive_avg_pool2d_is_the_law_s(
    lib: Library, shape: tuple[int, ...], size: tuple[int, int], kind: str
) -> None:
    x = draw(kind, shape, 1)
    y = assert_twins(lib, pooling, "adaptive_avg_pool2d", x, size)
    assert_twins(lib, pooling, "adaptive_avg_pool2d_backward", draw(kind, y.shape, 2), x)


def test_windows_of_more_than_a_chunk_are_the_law_s(lib: Library) -> None:
    x = draw("unit", (2, 100, 90), 1)
    assert_twins(lib, pooling, "adaptive_avg_pool2d", x, (1, 1))
    assert_twins(lib, pooling, "avg_pool2d", x, (80, 70), (10, 10), (0, 0), False, True, None)


def test_mean_of_minus_zeros_is_plus_zero(lib: Library) -> None:
    minus = numpy.full((1, 40, 40), -0.0, numpy.float32)
    for window in WINDOWS:
        assert not numpy.signbit(pooling.avg_pool2d(lib, minus, *window, False, None)).any()


def test_largest_is_the_first_of_equals_and_the_last_nan(lib: Library) -> None:
    rows = [[1, 5, 5, 2], [-0.0, 0.0, -0.0, -1], [numpy.nan, 3, numpy.nan, 9], [-numpy.inf] * 4, [3, numpy.nan, 9, 1]]
    x = numpy.array(rows, numpy.float32)[:, None, :]
    y, places = pooling.max_pool2d(lib, x, (1, 4), (1, 1), (0, 0), (1, 1), False)
    assert places.reshape(-1).tolist() == [1, 0, 2, 0, 1]
    assert numpy.signbit(y[1])
    theirs, their_places = torch.nn.functional.max_pool2d(torch.from_numpy(x), (1, 4), return_indices=True)
    assert_same((y, places), (theirs.numpy(), their_places.numpy()))


def test_window_without_element_is_refused(lib: Library) -> None:
    x = draw("unit", (1, 2, 2), 1)
    with pytest.raises(ValueError, match="refused its arguments"):
        pooling.max_pool2d(lib, x, (2, 2), (1, 1), (1, 1), (3, 3), False)
    with pytest.raises(ValueError, match="no element"):
        reference.max_pool2d(x, (2, 2), (1, 1), (1, 1), (3, 3), False)


@pytest.mark.parametrize("wrong", [-1, 12, 1 << 50])
def test_place_outside_the_plane_fails(lib: Library, wrong: int) -> None:
    places = numpy.array([[[0, wrong]]])
    with pytest.raises(IndexError, match="an index lies outside its table"):
        pooling.max_pool2d_backward(lib, draw("unit", (1, 1, 2), 1), numpy.zeros((1, 3, 4), numpy.float32), places)


@pytest.mark.parametrize("shape, window", CASES, ids=str)
def test_values_and_gradients_are_pytorch_s(lib: Library, shape: tuple[int, ...], window: tuple[Any, ...]) -> None:
    """Also which size comes out, and the places."""
    kernel, stride, padding, ceil_mode = (list(item) if isinstance(item, tuple) else item for item in window)
    given = draw("unit", shape, 1)
    largest, places = pooling.max_pool2d(lib, given, *window[:3], (1, 1), ceil_mode)
    theirs = torch.ops.aten.max_pool2d_with_indices.default(wide(given), kernel, stride, padding, [1], ceil_mode)
    assert (places == theirs[1].numpy()).all()
    assert_close([largest], [theirs[0]], 0)
    for count_padding, divisor in ((True, None), (False, None), (True, 5)):
        x = wide(given, grad=True)
        y = torch.ops.aten.avg_pool2d.default(x, kernel, stride, padding, ceil_mode, count_padding, divisor)
        grad = draw("unit", tuple(y.shape), 2)
        y.backward(wide(grad))
        assert x.grad is not None
        found = pooling.avg_pool2d(lib, given, *window, count_padding, divisor)
        gradient = pooling.avg_pool2d_backward(lib, grad, given, *window, count_padding, divisor)
        assert_close([found, gradient], [y, x.grad], 2**-21)
    for size in ((1, 1), (2, 3), (7, 5)):
        x = wide(given, grad=True)
        y = torch.ops.aten._adaptive_avg_pool2d.default(x, size)
        grad = draw("unit", tuple(y.shape), 2)
        y.backward(wide(grad))
        assert x.grad is not None
        found = pooling.adaptive_avg_pool2d(lib, given, size)
        assert_close([found, pooling.adaptive_avg_pool2d_backward(lib, grad, given)], [y, x.grad], 2**-21)


def test_max_pool2d_backward_is_pytorch_s(lib: Library) -> None:
    given = draw("unit", (2, 3, 9, 9), 1)
    x = wide(given, grad=True)
    y, places = torch.nn.functional.max_pool2d(x, 3, 1, 1, return_indices=True)
    grad = draw("unit", tuple(y.shape), 2)
    y.backward(wide(grad))
    assert x.grad is not None
    assert_close([pooling.max_pool2d_backward(lib, grad, given, places.numpy())], [x.grad], 2**-21)


def test_any_layout_is_taken(lib: Library) -> None:
    view = draw("unit", (6, 7, 8), 3).transpose(2, 0, 1)
    window = (2, 2), (1, 1), (0, 0), False
    plain = numpy.ascontiguousarray(view)
    assert_same(pooling.avg_pool2d(lib, view, *window, True, None), pooling.avg_pool2d(lib, plain, *window, True, None))
