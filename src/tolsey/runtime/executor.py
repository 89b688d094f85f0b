"""Runs the phases of an admitted program on a device: a flat list of prepared calls, nothing looked up on the way.

Preparation, once per program and device:

1. each node becomes (callable with its attributes filled in, slots read, slots written, slots freed);
2. nodes that depend on no input (masks, position indices) are computed once and kept;
3. a value's slot is emptied after its last reader, so that memory is what the graph needs and no more;
4. an elementwise operation writes its result over an argument that nobody reads after it, where that changes neither
   bits nor layout: an optimiser's update then moves half of the bytes through the cache;
5. on the exact kernels an optimiser's step of a parameter is one call instead of ten (fusion.py), and some nodes that
   move memory are spared (shortcuts.py);
6. scalars are given on the CPU, where a fused step reads them without waiting for a device; an exact node that takes
   one reads a copy on the device.

It runs only what admission.py passed: an `Admitted` cannot be made in another way. To its caller a phase is functional:
inputs are never changed. State and batch stay the caller's; gradients become the runner's, which frees each after its
last use. State given back lies in row-major order, as a checkpoint file does: a
kernel may choose its path by layout, and whoever resumes from the file must take the same one. Everything happens in
inference mode: autograd is already part of the graph.

Next in the flow: segment.py, which feeds it step after step.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import Any

import torch

from tolsey.runtime import exact, fusion, shortcuts
from tolsey.runtime.admission import Admitted
from tolsey.runtime.graph import Phase, Program, TensorSpec
from tolsey.runtime.ops import refs

Key = tuple[str, str]
Outputs = dict[Key, torch.Tensor]
Step = tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...]]
"""(function, slots read, slots written)."""
Instruction = tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The same, and the slots emptied after it."""
Whole = fusion.Step | shortcuts.Shortcut
"""Nodes that one call replaces."""
Observer = Callable[[int, tuple[torch.Tensor, ...]], None]
"""Called with a node's place in its phase and its outputs (a traced step, for disputes)."""


class Executable:
    """A program made ready for one device.

    Args:
        admitted: the program, checked.
        device: "cpu", "cuda:0", …; tensors given to the phases live there, but scalars on the CPU.
        profile: whose kernels compute: PyTorch's own (`pinned`), or ours where it matters (exact.PROFILES).

    Raises:
        RemoteViolation: the profile has no rule for a value or a product of the program.
        ConfigError: this machine has no kernels of the profile.
    """

    def __init__(self, admitted: Admitted, device: torch.device | str = "cpu", *, profile: str = "pinned") -> None:
        self.program = admitted.program
        self.device = torch.device(device)
        self.profile = profile
        if profile in exact.PROFILES:
            exact.check(self.program, profile)
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
        self._copies = self._copied(phase, device)
        self._nodes: list[int] = []
        self._plain: list[Instruction] = []
        self._prepare(program, phase, device)
        self._code = self._quickened(program, phase, device)

    def run(self, values: MutableMapping[Key, torch.Tensor], observer: Observer | None = None) -> Outputs:
        """The phase's outputs for these inputs (keyed by role and name); gradients are taken out of `values`.

        Raises:
            KeyError: an input is missing.
            MemoryError: there is not enough; the state given is unchanged.
            RuntimeError: an operation failed, such as an index outside its table; the state given is unchanged.
        """
        slots = self._template.copy()
        slots[: len(self.inputs)] = [values.pop(key) if key[0] == "grad" else values[key] for key in self.inputs]
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
        for call, reads, writes, dead in self._code:
            if len(reads) == 1:
                result = call(slots[reads[0]])
            elif len(reads) == 2:
                result = call(slots[reads[0]], slots[reads[1]])
            else:
                result = call(*[slots[slot] for slot in reads])
            if len(writes) == 1:
                slots[writes[0]] = result
            else:
                for slot, one in zip(writes, result, strict=True):
                    slots[slot] = one
            for slot in dead:
                slots[slot] = None

    def _run_observed(self, slots: list[Any], observer: Observer) -> None:
        """Node by node, nothing written over: what an observer was given stays as it was."""
        for call, reads, writes, _ in self._copies:
            slots[writes[0]] = call(slots[reads[0]])
        for node, (call, reads, writes, dead) in zip(self._nodes, self._plain, strict=True):
            result = call(*[slots[slot] for slot in reads])
            outputs = (result,) if len(writes) == 1 else tuple(result)
            slots[writes[0] : writes[0] + len(writes)] = outputs
            observer(node, outputs)
            for slot in dead:
                slots[slot] = None

    def _copied(self, phase: Phase, device: torch.device) -> list[Instruction]:
        """Scalars to where exact kernels compute, into slots behind those of all values."""
        if not self._is_exact or device.type == "cpu":
            return []
        given = [slot for slot, (role, _) in enumerate(phase.inputs) if role == "scalar"]
        past = len(phase.inputs) + sum(len(node.outs) for node in phase.nodes)
        return [(lambda x: x.to(device), (slot,), (past + place,), ()) for place, slot in enumerate(given)]

    def _prepare(self, program: Program, phase: Phase, device: torch.device) -> None:
        """Slots, constants, and an instruction for each node that depends on an input."""
        constant: set[int] = set()
        copy_of = {reads[0]: writes[0] for _, reads, writes, _ in self._copies}
        steps: list[Step] = []
        for index, node in enumerate(phase.nodes):
            args = node.definition.parse(node.args)
            build = node.definition.build
            if self._is_exact:
                build = partial(exact.build, node.definition, profile=self._profile)
            call, reads = build(args, device), tuple(copy_of.get(slot, slot) for slot in refs(args))
            first, count = len(self._template), len(node.outs)
            writes = tuple(range(first, first + count))
            self._template += [None] * count
            if all(slot in constant for slot in reads):
                result = call(*[self._template[slot] for slot in reads])
                self._template[first:] = [result] if count == 1 else list(result)
                constant.update(writes)
                continue
            steps.append((call, reads, writes))
            self._nodes.append(index)
        self._template += [None] * len(self._copies)
        self._kept = constant | {slot for _, _, slot in phase.outputs}
        self._plain = _freeing(steps, self._kept)

    def _quickened(self, program: Program, phase: Phase, device: torch.device) -> list[Instruction]:
        """The same, with nodes replaced by fewer calls and results written over what nobody reads again."""
        fused = dict[int, Whole]()
        if self._is_exact:
            lib = exact.kernels(device, self._profile)
            steps_of_parameters = fusion.find(program, phase, queued=lib.is_queued)
            wholes: list[Whole] = [*steps_of_parameters, *shortcuts.find(program, phase)]
            for found in wholes:
                if found.nodes <= set(self._nodes) - fused.keys():
                    fused |= dict.fromkeys(found.nodes, found)
        places, steps = [], list[Step]()
        for index, (call, reads, writes, _) in zip(self._nodes, self._plain, strict=True):
            whole = fused.get(index)
            if whole is None:
                steps.append((call, reads, writes))
            elif index == max(whole.nodes):
                steps.append((whole.build(lib), whole.reads, whole.writes))
            else:
                continue
            places.append(index)
        overwritable = _overwritable(program, phase)
        wanted = {slot for _, reads, _ in steps for slot in reads}
        code = [copy for copy in self._copies if wanted.issuperset(copy[2])]
        for index, (call, reads, writes, freed) in zip(places, _freeing(steps, self._kept), strict=True):
            into = overwritable.get(index, set()).intersection(freed)
            definition = phase.nodes[index].definition
            is_stock = not self._is_exact or exact.is_stock(definition.name, device)
            if into and definition.into is not None and is_stock and index not in fused:
                call = definition.into(definition.parse(phase.nodes[index].args), reads.index(min(into)))
            code.append((call, reads, writes, freed))
        return code


def _freeing(steps: Sequence[Step], kept: set[int]) -> list[Instruction]:
    """The steps, each with the slots that nobody reads after it."""
    last = {slot: place for place, (_, reads, writes) in enumerate(steps) for slot in (*reads, *writes)}
    dead: dict[int, list[int]] = {}
    for slot, place in last.items():
        if slot not in kept:
            dead.setdefault(place, []).append(slot)
    return [(*step, tuple(dead.get(place, ()))) for place, step in enumerate(steps)]


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
