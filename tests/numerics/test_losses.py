"""Negative log likelihood and squared error, both ways: kernels against their twins and against float64 autograd."""

from __future__ import annotations

import numpy
import pytest
import torch

from tolsey.numerics import losses
from tolsey.numerics.library import Library

from .numbers import KINDS, draw
from .twins import assert_close, assert_twins, wide

NONE, MEAN, SUM = range(3)
IGNORED = -100
SHAPES: list[tuple[int, ...]] = [(5,), (7, 3), (4, 3, 5), (2, 3, 4, 5), (0, 3), (5000, 3), (3, 4, 3000), (4, 1)]


def targets(shape: tuple[int, ...], ignoring: float) -> numpy.ndarray:
    """Of an input of that shape; a share of them ignored."""
    random = numpy.random.default_rng(1)
    places, classes = (shape[:1] + shape[2:], shape[1]) if len(shape) > 1 else ((), shape[0])
    chosen = numpy.asarray(random.integers(0, classes, places))
    return numpy.where(random.random(places) < ignoring, numpy.int64(IGNORED), chosen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nll_loss_is_the_law_s(lib: Library, shape: tuple[int, ...], kind: str) -> None:
    x = draw(kind, shape, 1)
    for weight in (None, draw(kind, (shape[min(1, len(shape) - 1)],), 2)):
        for reduction in (NONE, MEAN, SUM):
            for ignoring in (0, 0.4, 1):
                target = targets(shape, ignoring)
                _, total = assert_twins(lib, losses, "nll_loss", x, target, weight, reduction, IGNORED)
                grad = draw(kind, target.shape if reduction == NONE else (), 3)
                given = grad, x, target, weight, reduction, IGNORED, total
                assert_twins(lib, losses, "nll_loss_backward", *given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (5,), (70, 70), (0,), (3, 3000)], ids=str)
def test_mse_loss_is_the_law_s(lib: Library, shape: tuple[int, ...], kind: str) -> None:
    x, target = draw(kind, shape, 1), draw(kind, shape, 2)
    for reduction in (NONE, MEAN, SUM):
        assert_twins(lib, losses, "mse_loss", x, target, reduction)
        grad = draw(kind, shape if reduction == NONE else (), 3)
        assert_twins(lib, losses, "mse_loss_backward", grad, x, target, reduction)


@pytest.mark.parametrize("wrong", [-1, 3, IGNORED - 1, 1 << 40])
@pytest.mark.parametrize("reduction", [NONE, MEAN, SUM])
def test_target_that_is_no_class_fails_both_ways(lib: Library, reduction: int, wrong: int) -> None:
    x = draw("unit", (5000, 3), 1)
    target = targets(x.shape, 0.1)
    target[4500] = wrong
    total = numpy.ones((), numpy.float32)
    with pytest.raises(IndexError, match="an index lies outside its table"):
        losses.nll_loss(lib, x, target, None, reduction, IGNORED)
    with pytest.raises(IndexError, match="an index lies outside its table"):
        losses.nll_loss_backward(lib, x[:, 0], x, target, None, reduction, IGNORED, total)


def test_ignored_target_may_be_a_class(lib: Library) -> None:
    x = draw("unit", (50, 3), 1)
    target = targets(x.shape, 0)
    loss, total = assert_twins(lib, losses, "nll_loss", x, target, None, SUM, 1)
    assert total == (target != 1).sum()
    assert_close([loss], [-wide(x)[numpy.flatnonzero(target != 1), target[target != 1]].sum()], 2**-21)


@pytest.mark.parametrize("reduction", [3, -1])
def test_unknown_reduction_is_refused(lib: Library, reduction: int) -> None:
    x = draw("unit", (5, 3), 1)
    with pytest.raises(ValueError, match="refused its arguments"):
        losses.nll_loss(lib, x, targets(x.shape, 0), None, reduction, IGNORED)
    with pytest.raises(ValueError, match="refused its arguments"):
        losses.mse_loss(lib, x, x, reduction)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(5,), (300, 7), (6, 7, 20), (6, 7, 5, 4)], ids=str)
def test_nll_loss_and_its_gradient_are_pytorch_s(
    lib: Library, shape: tuple[int, ...], reduction: str, weighted: bool
) -> None:
    number = ("none", "mean", "sum").index(reduction)
    given, target = draw("unit", shape, 1), targets(shape, 0.2 if len(shape) > 1 else 0)
    weight = numpy.abs(draw("unit", (shape[min(1, len(shape) - 1)],), 2)) if weighted else None
    x = wide(given, grad=True)
    options = {"weight": None if weight is None else wide(weight), "reduction": reduction, "ignore_index": IGNORED}
    loss = torch.nn.functional.nll_loss(x, wide(target), **options)
    grad = draw("unit", tuple(loss.shape), 3)
    loss.backward(wide(grad))
    assert x.grad is not None
    found, total = losses.nll_loss(lib, given, target, weight, number, IGNORED)
    gradient = losses.nll_loss_backward(lib, grad, given, target, weight, number, IGNORED, total)
    assert_close([found, gradient], [loss, x.grad], 2**-20)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_mse_loss_and_its_gradient_are_pytorch_s(lib: Library, reduction: str) -> None:
    number = ("none", "mean", "sum").index(reduction)
    given, target = draw("unit", (30, 40), 1), draw("unit", (30, 40), 2)
    x = wide(given, grad=True)
    loss = torch.nn.functional.mse_loss(x, wide(target), reduction=reduction)
    grad = draw("unit", tuple(loss.shape), 3)
    loss.backward(wide(grad))
    assert x.grad is not None
    found = losses.mse_loss(lib, given, target, number)
    assert_close([found, losses.mse_loss_backward(lib, grad, given, target, number)], [loss, x.grad], 2**-21)
