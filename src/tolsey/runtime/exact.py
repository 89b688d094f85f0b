"""Operations of ops.py on the kernels of numerics/: the executor's choice under the exact profiles.

Every operation of the closed list is in exactly one of two tables:

- `KERNELS`: its bits in PyTorch depend on the machine, so one of our kernels computes it;
- `AS_THEY_ARE`: IEEE fixes its bits (one rounding, a comparison) or it only moves data, so PyTorch's own is the law's.

Profiles differ in the library that a kernel is taken from: `exact-int8/1` and `exact-int8x3/1` have other products.
Floating-point tensors of all are binary32; integers and truth values are exact everywhere and stay with
PyTorch. Kernels take contiguous memory (products take any strides), so a view is copied before it is handed over.

Under the other two a product has a bound on its terms, which depends on shapes alone and is known before anything is
computed.

Three may ask beforehand: capture.py for each node that an author's model gives (`refusal`), whoever is handed a program
(`check`), and whoever wants to know whether this machine can take part (`require`). On an NVIDIA GPU the kernels are
those of numerics/cuda, and one operation of PyTorch's is asked in another way (`ON_A_GPU`).

Next in the flow: executor.py, which asks `build` for each node; docs/numerics.md is the law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Final, cast

import numpy
import torch

from tolsey.errors import ConfigError, RemoteViolation
from tolsey.numerics import (
    PROFILE,
    elementwise,
    exact_sum,
    int8,
    library,
    lookups,
    losses,
    norms,
    pooling,
    products,
    reductions,
    softmax,
)
from tolsey.numerics.cuda import library as gpu
from tolsey.numerics.library import Library
from tolsey.protocol.job import PINNED
from tolsey.runtime.graph import Node, Program, TensorSpec
from tolsey.runtime.ops import DTYPE_NAMES, DTYPES, Call, Op, Ref

__all__ = [
    *("AS_THEY_ARE", "KERNELS", "OTHERWISE", "PROFILES", "Refusal", "TensorSum"),
    *("build", "check", "convert", "refusal", "refused_type", "require"),
]

PROFILES: Final = (PROFILE, *int8.SLICES)
OTHERWISE: Final = f'buy the job with profile = "{PINNED}", which only machines of one class can check'
"""The way out for whoever cannot do without what the exact profiles refuse."""

Maker = Callable[[Library, Sequence[Any]], Call]
FLOAT: Final = torch.float32


def build(op: Op, args: Sequence[Any], device: torch.device, profile: str = PROFILE) -> Call:
    """The operation with its attributes filled in: a function of its tensors, as `Op.build` gives one.

    Args:
        args: parsed, as `Op.parse` gives them.
        profile: one of PROFILES.

    Raises:
        ConfigError: this machine has no exact kernels for the device.
    """
    stock = op.build(args, device)
    if device.type == "meta" or is_stock(op.name, device):
        return stock
    if op.name in AS_THEY_ARE:
        return ON_A_GPU[op.name](args)
    kernel = KERNELS[op.name](kernels(device, profile), args)
    if op.name not in INTEGERS_TOO:
        return kernel
    return lambda *tensors: kernel(*tensors) if any(x.is_floating_point() for x in tensors) else stock(*tensors)


def is_stock(name: str, device: torch.device) -> bool:
    """Whether PyTorch's own operation gives the law's bits on this kind of device."""
    return name in AS_THEY_ARE and (device.type == "cpu" or name not in ON_A_GPU)


def kernels(device: torch.device, profile: str = PROFILE) -> Library:
    """The kernels of a profile, the products among them.

    Raises:
        ConfigError: as `require`.
    """
    lib = require(device, profile)
    return int8.kernels(lib, int8.SLICES[profile]) if profile in int8.SLICES else lib


def require(device: torch.device, profile: str = PROFILE) -> Library:
    """The kernels that this machine computes with, compiled now where they are not there yet.

    Raises:
        ConfigError: they cannot be had for this device and profile; with what to do about it.
    """
    if device.type == "cpu":
        return library.current()
    if device.type != "cuda" or device.index:
        raise ConfigError(f"{profile} runs on CPUs and on the first NVIDIA GPU, not on {device}", fix="--device cpu")
    return cast(Library, gpu.current())  # the same kernels by the same names; addresses are the device's


class TensorSum(exact_sum.Sum[torch.Tensor]):
    """An exact sum of tensors, on the device of the kernels."""

    def __init__(self, lib: Library, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self._lib = lib

    def _total(self, *words: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((exact_sum.WORDS, self.places), dtype=torch.int64, device=self._lib.memory)
        for one in words:
            total += one
        return total

    def _carry(self, addend: torch.Tensor, words: torch.Tensor) -> None:
        addend = _whole(addend)
        self._lib.function("tolsey_exact_sum_add")(self.places, addend.data_ptr(), words.data_ptr())

    def _rounded(self, words: torch.Tensor) -> torch.Tensor:
        result = torch.empty(self.shape, dtype=FLOAT, device=self._lib.memory)
        self._lib.function("tolsey_exact_sum_round")(self.places, words.data_ptr(), result.data_ptr())
        return result


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the law has no rule for an operation, and the author's way out."""

    why: str
    fix: str


def check(program: Program, profile: str = PROFILE) -> None:
    """Every value and product of a program is one that the profile's law covers.

    Raises:
        RemoteViolation: one is not; names it.
    """
    tensors = {f"state {name!r:.80}": item.spec for name, item in program.state.items()}
    tensors |= {f"batch tensor {name!r:.80}": spec for name, spec in program.batch.items()}
    for where, spec in tensors.items():
        if (why := refused_type(DTYPES[spec.dtype])) is not None:
            raise RemoteViolation(f"{where} is {why}")
    for kind, phase in (("grad", program.grad), ("update", program.update)):
        specs = [program.input_spec(role, name) for role, name in phase.inputs]
        for index, node in enumerate(phase.nodes):
            if (found := refusal(node, specs, profile)) is not None:
                raise RemoteViolation(f"phase {kind}, node {index}: {node.op} {found.why}")
            specs += node.outs


def refusal(node: Node, specs: Sequence[TensorSpec], profile: str = PROFILE) -> Refusal | None:
    """What the profile's law says against a node, or None.

    Args:
        specs: of the values that the node may read, by their ids.
    """
    outs = [DTYPES[out.dtype] for out in node.outs]
    why = next((f"gives {why}" for out in outs if (why := refused_type(out)) is not None), None)
    if why is None and node.op in KERNELS.keys() - INTEGERS_TOO - ANY_RESULT and not outs[0].is_floating_point:
        why = f"gives {DTYPE_NAMES[outs[0]]}, for which {PROFILE} has no kernel"
    if why is not None:
        return Refusal(why, f"compute that line in float32, or {OTHERWISE}")
    try:
        terms = _most_terms(node, specs)
    except ValueError as error:
        return Refusal(f"is {error}, for which {PROFILE} has no kernel", OTHERWISE)
    if profile not in int8.SLICES or terms <= int8.MOST_TERMS:
        return None
    return Refusal(
        f"adds up {terms} products in one number; {profile} allows {int8.MOST_TERMS}",
        "make that product shorter (a weight's gradient adds over the micro-batch: take a smaller batch_size), "
        f'or buy the job with profile = "{PROFILE}"',
    )


def _most_terms(node: Node, specs: Sequence[TensorSpec]) -> int:
    """Of one number of the products that the node computes; 0 where it computes none.

    Raises:
        ValueError: a convolution that has no kernel.
    """
    args = node.definition.parse(node.args)
    shapes = [specs[arg.id].shape for arg in args if isinstance(arg, Ref)]
    if node.op in ("mm", "bmm"):
        return shapes[0][-1]
    if node.op == "addmm":
        return shapes[1][-1]
    if node.op == "convolution":
        forward, backward, _ = _geometry(shapes[0], shapes[1], args[3:]).terms
        return backward if args[6] else forward
    if node.op == "convolution_backward":
        *settings, wanted = args[4:]
        forward, backward, to_weight = _geometry(shapes[1], shapes[2], settings).terms
        to_input = forward if settings[3] else backward
        return max(to_input if wanted[0] else 0, to_weight if wanted[1] else 0)
    return 0


def refused_type(dtype: torch.dtype) -> str | None:
    """The reason why no value of the profile has this element type, or None: its floating-point values are binary32."""
    if (dtype.is_floating_point or dtype.is_complex) and dtype is not FLOAT:
        return f"{DTYPE_NAMES.get(dtype, dtype)}; {PROFILE} computes in float32"
    return None


# memory


def _whole(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_contiguous() else x.contiguous()


def _like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _alike(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Of one shape and contiguous."""
    first = tensors[0].shape
    if any(x.shape != first for x in tensors):
        tensors = tuple(torch.broadcast_tensors(*tensors))  # type: ignore[no-untyped-call]  # torch's own is untyped
    return [_whole(x) for x in tensors]


# single places


def _floats(x: torch.Tensor) -> torch.Tensor:
    """Contiguous binary32; integers are converted, as PyTorch's functions do with them first."""
    return _whole(x if x.dtype is FLOAT else convert(require(x.device), x, FLOAT))


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


def convert(lib: Library, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`x` as another element type, rounded once; between types whose conversion C defines, as any library does it."""
    name = _CONVERSIONS.get((x.dtype, dtype))
    if name is None:
        return x.to(dtype)
    x = _whole(x)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    lib.function(name)(x.data_ptr(), y.data_ptr(), x.numel())
    return y


def _cast(lib: Library, args: Sequence[Any]) -> Call:
    dtype = args[1]
    return lambda x: convert(lib, x, dtype)


def _keep_mask(lib: Library, args: Sequence[Any]) -> Call:
    _, shape, stream, threshold, dtype = args
    kernel, device = lib.function("tolsey_keep_mask"), lib.memory

    def call(position: torch.Tensor) -> torch.Tensor:
        low, high, place = position.tolist()
        mask = torch.empty(shape, dtype=FLOAT, device=device)
        kernel(low | high << 32, stream, place, threshold, mask.data_ptr(), mask.numel())
        return mask.to(dtype)

    return call


# products


def _bias_steps(bias: torch.Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """Address and strides of a bias broadcast to [rows, columns]."""
    wide = bias.expand(shape)
    return (bias.data_ptr(), 0, *wide.stride())


def _product(lib: Library, args: Sequence[Any]) -> Call:
    """a [batch, m, k] or [m, k] times b alike, plus a bias that broadcasts."""
    kernel = lib.function("tolsey_gemm")

    def call(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        *several, m, k = a.shape
        n = b.shape[-1]
        c = a.new_empty((*several, m, n))
        added = (None, 0, 0, 0) if bias is None else _bias_steps(bias, (m, n))
        if several:
            a_steps, b_steps = a.stride(), b.stride()
        else:
            a_steps, b_steps, several = (0, *a.stride()), (0, *b.stride()), [1]
        kernel(*several, m, n, k, a.data_ptr(), *a_steps, b.data_ptr(), *b_steps, *added, c.data_ptr(), m * n, n, 1)
        return c

    return call


def _addmm(lib: Library, args: Sequence[Any]) -> Call:
    product = _product(lib, args)
    return lambda bias, a, b: product(a, b, bias)


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
        size = shape.input_shape if self._transposed else shape.output_shape
        out = torch.empty(size, dtype=FLOAT, device=x.device)
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
            to_input = torch.empty(x.shape, dtype=FLOAT, device=x.device)
            name = "tolsey_convolution" if self._transposed else "tolsey_convolution_backward_input"
            self._lib.function(name)(packed, grad.data_ptr(), weight.data_ptr(), None, to_input.data_ptr())
        if wanted[1]:
            to_weight = torch.empty(weight.shape, dtype=FLOAT, device=x.device)
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
    summed = _listed(reductions.sum)(lib, [Ref(0), [0, *range(2, 2 + len(settings[0]))], False])

    def call(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        to_input, to_weight = directions.backward(grad, x, weight, wanted)
        return to_input, to_weight, summed(grad) if wanted[2] else None

    return call


# sums, norms, losses, pooling


def _listed(function: Callable[..., Any], *, without: Sequence[int] = ()) -> Maker:
    """A function of numerics/ that takes the operation's arguments in their order, but for those at `without`."""

    def make(lib: Library, args: Sequence[Any]) -> Call:
        template = [arg for place, arg in enumerate(args) if place not in without]
        takes = [place not in without for place, arg in enumerate(args) if isinstance(arg, Ref)]
        layout: _Layout | None = None
        seen: list[Any] = []

        def call(*tensors: torch.Tensor) -> Any:
            nonlocal layout, seen
            if not all(takes):
                tensors = tuple(compress(tensors, takes))
            kinds = [(x.shape, x.dtype) for x in tensors]
            if kinds != seen:
                layout, seen = _layout(lib, function, template, tensors), kinds
            if layout is None:
                arrays = (x.detach().cpu().numpy() for x in tensors)
                result = function(lib, *[next(arrays) if isinstance(arg, Ref) else arg for arg in template])
                return _tensors(result, tensors[0].device)
            return layout.call(tensors)

        return call

    return make


def _tensors(result: Any, device: torch.device) -> Any:
    if isinstance(result, tuple):
        return tuple(None if one is None else torch.from_numpy(one).to(device) for one in result)
    return torch.from_numpy(result).to(device)


class _Notes:
    """Stands where a `Library` does: notes the kernel's call instead of making it."""

    kernel = ""
    arguments: tuple[Any, ...] = ()

    def call(self, kernel: str, *arguments: Any) -> None:
        self.kernel, self.arguments = kernel, arguments


@dataclass(frozen=True, slots=True)
class _Layout:
    """One kernel's call for tensors of known shapes: NumPy's part is done once, then addresses are filled in.

    Attributes:
        arguments: what the kernel takes, with gaps where the addresses below belong.
        inputs: (gap, which tensor).
        outputs: (gap, shape, element type), or None for a gradient that is not wanted.
        is_tuple: whether there are several.
        kept: arrays of sizes, whose addresses are among the arguments.
    """

    kernel: Callable[..., int]
    arguments: list[Any]
    inputs: list[tuple[int, int]]
    outputs: list[tuple[int, tuple[int, ...], torch.dtype] | None]
    is_tuple: bool
    kept: list[Any]

    def call(self, tensors: Sequence[torch.Tensor]) -> Any:
        arguments, results = self.arguments.copy(), []
        whole = [_whole(x) for x in tensors]
        for gap, which in self.inputs:
            arguments[gap] = whole[which].data_ptr()
        for output in self.outputs:
            result = None
            if output is not None:
                gap, shape, dtype = output
                result = whole[0].new_empty(shape, dtype=dtype)
                arguments[gap] = result.data_ptr()
            results.append(result)
        self.kernel(*arguments)
        return results if self.is_tuple else results[0]


def _layout(
    lib: Library, function: Callable[..., Any], template: Sequence[Any], tensors: Sequence[torch.Tensor]
) -> _Layout | None:
    """The call that `function` makes for tensors like these; None where it would convert one of them first."""
    if any(x.dtype not in (FLOAT, torch.int64) for x in tensors):
        return None
    arrays = [numpy.empty(x.shape, "float32" if x.dtype is FLOAT else "int64") for x in tensors]
    notes, given = _Notes(), iter(arrays)
    result = function(notes, *[next(given) if isinstance(arg, Ref) else arg for arg in template])
    results = result if isinstance(result, tuple) else (result,)
    which = {array.ctypes.data: place for place, array in enumerate(arrays)}
    made = {one.ctypes.data for one in results if one is not None}
    arguments, gaps, inputs, kept = list(notes.arguments), {}, [], []
    for gap, array in enumerate(notes.arguments):
        if not isinstance(array, numpy.ndarray):
            continue
        at = arguments[gap] = array.ctypes.data
        if at in which:
            inputs.append((gap, which[at]))
        elif at in made:
            gaps[at] = gap
        elif array.dtype == numpy.int64:
            kept.append(array)
        else:
            return None
    outputs = [
        None if one is None else (gaps[one.ctypes.data], one.shape, torch.int64 if one.dtype == numpy.int64 else FLOAT)
        for one in results
    ]
    kernel = lib.function(notes.kernel)
    return _Layout(kernel, arguments, inputs, outputs, isinstance(result, tuple), kept)


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
    "mm": _product,
    "bmm": _product,
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
ANY_RESULT: Final = frozenset({"cast", "keep_mask"})
"""Kernels whose result has the element type that the node asks for."""
AS_THEY_ARE: Final = frozenset(
    {"arange", "full", "literal"}
    | {"abs", "add", "add_scalar", "sub", "rsub_scalar", "mul", "mul_scalar", "div", "div_scalar", "neg", "sign"}
    | {"floor", "ceil", "round", "eq", "ne", "lt", "le", "gt", "ge", "where", "masked_fill"}
    | {"eq_scalar", "ne_scalar", "lt_scalar", "le_scalar", "gt_scalar", "ge_scalar"}
    | {"logical_and", "logical_or", "logical_not", "embedding", "gather", "index_select"}
    | {"reshape", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice", "slice_backward", "select"}
    | {"select_backward", "cat", "stack", "flip", "roll", "pad", "repeat", "tril", "triu"}
)
ON_A_GPU: Final[dict[str, Callable[[Sequence[Any]], Call]]] = {
    # There PyTorch multiplies by the reciprocal of a number that lies in this machine's memory: two roundings.
    "div_scalar": lambda args: lambda x: x / torch.full((), args[1], dtype=x.dtype, device=x.device),
}
"""Of these PyTorch's own for GPUs is not the law's, so it is asked in another way."""
