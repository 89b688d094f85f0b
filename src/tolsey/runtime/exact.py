"""Operations of ops.py on the kernels of numerics/: the executor's choice under profile `exact-fp32/1`.

Every operation of the closed list is in exactly one of two tables:

- `KERNELS`: its bits in PyTorch depend on the machine, so one of our kernels computes it;
- `AS_THEY_ARE`: IEEE fixes its bits (one rounding, a comparison) or it only moves data, so PyTorch's own is the law's.

Floating-point tensors of the profile are binary32; integers and truth values are exact everywhere and stay with
PyTorch. Kernels take contiguous memory (products take any strides), so a view is copied before it is handed over.

It refuses devices other than the CPU. Next in the flow: executor.py, which asks `build` for each node; docs/numerics.md
is the law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from tolsey.errors import ConfigError, RemoteViolation
from tolsey.numerics import (
    PROFILE,
    elementwise,
    library,
    lookups,
    losses,
    norms,
    pooling,
    products,
    reductions,
    softmax,
)
from tolsey.numerics.library import Library
from tolsey.runtime.ops import Call, Op, Ref

__all__ = ["AS_THEY_ARE", "KERNELS", "build", "check_dtype"]

Maker = Callable[[Library, Sequence[Any]], Call]
FLOAT: Final = torch.float32


def build(op: Op, args: Sequence[Any], device: torch.device) -> Call:
    """The operation with its attributes filled in: a function of its tensors, as `Op.build` gives one.

    Args:
        args: parsed, as `Op.parse` gives them.

    Raises:
        ConfigError: this machine has no exact kernels, or the device is no CPU.
    """
    stock = op.build(args, device)
    if device.type == "meta" or op.name in AS_THEY_ARE:
        return stock
    if device.type != "cpu":
        # The kernels for GPUs (numerics/cuda) are not bound to tensors yet: docs/numerics/gpu.md.
        raise ConfigError(f"{PROFILE} runs on CPUs, not yet on {device}", fix="start with --device cpu")
    kernel = KERNELS[op.name](library.current(), args)
    if op.name not in INTEGERS_TOO:
        return kernel
    return lambda *tensors: kernel(*tensors) if any(x.is_floating_point() for x in tensors) else stock(*tensors)


def check_dtype(where: str, dtype: torch.dtype) -> None:
    """Floating-point values of the profile are binary32.

    Raises:
        RemoteViolation: this one is not.
    """
    if (dtype.is_floating_point or dtype.is_complex) and dtype is not FLOAT:
        raise RemoteViolation(f"{where} has element type {dtype}; {PROFILE} computes in float32")


# memory


def _whole(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_contiguous() else x.contiguous()


def _like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype)


def _alike(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Of one shape and contiguous."""
    first = tensors[0].shape
    if any(x.shape != first for x in tensors):
        tensors = tuple(torch.broadcast_tensors(*tensors))  # type: ignore[no-untyped-call]  # torch's own is untyped
    return [_whole(x) for x in tensors]


# single places


def _floats(x: torch.Tensor) -> torch.Tensor:
    """Contiguous binary32; integers are converted, as PyTorch's functions do with them first."""
    return _whole(x if x.dtype is FLOAT else _convert(library.current(), x, FLOAT))


def _unary(name: str) -> Maker:
    """A kernel of one tensor."""

    def make(lib: Library, args: Sequence[Any]) -> Call:
        kernel = lib.function(f"tolsey_{name}")

        def call(x: torch.Tensor) -> torch.Tensor:
            x = _floats(x)
            y = _like(x)
            kernel(x.data_ptr(), y.data_ptr(), x.numel())
            return y

        return call

    return make


def _binary(name: str) -> Maker:
    """A kernel of two tensors that broadcast."""

    def make(lib: Library, args: Sequence[Any]) -> Call:
        kernel = lib.function(f"tolsey_{name}")

        def call(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            a, b = _alike(_floats(a), _floats(b))
            y = _like(a)
            kernel(a.data_ptr(), b.data_ptr(), y.data_ptr(), a.numel())
            return y

        return call

    return make


def _gelu(lib: Library, args: Sequence[Any]) -> Call:
    return _unary("gelu" if args[1] == "none" else "gelu_tanh")(lib, args)


def _gelu_backward(lib: Library, args: Sequence[Any]) -> Call:
    return _binary("gelu_backward" if args[2] == "none" else "gelu_tanh_backward")(lib, args)


def _pow_scalar(lib: Library, args: Sequence[Any]) -> Call:
    exponent, kernel = args[1], lib.function("tolsey_pow_scalar")

    def call(x: torch.Tensor) -> torch.Tensor:
        x = _floats(x)
        y = _like(x)
        kernel(x.data_ptr(), exponent, y.data_ptr(), x.numel())
        return y

    return call


def _clamp(lib: Library, args: Sequence[Any]) -> Call:
    _, low, high = args
    if low is None and high is None:
        return torch.clone
    name = "clamp_high" if low is None else "clamp_low" if high is None else "clamp"
    kernel, ends = lib.function(f"tolsey_{name}"), [end for end in (low, high) if end is not None]

    def call(x: torch.Tensor) -> torch.Tensor:
        x = _floats(x)
        y = _like(x)
        kernel(x.data_ptr(), *ends, y.data_ptr(), x.numel())
        return y

    return call


def _threshold_backward(lib: Library, args: Sequence[Any]) -> Call:
    threshold, kernel = args[2], lib.function("tolsey_threshold_backward")

    def call(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        grad, x = _alike(grad, x)
        y = _like(x)
        kernel(grad.data_ptr(), x.data_ptr(), threshold, y.data_ptr(), x.numel())
        return y

    return call


def _lerp(lib: Library, args: Sequence[Any]) -> Call:
    weight, kernel = args[2], lib.function("tolsey_lerp")

    def call(x: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        x, end = _alike(x, end)
        y = _like(x)
        kernel(x.data_ptr(), end.data_ptr(), weight, y.data_ptr(), x.numel())
        return y

    return call


def _addcmul(lib: Library, args: Sequence[Any]) -> Call:
    value, kernel = args[3], lib.function("tolsey_addcmul")

    def call(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        x, a, b = _alike(x, a, b)
        y = _like(x)
        kernel(x.data_ptr(), a.data_ptr(), b.data_ptr(), value, y.data_ptr(), x.numel())
        return y

    return call


_CONVERSIONS: Final = {
    (getattr(torch, source.name), getattr(torch, target.name)): f"tolsey_{name}"
    for (source, target), name in elementwise.CONVERSIONS.items()
}


def _convert(lib: Library, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    name = _CONVERSIONS.get((x.dtype, dtype))
    if name is None:
        return x.to(dtype)
    x = _whole(x)
    y = torch.empty(x.shape, dtype=dtype)
    lib.function(name)(x.data_ptr(), y.data_ptr(), x.numel())
    return y


def _cast(lib: Library, args: Sequence[Any]) -> Call:
    dtype = args[1]
    check_dtype("the target of cast", dtype)
    return lambda x: _convert(lib, x, dtype)


def _keep_mask(lib: Library, args: Sequence[Any]) -> Call:
    _, shape, stream, threshold, dtype = args
    kernel = lib.function("tolsey_keep_mask")

    def call(position: torch.Tensor) -> torch.Tensor:
        low, high, place = position.tolist()
        mask = torch.empty(shape, dtype=FLOAT)
        kernel(low | high << 32, stream, place, threshold, mask.data_ptr(), mask.numel())
        return mask.to(dtype)

    return call


# products


def _steps(x: torch.Tensor | None, shape: Sequence[int]) -> tuple[Any, ...]:
    """Address and strides of a tensor broadcast to [batch, rows, columns]."""
    if x is None:
        return (None, 0, 0, 0)
    wide = x.expand(shape)
    return (wide.data_ptr(), *wide.stride())


def _product(lib: Library, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """a [batch, m, k] or [m, k] times b alike, plus a bias that broadcasts."""
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    batch = a.shape[0] if a.dim() == 3 else 1
    c = torch.empty((*a.shape[:-1], n), dtype=FLOAT)
    lib.function("tolsey_gemm")(
        *(batch, m, n, k),
        *_steps(a, (batch, m, k)),
        *_steps(b, (batch, k, n)),
        *_steps(bias, (batch, m, n)),
        *(c.data_ptr(), m * n, n, 1),
    )
    return c


def _mm(lib: Library, args: Sequence[Any]) -> Call:
    return lambda a, b: _product(lib, a, b)


def _addmm(lib: Library, args: Sequence[Any]) -> Call:
    return lambda bias, a, b: _product(lib, a, b, bias)


def _geometry(x: Sequence[int], weight: Sequence[int], args: Sequence[Any]) -> products.Geometry:
    """Of the ordinary convolution behind ATen's stride, padding, dilation, transposed, output_padding, groups."""
    stride, padding, dilation, transposed, output_padding, groups = args
    if not transposed:
        return products.Geometry.of(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return products.Geometry.of_transposed(
        x, weight, stride=stride, padding=padding, dilation=dilation, output_padding=output_padding, groups=groups
    )


class _Convolution:
    """The three directions of one convolution, ordinary or transposed; its geometry is made once."""

    def __init__(self, lib: Library, settings: Sequence[Any]) -> None:
        self._lib = lib
        self._settings = settings
        self._transposed = bool(settings[3])
        self._made: tuple[Any, products.Geometry, Any] | None = None

    def _shape(self, x: torch.Tensor, weight: torch.Tensor) -> tuple[products.Geometry, int]:
        key = (x.shape, weight.shape)
        if self._made is None or self._made[0] != key:
            found = _geometry(tuple(x.shape), tuple(weight.shape), self._settings)
            self._made = (key, found, found.packed())
        return self._made[1], self._made[2].ctypes.data

    def forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        shape, packed = self._shape(x, weight)
        x, weight = _whole(x), _whole(weight)
        bias = None if bias is None else _whole(bias)
        name = "tolsey_convolution_backward_input" if self._transposed else "tolsey_convolution"
        out = torch.empty(shape.input_shape if self._transposed else shape.output_shape, dtype=FLOAT)
        self._lib.function(name)(
            packed, x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), out.data_ptr()
        )
        return out

    def backward(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, wanted: Sequence[bool]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Gradients of input and weight, where wanted."""
        _, packed = self._shape(x, weight)
        grad, x, weight = _whole(grad), _whole(x), _whole(weight)
        to_input = to_weight = None
        if wanted[0]:
            to_input = torch.empty(x.shape, dtype=FLOAT)
            name = "tolsey_convolution" if self._transposed else "tolsey_convolution_backward_input"
            self._lib.function(name)(packed, grad.data_ptr(), weight.data_ptr(), None, to_input.data_ptr())
        if wanted[1]:
            to_weight = torch.empty(weight.shape, dtype=FLOAT)
            upper, lower = (x, grad) if self._transposed else (grad, x)
            self._lib.function("tolsey_convolution_backward_weight")(
                packed, upper.data_ptr(), lower.data_ptr(), to_weight.data_ptr()
            )
        return to_input, to_weight


def _convolution(lib: Library, args: Sequence[Any]) -> Call:
    return _Convolution(lib, args[3:]).forward


def _convolution_backward(lib: Library, args: Sequence[Any]) -> Call:
    *settings, wanted = args[4:]
    directions = _Convolution(lib, settings)

    def call(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        to_input, to_weight = directions.backward(grad, x, weight, wanted)
        dims = [dim for dim in range(grad.dim()) if dim != 1]
        to_bias = torch.from_numpy(reductions.sum(lib, _array(grad), dims)) if wanted[2] else None
        return to_input, to_weight, to_bias

    return call


# sums, norms, losses, pooling: through NumPy, whose arrays share the tensors' memory


def _array(x: torch.Tensor) -> Any:
    return x.detach().numpy()


def _tensors(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(None if one is None else torch.from_numpy(one) for one in result)
    return torch.from_numpy(result)


def _listed(function: Callable[..., Any], *, without: Sequence[int] = ()) -> Maker:
    """A function of numerics/ that takes the operation's arguments in their order, but for those at `without`."""

    def make(lib: Library, args: Sequence[Any]) -> Call:
        template = [arg for place, arg in enumerate(args) if place not in without]
        is_tensor = [isinstance(arg, Ref) for arg in template]
        kept = [place not in without for place, arg in enumerate(args) if isinstance(arg, Ref)]

        def call(*tensors: torch.Tensor) -> Any:
            arrays = (_array(x) for x, keep in zip(tensors, kept, strict=True) if keep)
            filled = [next(arrays) if wanted else arg for wanted, arg in zip(is_tensor, template, strict=True)]
            return _tensors(function(lib, *filled))

        return call

    return make


KERNELS: Final[dict[str, Maker]] = {
    **{
        name: _unary(name)
        for name in (
            *("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "sqrt", "rsqrt", "reciprocal"),
            *("relu", "sigmoid", "silu"),
        )
    },
    **{
        name: _binary(name)
        for name in ("pow", "maximum", "minimum", "sigmoid_backward", "tanh_backward", "silu_backward")
    },
    "gelu": _gelu,
    "gelu_backward": _gelu_backward,
    "pow_scalar": _pow_scalar,
    "clamp": _clamp,
    "threshold_backward": _threshold_backward,
    "lerp": _lerp,
    "addcmul": _addcmul,
    "cast": _cast,
    "keep_mask": _keep_mask,
    "mm": _mm,
    "bmm": _mm,
    "addmm": _addmm,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "sum": _listed(reductions.sum),
    "mean": _listed(reductions.mean),
    "variance": _listed(reductions.variance),
    "amax": _listed(reductions.amax),
    "amin": _listed(reductions.amin),
    "argmax": _listed(reductions.argmax),
    "cumsum": _listed(reductions.cumsum),
    "vector_norm": _listed(reductions.vector_norm),
    "softmax": _listed(softmax.softmax, without=[2]),
    "safe_softmax": _listed(softmax.safe_softmax),
    "log_softmax": _listed(softmax.log_softmax, without=[2]),
    "softmax_backward": _listed(softmax.softmax_backward, without=[3]),
    "log_softmax_backward": _listed(softmax.log_softmax_backward, without=[3]),
    "layer_norm": _listed(norms.layer_norm),
    "layer_norm_backward": _listed(norms.layer_norm_backward, without=[6]),
    "group_norm": _listed(norms.group_norm, without=[3, 4, 5]),
    "group_norm_backward": _listed(norms.group_norm_backward, without=[5, 6, 7]),
    "batch_norm": _listed(norms.batch_norm),
    "batch_norm_backward": _listed(norms.batch_norm_backward),
    "nll_loss": _listed(losses.nll_loss),
    "nll_loss_backward": _listed(losses.nll_loss_backward),
    "nll_loss2d": _listed(losses.nll_loss),
    "nll_loss2d_backward": _listed(losses.nll_loss_backward),
    "mse_loss": _listed(losses.mse_loss),
    "mse_loss_backward": _listed(losses.mse_loss_backward),
    "embedding_backward": _listed(lookups.embedding_backward),
    "scatter_add": _listed(lookups.scatter_add),
    "max_pool2d": _listed(pooling.max_pool2d),
    "max_pool2d_backward": _listed(pooling.max_pool2d_backward, without=[2, 3, 4, 5, 6]),
    "avg_pool2d": _listed(pooling.avg_pool2d),
    "avg_pool2d_backward": _listed(pooling.avg_pool2d_backward),
    "adaptive_avg_pool2d": _listed(pooling.adaptive_avg_pool2d),
    "adaptive_avg_pool2d_backward": _listed(pooling.adaptive_avg_pool2d_backward),
}
INTEGERS_TOO: Final = frozenset(
    {"sum", "amax", "amin", "argmax", "cumsum", "scatter_add", "maximum", "minimum", "clamp", "pow", "pow_scalar"}
    | {"relu"}
)
"""Of these PyTorch's own is right where no tensor is a float: integers have no rounding."""
AS_THEY_ARE: Final = frozenset(
    {"arange", "full", "literal"}
    | {"abs", "add", "add_scalar", "sub", "rsub_scalar", "mul", "mul_scalar", "div", "div_scalar", "neg", "sign"}
    | {"floor", "ceil", "round", "eq", "ne", "lt", "le", "gt", "ge", "where", "masked_fill"}
    | {"eq_scalar", "ne_scalar", "lt_scalar", "le_scalar", "gt_scalar", "ge_scalar"}
    | {"logical_and", "logical_or", "logical_not", "embedding", "gather", "index_select"}
    | {"reshape", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice", "slice_backward", "select"}
    | {"select_backward", "cat", "stack", "flip", "roll", "pad", "repeat", "tril", "triu"}
)
