"""The closed list of operations that a program may use: everything a worker can be asked to compute.

A worker never runs a stranger's Python. It runs a list of nodes, each naming one of these operations by `name`; what
is not listed cannot be captured (errors.UnsupportedOp names it) and cannot be executed (admission.py refuses it).
Every operation is functional: it reads its inputs and gives new values; none writes in place, none draws from a
random generator of the machine, none reads a clock or a file.

`OPS_VERSION` names the list. A changed meaning is a new version; a new operation is not.

Argument kinds: `tensor` a value id; `tensor?` a value id or null; `tensors` a list of value ids; `int`, `ints`,
`bool`, `bools`, `word` (one of fixed words), `dtype` (a name of checkpoint.DTYPE_BYTES), `number` (an integer, or
the 16 hex digits of an IEEE-754 binary64), `hex` (bytes). A float is written as its bits because its decimal text
differs between writers; `describe` prints both.

`python -m tolsey.runtime.ops` prints docs/ops.md. Next in the flow: graph.py (programs), executor.py (runs them).
"""

# ruff: noqa: E501  # the table below has one operation a line

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType
from typing import Any, Final

import torch

from tolsey.errors import RemoteViolation
from tolsey.protocol.checkpoint import DTYPE_BYTES
from tolsey.runtime import random

OPS_VERSION: Final = 1
MAX_RANK: Final = 8
MAX_LITERAL_BYTES: Final = 1 << 16
WORDS: Final = frozenset({"none", "tanh"})
DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, name) for name in DTYPE_BYTES}
DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

Call = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Ref:
    """A value id inside parsed arguments."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation.

    Attributes:
        name: as programs write it.
        params: (parameter name, kind) in order.
        outputs: how many values it gives.
        summary: one line for docs/ops.md.
        group: heading in docs/ops.md.
        build: (parsed arguments, device) -> a function of the tensor arguments alone, in order.
        aten: the ATen overload it computes, "" for our own operations.
        into: (parsed arguments, place) -> the same function, its result written over the tensor argument at `place`;
            None where it cannot. Elementwise operations only: they give new, dense memory of their own otherwise.
    """

    name: str
    params: tuple[tuple[str, str], ...]
    outputs: int
    summary: str
    group: str
    build: Callable[[Sequence[Any], torch.device], Call]
    aten: str = ""
    into: Callable[[Sequence[Any], int], Call] | None = None

    def parse(self, raw: Sequence[Any]) -> list[Any]:
        """The arguments of a node as Python values, tensors as `Ref`.

        Raises:
            RemoteViolation: another number of arguments, or one of another kind.
        """
        if not isinstance(raw, list | tuple) or len(raw) != len(self.params):
            raise RemoteViolation(f"operation {self.name} takes {len(self.params)} arguments, the node has {raw!r:.80}")
        return [_parse(self.name, *param, value) for param, value in zip(self.params, raw, strict=True)]


def refs(args: Sequence[Any]) -> Iterator[int]:
    """The value ids in parsed arguments, in order."""
    for arg in args:
        if isinstance(arg, Ref):
            yield arg.id
        elif isinstance(arg, list):
            for item in arg:
                if isinstance(item, Ref):
                    yield item.id


def float_hex(value: float) -> str:
    """16 hex digits of the binary64 pattern, big-endian."""
    return struct.pack(">d", value).hex()


def float_of_hex(text: str) -> float:
    """The number whose pattern `float_hex` wrote."""
    return float(struct.unpack(">d", bytes.fromhex(text))[0])


def _parse(op: str, name: str, kind: str, raw: Any) -> Any:
    parsed = _PARSERS[kind](raw)
    if parsed is _BAD:
        raise RemoteViolation(f"operation {op}: argument {name} is {raw!r:.80}, not of kind {kind}")
    return parsed


_BAD: Final = object()
_INT_BOUND: Final = 1 << 62


def _int(raw: Any) -> Any:
    return raw if type(raw) is int and -_INT_BOUND <= raw <= _INT_BOUND else _BAD


def _ref(raw: Any) -> Any:
    return Ref(raw) if type(raw) is int and raw >= 0 else _BAD


def _number(raw: Any) -> Any:
    if isinstance(raw, str):
        return float_of_hex(raw) if len(raw) == 16 and _is_hex(raw) else _BAD
    return _int(raw)


def _is_hex(raw: str) -> bool:
    return len(raw) % 2 == 0 and not raw.strip("0123456789abcdef")


def _list_of(parse: Callable[[Any], Any], longest: int) -> Callable[[Any], Any]:
    def parse_list(raw: Any) -> Any:
        if not isinstance(raw, list) or len(raw) > longest:
            return _BAD
        parsed = [parse(item) for item in raw]
        return _BAD if any(item is _BAD for item in parsed) else parsed

    return parse_list


_PARSERS: Final[dict[str, Callable[[Any], Any]]] = {
    "tensor": _ref,
    "tensor?": lambda raw: None if raw is None else _ref(raw),
    "tensors": _list_of(_ref, 1 << 16),
    "int": _int,
    "int?": lambda raw: None if raw is None else _int(raw),
    "ints": _list_of(_int, 2 * MAX_RANK),
    "ints?": lambda raw: None if raw is None else _list_of(_int, MAX_RANK)(raw),
    "bool": lambda raw: raw if isinstance(raw, bool) else _BAD,
    "bools": _list_of(lambda raw: raw if isinstance(raw, bool) else _BAD, MAX_RANK),
    "number": _number,
    "number?": lambda raw: None if raw is None else _number(raw),
    "word": lambda raw: raw if isinstance(raw, str) and raw in WORDS else _BAD,
    "dtype": lambda raw: DTYPES[raw] if isinstance(raw, str) and raw in DTYPES else _BAD,
    "hex": lambda raw: (
        bytes.fromhex(raw) if isinstance(raw, str) and len(raw) <= 2 * MAX_LITERAL_BYTES and _is_hex(raw) else _BAD
    ),
}


def bind(call: Call, args: Sequence[Any]) -> Call:
    """`call` with everything but its tensors filled in; the tensors come in the order of `refs`.

    The common shapes get a closure without any list building: it runs a thousand times a step.
    """
    places = [isinstance(arg, Ref) for arg in args]
    tensors = sum(places)
    if all(places):
        return call
    if all(places[:tensors]) and not any(isinstance(arg, list) and arg and isinstance(arg[0], Ref) for arg in args):
        return _bind_tail(call, tensors, tuple(args[tensors:]))
    if isinstance(args[0], list) and args[0] and isinstance(args[0][0], Ref):
        tail = tuple(args[1:])
        return lambda *values: call(values, *tail)
    template = list(args)

    def fill(*values: Any) -> Any:
        left = iter(values)
        return call(*[next(left) if place else arg for place, arg in zip(places, template, strict=True)])

    return fill


def _bind_tail(call: Call, tensors: int, tail: tuple[Any, ...]) -> Call:
    if tensors == 1:
        if len(tail) == 1:
            only = tail[0]
            return lambda a: call(a, only)
        return lambda a: call(a, *tail)
    if tensors == 2:
        return lambda a, b: call(a, b, *tail)
    return lambda *values: call(*values, *tail)


def _overwriting(call: Call) -> Callable[[Sequence[Any], int], Call]:
    """`Op.into` of a function that takes `out`."""

    def build(args: Sequence[Any], place: int) -> Call:
        tensors = sum(isinstance(arg, Ref) for arg in args)
        tail = tuple(args[tensors:])
        if tensors == 1:
            return lambda a: call(a, *tail, out=a)
        if tensors == 2:
            return (lambda a, b: call(a, b, *tail, out=b)) if place else (lambda a, b: call(a, b, *tail, out=a))
        return lambda *values: call(*values, *tail, out=values[place])

    return build


def _cast(args: Sequence[Any], device: torch.device) -> Call:
    dtype = args[1]
    return lambda a: a.to(dtype)


def _addcmul(args: Sequence[Any], device: torch.device) -> Call:
    value = args[3]
    return lambda self, a, b: torch.addcmul(self, a, b, value=value)


def _addcmul_into(args: Sequence[Any], place: int) -> Call:
    value = args[3]
    return lambda *values: torch.addcmul(*values, value=value, out=values[place])


def _variance(args: Sequence[Any], device: torch.device) -> Call:
    _, dims, correction, keepdim = args
    return lambda a: torch.var(a, dims, correction=correction, keepdim=keepdim)


def _keep_mask(args: Sequence[Any], device: torch.device) -> Call:
    _, shape, stream, threshold, dtype = args
    if not 0 <= stream < 1 << 32 or not 0 <= threshold <= 1 << 24:
        raise RemoteViolation(f"operation keep_mask: stream {stream} or threshold {threshold} outside its range")
    if device.type == "meta":
        return lambda position: torch.empty(shape, dtype=dtype, device=device)

    ahead = random.masks_at_once(shape)
    seen: tuple[int, int, torch.Tensor] | None = None

    def draw(position: torch.Tensor) -> torch.Tensor:
        """Masks of the next steps are drawn together and kept: a small one costs calls, not arithmetic."""
        nonlocal seen
        low, high, step = position.tolist()
        seed = low | high << 32
        if seen is None or seen[0] != seed or not 0 <= step - seen[1] < ahead:
            masks = random.keep_masks(
                seed, stream=stream, position=step, ahead=ahead, shape=shape, threshold=threshold, device=device
            )
            seen = seed, step, masks
        return seen[2][step - seen[1]].to(dtype, copy=True)

    return draw


def _literal(args: Sequence[Any], device: torch.device) -> Call:
    dtype, shape, raw = args
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(raw):
        raise RemoteViolation(f"operation literal: {len(raw)} bytes do not fill shape {shape} of {dtype}")
    if not raw:
        return lambda: torch.empty(shape, dtype=dtype, device=device)
    return lambda: torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape).to(device)


def _full(args: Sequence[Any], device: torch.device) -> Call:
    dtype, shape, value = args
    return lambda: torch.full(shape, value, dtype=dtype, device=device)


def _arange(args: Sequence[Any], device: torch.device) -> Call:
    dtype, start, step, count = args
    return lambda: (torch.arange(count, dtype=torch.int64, device=device) * step + start).to(dtype)


def _table() -> dict[str, Op]:
    table: dict[str, Op] = {}

    def own(group: str, name: str, params: str, build: Callable[..., Call], summary: str, into: Any = None) -> None:
        table[name] = Op(
            name=name, params=_params(params), outputs=1, summary=summary, group=group, build=build, into=into
        )

    def aten(group: str, rows: str) -> None:
        for row in filter(None, map(str.strip, rows.splitlines())):
            head, params, summary = (part.strip() for part in row.split("|"))
            name, overload, *count = head.split()
            called = _overload(overload)
            direct = _direct(overload) or called
            overwrites = group == _ELEMENTWISE and name != "rsub_scalar"  # torch.rsub takes no `out`
            table[name] = Op(
                name=name,
                params=_params(params),
                outputs=int(count[0]) if count else 1,
                summary=summary,
                group=group,
                build=_binder(called, direct),
                aten=overload,
                into=_overwriting(direct) if overwrites else None,
            )

    own("Constants and randomness", "full", "dtype:dtype shape:ints value:number", _full, "all elements equal value")
    own(
        "Constants and randomness",
        "arange",
        "dtype:dtype start:int step:int count:int",
        _arange,
        "start, start + step, …: count integers",
    )
    own(
        "Constants and randomness",
        "literal",
        "dtype:dtype shape:ints bytes:hex",
        _literal,
        f"the given little-endian bytes, at most {MAX_LITERAL_BYTES}",
    )
    own(
        "Constants and randomness",
        "keep_mask",
        "position:tensor shape:ints stream:int threshold:int dtype:dtype",
        _keep_mask,
        "1 where the Philox word of (seed, stream, step, micro-batch, element) >> 8 is below threshold, else 0",
    )
    for group, rows in _ATEN.items():
        aten(group, rows)
    own(_ELEMENTWISE, "cast", "self:tensor dtype:dtype", _cast, "converted to another element type")
    own(
        _ELEMENTWISE,
        "addcmul",
        "self:tensor a:tensor b:tensor value:number",
        _addcmul,
        "self + value * a * b",
        _addcmul_into,
    )
    own(
        "Sums and norms",
        "variance",
        "self:tensor dims:ints correction:number keepdim:bool",
        _variance,
        "variance over dims: squared deviations over (count - correction)",
    )
    return table


def _binder(overload: Call, call: Call) -> Callable[[Sequence[Any], torch.device], Call]:
    """Arguments that ATen takes by keyword only stand last in ours."""
    schema = overload._schema.arguments  # type: ignore[attr-defined]  # an OpOverload has a schema
    named = [argument.name for argument in schema if argument.kwarg_only]
    positional = len(schema) - len(named)

    def build(args: Sequence[Any], device: torch.device) -> Call:
        fixed = dict(zip(named, args[positional:], strict=False))
        return bind(partial(call, **fixed) if fixed else call, args[:positional])

    return build


def _params(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, kind) for name, _, kind in (item.partition(":") for item in text.split()))


def _overload(path: str) -> Call:
    packet, _, overload = path.partition(".")
    call: Call = getattr(getattr(torch.ops.aten, packet), overload)
    return call


def _direct(path: str) -> Call | None:
    """torch's compiled binding of the function that an overload belongs to, where there is one: the same kernels for
    half the price of a call, which a small tensor notices."""
    packet = path.partition(".")[0]
    home = torch.linalg if packet.startswith("linalg_") else torch
    found: Any = getattr(home, packet.removeprefix("linalg_"), None)
    return found if isinstance(found, BuiltinFunctionType) else None


_ELEMENTWISE = "Elementwise arithmetic"
_UNARY = "self:tensor"
_BINARY = "self:tensor other:tensor"
_SCALAR = "self:tensor other:number"
_REDUCE = "self:tensor dims:ints keepdim:bool"

_ATEN: Final[dict[str, str]] = {
    _ELEMENTWISE: f"""
        add add.Tensor | {_BINARY} | self + other, broadcast
        add_scalar add.Scalar | {_SCALAR} | self + number
        sub sub.Tensor | {_BINARY} | self - other
        rsub_scalar rsub.Scalar | {_SCALAR} | number - self
        mul mul.Tensor | {_BINARY} | self * other
        mul_scalar mul.Scalar | {_SCALAR} | self * number
        div div.Tensor | {_BINARY} | self / other
        div_scalar div.Scalar | {_SCALAR} | self / number
        neg neg.default | {_UNARY} | -self
        abs abs.default | {_UNARY} | magnitude
        sign sign.default | {_UNARY} | -1, 0 or 1
        floor floor.default | {_UNARY} | largest integer not above
        ceil ceil.default | {_UNARY} | smallest integer not below
        round round.default | {_UNARY} | nearest integer, half to even
        sqrt sqrt.default | {_UNARY} | square root
        rsqrt rsqrt.default | {_UNARY} | 1 / square root
        reciprocal reciprocal.default | {_UNARY} | 1 / self
        exp exp.default | {_UNARY} | e to the self
        log log.default | {_UNARY} | natural logarithm
        log1p log1p.default | {_UNARY} | log(1 + self)
        expm1 expm1.default | {_UNARY} | exp(self) - 1
        sin sin.default | {_UNARY} | sine
        cos cos.default | {_UNARY} | cosine
        tanh tanh.default | {_UNARY} | hyperbolic tangent
        erf erf.default | {_UNARY} | error function
        pow pow.Tensor_Tensor | {_BINARY} | self to the other
        pow_scalar pow.Tensor_Scalar | {_SCALAR} | self to the number
        maximum maximum.default | {_BINARY} | larger of both, NaN wins
        minimum minimum.default | {_BINARY} | smaller of both, NaN wins
        clamp clamp.default | self:tensor low:number? high:number? | cut to [low, high]
        lerp lerp.Scalar | self:tensor end:tensor weight:number | self + weight * (end - self)
    """,
    "Comparison and choice": f"""
        eq eq.Tensor | {_BINARY} | self == other
        ne ne.Tensor | {_BINARY} | self != other
        lt lt.Tensor | {_BINARY} | self < other
        le le.Tensor | {_BINARY} | self <= other
        gt gt.Tensor | {_BINARY} | self > other
        ge ge.Tensor | {_BINARY} | self >= other
        eq_scalar eq.Scalar | {_SCALAR} | self == number
        ne_scalar ne.Scalar | {_SCALAR} | self != number
        lt_scalar lt.Scalar | {_SCALAR} | self < number
        le_scalar le.Scalar | {_SCALAR} | self <= number
        gt_scalar gt.Scalar | {_SCALAR} | self > number
        ge_scalar ge.Scalar | {_SCALAR} | self >= number
        logical_and logical_and.default | {_BINARY} | both true
        logical_or logical_or.default | {_BINARY} | either true
        logical_not logical_not.default | {_UNARY} | not self
        where where.self | condition:tensor self:tensor other:tensor | self where condition, else other
        masked_fill masked_fill.Scalar | self:tensor mask:tensor value:number | number where mask, else self
    """,
    "Activations": f"""
        relu relu.default | {_UNARY} | max(self, 0)
        threshold_backward threshold_backward.default | grad:tensor self:tensor threshold:number | grad where self > threshold, else 0
        sigmoid sigmoid.default | {_UNARY} | 1 / (1 + exp(-self))
        sigmoid_backward sigmoid_backward.default | grad:tensor output:tensor | grad * output * (1 - output)
        tanh_backward tanh_backward.default | grad:tensor output:tensor | grad * (1 - output^2)
        silu silu.default | {_UNARY} | self * sigmoid(self)
        silu_backward silu_backward.default | grad:tensor self:tensor | gradient of silu
        gelu gelu.default | self:tensor approximate:word | Gaussian error linear unit
        gelu_backward gelu_backward.default | grad:tensor self:tensor approximate:word | gradient of gelu
        softmax _softmax.default | self:tensor dim:int half_to_float:bool | softmax over dim
        safe_softmax _safe_softmax.default | self:tensor dim:int | softmax, 0 where a whole row is -inf
        softmax_backward _softmax_backward_data.default | grad:tensor output:tensor dim:int dtype:dtype | gradient of softmax
        log_softmax _log_softmax.default | self:tensor dim:int half_to_float:bool | log of softmax over dim
        log_softmax_backward _log_softmax_backward_data.default | grad:tensor output:tensor dim:int dtype:dtype | gradient of log_softmax
    """,
    "Sums and norms": f"""
        sum sum.dim_IntList | {_REDUCE} | sum over dims, over all where dims is empty
        mean mean.dim | {_REDUCE} | mean over dims, over all where dims is empty
        amax amax.default | {_REDUCE} | largest element over dims
        amin amin.default | {_REDUCE} | smallest element over dims
        cumsum cumsum.default | self:tensor dim:int | running sum along dim
        argmax argmax.default | self:tensor dim:int? keepdim:bool | index of the largest element
        vector_norm linalg_vector_norm.default | self:tensor order:number dims:ints keepdim:bool | p-norm over dims
        layer_norm native_layer_norm.default 3 | self:tensor shape:ints weight:tensor? bias:tensor? eps:number | normalised over the last dims; mean; 1 / deviation
        layer_norm_backward native_layer_norm_backward.default 3 | grad:tensor self:tensor shape:ints mean:tensor rstd:tensor weight:tensor? bias:tensor? wanted:bools | gradients of self, weight, bias
        group_norm native_group_norm.default 3 | self:tensor weight:tensor? bias:tensor? n:int c:int hw:int groups:int eps:number | normalised over groups; mean; 1 / deviation
        group_norm_backward native_group_norm_backward.default 3 | grad:tensor self:tensor mean:tensor rstd:tensor weight:tensor? n:int c:int hw:int groups:int wanted:bools | gradients of self, weight, bias
        batch_norm _native_batch_norm_legit_functional.default 5 | self:tensor weight:tensor? bias:tensor? mean:tensor variance:tensor training:bool momentum:number eps:number | normalised over the batch; saved mean; saved 1 / deviation; new running mean; new running variance
        batch_norm_backward native_batch_norm_backward.default 3 | grad:tensor self:tensor weight:tensor? mean:tensor? variance:tensor? saved_mean:tensor? saved_rstd:tensor? training:bool eps:number wanted:bools | gradients of self, weight, bias
    """,
    "Products": """
        mm mm.default | self:tensor other:tensor | matrix product
        bmm bmm.default | self:tensor other:tensor | matrix product of each pair in two batches
        addmm addmm.default | bias:tensor a:tensor b:tensor | bias + a @ b
        convolution convolution.default | self:tensor weight:tensor bias:tensor? stride:ints padding:ints dilation:ints transposed:bool output_padding:ints groups:int | convolution in 1 to 3 dimensions
        convolution_backward convolution_backward.default 3 | grad:tensor self:tensor weight:tensor bias_shape:ints? stride:ints padding:ints dilation:ints transposed:bool output_padding:ints groups:int wanted:bools | gradients of self, weight, bias
    """,
    "Losses and look-ups": """
        nll_loss nll_loss_forward.default 2 | self:tensor target:tensor weight:tensor? reduction:int ignore_index:int | negative log likelihood; weight of the targets
        nll_loss_backward nll_loss_backward.default | grad:tensor self:tensor target:tensor weight:tensor? reduction:int ignore_index:int total_weight:tensor | gradient of nll_loss
        nll_loss2d nll_loss2d_forward.default 2 | self:tensor target:tensor weight:tensor? reduction:int ignore_index:int | the same for images
        nll_loss2d_backward nll_loss2d_backward.default | grad:tensor self:tensor target:tensor weight:tensor? reduction:int ignore_index:int total_weight:tensor | gradient of nll_loss2d
        mse_loss mse_loss.default | self:tensor target:tensor reduction:int | squared error; reduction 0 none, 1 mean, 2 sum
        mse_loss_backward mse_loss_backward.default | grad:tensor self:tensor target:tensor reduction:int | gradient of mse_loss
        embedding embedding.default | weight:tensor index:tensor | rows of weight
        embedding_backward embedding_dense_backward.default | grad:tensor index:tensor rows:int padding_index:int scale:bool | rows summed into their places
        gather gather.default | self:tensor dim:int index:tensor | elements picked along dim
        scatter_add scatter_add.default | self:tensor dim:int index:tensor source:tensor | self plus source at the places along dim
        index_select index_select.default | self:tensor dim:int index:tensor | slices picked along dim
    """,
    "Pooling": """
        max_pool2d max_pool2d_with_indices.default 2 | self:tensor kernel:ints stride:ints padding:ints dilation:ints ceil_mode:bool | largest of each window; its place
        max_pool2d_backward max_pool2d_with_indices_backward.default | grad:tensor self:tensor kernel:ints stride:ints padding:ints dilation:ints ceil_mode:bool places:tensor | gradient of max_pool2d
        avg_pool2d avg_pool2d.default | self:tensor kernel:ints stride:ints padding:ints ceil_mode:bool count_padding:bool divisor:int? | mean of each window
        avg_pool2d_backward avg_pool2d_backward.default | grad:tensor self:tensor kernel:ints stride:ints padding:ints ceil_mode:bool count_padding:bool divisor:int? | gradient of avg_pool2d
        adaptive_avg_pool2d _adaptive_avg_pool2d.default | self:tensor size:ints | mean of windows that give this size
        adaptive_avg_pool2d_backward _adaptive_avg_pool2d_backward.default | grad:tensor self:tensor | its gradient
    """,
    "Shape": """
        reshape reshape.default | self:tensor shape:ints | same elements, other shape
        transpose transpose.int | self:tensor a:int b:int | two dims exchanged
        permute permute.default | self:tensor dims:ints | dims in another order
        expand expand.default | self:tensor shape:ints | dims of size 1 repeated
        unsqueeze unsqueeze.default | self:tensor dim:int | a dim of size 1 put in
        squeeze squeeze.dims | self:tensor dims:ints | dims of size 1 taken out
        slice slice.Tensor | self:tensor dim:int start:int? stop:int? step:int | part of a dim
        slice_backward slice_backward.default | grad:tensor shape:ints dim:int start:int stop:int step:int | grad at its place in zeros
        select select.int | self:tensor dim:int index:int | one slice of a dim
        select_backward select_backward.default | grad:tensor shape:ints dim:int index:int | grad at its place in zeros
        cat cat.default | tensors:tensors dim:int | joined along a dim
        stack stack.default | tensors:tensors dim:int | joined along a new dim
        flip flip.default | self:tensor dims:ints | reversed along dims
        roll roll.default | self:tensor shifts:ints dims:ints | rotated along dims
        pad constant_pad_nd.default | self:tensor padding:ints value:number | bordered by a number
        repeat repeat.default | self:tensor times:ints | tiled
        tril tril.default | self:tensor diagonal:int | lower triangle, 0 above
        triu triu.default | self:tensor diagonal:int | upper triangle, 0 below
    """,
}


OPS: Final = _table()


def reference() -> str:
    """docs/ops.md: the closed list, written from the table."""
    lines = [
        "# Operations",
        "",
        "<!-- Written by `python -m tolsey.runtime.ops`; tests/runtime/test_ops.py compares. -->",
        "",
        f"Version {OPS_VERSION}: {len(OPS)} operations. A program is a list of nodes over these and nothing else; "
        "what is not listed cannot be captured and is refused before it runs. All are functional: none writes in "
        "place, draws random numbers of the machine, or reads a clock or a file. Argument kinds are explained in "
        "`src/tolsey/runtime/ops.py`; semantics of an ATen operation are those of the overload named beside it.",
    ]
    for group in dict.fromkeys(op.group for op in OPS.values()):
        lines += [
            "",
            f"## {group}",
            "",
            "| operation | arguments | outputs | meaning | ATen |",
            "|---|---|---|---|---|",
        ]
        for op in sorted((op for op in OPS.values() if op.group == group), key=lambda op: op.name):
            params = ", ".join(f"{name}: {kind}" for name, kind in op.params)
            meaning = op.summary.replace("|", "\\|")
            lines.append(f"| `{op.name}` | {params} | {op.outputs} | {meaning} | {f'`{op.aten}`' if op.aten else ''} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
