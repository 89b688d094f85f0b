"""Layer, group and batch norm, forwards and backwards: kernels against their twins and against float64 autograd."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
import torch

from tolsey.numerics import norms
from tolsey.numerics.library import Library

from .numbers import KINDS, draw
from .twins import assert_close, assert_same, assert_twins, wide

EPS = 1e-5
ALL, EACH = (True, True, True), [tuple(place == wanted for place in range(3)) for wanted in range(3)]

LAYERS = [
    *[((5, 33), 1), ((40, 768), 1), ((2, 3, 4), 2), ((1, 1), 1), ((70, 1), 1), ((0, 4), 1)],
    *[((4200, 5), 1), ((9000, 3), 1), ((3, 4200), 1)],
    *[((2, 1024), 1), ((2, 1025), 1)],  # a GPU's warp keeps 1024 numbers in registers
]
GROUPS = [
    *[((2, 6, 4, 4), 3), ((3, 4, 5), 2), ((2, 4), 2), ((2, 4), 1), ((3, 6, 32), 6), ((2, 2, 1, 1), 2)],
    *[((70, 4, 64), 2), ((1, 8, 40, 40), 2), ((2, 3, 4100), 1)],
]
BATCHES = [
    *[(4, 3, 5), (70, 100), (3, 2, 4, 4), (1, 3, 1), (1, 3), (5, 3, 1), (1, 1), (20, 3, 16, 16)],
    *[(4200, 3), (9000, 2), (2, 3, 70, 70)],
]


def kinds(place: int) -> list[str]:
    """Two kinds of numbers for each place of a list; all kinds together."""
    return numpy.roll(KINDS, place).tolist()[:2]


def some(kind: str, *shapes: tuple[int, ...]) -> list[numpy.ndarray]:
    return [draw(kind, shape, seed) for seed, shape in enumerate(shapes)]


def options(kind: str, size: tuple[int, ...]) -> list[tuple[numpy.ndarray | None, numpy.ndarray | None]]:
    """Weight and bias, each there and not."""
    return list(itertools.product((draw(kind, size, 8), None), (draw(kind, size, 9), None)))


@pytest.mark.parametrize(
    "shape, dims, kind", [(*at, kind) for i, at in enumerate(LAYERS) for kind in kinds(i)], ids=str
)
def test_layer_norm_is_the_law_s(lib: Library, shape: tuple[int, ...], dims: int, kind: str) -> None:
    x, grad = some(kind, shape, shape)
    last = shape[-dims:]
    for weight, bias in options(kind, last):
        _, mean, rstd = assert_twins(lib, norms, "layer_norm", x, last, weight, bias, EPS)
        if bias is None:
            for wanted in [ALL, *EACH]:
                assert_twins(lib, norms, "layer_norm_backward", grad, x, last, mean, rstd, weight, wanted)


@pytest.mark.parametrize(
    "shape, groups, kind", [(*at, kind) for i, at in enumerate(GROUPS) for kind in kinds(i)], ids=str
)
def test_group_norm_is_the_law_s(lib: Library, shape: tuple[int, ...], groups: int, kind: str) -> None:
    x, grad = some(kind, shape, shape)
    for weight, bias in options(kind, shape[1:2]):
        _, mean, rstd = assert_twins(lib, norms, "group_norm", x, weight, bias, groups, EPS)
        if bias is None:
            for wanted in [ALL, *EACH]:
                assert_twins(lib, norms, "group_norm_backward", grad, x, mean, rstd, weight, groups, wanted)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape, kind", [(at, kind) for i, at in enumerate(BATCHES) for kind in kinds(i)], ids=str)
def test_batch_norm_is_the_law_s(lib: Library, shape: tuple[int, ...], kind: str, training: bool) -> None:
    x, grad, mean, spread = some(kind, shape, shape, shape[1:2], shape[1:2])
    variance = numpy.abs(spread)
    for weight, bias in options(kind, shape[1:2]):
        given = x, weight, bias, mean, variance, training, 0.1, EPS
        _, saved_mean, saved_rstd, *_ = assert_twins(lib, norms, "batch_norm", *given)
        if bias is None:
            statistics = mean, variance, saved_mean, saved_rstd, training, EPS
            for wanted in [ALL, *EACH]:
                assert_twins(lib, norms, "batch_norm_backward", grad, x, weight, *statistics, wanted)


def test_batch_of_one_number_a_channel_has_no_unbiased_variance(lib: Library) -> None:
    x = numpy.ones((1, 3), numpy.float32)
    _, mean, rstd, _, variance = norms.batch_norm(lib, x, None, None, x[0], x[0], True, 0.1, EPS)
    assert numpy.isnan(variance).all()
    assert (mean == 1).all()
    assert numpy.isfinite(rstd).all()


@pytest.mark.parametrize("groups", [0, 4, -1])
def test_groups_that_do_not_divide_the_channels_are_refused(lib: Library, groups: int) -> None:
    x = numpy.zeros((2, 6, 3), numpy.float32)
    statistics = numpy.zeros((2, 6), numpy.float32)
    with pytest.raises(ValueError, match="refused its arguments"):
        lib.call("tolsey_group_norm", x, None, None, x.copy(), statistics, statistics.copy(), 2, 6, 3, groups, EPS)


def test_any_layout_is_taken(lib: Library) -> None:
    x, weight = some("unit", (8, 6, 10), (10,))
    view = x[::-1, ::2]
    found = norms.layer_norm(lib, view, (10,), weight[::-1], weight, EPS)
    whole = numpy.ascontiguousarray
    assert_same(found, norms.layer_norm(lib, whole(view), (10,), whole(weight[::-1]), weight, EPS))
    assert_same(
        norms.batch_norm(lib, view, None, None, weight[:3], weight[:3], True, 0.1, EPS),
        norms.batch_norm(lib, whole(view), None, None, weight[:3], weight[:3], True, 0.1, EPS),
    )


TOLERANCE = 2**-19
"""Of the largest number: differences of numbers near each other, times 1 / deviation, lose some bits."""


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_and_its_gradients_are_pytorch_s(lib: Library, affine: bool) -> None:
    given, grad, w, b = some("unit", (50, 4, 30), (50, 4, 30), (4, 30), (4, 30))
    x, weight, bias = wide(given, grad=True), wide(w, grad=True), wide(b, grad=True)
    y = torch.nn.functional.layer_norm(x, (4, 30), weight if affine else None, bias if affine else None, EPS)
    y.backward(wide(grad))
    found, mean, rstd = norms.layer_norm(lib, given, (4, 30), w if affine else None, b if affine else None, EPS)
    assert mean.shape == rstd.shape == (50, 1, 1)
    assert_close([found], [y], TOLERANCE)
    wanted = (True, affine, affine)
    gradients = norms.layer_norm_backward(lib, grad, given, (4, 30), mean, rstd, w if affine else None, wanted)
    _assert_gradients(gradients, (x, weight, bias), affine)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(20, 6, 5, 7), (20, 6)])
def test_group_norm_and_its_gradients_are_pytorch_s(lib: Library, shape: tuple[int, ...], affine: bool) -> None:
    given, grad, w, b = some("unit", shape, shape, (6,), (6,))
    x, weight, bias = wide(given, grad=True), wide(w, grad=True), wide(b, grad=True)
    y = torch.nn.functional.group_norm(x, 2, weight if affine else None, bias if affine else None, EPS)
    y.backward(wide(grad))
    found, mean, rstd = norms.group_norm(lib, given, w if affine else None, b if affine else None, 2, EPS)
    assert_close([found], [y], TOLERANCE)
    wanted = (True, affine, affine)
    gradients = norms.group_norm_backward(lib, grad, given, mean, rstd, w if affine else None, 2, wanted)
    _assert_gradients(gradients, (x, weight, bias), affine)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(20, 6, 5, 7), (200, 6)])
def test_batch_norm_and_its_gradients_are_pytorch_s(
    lib: Library, shape: tuple[int, ...], training: bool, affine: bool
) -> None:
    given, grad, w, b, mean, variance = some("unit", shape, shape, *[(6,)] * 4)
    variance = numpy.abs(variance)
    x, weight, bias = wide(given, grad=True), wide(w, grad=True), wide(b, grad=True)
    running = wide(mean), wide(variance)
    used = (weight, bias) if affine else (None, None)
    y = torch.nn.functional.batch_norm(x, *running, *used, training, 0.1, EPS)
    y.backward(wide(grad))
    own = (w, b) if affine else (None, None)
    found, saved_mean, saved_rstd, *moved = norms.batch_norm(lib, given, *own, mean, variance, training, 0.1, EPS)
    assert_close([found, *moved], [y, *running], TOLERANCE)
    statistics = mean, variance, saved_mean, saved_rstd, training, EPS
    gradients = norms.batch_norm_backward(lib, grad, given, own[0], *statistics, (True, affine, affine))
    _assert_gradients(gradients, (x, weight, bias), affine)


def _assert_gradients(found: norms.Gradients, of: tuple[torch.Tensor, ...], affine: bool) -> None:
    expected = [tensor.grad for tensor in of[: 3 if affine else 1]]
    assert all(math.prod(grad.shape) for grad in expected if grad is not None)
    assert_close(found[: len(expected)], expected, TOLERANCE)  # type: ignore[arg-type]  # all were wanted
    assert found[len(expected) :] == (None,) * (3 - len(expected))
