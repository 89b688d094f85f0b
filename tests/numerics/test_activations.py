"""Activations and their gradients: every build equals the slow twin, both agree with autograd in binary64."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from torch.nn import functional

from tolsey.numerics import elementwise
from tolsey.numerics.library import Library
from tolsey.numerics.reference import activations, functions

from .numbers import F32, SPECIAL, assert_same_bits, draw, draw_all

FORWARD = ("relu", "silu", "gelu", "gelu_tanh")
BACKWARD = ("sigmoid_backward", "tanh_backward", "silu_backward", "gelu_backward", "gelu_tanh_backward")


_SIDES = [side.reshape(-1) for side in numpy.meshgrid(SPECIAL, SPECIAL)]
GRAD, X = (numpy.concatenate([draw_all(2_001, seed), side]) for seed, side in enumerate(_SIDES))
"""Of every kind, then all pairs of special numbers."""


@pytest.mark.parametrize("name", FORWARD)
def test_activation_of_each_build_equals_reference(lib: Library, name: str) -> None:
    assert_same_bits(elementwise.unary(lib, name, X), getattr(activations, name)(X))


@pytest.mark.parametrize("name", BACKWARD)
def test_gradient_of_each_build_equals_reference(lib: Library, name: str) -> None:
    assert_same_bits(elementwise.binary(lib, name, GRAD, X), getattr(activations, name)(GRAD, X))


@pytest.mark.parametrize("threshold", [0.0, -0.0, 0.5, numpy.nan])
def test_threshold_backward_equals_reference(lib: Library, threshold: float) -> None:
    expected = activations.threshold_backward(GRAD, X, numpy.float32(threshold))
    assert_same_bits(elementwise.threshold_backward(lib, GRAD, X, threshold), expected)


def test_threshold_backward_passes_gradients_of_nan_and_of_nothing_below() -> None:
    x, grad = numpy.float32([numpy.nan, 0.0, -0.0, 1e-45, -1.0, numpy.inf]), numpy.full(6, -3, numpy.float32)
    found = activations.threshold_backward(grad, x, numpy.float32(0))
    assert_same_bits(found, numpy.float32([-3, 0, 0, -3, 0, -3]))


def test_relu_of_negative_zero_is_zero() -> None:
    assert_same_bits(activations.relu(numpy.float32([-0.0, -1.0, numpy.nan, 2.0])), numpy.float32([0, 0, numpy.nan, 2]))


CURVES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[F32], F32], Callable[[F32, F32], F32]]] = {
    "sigmoid": (torch.sigmoid, functions.sigmoid, lambda g, x: activations.sigmoid_backward(g, functions.sigmoid(x))),
    "tanh": (torch.tanh, functions.tanh, lambda g, x: activations.tanh_backward(g, functions.tanh(x))),
    "silu": (functional.silu, activations.silu, activations.silu_backward),
    "gelu": (functional.gelu, activations.gelu, activations.gelu_backward),
    "gelu_tanh": (
        lambda x: functional.gelu(x, approximate="tanh"),
        activations.gelu_tanh,
        activations.gelu_tanh_backward,
    ),
    "relu": (functional.relu, activations.relu, lambda g, x: activations.threshold_backward(g, x, numpy.float32(0))),
}


@pytest.mark.parametrize("name", CURVES)
def test_values_and_gradients_agree_with_autograd_in_binary64(name: str) -> None:
    exact, forward, backward = CURVES[name]
    x, grad = draw("unit", (20_000,), 1) * numpy.float32(4), draw("unit", (20_000,), 2)
    leaf = torch.from_numpy(x).double().requires_grad_()
    value = exact(leaf)
    (slope,) = torch.autograd.grad(value, leaf, torch.from_numpy(grad).double())
    # A few units in the last place of numbers as large as x: what is subtracted on the way is that large.
    bound = 4 * 2.0**-24 * (1 + numpy.abs(x))
    assert (numpy.abs(forward(x) - value.detach().numpy()) <= bound).all()
    assert (numpy.abs(backward(grad, x) - slope.numpy()) <= bound * (1 + numpy.abs(grad))).all()
