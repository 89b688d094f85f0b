"""One ATen call on the exact kernels: planned once for its shapes and numbers, then run from the plan.

A plan is capture in small. The call becomes a graph of one node, translate.py writes it with operations of our closed
list, and exact.py gives each of them its kernel: so a call computed here and the same call inside a job's program have
the same bits, and there is no second list of kernels.

It refuses calls that translate.py does not know. Next in the flow: exact_mode.py, which asks for the plan of each call.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import fx, nn

from tolsey.errors import UnsupportedOp
from tolsey.numerics import PROFILE
from tolsey.runtime import exact
from tolsey.runtime.ops import DTYPES, refs
from tolsey.runtime.translate import Translator

Arguments = Sequence[Any]
Named = Mapping[str, Any]

MAX_PLANS: Final = 1 << 14
"""A number that changes from step to step makes a plan each time; past this many, all are forgotten."""
_CPU: Final = torch.device("cpu")


class Plans:
    """The plans made so far, for one build of the kernels."""

    def __init__(self) -> None:
        self._known: dict[Any, Plan] = {}

    def run(self, func: Any, args: Arguments, kwargs: Named, given: list[torch.Tensor]) -> Any:
        """What `func`, an overload that translate.py knows, gives for these arguments: new memory, never an argument.

        Args:
            given: `tensors` of args and of kwargs' values.

        Raises:
            UnsupportedOp: an argument that no operation of the list takes.
            IndexError, ValueError, MemoryError: as the kernel says.
        """
        key = (func, *map(_form, args))
        if kwargs:
            key += tuple((name, _form(value)) for name, value in kwargs.items())
        plan = self._known.get(key)
        if plan is None:
            if len(self._known) >= MAX_PLANS:
                self._known.clear()
            plan = self._known[key] = Plan(func, args, kwargs, given)
        return plan.run(given)


class Plan:
    """One call as a list of kernel calls over numbered slots, the call's tensors first."""

    def __init__(self, func: Any, args: Arguments, kwargs: Named, given: list[torch.Tensor]) -> None:
        graph = fx.Graph()
        inputs = [_placeholder(graph, place, tensor) for place, tensor in enumerate(given)]
        call = graph.call_function(func, *_replaced((args, kwargs), iter(inputs)))
        like_args, like_kwargs = _replaced((args, kwargs), iter([node.meta["val"] for node in inputs]))
        expected = func(*like_args, **like_kwargs)
        call.meta["val"] = expected
        self._single = isinstance(expected, torch.Tensor)
        results = [call] if self._single else [_part(graph, call, place) for place in range(len(expected))]
        graph.output(tuple(results))
        arguments = [("argument", str(place)) for place in range(len(inputs))]
        translator = Translator(arguments, locate=lambda _: "", profile=PROFILE)
        phase = translator.run(fx.GraphModule(nn.Module(), graph), [("result", str(i)) for i in range(len(results))])

        self._code: list[tuple[Callable[..., Any], tuple[int, ...], int]] = []
        copied = [True] * len(inputs)
        for node in phase.nodes:
            for out in node.outs:
                if DTYPES[out.dtype].is_floating_point and DTYPES[out.dtype] is not torch.float32:
                    raise UnsupportedOp(f"operation {func} makes {out.dtype}; {PROFILE} computes in float32")
            parsed = node.definition.parse(node.args)
            self._code.append((exact.build(node.definition, parsed, _CPU), tuple(refs(parsed)), len(node.outs)))
            copied += [node.op in exact.AS_THEY_ARE] * len(node.outs)  # it may be another look at an argument
        outputs = [expected] if self._single else list(expected)
        self._results = [
            None if like is None else (slot, None if like.is_contiguous() else like.stride(), copied[slot])
            for (_, _, slot), like in zip(phase.outputs, outputs, strict=True)
        ]
        self._direct: Callable[..., Any] | None = None
        if len(self._code) == 1 and self._results == [(len(inputs), None, False)]:
            call_, reads, _ = self._code[0]
            self._direct = call_ if reads == tuple(range(len(inputs))) else None

    def run(self, given: list[torch.Tensor]) -> Any:
        """The results for these tensors, laid out in memory as PyTorch would have them."""
        if self._direct is not None:
            return self._direct(*given)
        slots: list[Any] = [*given]
        for call, reads, count in self._code:
            result = call(*[slots[slot] for slot in reads])
            if count == 1:
                slots.append(result)
            else:
                slots.extend(result)
        results = [None if found is None else _laid_out(slots[found[0]], *found[1:]) for found in self._results]
        return results[0] if self._single else tuple(results)


def _laid_out(result: torch.Tensor, strides: tuple[int, ...] | None, copied: bool) -> torch.Tensor:
    if strides is not None:
        return torch.empty_strided(result.shape, strides, dtype=result.dtype).copy_(result)
    return result.clone() if copied else result


def tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among arguments, those in lists too, in order."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors(value)
    return found


def _form(value: Any) -> Any:
    """What a plan depends on: shapes, types and layouts of tensors, everything else by value."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.dtype) if value.is_contiguous() else (value.shape, value.dtype, value.stride())
    if isinstance(value, float):
        return value.hex()  # -0.0 and 0.0 are equal, and 1.0 is equal to 1
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple):
        return tuple(map(_form, value))
    return value


def _placeholder(graph: fx.Graph, place: int, tensor: torch.Tensor) -> fx.Node:
    node = graph.placeholder(f"argument{place}")
    node.meta["val"] = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return node


def _part(graph: fx.Graph, call: fx.Node, place: int) -> fx.Node:
    part = graph.call_function(operator.getitem, (call, place))
    part.meta["val"] = call.meta["val"][place]
    return part


def _replaced(value: Any, by: Iterator[Any]) -> Any:
    """Arguments with the next of `by` in the place of each tensor."""
    if isinstance(value, torch.Tensor):
        return next(by)
    if isinstance(value, dict):
        return {name: _replaced(item, by) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replaced(item, by) for item in value)
    return value
