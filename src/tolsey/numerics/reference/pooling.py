"""Largest and mean of windows, forwards and backwards: docs/numerics/reductions.md, section 7.

H and W are the last two dims. A window is a list of places (row, column) inside the plane, row-major.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy
from numpy.typing import NDArray

from tolsey.numerics.reference.reductions import S, quiet

F32 = NDArray[numpy.float32]
I64 = NDArray[numpy.int64]
Window = tuple[list[tuple[int, int]], int]
"""Its places, and how many elements its mean is of."""


def out_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Windows along an axis, as ATen counts them: a last one that begins in the right padding is none."""
    over = size + 2 * padding - dilation * (kernel - 1) - 1
    outs = -(-over // stride) + 1 if ceil_mode else over // stride + 1
    return outs - 1 if ceil_mode and (outs - 1) * stride >= size + padding else outs


def outs_of(
    x: F32,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[int, int]:
    height, width = (
        out_size(
            x.shape[axis - 2],
            kernel[axis],
            stride[axis],
            padding[axis],
            dilation[axis],
            ceil_mode,
        )
        for axis in (0, 1)
    )
    return height, width


def pair(values: Sequence[int], otherwise: Sequence[int]) -> list[int]:
    """A window's sizes may be one number for both axes, or (stride) left out."""
    values = list(values) or list(otherwise)
    return values * 2 if len(values) == 1 else values


def max_pool2d(
    x: F32,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[F32, I64]:
    """
    Raises:
        ValueError: a window without element.
    """
    kernel = pair(kernel, ())
    stride, padding, dilation = (
        pair(stride, kernel),
        pair(padding, ()),
        pair(dilation, ()),
    )
    height, width = x.shape[-2:]
    outs = outs_of(x, kernel, stride, padding, dilation, ceil_mode)
    y = numpy.empty((*x.shape[:-2], *outs), numpy.float32)
    places = numpy.empty(y.shape, numpy.int64)
    for out in numpy.ndindex(y.shape):
        *plane, oh, ow = out
        held = None
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                row, column = (
                    oh * stride[0] - padding[0] + i * dilation[0],
                    ow * stride[1] - padding[1] + j * dilation[1],
                )
                if not (0 <= row < height and 0 <= column < width):
                    continue
                value = x[(*plane, row, column)]
                if held is None or value > held or numpy.isnan(value):
                    held, places[out] = value, row * width + column
        if held is None:
            raise ValueError(f"window {(oh, ow)} has no element")
        y[out] = held
    return y, places


@quiet
def max_pool2d_backward(grad: F32, x: F32, places: I64) -> F32:
    """
    Raises:
        IndexError: a place outside the plane.
    """
    dx = numpy.zeros_like(x)
    for out in numpy.ndindex(grad.shape):
        row, column = divmod(int(places[out]), x.shape[-1])
        if not (0 <= row < x.shape[-2] and column >= 0):
            raise IndexError(f"place {places[out]} of a plane {x.shape[-2:]}")
        to = (*out[:-2], row, column)
        dx[to] = dx[to] + grad[out]
    return dx


def even_window(
    x: F32,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    count_padding: bool,
    divisor: int | None,
) -> Callable[[int, int], Window]:
    height, width = x.shape[-2:]

    def window(oh: int, ow: int) -> Window:
        top, left = oh * stride[0] - padding[0], ow * stride[1] - padding[1]
        bottom, right = (
            min(top + kernel[0], height + padding[0]),
            min(left + kernel[1], width + padding[1]),
        )
        rows, columns = (
            range(max(top, 0), min(bottom, height)),
            range(max(left, 0), min(right, width)),
        )
        inside = [(row, column) for row in rows for column in columns]
        if divisor is not None:
            return inside, divisor
        return inside, (bottom - top) * (right - left) if count_padding else len(inside)

    return window


def fitting_window(x: F32, outs: tuple[int, int]) -> Callable[[int, int], Window]:
    def axis(out: int, outs: int, size: int) -> range:
        return range(out * size // outs, -(-(out + 1) * size // outs))

    def window(oh: int, ow: int) -> Window:
        rows, columns = axis(oh, outs[0], x.shape[-2]), axis(ow, outs[1], x.shape[-1])
        inside = [(row, column) for row in rows for column in columns]
        return inside, len(inside)

    return window


@quiet
def means(x: F32, outs: tuple[int, int], window: Callable[[int, int], Window]) -> F32:
    y = numpy.empty((*x.shape[:-2], *outs), numpy.float32)
    for oh, ow in numpy.ndindex(*outs):
        inside, of = window(oh, ow)
        elements = [x[..., row, column] for row, column in inside]
        y[..., oh, ow] = S(numpy.stack(elements, axis=-1)) / numpy.float32(of) if inside else 0
    return y


@quiet
def spread_means(grad: F32, x: F32, window: Callable[[int, int], Window]) -> F32:
    dx = numpy.zeros_like(x)
    for oh, ow in numpy.ndindex(*grad.shape[-2:]):
        inside, of = window(oh, ow)
        part = grad[..., oh, ow] / numpy.float32(of)
        for row, column in inside:
            dx[..., row, column] = dx[..., row, column] + part
    return dx


def avg_pool2d(
    x: F32,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_padding: bool,
    divisor: int | None,
) -> F32:
    kernel = pair(kernel, ())
    stride, padding = pair(stride, kernel), pair(padding, ())
    outs = outs_of(x, kernel, stride, padding, (1, 1), ceil_mode)
    return means(x, outs, even_window(x, kernel, stride, padding, count_padding, divisor))


def avg_pool2d_backward(
    grad: F32,
    x: F32,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_padding: bool,
    divisor: int | None,
) -> F32:
    kernel = pair(kernel, ())
    stride, padding = pair(stride, kernel), pair(padding, ())
    return spread_means(grad, x, even_window(x, kernel, stride, padding, count_padding, divisor))


def adaptive_avg_pool2d(x: F32, size: tuple[int, int]) -> F32:
    return means(x, size, fitting_window(x, size))


def adaptive_avg_pool2d_backward(grad: F32, x: F32) -> F32:
    outs = (grad.shape[-2], grad.shape[-1])
    return spread_means(grad, x, fitting_window(x, outs))
