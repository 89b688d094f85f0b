"""Runs the phases of an admitted program on a device: a flat list of prepared calls, nothing looked up on the way.

Preparation, once per program and device:

1. each node becomes (callable with its attributes filled in, slots read, slots written, slots freed);
2. nodes that depend on no input (masks, position indices) are computed once and kept;
3. a value's slot is emptied after its last reader, so that memory is what the graph needs and no more;
4. an elementwise operation writes its result over an argument that nobody reads after it, where that changes neither
   bits nor layout: an optimiser's update then moves half of the bytes through the cache.

It runs only what admission.py passed: an `Admitted` cannot be made in another way. To its caller a phase is functional:
inputs are never changed, the caller owns them. State given back lies in row-major order, as a checkpoint file does: a
kernel may choose its path by layout, and whoever resumes from the file must take the same one. Everything happens in
inference mode: autograd is already part of the graph.

Next in the flow: segment.py, which feeds it step after step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from tolsey.runtime import exact
from tolsey.runtime.admission import Admitted
from tolsey.runtime.graph import Phase, Program, TensorSpec
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
        profile: whose kernels compute: PyTorch's own (`pinned`), or ours where it matters (exact.PROFILES).

    Raises:
        RemoteViolation: the profile has no rule for a value of the program.
        ConfigError: this machine has no kernels of the profile.
    """

    def __init__(self, admitted: Admitted, device: torch.device | str = "cpu", *, profile: str = "pinned") -> None:
        self.program = admitted.program
        self.device = torch.device(device)
        self.profile = profile
        if profile in exact.PROFILES:
            exact.check(self.program)
        with torch.inference_mode():
            self.grad = PhaseRunner(self.program, self.program.grad, self.device, profile)
            self.update = PhaseRunner(self.program, self.program.update, self.device, profile)


class PhaseRunner:
    """One phase as a flat list of instructions."""

    def __init__(self, program: Program, phase: Phase, device: torch.device, profile: str = "pinned") -> None:
        self._profile = profile
        self._is_exact = profile in exact.PROFILES
        self.inputs = phase.inputs
        self.outputs = phase.outputs
        self._template: list[Any] = [None] * len(phase.inputs)
        self._code: list[tuple[Callable[..., Any], tuple[int, ...], int, int, tuple[int, ...]]] = []
        self._nodes: list[int] = []
        self._functional: list[Callable[..., Any]] = []
        self._prepare(program, phase, device)

    def run(self, values: Values, observer: Observer | None = None) -> dict[Key, torch.Tensor]:
        """The phase's outputs for these inputs (keyed by role and name).

        Raises:
            KeyError: an input is missing.
            RuntimeError: an operation failed, such as an index outside its table; the state given is unchanged.
        """
        slots = self._template.copy()
        slots[: len(self.inputs)] = [values[key] for key in self.inputs]
        with torch.inference_mode():
            if observer is None:
                self._run(slots)
            else:
                self._run_observed(slots, observer)
            return {
                (role, name): slots[slot].contiguous() if role == "state" else slots[slot]
                for role, name, slot in self.outputs
            }

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
        """As `_run`, but nothing is written over: what an observer was given stays as it was."""
        for node, call, (_, reads, write, count, dead) in zip(self._nodes, self._functional, self._code, strict=True):
            result = call(*[slots[slot] for slot in reads])
            outputs = (result,) if count == 1 else tuple(result)
            slots[write : write + count] = outputs
            observer(node, outputs)
            for slot in dead:
                slots[slot] = None

    def _prepare(self, program: Program, phase: Phase, device: torch.device) -> None:
        constant: set[int] = set()
        last_reader: dict[int, int] = {}
        steps: list[tuple[tuple[int, ...], int, int]] = []
        for index, node in enumerate(phase.nodes):
            args = node.definition.parse(node.args)
            build = node.definition.build
            if self._is_exact:
                build = partial(exact.build, node.definition, profile=self._profile)
            call, reads = build(args, device), tuple(refs(args))
            write, count = len(self._template), len(node.outs)
            self._template += [None] * count
            if all(slot in constant for slot in reads):
                result = call(*[self._template[slot] for slot in reads])
                self._template[write:] = [result] if count == 1 else list(result)
                constant.update(range(write, write + count))
                continue
            last_reader.update(dict.fromkeys((*reads, *range(write, write + count)), len(steps)))
            steps.append((reads, write, count))
            self._nodes.append(index)
            self._functional.append(call)
        kept = constant | {slot for _, _, slot in phase.outputs}
        dead: dict[int, list[int]] = {}
        for slot, reader in last_reader.items():
            if slot not in kept:
                dead.setdefault(reader, []).append(slot)
        overwritable = _overwritable(program, phase)
        for place, (index, call, step) in enumerate(zip(self._nodes, self._functional, steps, strict=True)):
            freed = tuple(dead.get(place, ()))
            into = overwritable.get(index, set()).intersection(freed)
            definition = phase.nodes[index].definition
            is_stock = not self._is_exact or definition.name in exact.AS_THEY_ARE
            if into and definition.into is not None and is_stock:
                call = definition.into(definition.parse(phase.nodes[index].args), step[0].index(min(into)))
            self._code.append((call, *step, freed))


def _overwritable(program: Program, phase: Phase) -> dict[int, set[int]]:
    """Per elementwise node the arguments that its result may take the memory of, should nobody read them later.

    Such an argument is the result of an elementwise node, so its memory is its own; only elementwise nodes read it, so
    nothing is a view of it; it has the result's shape, element type and layout. Layouts are known from here alone:
    state and batch lie in row-major order, and an elementwise result lies as the first argument of its shape does.
    """
    specs: list[TensorSpec] = [program.input_spec(role, name) for role, name in phase.inputs]
    row_major = {slot for slot, (role, _) in enumerate(phase.inputs) if role in ("state", "batch", "scalar")}
    made: set[int] = set()
    shared: set[int] = set()
    found: dict[int, set[int]] = {}
    for index, node in enumerate(phase.nodes):
        reads = tuple(refs(node.definition.parse(node.args)))
        write = len(specs)
        specs += node.outs
        if node.definition.into is None:
            shared.update(reads)
            continue
        made.add(write)
        if specs[reads[0]].shape == specs[write].shape and reads[0] in row_major:
            row_major.add(write)
            found[index] = {slot for slot in reads if slot in made & row_major and specs[slot] == specs[write]}
    return {index: slots - shared for index, slots in found.items()}
