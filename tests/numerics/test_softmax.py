"""Softmax, safe and log-softmax, forwards and backwards: kernels against their twins and against float64 autograd."""

from __future__ import annotations

import numpy
import pytest
import torch

from tolsey.numerics import softmax
from tolsey.numerics.library import Library

from .numbers import KINDS, draw
from .twins import assert_close, assert_same, assert_twins, wide

SHAPES: list[tuple[int, ...]] = [
    *((1,), (7,), (4100,), (5, 33), (3, 100), (2, 4200), (4100, 3), (9000, 2), (0, 3), (3, 0)),
    *((4, 21, 5), (2, 40, 70), (2, 3, 130)),
    *((2, 1024), (2, 1025)),  # a GPU's warp keeps 1024 numbers in registers
]
CASES = [(shape, kind) for place, shape in enumerate(SHAPES) for kind in numpy.roll(KINDS, place).tolist()[:3]]
FORWARDS = ("softmax", "safe_softmax", "log_softmax")
INFINITE = numpy.float32(numpy.inf)


def both_ways(lib: Library, x: numpy.ndarray, grad: numpy.ndarray, dim: int) -> None:
    for name in FORWARDS:
        y = assert_twins(lib, softmax, name, x, dim)
        assert_twins(lib, softmax, f"{name.removeprefix('safe_')}_backward", grad, y, dim)


@pytest.mark.parametrize("shape, kind", CASES, ids=str)
def test_softmax_along_any_dim_is_the_law_s(lib: Library, shape: tuple[int, ...], kind: str) -> None:
    x, grad = draw(kind, shape, 1), draw(kind, shape, 2)
    masked = numpy.where(draw("unit", shape, 3) > 0, -INFINITE, x)
    for dim in range(len(shape)):
        both_ways(lib, x, grad, dim)
        both_ways(lib, masked, grad, dim)


@pytest.mark.parametrize("shape, dim", [((6, 40), 1), ((40, 6), 0)])
def test_special_lists_are_the_law_s(lib: Library, shape: tuple[int, int], dim: int) -> None:
    """Zeros of both signs as the largest, whole lists of -infinity, one +infinity, a NaN among -infinity."""
    x = numpy.full((6, 40), -200, numpy.float32)
    x[0, 3], x[0, 30] = -0.0, 0.0
    x[1, 3] = -0.0
    x[2] = -INFINITE
    x[3] = -INFINITE
    x[3, 39] = numpy.nan
    x[4, 7] = INFINITE
    x[5, 0] = 0.0
    x = x if dim == 1 else numpy.ascontiguousarray(x.T)
    both_ways(lib, x, draw("unit", shape, 4), dim)
    safe = softmax.safe_softmax(lib, x, dim)
    assert (safe.take(2, axis=1 - dim) == 0).all()
    assert numpy.isnan(safe.take(3, axis=1 - dim)).all()


def test_any_layout_and_negative_dims_are_taken(lib: Library) -> None:
    x = draw("unit", (6, 7, 8), 5)
    for view in (x.transpose(2, 0, 1), x[::2, ::-1]):
        assert_same(softmax.softmax(lib, view, -1), softmax.softmax(lib, numpy.ascontiguousarray(view), 2))


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("name", FORWARDS)
def test_values_and_gradients_are_pytorch_s(lib: Library, name: str, dim: int) -> None:
    """Within 2^-21 of the largest number of float64 autograd."""
    given, grad = draw("unit", (20, 60, 9), 6) * 4, draw("unit", (20, 60, 9), 7)
    x = wide(given, grad=True)
    y = torch.log_softmax(x, dim) if name == "log_softmax" else torch.softmax(x, dim)
    y.backward(wide(grad))
    assert x.grad is not None
    found = getattr(softmax, name)(lib, given, dim)
    backward = getattr(softmax, f"{name.removeprefix('safe_')}_backward")
    assert_close([found, backward(lib, grad, found, dim)], [y, x.grad], 2**-21)
