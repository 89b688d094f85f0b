"""Pooling of NumPy arrays over their last two dims, forwards and backwards: what native/pooling.c is called with.

Arguments are those of docs/ops.md. The law of their bits is docs/numerics/reductions.md, section 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library
from tolsey.numerics.library import Library
from tolsey.numerics.reductions import row_major

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]

PLANES = "i64 i64 i64 i64 i64"
"""How many, height and width, height and width of what comes out."""

library.declare("tolsey_max_pool2d", f"f32* f32* i64* {PLANES} i64* i64* i64* i64*")
library.declare("tolsey_max_pool2d_backward", f"f32* i64* f32* {PLANES}")
library.declare("tolsey_avg_pool2d", f"f32* f32* {PLANES} i64* i64* i64* i32 i64")
library.declare("tolsey_avg_pool2d_backward", f"f32* f32* {PLANES} i64* i64* i64* i32 i64")
library.declare("tolsey_adaptive_avg_pool2d", f"f32* f32* {PLANES}")
library.declare("tolsey_adaptive_avg_pool2d_backward", f"f32* f32* {PLANES}")


def max_pool2d(
    lib: Library,
    x: F32,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[F32, I64]:
    """The largest of each window, and its place in the plane.

    Raises:
        ValueError: a window has no element inside the plane.
    """
    x = row_major(x)
    windows = pairs(kernel, stride, padding, dilation)
    outs = out_sizes(x.shape, windows, ceil_mode)
    y, places = (
        numpy.empty((*x.shape[:-2], *outs), numpy.float32),
        numpy.empty((*x.shape[:-2], *outs), numpy.int64),
    )
    lib.call("tolsey_max_pool2d", x, y, places, *_planes(x.shape, outs), *windows)
    return y, places


def max_pool2d_backward(lib: Library, grad: F32, x: F32, places: I64) -> F32:
    """The gradient of x; only the shape of x is read.

    Raises:
        IndexError: a place outside the plane.
    """
    dx = numpy.empty(x.shape, numpy.float32)
    places = numpy.asarray(places, dtype=numpy.int64, order="C")
    lib.call(
        "tolsey_max_pool2d_backward",
        row_major(grad),
        places,
        dx,
        *_planes(x.shape, grad.shape[-2:]),
    )
    return dx


def avg_pool2d(
    lib: Library,
    x: F32,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_padding: bool,
    divisor: int | None,
) -> F32:
    x = row_major(x)
    windows = pairs(kernel, stride, padding, (1,))
    outs = out_sizes(x.shape, windows, ceil_mode)
    y = numpy.empty((*x.shape[:-2], *outs), numpy.float32)
    counted = int(count_padding), divisor or 0
    lib.call("tolsey_avg_pool2d", x, y, *_planes(x.shape, outs), *windows[:3], *counted)
    return y


def avg_pool2d_backward(
    lib: Library,
    grad: F32,
    x: F32,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_padding: bool,
    divisor: int | None,
) -> F32:
    """The gradient of x; only the shape of x is read, and `ceil_mode` has shown in the shape of grad."""
    dx = numpy.empty(x.shape, numpy.float32)
    windows = pairs(kernel, stride, padding, (1,))
    counted = int(count_padding), divisor or 0
    sizes = _planes(x.shape, grad.shape[-2:])
    lib.call(
        "tolsey_avg_pool2d_backward",
        row_major(grad),
        dx,
        *sizes,
        *windows[:3],
        *counted,
    )
    return dx


def adaptive_avg_pool2d(lib: Library, x: F32, size: Sequence[int]) -> F32:
    x = row_major(x)
    y = numpy.empty((*x.shape[:-2], *size), numpy.float32)
    lib.call("tolsey_adaptive_avg_pool2d", x, y, *_planes(x.shape, size))
    return y


def adaptive_avg_pool2d_backward(lib: Library, grad: F32, x: F32) -> F32:
    """The gradient of x; only the shape of x is read."""
    dx = numpy.empty(x.shape, numpy.float32)
    lib.call(
        "tolsey_adaptive_avg_pool2d_backward",
        row_major(grad),
        dx,
        *_planes(x.shape, grad.shape[-2:]),
    )
    return dx


def pairs(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[I64, I64, I64, I64]:
    """A window's sizes for both axes as kernels take them: one number is for both, no stride is the kernel's."""

    def pair(values: Sequence[int]) -> I64:
        return numpy.array([values[0], values[-1]], numpy.int64)

    return pair(kernel), pair(stride or kernel), pair(padding), pair(dilation)


def out_sizes(shape: Sequence[int], windows: tuple[I64, I64, I64, I64], ceil_mode: bool) -> list[int]:
    """How many windows there are down and across, as ATen counts them."""
    outs = []
    for size, kernel, stride, padding, dilation in zip(shape[-2:], *(of.tolist() for of in windows), strict=True):
        room = size + 2 * padding - dilation * (kernel - 1) - 1
        count = (room + stride - 1) // stride + 1 if ceil_mode else room // stride + 1
        # A last window that would begin in the padding beyond the plane is none.
        outs.append(count - 1 if ceil_mode and (count - 1) * stride >= size + padding else count)
    return outs


def _planes(shape: Sequence[int], outs: Sequence[int]) -> tuple[int, int, int, int, int]:
    return math.prod(shape[:-2]), shape[-2], shape[-1], outs[0], outs[1]
