"""A program: one training step as data, in canonical bytes with a content id.

    program
    ├─ state    name -> role, dtype, shape, initial recipe        parameters, buffers, optimiser moments
    ├─ batch    name -> dtype, shape                              what one micro-batch brings
    ├─ data     what kind of data set fits ("tokens", "examples")
    ├─ rates    optimiser and schedule by name, decimal strings   -> the per-step scalars (schedule.py)
    ├─ phase grad     run once per micro-batch: loss, gradients (summed in order), buffers
    └─ phase update   run once per step: clipping and the optimiser, new parameters and moments

A *phase* is a list of input values, a list of nodes and a list of output values. Values are numbered: inputs first,
then each node's outputs in order; a node may read only smaller numbers, so the graph cannot have a cycle and needs no
sorting. Each node states dtype and shape of what it gives; admission.py checks them before anything runs.

Input roles: ("state", name); ("batch", name); ("position", "") int64 [3] = seed mod 2^32, seed div 2^32,
step * micro_batches + micro-batch; ("sum", parameter) the gradient summed so far (only where micro_batches > 1);
("grad", parameter); ("scalar", name) float32 number of this step.
Output roles: ("loss", ""), ("grad", parameter), ("state", name), ("metric", "grad_norm").

`decode` refuses everything malformed by structure and size; it computes nothing. Next: admission.py, executor.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tolsey.errors import RemoteViolation
from tolsey.protocol.checkpoint import DTYPE_BYTES
from tolsey.protocol.content import ContentId, content_id_of_bytes
from tolsey.protocol.encoding import canonical_json, parse_canonical_json
from tolsey.runtime.ops import MAX_RANK, OPS, OPS_VERSION, Op, Ref, float_of_hex

FORMAT: Final = "tolsey/program/1"
MAX_PROGRAM_BYTES: Final = 32 << 20
MAX_NODES: Final = 100_000
MAX_TENSORS: Final = 20_000
MAX_NAME_BYTES: Final = 512
MAX_MICRO_BATCHES: Final = 1 << 16
INPUT_ROLES: Final = {
    "grad": frozenset({"state", "batch", "position", "sum"}),
    "update": frozenset({"state", "grad", "scalar"}),
}
OUTPUT_ROLES: Final = {"grad": frozenset({"loss", "grad", "state"}), "update": frozenset({"state", "metric"})}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Element type and dimensions of a value."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def encode(self) -> list[Any]:
        return [self.dtype, list(self.shape)]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTensor:
    """One tensor of the state.

    Attributes:
        spec: dtype and shape.
        role: "param", "buffer" or "moment".
        recipe: how the seed gives its first value (initial.py); None: it comes from an initial state file.
    """

    spec: TensorSpec
    role: str
    recipe: list[Any] | None


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: `args` as the program writes them, parsed by `Op.parse`."""

    op: str
    args: list[Any]
    outs: tuple[TensorSpec, ...]

    @property
    def definition(self) -> Op:
        return OPS[self.op]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Inputs (role, name), nodes, outputs (role, name, value id)."""

    inputs: tuple[tuple[str, str], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, str, int], ...]

    def encode(self) -> dict[str, Any]:
        return {
            "inputs": [list(item) for item in self.inputs],
            "nodes": [{"op": n.op, "args": n.args, "out": [out.encode() for out in n.outs]} for n in self.nodes],
            "outputs": [list(item) for item in self.outputs],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One training step as data; see the file's docstring for the parts."""

    state: Mapping[str, StateTensor]
    batch: Mapping[str, TensorSpec]
    data: Mapping[str, Any]
    micro_batches: int
    rates: Mapping[str, Any]
    grad: Phase
    update: Phase

    @property
    def batch_size(self) -> int:
        """Examples in one micro-batch: the first dimension of every batch tensor."""
        return next(iter(self.batch.values())).shape[0]

    def encode(self) -> bytes:
        """The canonical bytes."""
        return canonical_json(
            {
                "format": FORMAT,
                "ops": OPS_VERSION,
                "state": {
                    name: {"spec": item.spec.encode(), "role": item.role, "init": item.recipe}
                    for name, item in self.state.items()
                },
                "batch": {name: spec.encode() for name, spec in self.batch.items()},
                "data": dict(self.data),
                "micro_batches": self.micro_batches,
                "rates": dict(self.rates),
                "phases": {"grad": self.grad.encode(), "update": self.update.encode()},
            }
        )

    @property
    def content_id(self) -> ContentId:
        return content_id_of_bytes(self.encode())

    def input_spec(self, role: str, name: str) -> TensorSpec:
        """Dtype and shape of an input, known from its role.

        Raises:
            RemoteViolation: there is no such state tensor, batch tensor or parameter.
        """
        if role == "position":
            return TensorSpec("int64", (3,))
        if role == "scalar":
            return TensorSpec("float32", ())
        if role == "batch" and name in self.batch:
            return self.batch[name]
        if role == "state" and name in self.state:
            return self.state[name].spec
        if role in ("sum", "grad") and f"param.{name}" in self.state:
            return self.state[f"param.{name}"].spec
        raise RemoteViolation(f"the program reads {role} {name!r:.80}, which it does not declare")


def decode(raw: bytes) -> Program:
    """The program in canonical bytes from a stranger: structure, names, kinds and sizes checked.

    Raises:
        RemoteViolation: whatever is wrong first.
    """
    value = parse_canonical_json(raw, max_bytes=MAX_PROGRAM_BYTES)
    fields = _object(value, "program", {"format", "ops", "state", "batch", "data", "micro_batches", "rates", "phases"})
    if fields["format"] != FORMAT or fields["ops"] != OPS_VERSION:
        raise RemoteViolation(
            f"program of format {fields['format']!r:.40} and operations {fields['ops']!r:.20}; "
            f"known are {FORMAT!r} and {OPS_VERSION}"
        )
    phases = _object(fields["phases"], "phases", {"grad", "update"})
    state = _mapping(fields["state"], "state")
    batch = _mapping(fields["batch"], "batch")
    if not state or not batch:
        raise RemoteViolation("a program has at least one state tensor and one batch tensor")
    program = Program(
        state={name: _state_tensor(name, item) for name, item in state.items()},
        batch={name: _spec(item, f"batch tensor {name}") for name, item in batch.items()},
        data=_flat(fields["data"], "data"),
        micro_batches=_count(fields["micro_batches"], "micro_batches", 1, MAX_MICRO_BATCHES),
        rates=_mapping(fields["rates"], "rates"),
        grad=_phase("grad", phases["grad"]),
        update=_phase("update", phases["update"]),
    )
    _check_batch(program)
    _check_roles(program)
    return program


def _check_batch(program: Program) -> None:
    sizes = {spec.shape[:1] for spec in program.batch.values()}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise RemoteViolation(f"batch tensors must share one batch size of at least 1, they have {sorted(sizes)}")


def _check_roles(program: Program) -> None:
    """Every output replaces something declared; every gradient that `update` reads is given by `grad`."""
    for kind, phase in (("grad", program.grad), ("update", program.update)):
        if len({item[:2] for item in phase.outputs}) != len(phase.outputs):
            raise RemoteViolation(f"phase {kind} gives one output twice")
        for role, name in phase.inputs:
            program.input_spec(role, name)
            if role == "sum" and program.micro_batches == 1:
                raise RemoteViolation("phase grad reads a gradient sum, but a step has one micro-batch")
        for role, name, _ in phase.outputs:
            if role in ("state", "grad"):
                program.input_spec(role, name)
    given = {name for role, name, _ in program.grad.outputs if role == "grad"}
    wanted = {name for role, name in program.update.inputs if role == "grad"}
    if wanted - given:
        missing = sorted(wanted - given)[:3]
        raise RemoteViolation(f"phase update reads gradients that phase grad does not give: {missing}")
    if [item[:2] for item in program.grad.outputs].count(("loss", "")) != 1:
        raise RemoteViolation("phase grad must give one loss")


def _phase(kind: str, raw: Any) -> Phase:
    fields = _object(raw, f"phase {kind}", {"inputs", "nodes", "outputs"})
    declared = _list(fields["inputs"], "inputs", MAX_TENSORS * 4)
    inputs = tuple(_role(item, 2, INPUT_ROLES[kind], kind) for item in declared)
    nodes, defined = [], len(inputs)
    for index, item in enumerate(_list(fields["nodes"], "nodes", MAX_NODES)):
        node = _node(item, f"phase {kind}, node {index}", defined)
        nodes.append(node)
        defined += len(node.outs)
    outputs = tuple(
        _role(item, 3, OUTPUT_ROLES[kind], kind) for item in _list(fields["outputs"], "outputs", MAX_TENSORS * 4)
    )
    for role, name, value in outputs:
        if type(value) is not int or not 0 <= value < defined:
            raise RemoteViolation(f"phase {kind}: output {role} {name!r} is value {value!r:.20} of {defined}")
    if len(set(inputs)) != len(inputs):
        raise RemoteViolation(f"phase {kind} declares one input twice")
    return Phase(inputs=inputs, nodes=tuple(nodes), outputs=outputs)


def _node(raw: Any, where: str, defined: int) -> Node:
    fields = _object(raw, where, {"op", "args", "out"})
    name = fields["op"]
    if not isinstance(name, str) or name not in OPS:
        raise RemoteViolation(f"{where}: unknown operation {name!r:.60}")
    definition = OPS[name]
    for value in _refs(definition, fields["args"]):
        if value >= defined:
            raise RemoteViolation(f"{where} ({name}) reads value {value}, only {defined} are defined before it")
    outs = tuple(_spec(item, where) for item in _list(fields["out"], where, 8))
    if len(outs) != definition.outputs:
        raise RemoteViolation(f"{where}: {name} gives {definition.outputs} values, the node declares {len(outs)}")
    return Node(name, fields["args"], outs)


def _refs(definition: Op, args: Any) -> Iterator[int]:
    for arg in definition.parse(args):
        for item in arg if isinstance(arg, list) else (arg,):
            if isinstance(item, Ref):
                yield item.id


def _state_tensor(name: str, raw: Any) -> StateTensor:
    fields = _object(raw, f"state tensor {name!r:.80}", {"spec", "role", "init"})
    if fields["role"] not in ("param", "buffer", "moment"):
        raise RemoteViolation(f"state tensor {name!r:.80} has role {fields['role']!r:.20}")
    recipe = fields["init"]
    if recipe is not None and not isinstance(recipe, list):
        raise RemoteViolation(f"state tensor {name!r:.80} has no readable initial recipe")
    return StateTensor(spec=_spec(fields["spec"], f"state tensor {name!r:.80}"), role=fields["role"], recipe=recipe)


def _spec(raw: Any, where: str) -> TensorSpec:
    if not isinstance(raw, list) or len(raw) != 2 or not isinstance(raw[0], str) or raw[0] not in DTYPE_BYTES:
        raise RemoteViolation(f"{where}: {raw!r:.60} is no dtype and shape")
    shape = _list(raw[1], where, MAX_RANK)
    if any(type(size) is not int or not 0 <= size < 1 << 48 for size in shape) or math.prod(shape) >= 1 << 48:
        raise RemoteViolation(f"{where}: shape {shape!r:.60} is impossible")
    return TensorSpec(raw[0], tuple(shape))


def _role(raw: Any, length: int, allowed: frozenset[str], kind: str) -> tuple[Any, ...]:
    if not isinstance(raw, list) or len(raw) != length or not all(isinstance(item, str) for item in raw[:2]):
        raise RemoteViolation(f"phase {kind}: {raw!r:.60} names no value")
    if raw[0] not in allowed or len(raw[1].encode()) > MAX_NAME_BYTES:
        raise RemoteViolation(f"phase {kind}: role {raw[0]!r:.20} is none of {sorted(allowed)}")
    return tuple(raw)


def _object(raw: Any, where: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(raw, dict) or set(raw) != keys:
        found = sorted(raw)[:10] if isinstance(raw, dict) else type(raw).__name__
        raise RemoteViolation(f"{where} must have exactly {sorted(keys)}, has {found!r:.200}")
    return raw


def _mapping(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or len(raw) > MAX_TENSORS:
        raise RemoteViolation(f"{where} is no object of at most {MAX_TENSORS} entries")
    for name in raw:
        if not name or len(name.encode()) > MAX_NAME_BYTES:
            raise RemoteViolation(f"{where}: a name has 1 to {MAX_NAME_BYTES} bytes, not {name!r:.80}")
    return raw


def _flat(raw: Any, where: str) -> dict[str, Any]:
    fields = _mapping(raw, where)
    if len(fields) > 16 or any(not isinstance(value, str | int) for value in fields.values()):
        raise RemoteViolation(f"{where} holds at most 16 strings and integers")
    return fields


def _list(raw: Any, where: str, longest: int) -> list[Any]:
    if not isinstance(raw, list) or len(raw) > longest:
        size = len(raw) if isinstance(raw, list) else type(raw).__name__
        raise RemoteViolation(f"{where}: a list of at most {longest} entries is needed, found {size}")
    return raw


def _count(raw: Any, where: str, low: int, high: int) -> int:
    if type(raw) is not int or not low <= raw <= high:
        raise RemoteViolation(f"{where} is {raw!r:.40}, allowed are {low} to {high}")
    return raw


def describe(program: Program) -> str:
    """A listing for people: every tensor, every node with its shapes, floats as decimals beside their bits."""
    lines = [f"program {program.content_id.hex()}"]
    lines += [f"micro-batches {program.micro_batches}, data {dict(program.data)}"]
    lines += [f"rates {dict(program.rates)}", "", "state"]
    for name, item in sorted(program.state.items()):
        lines.append(f"  {name}: {item.spec} {item.role}, init {item.recipe!s:.80}")
    lines += ["", "batch"] + [f"  {name}: {spec}" for name, spec in sorted(program.batch.items())]
    for kind, phase in (("grad", program.grad), ("update", program.update)):
        lines += ["", f"phase {kind}: {len(phase.nodes)} nodes"]
        for place, (role, name) in enumerate(phase.inputs):
            lines.append(f"  %{place} = {role} {name}: {program.input_spec(role, name)}")
        value = len(phase.inputs)
        for node in phase.nodes:
            names = ", ".join(f"%{value + i}" for i in range(len(node.outs)))
            value += len(node.outs)
            lines.append(f"  {names} = {node.op}({_arguments(node)}) -> {', '.join(map(str, node.outs))}")
        lines += [f"  give {role} {name} = %{value_id}" for role, name, value_id in phase.outputs]
    return "\n".join(lines) + "\n"


def _arguments(node: Node) -> str:
    parts = []
    for (name, kind), arg in zip(node.definition.params, node.args, strict=True):
        if kind == "tensors":
            parts.append("[" + ", ".join(f"%{item}" for item in arg) + "]")
        elif kind.startswith("tensor"):
            parts.append("none" if arg is None else f"%{arg}")
        elif kind.startswith("number") and isinstance(arg, str):
            parts.append(f"{name}={float_of_hex(arg)!r} (0x{arg})")
        else:
            parts.append(f"{name}={arg!s:.64}")
    return ", ".join(parts)
