"""Decides whether a stranger's program may run here: every shape recomputed, every dangerous input tied down.

`graph.decode` has checked structure. Here, before one real byte is touched:

1. every node runs on the meta device, where tensors have shapes but no memory; what comes out must be what the node
   declares, dtype and shape, and what an output replaces must have the same;
2. the same walk, freeing values as the executor does and counting each storage once, gives the peak memory, which
   must fit the limit; under the order-free profiles (docs/numerics/int8.md) with the exact sums of gradients;
3. a few ATen kernels trust their inputs because autograd always feeds them the right ones: they index raw memory with
   an integer tensor or take a size on faith. A hostile graph could feed them anything, so those inputs must have the
   provenance or the shape that autograd would give them (`_SAFETY`).

It refuses, with errors.RemoteViolation naming phase, node and operation. Next in the flow: executor.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from tolsey.errors import RemoteViolation
from tolsey.numerics import exact_sum, int8
from tolsey.protocol.job import PINNED
from tolsey.runtime import initial, optimisers
from tolsey.runtime.graph import Node, Phase, Program, TensorSpec, decode
from tolsey.runtime.ops import DTYPE_NAMES, DTYPES, Ref, refs

META: Final = torch.device("meta")
DEFAULT_MEMORY_BYTES: Final = 16 << 30
_IMPOSSIBLE: Final = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError, AssertionError)
"""What shape functions raise for arguments that cannot be (RuntimeError covers NotImplementedError)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A program that may run. Made by `admit` only.

    Attributes:
        program: the program.
        state_bytes: size of one copy of the state.
        peak_bytes: state, gradients and the most intermediate values alive at once; under an order-free profile also
            the exact sums of gradients and what one thread multiplies in. Workspaces of libraries come on top.
    """

    program: Program
    state_bytes: int
    peak_bytes: int


def admit_bytes(raw: bytes, *, memory_bytes: int = DEFAULT_MEMORY_BYTES, profile: str = PINNED) -> Admitted:
    """`admit` of the program in canonical bytes."""
    return admit(decode(raw), memory_bytes=memory_bytes, profile=profile)


def admit(program: Program, *, memory_bytes: int = DEFAULT_MEMORY_BYTES, profile: str = PINNED) -> Admitted:
    """The program, fully checked.

    Args:
        memory_bytes: what state and intermediate values together may take.
        profile: numerics profile that it will run under, which decides how micro-batches are added up.

    Raises:
        RemoteViolation: any rule of the file's docstring is broken.
    """
    state_bytes = sum(item.spec.size_bytes for item in program.state.values())
    batch_bytes = sum(spec.size_bytes for spec in program.batch.values())
    if state_bytes + batch_bytes > memory_bytes:
        raise RemoteViolation(f"state and batch take {state_bytes + batch_bytes} bytes, allowed are {memory_bytes}")
    optimiser, _ = optimisers.rates_of(program.rates)
    unknown = {name for role, name in program.update.inputs if role == "scalar"} - set(optimiser.scalar_names)
    if unknown:
        raise RemoteViolation(f"phase update reads scalars {sorted(unknown)}, {optimiser.kind} has none such")
    for name, item in program.state.items():
        if item.recipe is not None:
            initial.check_recipe(name, item.spec, item.recipe)
    grad = _Walk(program, "grad", program.grad, memory_bytes).run()
    update = _Walk(program, "update", program.update, memory_bytes).run()
    total = 2 * state_bytes + batch_bytes + max(grad + _sums_bytes(program, profile), update)
    total += int8.SCRATCH_BYTES if profile in int8.SLICES else 0
    if total > memory_bytes:
        raise RemoteViolation(f"the program needs about {total} bytes of memory, allowed are {memory_bytes}")
    return Admitted(program=program, state_bytes=state_bytes, peak_bytes=total)


def _sums_bytes(program: Program, profile: str) -> int:
    """What segment.py adds up micro-batches in, beside the gradients that phase grad gives."""
    if profile not in int8.SLICES or program.micro_batches == 1:
        return 0
    names = (name for role, name, _ in program.grad.outputs if role == "grad")
    places = [math.prod(program.input_spec("grad", name).shape) for name in names]
    return exact_sum.most_bytes(places, program.micro_batches)


@dataclass(slots=True)
class _Walk:
    """One phase run without memory."""

    program: Program
    kind: str
    phase: Phase
    memory_bytes: int
    values: list[torch.Tensor] = field(default_factory=list)
    makers: list[tuple[Node, list[Any], int] | None] = field(default_factory=list)
    """Per value: the node that gives it, its parsed arguments, and which output it is; None for an input."""
    absent: set[int] = field(default_factory=set)

    def run(self) -> int:
        """The peak of bytes held by intermediate values."""
        for role, name in self.phase.inputs:
            spec = self.program.input_spec(role, name)
            self.values.append(torch.empty(spec.shape, dtype=DTYPES[spec.dtype], device=META))
            self.makers.append(None)
        for index, node in enumerate(self.phase.nodes):
            self._node(index, node)
        for role, name, value in self.phase.outputs:
            self._output(role, name, value)
        return self._peak()

    def _node(self, index: int, node: Node) -> None:
        where = f"phase {self.kind}, node {index} ({node.op})"
        args = node.definition.parse(node.args)
        if self.absent.intersection(refs(args)):
            raise RemoteViolation(f"{where} reads a gradient that was not asked for")
        if node.op in _SAFETY:
            _SAFETY[node.op](self, where, args)
        try:
            result = node.definition.build(args, META)(*[self.values[value] for value in refs(args)])
        except _IMPOSSIBLE as error:
            raise RemoteViolation(f"{where} is impossible: {str(error).splitlines()[0]:.200}") from error
        results = (result,) if len(node.outs) == 1 else tuple(result)
        for place, (given, declared) in enumerate(zip(results, node.outs, strict=True)):
            if given is None:  # a gradient that was not asked for
                self.absent.add(len(self.values))
            tensor = torch.empty(0, device=META) if given is None else given
            found = spec_of(tensor)
            if found != declared:
                raise RemoteViolation(f"{where} gives {found}, the program declares {declared}")
            if declared.size_bytes > self.memory_bytes:
                raise RemoteViolation(f"{where} gives {declared.size_bytes} bytes, allowed are {self.memory_bytes}")
            self.values.append(tensor)
            self.makers.append((node, args, place))

    def _output(self, role: str, name: str, value: int) -> None:
        found = spec_of(self.values[value])
        if value in self.absent:
            raise RemoteViolation(f"phase {self.kind}: {role} {name!r} is a gradient that was not asked for")
        number = role in ("loss", "metric")
        expected = TensorSpec("float32", ()) if number else self.program.input_spec(role, name)
        if found != expected:
            raise RemoteViolation(f"phase {self.kind}: {role} {name!r} is {found}, it must be {expected}")

    def _peak(self) -> int:
        """Bytes alive at the worst moment, each storage counted once, values dying after their last reader."""
        last = {
            value: index
            for index, node in enumerate(self.phase.nodes)
            for value in refs(node.definition.parse(node.args))
        }
        kept = {value for _, _, value in self.phase.outputs}
        first = len(self.phase.inputs)
        holders = {value.untyped_storage()._cdata: 1 for value in self.values[:first]}  # inputs are the caller's
        alive = peak = 0
        for index, node in enumerate(self.phase.nodes):
            own = range(first, first + len(node.outs))
            first += len(node.outs)
            for value in own:
                storage = self.values[value].untyped_storage()
                holders[storage._cdata] = holders.get(storage._cdata, 0) + 1
                alive += storage.nbytes() if holders[storage._cdata] == 1 else 0
            peak = max(peak, alive)
            read = {value for value in refs(node.definition.parse(node.args)) if last[value] == index}
            for value in (read | {value for value in own if value not in last}) - kept:
                storage = self.values[value].untyped_storage()
                if storage._cdata in holders:
                    holders[storage._cdata] -= 1
                    alive -= storage.nbytes() if holders[storage._cdata] == 0 else 0
        return peak

    def shape(self, arg: Ref | None) -> tuple[int, ...] | None:
        return None if arg is None else tuple(self.values[arg.id].shape)


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Dtype and shape of a tensor.

    Raises:
        RemoteViolation: an element type outside the closed list.
    """
    if tensor.dtype not in DTYPE_NAMES:
        raise RemoteViolation(f"element type {tensor.dtype} is not on the closed list")
    return TensorSpec(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))


def _need(condition: bool, where: str, rule: str) -> None:
    if not condition:
        raise RemoteViolation(f"{where}: {rule}")


def _max_pool_backward(walk: _Walk, where: str, args: list[Any]) -> None:
    """Places index the gradient's memory unchecked: they must come from the pooling that this undoes."""
    maker = walk.makers[args[7].id]
    _need(
        maker is not None and maker[0].op == "max_pool2d" and maker[2] == 1 and maker[1] == args[1:7],
        where,
        "its places must be output 1 of max_pool2d over the same input and window",
    )
    _need(walk.shape(args[0]) == walk.shape(args[7]), where, "gradient and places must have one shape")


def _nll_backward(forward: str) -> Callable[[_Walk, str, list[Any]], None]:
    def check(walk: _Walk, where: str, args: list[Any]) -> None:
        """Targets index the gradient's memory unchecked: the forward loss, which checks them, must have run."""
        grad, self, target, weight, reduction, ignore, total = args
        maker = walk.makers[total.id]
        _need(
            maker is not None
            and maker[0].op == forward
            and maker[2] == 1
            and maker[1] == [self, target, weight, reduction, ignore],
            where,
            f"its total weight must be output 1 of {forward} over the same input and targets",
        )
        expected = () if reduction else walk.shape(target)
        _need(walk.shape(grad) == expected, where, f"its gradient must have shape {expected}")

    return check


def _layer_norm_backward(walk: _Walk, where: str, args: list[Any]) -> None:
    grad, self, shape, mean, rstd, weight, bias, wanted = args
    whole = walk.shape(self) or ()
    kept = len(whole) - len(shape)
    _need(kept >= 0 and list(whole[kept:]) == shape and len(wanted) == 3, where, "shape must end that of its input")
    statistics = (*whole[:kept], *[1] * len(shape))
    _need(walk.shape(grad) == whole, where, "gradient and input must have one shape")
    _need(walk.shape(mean) == statistics and walk.shape(rstd) == statistics, where, f"statistics must be {statistics}")
    for item in (weight, bias):
        _need(walk.shape(item) in (None, tuple(shape)), where, f"weight and bias must be {shape}")
    _one_dtype(walk, where, [grad, self, mean, rstd, weight, bias])


def _group_norm(walk: _Walk, where: str, args: list[Any]) -> None:
    self, weight, bias, n, c, hw, groups, _ = args
    _group_sizes(walk, where, self, (weight, bias), n, c, hw, groups)


def _group_norm_backward(walk: _Walk, where: str, args: list[Any]) -> None:
    grad, self, mean, rstd, weight, n, c, hw, groups, wanted = args
    _group_sizes(walk, where, self, (weight,), n, c, hw, groups)
    _need(walk.shape(grad) == walk.shape(self) and len(wanted) == 3, where, "gradient and input must have one shape")
    _need(walk.shape(mean) == (n, groups) == walk.shape(rstd), where, f"statistics must be ({n}, {groups})")
    _one_dtype(walk, where, [grad, self, mean, rstd, weight])


def _group_sizes(
    walk: _Walk, where: str, self: Ref, channelled: tuple[Ref | None, ...], n: int, c: int, hw: int, groups: int
) -> None:
    shape = walk.shape(self) or ()
    _need(
        len(shape) >= 2 and shape[:2] == (n, c) and math.prod(shape[2:]) == hw and hw > 0 and n > 0,
        where,
        f"sizes {(n, c, hw)} do not fit input {shape}",
    )
    _need(groups > 0 and c > 0 and c % groups == 0, where, f"{groups} groups do not divide {c} channels")
    for item in channelled:
        _need(walk.shape(item) in (None, (c,)), where, f"weight and bias must be ({c},)")


def _batch_norm(walk: _Walk, where: str, args: list[Any]) -> None:
    self, *channelled = args[:5]
    _channels(walk, where, self, channelled)


def _batch_norm_backward(walk: _Walk, where: str, args: list[Any]) -> None:
    grad, self, weight, mean, variance, saved_mean, saved_rstd, training, _, wanted = args
    _channels(walk, where, self, [weight, mean, variance, saved_mean, saved_rstd])
    _need(walk.shape(grad) == walk.shape(self) and len(wanted) == 3, where, "gradient and input must have one shape")
    needed = (saved_mean, saved_rstd) if training else (mean, variance)
    _need(None not in needed, where, "statistics are missing")
    _one_dtype(walk, where, [grad, self, weight, mean, variance, saved_mean, saved_rstd])


def _channels(walk: _Walk, where: str, self: Ref, channelled: list[Ref | None]) -> None:
    shape = walk.shape(self) or ()
    _need(len(shape) >= 2 and math.prod(shape) > 0, where, f"input {shape} has no channels")
    for item in channelled:
        _need(walk.shape(item) in (None, (shape[1],)), where, f"weights and statistics must be ({shape[1]},)")


def _convolution_backward(walk: _Walk, where: str, args: list[Any]) -> None:
    grad, self, weight, bias_shape, stride, padding, dilation, transposed, output_padding, groups, wanted = args
    weight_shape = walk.shape(weight) or ()
    _need(
        groups > 0 and len(weight_shape) >= 3 and len(wanted) == 3 and min(stride, default=0) > 0,
        where,
        "groups and strides must be positive",
    )
    try:
        forward = torch.ops.aten.convolution.default(
            walk.values[self.id],
            walk.values[weight.id],
            None,
            stride,
            padding,
            dilation,
            transposed,
            output_padding,
            groups,
        )
    except _IMPOSSIBLE as error:
        raise RemoteViolation(f"{where}: the convolution it undoes is impossible: {error!s:.200}") from error
    _need(walk.shape(grad) == tuple(forward.shape), where, f"gradient must have shape {tuple(forward.shape)}")
    _need(bias_shape in (None, [0], [forward.shape[1]]), where, f"bias must have {forward.shape[1]} elements")


def _average_pool_backward(walk: _Walk, where: str, args: list[Any]) -> None:
    grad, self, *window = args
    try:
        forward = torch.ops.aten.avg_pool2d.default(walk.values[self.id], *window)
    except _IMPOSSIBLE as error:
        raise RemoteViolation(f"{where}: the pooling it undoes is impossible: {error!s:.200}") from error
    _need(walk.shape(grad) == tuple(forward.shape), where, f"gradient must have shape {tuple(forward.shape)}")


def _adaptive_pool_backward(walk: _Walk, where: str, args: list[Any]) -> None:
    grad, self = walk.shape(args[0]) or (), walk.shape(args[1]) or ()
    _need(
        len(grad) == len(self) >= 3 and grad[:-2] == self[:-2] and math.prod(grad) > 0,
        where,
        "gradient must keep the leading dims",
    )


def _embedding_backward(walk: _Walk, where: str, args: list[Any]) -> None:
    grad, index = walk.shape(args[0]) or (), walk.shape(args[1]) or ()
    fits = len(grad) == len(index) + 1 and grad[:-1] == index and args[2] > 0
    _need(fits, where, "gradient must have a row per index")


def _softmax_backward(walk: _Walk, where: str, args: list[Any]) -> None:
    _need(walk.shape(args[0]) == walk.shape(args[1]), where, "gradient and output must have one shape")
    _one_dtype(walk, where, args[:2])


def _one_dtype(walk: _Walk, where: str, args: list[Ref | None]) -> None:
    dtypes = {walk.values[arg.id].dtype for arg in args if arg is not None}
    _need(len(dtypes) == 1, where, f"its tensors must have one element type, not {sorted(map(str, dtypes))}")


_SAFETY: Final[dict[str, Callable[[_Walk, str, list[Any]], None]]] = {
    "max_pool2d_backward": _max_pool_backward,
    "nll_loss_backward": _nll_backward("nll_loss"),
    "nll_loss2d_backward": _nll_backward("nll_loss2d"),
    "layer_norm_backward": _layer_norm_backward,
    "group_norm": _group_norm,
    "group_norm_backward": _group_norm_backward,
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "convolution_backward": _convolution_backward,
    "avg_pool2d_backward": _average_pool_backward,
    "adaptive_avg_pool2d_backward": _adaptive_pool_backward,
    "embedding_backward": _embedding_backward,
    "softmax_backward": _softmax_backward,
    "log_softmax_backward": _softmax_backward,
}
