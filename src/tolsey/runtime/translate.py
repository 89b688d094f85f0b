"""From ATen calls to our closed list: the second half of capture.

The tracer (capture.py) hands over a flat list of functional ATen calls. Here each becomes one of our nodes:

- most by name, through the ATen overload that each operation of ops.py declares;
- some by a rule below, because ATen has several spellings for one thing (view, reshape, t, transpose, clone, detach,
  split, full_like) or hides randomness in it (`bernoulli` becomes our Philox mask, its stream the count of masks
  before it);
- everything else is `errors.UnsupportedOp`, naming the call and the line of the author's source it came from; so is a
  call with results for which the job's numerics profile has no rule.

Equal nodes are merged (all are pure), and what no output needs is dropped. Next in the flow: graph.Program.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import fx

from tolsey.errors import UnsupportedOp
from tolsey.protocol.job import PINNED
from tolsey.runtime import exact
from tolsey.runtime.admission import spec_of
from tolsey.runtime.graph import Node, Phase, TensorSpec
from tolsey.runtime.initial import raw_bytes
from tolsey.runtime.ops import DTYPE_NAMES, MAX_LITERAL_BYTES, OPS, WORDS, Op, Ref, float_hex, refs

Value = Any
"""A value id, a list of them (several outputs), or None."""
Rule = Callable[["Translator", fx.Node, list[Any], dict[str, Any]], Value]
Locate = Callable[[fx.Node], str]


class Translator:
    """Builds one phase.

    Args:
        inputs: role and name of each placeholder, in order.
        locate: where in the author's source a call comes from ("file:line"), or "".
        profile: numerics profile that must have a rule for every node.
    """

    def __init__(self, inputs: Sequence[tuple[str, str]], locate: Locate, profile: str) -> None:
        self.inputs = tuple(inputs)
        self.nodes: list[Node] = []
        self.masks = 0
        self.transposed: dict[tuple[int, int, int], int] = {}
        self.reshaped: dict[int, tuple[int, list[int]]] = {}
        self._locate = locate
        self._profile = profile
        self._specs: list[TensorSpec] = []
        self._known: dict[str, list[int]] = {}
        self._makers: dict[int, Node] = {}
        self._values: dict[fx.Node, Value] = {}

    def run(self, module: fx.GraphModule, outputs: Sequence[tuple[str, str]]) -> Phase:
        """The phase that gives the graph's flat outputs under these roles and names."""
        calls = list(module.graph.nodes)
        placeholders = [call for call in calls if call.op == "placeholder"]
        assert len(placeholders) == len(self.inputs)
        self._values = {call: place for place, call in enumerate(placeholders)}
        self._specs = [spec_of(call.meta["val"]) for call in placeholders]
        results = [result for result in _flat(calls[-1].args[0])]
        needed = _reachable(result for result in results if isinstance(result, fx.Node))
        for call in calls:
            if call in needed and call.op != "placeholder":
                done = len(self.nodes)
                self._values[call] = self._translate(module, call)
                self._check(call, self.nodes[done:])
        given = tuple((role, name, self._values[result]) for (role, name), result in zip(outputs, results, strict=True))
        return prune(Phase(inputs=self.inputs, nodes=tuple(self.nodes), outputs=given))

    def emit(self, name: str, args: list[Any], outs: Sequence[TensorSpec]) -> Value:
        """A node's value id (a list of ids where it has several outputs); an equal node is not added again."""
        key = json.dumps([name, args])
        if key not in self._known:
            self.nodes.append(Node(name, args, tuple(outs)))
            self._known[key] = list(range(len(self._specs), len(self._specs) + len(outs)))
            self._makers.update(dict.fromkeys(self._known[key], self.nodes[-1]))
            self._specs += outs
        ids = self._known[key]
        return ids[0] if len(ids) == 1 else ids

    def maker(self, value: int, op: str) -> Node | None:
        """The node that gives a value, if it is of operation `op`."""
        node = self._makers.get(value)
        return node if node is not None and node.op == op else None

    def one(self, call: fx.Node, name: str, *args: Any) -> Value:
        """A node with one output, shaped as the traced call's result."""
        return self.emit(name, list(args), [spec_of(call.meta["val"])])

    def refuse(self, call: fx.Node, why: str, *, fix: str = "") -> UnsupportedOp:
        where = self._locate(call)
        return UnsupportedOp(
            f"operation {call.target} {why}" + (f"; your model needs it at {where}" if where else ""),
            fix=fix
            or "write that line with operations of docs/ops.md, or compute it before training and keep it as a buffer",
        )

    def _check(self, call: fx.Node, nodes: Sequence[Node]) -> None:
        """Raises UnsupportedOp where the profile has no rule for what a call became."""
        if self._profile == PINNED:
            return
        for node in nodes:
            if (found := exact.refusal(node, self._specs, self._profile)) is not None:
                raise self.refuse(call, found.why, fix=found.fix)

    def _translate(self, module: fx.GraphModule, call: fx.Node) -> Value:
        if call.op == "get_attr":
            return self._constant(call, getattr(module, str(call.target)))
        if call.target is operator.getitem:
            return self._values[call.args[0]][call.args[1]]  # type: ignore[index]  # fx: (node, place)
        if not isinstance(call.target, torch._ops.OpOverload):
            raise self.refuse(call, "is no tensor operation")
        args, kwargs = self._arguments(call)
        name = str(call.target).removeprefix("aten.")
        rule = RULES.get(name)
        if rule is not None:
            return rule(self, call, args, kwargs)
        op = BY_ATEN.get(name) if call.target.namespace == "aten" else None
        if op is None:
            raise self.refuse(call, "is not on the closed list")
        return self._by_name(call, op, args, kwargs)

    def _arguments(self, call: fx.Node) -> tuple[list[Any], dict[str, Any]]:
        """Positional arguments completed with defaults and traced values replaced by their ids (as Ref)."""

        def value(item: Any) -> Any:
            if isinstance(item, fx.Node):
                found = self._values[item]
                return Ref(found) if isinstance(found, int) else found
            if isinstance(item, list | tuple):
                return [value(entry) for entry in item]
            return item

        positional, named = [], {}
        for place, argument in enumerate(call.target._schema.arguments):  # type: ignore[union-attr]  # OpOverload
            if argument.kwarg_only:
                named[argument.name] = value(call.kwargs.get(argument.name, argument.default_value))
            elif place < len(call.args):
                positional.append(value(call.args[place]))
            else:
                positional.append(value(call.kwargs.get(argument.name, argument.default_value)))
        return positional, named

    def _by_name(self, call: fx.Node, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Value:
        given = [*args, *kwargs.values()]
        schema = call.target._schema.arguments  # type: ignore[union-attr]  # OpOverload; keyword-only ones come last
        for argument, item in list(zip(schema, given, strict=True))[len(op.params) :]:
            if item is not None and item != argument.default_value:
                raise self.refuse(call, f"with {argument.name}={item!r:.40} is not on the closed list")
        encoded = [
            self._encoded(call, kind, arg) for (_, kind), arg in zip(op.params, given[: len(op.params)], strict=True)
        ]
        results = call.meta["val"]
        outs = [results] if op.outputs == 1 else list(results)
        empty = TensorSpec("float32", (0,))
        return self.emit(op.name, encoded, [empty if out is None else spec_of(out) for out in outs])

    def _encoded(self, call: fx.Node, kind: str, arg: Any) -> Any:
        """One argument as programs write it.

        Raises:
            UnsupportedOp: a value that has no such form (a size that depends on data, say).
        """
        if isinstance(arg, Ref):
            return arg.id
        if kind.startswith("number") and isinstance(arg, float):
            return float_hex(arg)
        if kind.startswith("number") and isinstance(arg, bool):
            return int(arg)
        if kind == "dtype" and isinstance(arg, torch.dtype) and arg in DTYPE_NAMES:
            return DTYPE_NAMES[arg]
        if kind.startswith(("ints", "bools", "tensors")) and isinstance(arg, list):
            return [self._encoded(call, kind.removesuffix("?")[:-1], item) for item in arg]
        if kind.startswith("ints") and isinstance(arg, int):
            return [arg]
        if isinstance(arg, bool | int | None) or (isinstance(arg, str) and arg in WORDS):
            return arg
        raise self.refuse(call, f"with the argument {arg!r:.60} is not on the closed list")

    def _constant(self, call: fx.Node, tensor: torch.Tensor) -> Value:
        raw = raw_bytes(tensor)
        if len(raw) > MAX_LITERAL_BYTES:
            raise UnsupportedOp(
                f"the model uses a constant tensor of {len(raw)} bytes that is neither parameter nor buffer "
                f"(at most {MAX_LITERAL_BYTES} bytes can be written into a program)",
                fix="register it: self.register_buffer(name, tensor)",
            )
        spec = spec_of(tensor)
        return self.emit("literal", [spec.dtype, list(spec.shape), bytes(raw).hex()], [spec])


def prune(phase: Phase) -> Phase:
    """The phase without nodes that no output needs, values numbered anew."""
    needed = {value for _, _, value in phase.outputs}
    starts, first = [], len(phase.inputs)
    for node in phase.nodes:
        starts.append(first)
        first += len(node.outs)
    kept = []
    for place in reversed(range(len(phase.nodes))):
        node, start = phase.nodes[place], starts[place]
        if needed.intersection(range(start, start + len(node.outs))):
            needed.update(refs(node.definition.parse(node.args)))
            kept.append(place)
    number = {value: value for value in range(len(phase.inputs))}
    nodes: list[Node] = []
    for place in reversed(kept):
        node = phase.nodes[place]
        nodes.append(Node(node.op, _renumbered(node, number), node.outs))
        for out in range(len(node.outs)):
            number[starts[place] + out] = len(number)
    outputs = tuple((role, name, number[value]) for role, name, value in phase.outputs)
    return Phase(inputs=phase.inputs, nodes=tuple(nodes), outputs=outputs)


def _renumbered(node: Node, number: Mapping[int, int]) -> list[Any]:
    args: list[Any] = []
    for (_, kind), arg in zip(node.definition.params, node.args, strict=True):
        if kind == "tensors":
            args.append([number[value] for value in arg])
        elif kind.startswith("tensor") and arg is not None:
            args.append(number[arg])
        else:
            args.append(arg)
    return args


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]


def _reachable(results: Any) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    todo = list(results)
    while todo:
        call = todo.pop()
        if call not in seen:
            seen.add(call)
            todo += call.all_input_nodes
    return seen


# Rules for calls that are not one of our operations under another name.


def _binary(name: str) -> Rule:
    """add, sub, mul and div with a tensor or a number on the right."""

    def rule(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
        left, right = args[:2]
        alpha = args[2] if len(args) > 2 else kwargs.get("alpha", 1)
        if not isinstance(left, Ref):
            raise self.refuse(call, "on a number is not on the closed list")
        if not isinstance(right, Ref):
            factor = -alpha if name == "sub" else alpha
            number = right if name in ("mul", "div") else right * factor
            scalar = "add_scalar" if name in ("add", "sub") else f"{name}_scalar"
            return self.one(call, scalar, left.id, _number(number))
        if alpha == 1:
            return self.one(call, name, left.id, right.id)
        source = call.args[1]
        assert isinstance(source, fx.Node)
        scaled = self.emit("mul_scalar", [right.id, _number(alpha)], [spec_of(source.meta["val"])])
        return self.one(call, name, left.id, scaled)

    return rule


def _number(value: Any) -> Any:
    return float_hex(value) if isinstance(value, float) else int(value)


def _same(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    return args[0].id


def _reshape(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    """A reshape of a reshape is one reshape, or none."""
    source = call.args[0]
    assert isinstance(source, fx.Node)
    shape = list(call.meta["val"].shape)
    origin, origin_shape = self.reshaped.get(args[0].id, (args[0].id, list(source.meta["val"].shape)))
    if origin_shape == shape:
        return origin
    ident = self.one(call, "reshape", origin, shape)
    self.reshaped[ident] = (origin, origin_shape)
    return ident


def _expand(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    source = call.args[0]
    assert isinstance(source, fx.Node)
    shape = list(call.meta["val"].shape)
    return args[0].id if list(source.meta["val"].shape) == shape else self.one(call, "expand", args[0].id, shape)


def _transposed(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    rank = call.meta["val"].dim()
    if rank < 2:
        return args[0].id
    first, second = sorted(item % rank for item in args[1:3]) if len(args) > 1 else (0, 1)
    undone = self.transposed.get((args[0].id, first, second))
    if undone is not None:
        return undone
    ident = self.one(call, "transpose", args[0].id, first, second)
    self.transposed[ident, first, second] = args[0].id
    return ident


def _cast(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    source = call.args[0]
    assert isinstance(source, fx.Node)
    if source.meta["val"].dtype == call.meta["val"].dtype:
        return args[0].id
    return self.one(call, "cast", args[0].id, spec_of(call.meta["val"]).dtype)


def _copy(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    """What was copied, in the target's shape and element type; the target's old value is gone."""
    source = call.args[1]
    assert isinstance(source, fx.Node)
    given, wanted, ident = spec_of(source.meta["val"]), spec_of(call.meta["val"]), args[1].id
    if given.dtype != wanted.dtype:
        given = TensorSpec(wanted.dtype, given.shape)
        ident = self.emit("cast", [ident, wanted.dtype], [given])
    return ident if given == wanted else self.emit("expand", [ident, list(wanted.shape)], [wanted])


def _filled(value: float | int | None) -> Rule:
    """zeros, ones, full and their `_like` and `new_` forms; uninitialised memory becomes zeros."""

    def rule(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
        spec = spec_of(call.meta["val"])
        number = args[-1] if value is None else value
        if not isinstance(number, int | float):
            raise self.refuse(call, f"with the value {number!r:.40} is not on the closed list")
        return self.emit("full", [spec.dtype, list(spec.shape), _number(number)], [spec])

    return rule


def _scalar_tensor(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    spec = spec_of(call.meta["val"])
    return self.emit("full", [spec.dtype, [], _number(args[0])], [spec])


def _arange(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    spec = spec_of(call.meta["val"])
    start = args[0] if len(args) > 1 else 0
    step = args[2] if len(args) > 2 else 1
    if any(not float(item).is_integer() for item in (start, step)):
        raise self.refuse(call, "over fractions is not on the closed list")
    return self.emit("arange", [spec.dtype, int(start), int(step), spec.shape[0]], [spec])


def _bernoulli(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    """torch's generator is never asked: the mask comes from the job's seed and this place in the graph."""
    probability = args[1]
    if not isinstance(probability, float) or ("position", "") not in self.inputs:
        raise self.refuse(call, "draws random numbers that the job's seed does not give")
    stream, self.masks = self.masks, self.masks + 1
    spec = spec_of(call.meta["val"])
    threshold = math.floor(probability * (1 << 24))
    position = self.inputs.index(("position", ""))
    return self.emit("keep_mask", [position, list(spec.shape), stream, threshold, spec.dtype], [spec])


def _split(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    parts = call.meta["val"]
    rank = parts[0].dim()
    dim = (args[2] if len(args) > 2 else 0) % rank
    ids, start = [], 0
    for part in parts:
        stop = start + part.shape[dim]
        ids.append(self.emit("slice", [args[0].id, dim, start, stop, 1], [spec_of(part)]))
        start = stop
    return ids


def _unbind(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    parts = call.meta["val"]
    dim = args[1] % (parts[0].dim() + 1)
    return [self.emit("select", [args[0].id, dim, place], [spec_of(part)]) for place, part in enumerate(parts)]


def _sum(name: str) -> Rule:
    def rule(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
        source = call.args[0]
        assert isinstance(source, fx.Node)
        dims, keepdim = (args[1] or [], args[2]) if len(args) > 1 else ([], False)
        ident, dtype = args[0].id, call.meta["val"].dtype
        if source.meta["val"].dtype != dtype:
            spec = TensorSpec(spec_of(call.meta["val"]).dtype, tuple(source.meta["val"].shape))
            ident = self.emit("cast", [ident, spec.dtype], [spec])
        return self.one(call, name, ident, list(dims), keepdim)

    return rule


def _variance(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    correction = kwargs.get("correction")
    number = _number(1 if correction is None else correction)
    source = call.args[0]
    assert isinstance(source, fx.Node)
    dims = list(range(source.meta["val"].dim())) if args[1] is None else args[1]
    return self.one(call, "variance", args[0].id, dims, number, bool(kwargs.get("keepdim", False)))


def _squeeze(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    return _reshape(self, call, args, kwargs)


def _norm(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    source = call.args[0]
    assert isinstance(source, fx.Node)
    dims = list(range(source.meta["val"].dim())) if args[2] is None else args[2]
    if kwargs.get("dtype") is not None:
        raise self.refuse(call, "with another element type is not on the closed list")
    return self.one(call, "vector_norm", args[0].id, _number(args[1]), dims, args[3])


def _addcmul(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    return self.one(call, "addcmul", args[0].id, args[1].id, args[2].id, _number(kwargs["value"]))


def _safe_softmax(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    """Plain softmax under a causal mask: safety is for rows masked whole, and there each row keeps its diagonal."""
    masked = self.maker(args[0].id, "add")
    mask = self.maker(masked.args[1], "where") if masked else None
    lower = self.maker(mask.args[0], "tril") if mask else None
    ones = self.maker(lower.args[0], "full") if lower else None
    if lower and ones and lower.args[1] >= 0 and ones.args[2] == 1:
        return self.one(call, "softmax", args[0].id, args[1], False)
    return self.one(call, "safe_softmax", args[0].id, args[1])


def _embedding(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    """Padding and scaling matter to the gradient only; sparse gradients do not exist here."""
    if args[4]:
        raise self.refuse(call, "with sparse=True is not on the closed list")
    return self.one(call, "embedding", args[0].id, args[1].id)


def _slice(self: Translator, call: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    source = call.args[0]
    assert isinstance(source, fx.Node)
    if source.meta["val"].shape == call.meta["val"].shape:
        return args[0].id
    ident, dim, start, stop, step = args
    size = source.meta["val"].shape[dim]
    first, last, _ = slice(start, stop, step).indices(size)
    return self.one(call, "slice", ident.id, dim, first, last, step)


RULES: Final[dict[str, Rule]] = {
    "add.Tensor": _binary("add"),
    "add.Scalar": _binary("add"),
    "sub.Tensor": _binary("sub"),
    "sub.Scalar": _binary("sub"),
    "mul.Tensor": _binary("mul"),
    "mul.Scalar": _binary("mul"),
    "div.Tensor": _binary("div"),
    "div.Scalar": _binary("div"),
    "view.default": _reshape,
    "_unsafe_view.default": _reshape,
    "reshape.default": _reshape,
    "squeeze.default": _squeeze,
    "squeeze.dim": _squeeze,
    "squeeze.dims": _squeeze,
    "unsqueeze.default": _reshape,
    "expand.default": _expand,
    "t.default": _transposed,
    "transpose.int": _transposed,
    "detach.default": _same,
    "alias.default": _same,
    "lift_fresh_copy.default": _same,
    "clone.default": _same,
    "contiguous.default": _same,
    "_to_copy.default": _cast,
    "slice.Tensor": _slice,
    "zeros.default": _filled(0),
    "ones.default": _filled(1),
    "full.default": _filled(None),
    "zeros_like.default": _filled(0),
    "ones_like.default": _filled(1),
    "full_like.default": _filled(None),
    "new_zeros.default": _filled(0),
    "new_ones.default": _filled(1),
    "new_full.default": _filled(None),
    "empty.memory_format": _filled(0),
    "empty_like.default": _filled(0),
    "new_empty.default": _filled(0),
    "new_empty_strided.default": _filled(0),
    "empty_strided.default": _filled(0),
    "copy.default": _copy,
    "scalar_tensor.default": _scalar_tensor,
    "arange.default": _arange,
    "arange.start": _arange,
    "arange.start_step": _arange,
    "bernoulli.p": _bernoulli,
    "split.Tensor": _split,
    "split_with_sizes.default": _split,
    "unbind.int": _unbind,
    "sum.default": _sum("sum"),
    "sum.dim_IntList": _sum("sum"),
    "mean.default": _sum("mean"),
    "mean.dim": _sum("mean"),
    "var.correction": _variance,
    "linalg_vector_norm.default": _norm,
    "addcmul.default": _addcmul,
    "embedding.default": _embedding,
    "_safe_softmax.default": _safe_softmax,
}
BY_ATEN: Final = {op.aten: op for op in OPS.values() if op.aten}
KNOWN: Final = frozenset(RULES) | frozenset(BY_ATEN)
"""ATen overloads that need no decomposition."""
