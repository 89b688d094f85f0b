"""Activations and their gradients, as docs/numerics/functions.md, section 5, has them: one rounding an operation."""

from __future__ import annotations

from typing import Final

import numpy

from tolsey.numerics.reference.functions import HALF, ONE, ZERO, erf, exp, number, sigmoid, tanh
from tolsey.numerics.reference.numbers import F32, maximum

ROOT_HALF: Final = number("0x1.6a09e6p-1")
DENSITY: Final = number("0x1.988454p-2")
"""1 / sqrt(2 pi)."""
TWICE_DENSITY: Final = number("0x1.988454p-1")
BEND: Final = number("0x1.6e4e26p-5")
"""0.044715."""
THRICE_BEND: Final = number("0x1.12ba9ep-3")


def relu(x: F32) -> F32:
    return maximum(x, numpy.zeros_like(x))


def threshold_backward(grad: F32, x: F32, threshold: numpy.float32) -> F32:
    """grad, but +0 where x is not above the threshold; a NaN is neither."""
    return numpy.where(x <= threshold, ZERO, grad)


def sigmoid_backward(grad: F32, output: F32) -> F32:
    with numpy.errstate(all="ignore"):
        return (grad * (ONE - output)) * output


def tanh_backward(grad: F32, output: F32) -> F32:
    with numpy.errstate(all="ignore"):
        return grad * (ONE - output * output)


def silu(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        return x * sigmoid(x)


def silu_backward(grad: F32, x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        s = sigmoid(x)
        return (grad * s) * (ONE + x * (ONE - s))


def gelu(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        return (x * HALF) * (ONE + erf(x * ROOT_HALF))


def gelu_backward(grad: F32, x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        below = HALF * (ONE + erf(x * ROOT_HALF))
        density = exp((x * x) * -HALF) * DENSITY
        slope: F32 = below + x * density
        return grad * slope


def gelu_tanh(x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        return (x * HALF) * (ONE + _bent(x))


def gelu_tanh_backward(grad: F32, x: F32) -> F32:
    with numpy.errstate(all="ignore"):
        t = _bent(x)
        inner = TWICE_DENSITY * (ONE + THRICE_BEND * (x * x))
        slope: F32 = HALF * (ONE + t) + ((HALF * x) * (ONE - t * t)) * inner
        return grad * slope


def _bent(x: F32) -> F32:
    return tanh(TWICE_DENSITY * (x + BEND * ((x * x) * x)))
