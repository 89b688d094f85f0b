"""Runs the phases of an admitted program on a device: a flat list of prepared calls, nothing looked up on the way.

Preparation, once per program and device:

1. each node becomes (callable with its attributes filled in, slots read, slots written, slots freed);
2. nodes that depend on no input (masks, position indices) are computed once and kept;
3. a value's slot is emptied after its last reader, so that memory is what the graph needs and no more.

It runs only what admission.py passed: an `Admitted` cannot be made in another way. Values are functional, so inputs
are never changed; the caller owns them. Everything happens in inference mode: autograd is already part of the graph.

Next in the flow: segment.py, which feeds it step after step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tolsey.runtime.admission import Admitted
from tolsey.runtime.graph import Phase
from tolsey.runtime.ops import refs

Key = tuple[str, str]
Values = Mapping[Key, torch.Tensor]
Observer = Callable[[int, tuple[torch.Tensor, ...]], None]
"""Called with a node's place in its phase and its outputs (a traced step, for disputes)."""


class Executable:
    """A program made ready for one device.

    Args:
        admitted: the program, checked.
        device: "cpu", "cuda:0", …; every tensor given to the phases lives there (scalars may stay on the CPU).
    """

    def __init__(self, admitted: Admitted, device: torch.device | str = "cpu") -> None:
        self.program = admitted.program
        self.device = torch.device(device)
        with torch.inference_mode():
            self.grad = PhaseRunner(self.program.grad, self.device)
            self.update = PhaseRunner(self.program.update, self.device)


class PhaseRunner:
    """One phase as a flat list of instructions."""

    def __init__(self, phase: Phase, device: torch.device) -> None:
        self.inputs = phase.inputs
        self.outputs = phase.outputs
        self._template: list[Any] = [None] * len(phase.inputs)
        self._code: list[tuple[Callable[..., Any], tuple[int, ...], int, int, tuple[int, ...]]] = []
        self._nodes: list[int] = []
        self._prepare(phase, device)

    def run(self, values: Values, observer: Observer | None = None) -> dict[Key, torch.Tensor]:
        """The phase's outputs for these inputs (keyed by role and name).

        Raises:
            KeyError: an input is missing.
            RuntimeError: an operation failed, such as an index outside its table; the state given is unchanged.
        """
        slots = self._template.copy()
        for slot, key in enumerate(self.inputs):
            slots[slot] = values[key]
        with torch.inference_mode():
            if observer is None:
                self._run(slots)
            else:
                self._run_observed(slots, observer)
        return {(role, name): slots[slot] for role, name, slot in self.outputs}

    def _run(self, slots: list[Any]) -> None:
        for call, reads, write, count, dead in self._code:
            if len(reads) == 1:
                result = call(slots[reads[0]])
            elif len(reads) == 2:
                result = call(slots[reads[0]], slots[reads[1]])
            else:
                result = call(*[slots[slot] for slot in reads])
            if count == 1:
                slots[write] = result
            else:
                slots[write : write + count] = result
            for slot in dead:
                slots[slot] = None

    def _run_observed(self, slots: list[Any], observer: Observer) -> None:
        for node, (call, reads, write, count, dead) in zip(self._nodes, self._code, strict=True):
            result = call(*[slots[slot] for slot in reads])
            outputs = (result,) if count == 1 else tuple(result)
            slots[write : write + count] = outputs
            observer(node, outputs)
            for slot in dead:
                slots[slot] = None

    def _prepare(self, phase: Phase, device: torch.device) -> None:
        constant: set[int] = set()
        last_reader: dict[int, int] = {}
        for index, node in enumerate(phase.nodes):
            args = node.definition.parse(node.args)
            call, reads = node.definition.build(args, device), tuple(refs(args))
            write, count = len(self._template), len(node.outs)
            self._template += [None] * count
            if all(slot in constant for slot in reads):
                result = call(*[self._template[slot] for slot in reads])
                self._template[write:] = [result] if count == 1 else list(result)
                constant.update(range(write, write + count))
                continue
            last_reader.update(dict.fromkeys((*reads, *range(write, write + count)), len(self._code)))
            self._code.append((call, reads, write, count, ()))
            self._nodes.append(index)
        kept = constant | {slot for _, _, slot in phase.outputs}
        dead: dict[int, list[int]] = {}
        for slot, reader in last_reader.items():
            if slot not in kept:
                dead.setdefault(reader, []).append(slot)
        self._code = [(*step[:4], tuple(dead.get(place, ()))) for place, step in enumerate(self._code)]
