"""Kernels of single places: functions, arithmetic, activations, optimiser steps, conversions, random words.

The C names and signatures stand here for all callers (`SIGNATURES`); the functions below call them with NumPy arrays.
Arrays are contiguous; a result may be written over one of the inputs. Law: docs/numerics/functions.md.
"""

from __future__ import annotations

from typing import Any, Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library
from tolsey.numerics.library import Library

F32 = NDArray[numpy.float32]

UNARY: Final = (
    *("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "sigmoid", "sqrt", "rsqrt", "reciprocal"),
    *("relu", "silu", "gelu", "gelu_tanh"),
)
"""tolsey_NAME(x, y, n): y = NAME(x)."""

BINARY: Final = (
    *("maximum", "minimum", "pow"),
    *("sigmoid_backward", "tanh_backward", "silu_backward", "gelu_backward", "gelu_tanh_backward"),
)
"""tolsey_NAME(a, b, y, n): y = NAME(a, b). Of a backward, a is the gradient and b what forward gave (sigmoid, tanh) or
was given (silu, gelu)."""

CONVERSIONS: Final = {
    (numpy.dtype(source), numpy.dtype(target)): name
    for source, target, name in (
        (numpy.float32, numpy.int64, "f32_to_i64"),
        (numpy.float32, numpy.int32, "f32_to_i32"),
        (numpy.float32, numpy.int16, "f32_to_i16"),
        (numpy.float32, numpy.int8, "f32_to_i8"),
        (numpy.float32, numpy.uint8, "f32_to_u8"),
        (numpy.int64, numpy.float32, "i64_to_f32"),
        (numpy.int32, numpy.float32, "i32_to_f32"),
    )
}
"""tolsey_NAME(x, y, n). Every other conversion between the profile's element types is one that C defines and any
library computes alike."""

SIGNATURES: Final = {
    **{f"tolsey_{name}": "f32* f32* i64" for name in UNARY},
    **{f"tolsey_{name}": "f32* f32* f32* i64" for name in BINARY},
    **{f"tolsey_{name}": "{}* {}* i64".format(*name.split("_to_")) for name in CONVERSIONS.values()},
    # x exponent y n
    "tolsey_pow_scalar": "f32* f32 f32* i64",
    # x low high y n; one end alone: x end y n
    "tolsey_clamp": "f32* f32 f32 f32* i64",
    "tolsey_clamp_low": "f32* f32 f32* i64",
    "tolsey_clamp_high": "f32* f32 f32* i64",
    # x end weight y n
    "tolsey_lerp": "f32* f32* f32 f32* i64",
    # x a b value y n
    "tolsey_addcmul": "f32* f32* f32* f32 f32* i64",
    # grad x threshold y n
    "tolsey_threshold_backward": "f32* f32* f32 f32* i64",
    # param grad first second, param first second afterwards, n,
    # factor decay step_size correction weight1 beta2 weight2 eps
    "tolsey_adamw": "f32* f32* f32* f32* f32* f32* f32* i64 f32 f32 f32 f32 f32 f32 f32 f32",
    # param grad velocity, param velocity afterwards, n factor weight_decay momentum nesterov lr
    "tolsey_sgd": "f32* f32* f32* f32* f32* i64 f32 f32 f32 i32 f32",
    # param grad moment, param moment afterwards, n factor decay lr weight1 weight2
    "tolsey_lion": "f32* f32* f32* f32* f32* i64 f32 f32 f32 f32 f32",
    # seed domain stream first_index words n
    "tolsey_philox_words": "u64 u32 u32 u64 u32* i64",
    # seed stream position threshold mask n
    "tolsey_keep_mask": "u64 u32 u32 u32 f32* i64",
    "tolsey_keep_mask_u8": "u64 u32 u32 u32 u8* i64",
}

for _name, _signature in SIGNATURES.items():
    library.declare(_name, _signature)


def unary(lib: Library, name: str, x: F32) -> F32:
    """One of `UNARY` of each element."""
    y = _room(x)
    lib.call(f"tolsey_{name}", x, y, x.size)
    return y


def binary(lib: Library, name: str, a: F32, b: F32) -> F32:
    """One of `BINARY` of each pair of elements; shapes are equal."""
    y = _room(a, b)
    lib.call(f"tolsey_{name}", a, b, y, a.size)
    return y


def pow_scalar(lib: Library, x: F32, exponent: float) -> F32:
    y = _room(x)
    lib.call("tolsey_pow_scalar", x, exponent, y, x.size)
    return y


def clamp(lib: Library, x: F32, low: float | None, high: float | None) -> F32:
    """At least `low`, then at most `high`; None leaves that end out."""
    y = _room(x)
    if low is None and high is None:
        y[...] = x
    elif high is None:
        lib.call("tolsey_clamp_low", x, low, y, x.size)
    elif low is None:
        lib.call("tolsey_clamp_high", x, high, y, x.size)
    else:
        lib.call("tolsey_clamp", x, low, high, y, x.size)
    return y


def lerp(lib: Library, x: F32, end: F32, weight: float) -> F32:
    y = _room(x, end)
    lib.call("tolsey_lerp", x, end, weight, y, x.size)
    return y


def addcmul(lib: Library, x: F32, a: F32, b: F32, value: float) -> F32:
    y = _room(x, a, b)
    lib.call("tolsey_addcmul", x, a, b, value, y, x.size)
    return y


def threshold_backward(lib: Library, grad: F32, x: F32, threshold: float) -> F32:
    y = _room(x, grad)
    lib.call("tolsey_threshold_backward", grad, x, threshold, y, x.size)
    return y


def convert(lib: Library, x: NDArray[Any], target: type[numpy.generic]) -> NDArray[Any]:
    """x as another element type, for the pairs of `CONVERSIONS`."""
    _room(x)
    y = numpy.empty(x.shape, dtype=target)
    lib.call(f"tolsey_{CONVERSIONS[x.dtype, y.dtype]}", x, y, x.size)
    return y


def adamw(
    lib: Library,
    param: F32,
    grad: F32,
    first: F32,
    second: F32,
    *,
    factor: float,
    decay: float,
    step_size: float,
    correction: float,
    weight1: float,
    beta2: float,
    weight2: float,
    eps: float,
) -> tuple[F32, F32, F32]:
    """The parameter and both moments after a step; weight1 is 1 - beta1, weight2 is 1 - beta2."""
    out = (_room(param, grad), _room(param, first), _room(param, second))
    rates = (factor, decay, step_size, correction, weight1, beta2, weight2, eps)
    lib.call("tolsey_adamw", param, grad, first, second, *out, param.size, *rates)
    return out


def sgd(
    lib: Library,
    param: F32,
    grad: F32,
    velocity: F32,
    *,
    factor: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    lr: float,
) -> tuple[F32, F32]:
    """The parameter and its velocity after a step."""
    out = (_room(param, grad), _room(param, velocity))
    rates = (factor, weight_decay, momentum, int(nesterov), lr)
    lib.call("tolsey_sgd", param, grad, velocity, *out, param.size, *rates)
    return out


def lion(
    lib: Library,
    param: F32,
    grad: F32,
    moment: F32,
    *,
    factor: float,
    decay: float,
    lr: float,
    weight1: float,
    weight2: float,
) -> tuple[F32, F32]:
    """The parameter and its moment after a step; weight1 is 1 - beta1, weight2 is 1 - beta2."""
    out = (_room(param, grad), _room(param, moment))
    lib.call("tolsey_lion", param, grad, moment, *out, param.size, factor, decay, lr, weight1, weight2)
    return out


def words(lib: Library, seed: int, *, domain: int, stream: int, first_index: int, count: int) -> NDArray[numpy.uint32]:
    """`count` words of the blocks first_index, first_index + 1, …"""
    out = numpy.empty(count, dtype=numpy.uint32)
    lib.call("tolsey_philox_words", seed, domain, stream, first_index, out, count)
    return out


def keep_mask(
    lib: Library,
    seed: int,
    *,
    stream: int,
    position: int,
    threshold: int,
    count: int,
    kind: type[numpy.float32] | type[numpy.uint8] = numpy.float32,
) -> NDArray[Any]:
    """1 where an element is kept, 0 where it is dropped."""
    out = numpy.empty(count, dtype=kind)
    kernel = "tolsey_keep_mask" if out.dtype == numpy.float32 else "tolsey_keep_mask_u8"
    lib.call(kernel, seed, stream, position, threshold, out, count)
    return out


def _room(x: NDArray[Any], *others: NDArray[Any]) -> NDArray[Any]:
    """An array for the result.

    Raises:
        ValueError: the inputs, of which a kernel reads as many elements as the first has, differ in shape, or one is
            not contiguous.
    """
    for given in (x, *others):
        if given.shape != x.shape or not given.flags.c_contiguous:
            raise ValueError(f"contiguous arrays of one shape are wanted, not {x.shape} and {given.shape}")
    return numpy.empty_like(x)
