"""Matrix products and convolutions on the kernels, for NumPy arrays; and how their C functions are called.

    tolsey_gemm(batch, m, n, k,
                a, a_batch, a_row, a_column,  b, b_batch, b_row, b_column,
                bias, bias_batch, bias_row, bias_column,  c, c_batch, c_row, c_column)

Steps count elements: element (p, i, k) of A lies at a[p * a_batch + i * a_row + k * a_column], (p, i, j) of C at
c[p * c_batch + i * c_row + j * c_column]. So transposed and cut-out matrices need no copy, and a step of 0 broadcasts
(not for C). `bias` may be NULL; it is added once, after the chain.

    tolsey_convolution(geometry, input, weight, bias, output)
    tolsey_convolution_backward_input(geometry, output gradient, weight, bias, input gradient)
    tolsey_convolution_backward_weight(geometry, output gradient, input, weight gradient)

All contiguous; `geometry` is made by `Geometry.packed`. A transposed convolution is the same three with other roles:
its forward is backward_input (its input is an output gradient, its bias is allowed there), its input's gradient is the
plain forward, its weight's gradient is backward_weight with input and gradient exchanged; `Geometry` is always that of
the ordinary convolution, which leads from the transposed one's output to its input. A bias's gradient is a sum
(reductions.py).

Law: docs/numerics/products.md. Twin: reference/products.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library
from tolsey.numerics.library import Library

F32 = NDArray[numpy.float32]

MAX_DIMENSIONS: Final = 3

library.declare(
    "tolsey_gemm",
    "i64 i64 i64 i64  f32* i64 i64 i64  f32* i64 i64 i64  f32* i64 i64 i64  f32* i64 i64 i64",
)
library.declare("tolsey_convolution", "i64* f32* f32* f32* f32*")
library.declare("tolsey_convolution_backward_input", "i64* f32* f32* f32* f32*")
library.declare("tolsey_convolution_backward_weight", "i64* f32* f32* f32*")
KERNELS: Final = (
    *("tolsey_gemm", "tolsey_convolution"),
    *("tolsey_convolution_backward_input", "tolsey_convolution_backward_weight"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Sizes of an ordinary convolution in 1 to 3 dimensions, outermost first.

    Args:
        images: batch size.
        groups: parts that see each other's channels not at all.
        channels_in, channels_out: of one group.
        size, kernel, out: of input, window and output.
        stride, padding, dilation: one number a dimension.
    """

    images: int
    groups: int
    channels_in: int
    channels_out: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    out: tuple[int, ...]

    @classmethod
    def of(
        cls,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Geometry:
        """From the shapes of an ordinary convolution's input and weight.

        Raises:
            ValueError: the shapes do not fit each other, or the window does not fit the padded input.
        """
        images, channels, *size = input_shape
        channels_out, channels_in, *kernel = weight_shape
        parts = (size, kernel, stride, padding, dilation)
        if not 1 <= len(size) <= MAX_DIMENSIONS or len({len(part) for part in parts}) != 1:
            raise ValueError(f"a convolution of {len(size)} dimensions with {parts}")
        if groups < 1 or channels != channels_in * groups or channels_out % groups:
            raise ValueError(f"{channels} channels into {channels_out}, {channels_in} a group, in {groups} groups")
        if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
            raise ValueError(f"kernel {kernel}, stride {stride}, dilation {dilation}, padding {padding}")
        spans = [n + 2 * p - d * (k - 1) - 1 for n, k, p, d in zip(size, kernel, padding, dilation, strict=True)]
        if min(spans) < 0:
            raise ValueError(f"a window of {kernel} does not fit an input of {size} with padding {padding}")
        return cls(
            images=images,
            groups=groups,
            channels_in=channels_in,
            channels_out=channels_out // groups,
            size=tuple(size),
            kernel=tuple(kernel),
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            out=tuple(span // s + 1 for span, s in zip(spans, stride, strict=True)),
        )

    @classmethod
    def of_transposed(
        cls,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        output_padding: Sequence[int],
        groups: int,
    ) -> Geometry:
        """From the shapes of a transposed convolution's input and weight: that of the ordinary one that leads back.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        images, channels, *size = input_shape
        channels_out, channels_in, *kernel = weight_shape
        parts = (size, kernel, stride, padding, dilation, output_padding)
        if not 1 <= len(size) <= MAX_DIMENSIONS or len({len(part) for part in parts}) != 1:
            raise ValueError(f"a transposed convolution of {len(size)} dimensions with {parts}")
        if groups < 1 or channels != channels_out or channels_out % groups:
            raise ValueError(f"{channels} channels against a weight for {channels_out} in {groups} groups")
        if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1 or min(padding) < 0 or min(output_padding) < 0:
            raise ValueError(f"kernel {kernel}, stride {stride}, dilation {dilation}, padding {padding}")
        grown = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + 1 + more
            for n, k, s, p, d, more in zip(size, kernel, stride, padding, dilation, output_padding, strict=True)
        )
        if min(grown) < 1:
            raise ValueError(f"a transposed convolution with output {grown}")
        return cls(
            images=images,
            groups=groups,
            channels_in=channels_in,
            channels_out=channels_out // groups,
            size=grown,
            kernel=tuple(kernel),
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            out=tuple(size),
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.images, self.groups * self.channels_in, *self.size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.groups * self.channels_out, self.channels_in, *self.kernel)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.images, self.groups * self.channels_out, *self.out)

    @property
    def terms(self) -> tuple[int, int, int]:
        """How many products add up to one number: of the output, of the input's gradient (at most: with a stride, fewer
        taps reach some places), of the weight's gradient."""
        periods = (s // math.gcd(s, d) for s, d in zip(self.stride, self.dilation, strict=True))
        meeting = math.prod(-(-k // period) for k, period in zip(self.kernel, periods, strict=True))
        return (
            self.channels_in * math.prod(self.kernel),
            self.channels_out * meeting,
            self.images * math.prod(self.out),
        )

    def packed(self) -> NDArray[numpy.int64]:
        """As the kernels read it: 22 integers; missing outer dimensions are of size 1."""
        more = MAX_DIMENSIONS - len(self.size)
        numbers = [self.images, self.groups, self.channels_in, self.channels_out]
        for part, neutral in (
            (self.size, 1),
            (self.kernel, 1),
            (self.stride, 1),
            (self.padding, 0),
            (self.dilation, 1),
            (self.out, 1),
        ):
            numbers += [neutral] * more + list(part)
        return numpy.array(numbers, dtype=numpy.int64)


def gemm(lib: Library, a: F32, b: F32, bias: F32 | None = None, out: F32 | None = None) -> F32:
    """a [m, k] or [batch, m, k] times b likewise, plus a bias that broadcasts; any strides.

    Args:
        out: where to write, of the result's shape and with any strides; a new array where None.

    Raises:
        ValueError: shapes that do not fit.
    """
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    batch = numpy.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if b.shape[-2] != k or len(batch) > 1:
        raise ValueError(f"a product of {a.shape} and {b.shape}")
    shape = (*batch, m, n)
    result = numpy.empty(shape, dtype=numpy.float32) if out is None else out
    if result.shape != shape:
        raise ValueError(f"a result of {shape} does not fit into {result.shape}")
    whole = (*(batch or (1,)), m, n)
    wide_a, steps_a = _steps(a, (whole[0], m, k))
    wide_b, steps_b = _steps(b, (whole[0], k, n))
    wide_bias, steps_bias = (None, (0, 0, 0)) if bias is None else _steps(bias, whole)
    wide_result, steps_result = _steps(result, whole)
    lib.call(
        "tolsey_gemm",
        *(whole[0], m, n, k),
        *(wide_a, *steps_a),
        *(wide_b, *steps_b),
        *(wide_bias, *steps_bias),
        *(wide_result, *steps_result),
    )
    return result


def _steps(array: F32, shape: tuple[int, ...]) -> tuple[F32, tuple[int, ...]]:
    """The array broadcast to three dimensions, and its strides in elements."""
    wide = numpy.broadcast_to(array, shape)
    return wide, tuple(stride // array.itemsize for stride in wide.strides)


def convolution(lib: Library, shape: Geometry, x: F32, weight: F32, bias: F32 | None = None) -> F32:
    """x of shape.input_shape with weight of shape.weight_shape -> shape.output_shape."""
    out = numpy.empty(shape.output_shape, dtype=numpy.float32)
    _check(shape, x=(x, shape.input_shape), weight=(weight, shape.weight_shape))
    lib.call("tolsey_convolution", shape.packed(), x, weight, bias, out)
    return out


def convolution_backward_input(
    lib: Library, shape: Geometry, gradient: F32, weight: F32, bias: F32 | None = None
) -> F32:
    """Gradient of the input from that of the output; with a bias, the forward of a transposed convolution."""
    out = numpy.empty(shape.input_shape, dtype=numpy.float32)
    _check(shape, gradient=(gradient, shape.output_shape), weight=(weight, shape.weight_shape))
    lib.call("tolsey_convolution_backward_input", shape.packed(), gradient, weight, bias, out)
    return out


def convolution_backward_weight(lib: Library, shape: Geometry, gradient: F32, x: F32) -> F32:
    """Gradient of the weight from that of the output and the input."""
    out = numpy.empty(shape.weight_shape, dtype=numpy.float32)
    _check(shape, gradient=(gradient, shape.output_shape), x=(x, shape.input_shape))
    lib.call("tolsey_convolution_backward_weight", shape.packed(), gradient, x, out)
    return out


def _check(shape: Geometry, **given: tuple[F32, tuple[int, ...]]) -> None:
    """What is handed to a kernel without strides has the size that the kernel will read."""
    for name, (array, wanted) in given.items():
        if array.shape != wanted or not array.flags.c_contiguous:
            raise ValueError(f"{name} of {array.shape}, strides {array.strides}: contiguous {wanted} wanted")
