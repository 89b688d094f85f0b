"""The closed list: its document is current, and every operation on it runs as its shapes promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tolsey.errors import RemoteViolation
from tolsey.runtime.ops import OPS, Ref, float_hex, float_of_hex, reference, refs

CPU, META = torch.device("cpu"), torch.device("meta")
HALF, ZERO = float_hex(0.5), float_hex(0.0)


def t(*shape: int, low: float = 0.1) -> torch.Tensor:
    """Positive float32 values, all different, so that logarithms and roots exist."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float32) % 37 / 37 + low).reshape(shape)


def whole(*shape: int, below: int = 3) -> torch.Tensor:
    return (torch.arange(torch.Size(shape).numel()) % below).reshape(shape)


BOOLS = torch.tensor([[True, False], [False, True]])
IMAGE, KERNEL = t(2, 4, 6, 6), t(8, 4, 3, 3)
POOLED, PLACES = torch.ops.aten.max_pool2d_with_indices(IMAGE, [2, 2], [2, 2])
UNARY = [
    "neg",
    "abs",
    "sign",
    "floor",
    "ceil",
    "round",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "exp",
    "log",
    "log1p",
    "expm1",
    "sin",
    "cos",
    "tanh",
    "erf",
    "relu",
    "sigmoid",
    "silu",
]
BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "maximum",
    "minimum",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "sigmoid_backward",
    "tanh_backward",
    "silu_backward",
]
SCALAR = [
    "add_scalar",
    "rsub_scalar",
    "mul_scalar",
    "div_scalar",
    "pow_scalar",
    "eq_scalar",
    "ne_scalar",
    "lt_scalar",
    "le_scalar",
    "gt_scalar",
    "ge_scalar",
]
NORM = [4], t(4), t(4)
# Tensors stand for themselves; everything else is written as in a program.
SAMPLES: dict[str, list[Any]] = {
    **{name: [t(2, 3)] for name in UNARY},
    **{name: [t(2, 3), t(2, 3, low=0.3)] for name in BINARY},
    **{name: [t(2, 3), HALF] for name in SCALAR},
    **{name: [t(2, 3), [1], True] for name in ("sum", "mean", "amax", "amin")},
    "full": ["float32", [2, 2], HALF],
    "arange": ["int64", 3, 2, 5],
    "literal": ["uint8", [2], "0aff"],
    "keep_mask": [torch.tensor([1, 2, 3]), [4, 5], 0, 1 << 23, "float32"],
    "clamp": [t(4), HALF, None],
    "lerp": [t(4), t(4, low=1), HALF],
    "addcmul": [t(4), t(4), t(4), HALF],
    "cast": [t(4), "float64"],
    "logical_and": [BOOLS, BOOLS],
    "logical_or": [BOOLS, BOOLS],
    "logical_not": [BOOLS],
    "where": [BOOLS, t(2, 2), t(2, 2)],
    "masked_fill": [t(2, 2), BOOLS, ZERO],
    "threshold_backward": [t(2, 3), t(2, 3), HALF],
    "gelu": [t(3), "tanh"],
    "gelu_backward": [t(3), t(3), "none"],
    "softmax": [t(2, 3), 1, False],
    "safe_softmax": [t(2, 3), 1],
    "log_softmax": [t(2, 3), -1, False],
    "softmax_backward": [t(2, 3), t(2, 3), 1, "float32"],
    "log_softmax_backward": [t(2, 3), t(2, 3), 1, "float32"],
    "cumsum": [t(2, 3), 1],
    "argmax": [t(2, 3), 1, False],
    "variance": [t(2, 3), [1], 1, False],
    "vector_norm": [t(2, 3), float_hex(2.0), [0, 1], False],
    "layer_norm": [t(2, 3, 4), *NORM, HALF],
    "layer_norm_backward": [t(2, 3, 4), t(2, 3, 4), [4], t(2, 3, 1), t(2, 3, 1), t(4), t(4), [True, True, True]],
    "group_norm": [IMAGE, t(4), t(4), 2, 4, 36, 2, HALF],
    "group_norm_backward": [IMAGE, IMAGE, t(2, 2), t(2, 2), t(4), 2, 4, 36, 2, [True, True, True]],
    "batch_norm": [IMAGE, t(4), t(4), t(4), t(4), True, HALF, HALF],
    "batch_norm_backward": [IMAGE, IMAGE, t(4), t(4), t(4), t(4), t(4), True, HALF, [True, True, True]],
    "mm": [t(2, 3), t(3, 4)],
    "bmm": [t(5, 2, 3), t(5, 3, 4)],
    "addmm": [t(4), t(2, 3), t(3, 4)],
    "convolution": [IMAGE, KERNEL, t(8), [1, 1], [1, 1], [1, 1], False, [0, 0], 1],
    "convolution_backward": [
        t(2, 8, 6, 6),
        IMAGE,
        KERNEL,
        [8],
        [1, 1],
        [1, 1],
        [1, 1],
        False,
        [0, 0],
        1,
        [True, True, True],
    ],
    "nll_loss": [t(4, 3), whole(4), None, 1, -100],
    "nll_loss_backward": [t(), t(4, 3), whole(4), None, 1, -100, t() + 3],
    "nll_loss2d": [IMAGE, whole(2, 6, 6), None, 1, -100],
    "nll_loss2d_backward": [t(), IMAGE, whole(2, 6, 6), None, 1, -100, t() + 3],
    "mse_loss": [t(4), t(4, low=1), 1],
    "mse_loss_backward": [t(), t(4), t(4, low=1), 1],
    "embedding": [t(3, 2), whole(4)],
    "embedding_backward": [t(4, 2), whole(4), 3, -1, False],
    "gather": [t(2, 3), 1, whole(2, 3)],
    "scatter_add": [t(2, 3), 1, whole(2, 3), t(2, 3)],
    "index_select": [t(3, 2), 0, whole(4)],
    "max_pool2d": [IMAGE, [2, 2], [2, 2], [0, 0], [1, 1], False],
    "max_pool2d_backward": [POOLED, IMAGE, [2, 2], [2, 2], [0, 0], [1, 1], False, PLACES],
    "avg_pool2d": [IMAGE, [2, 2], [2, 2], [0, 0], False, True, None],
    "avg_pool2d_backward": [POOLED, IMAGE, [2, 2], [2, 2], [0, 0], False, True, None],
    "adaptive_avg_pool2d": [IMAGE, [2, 2]],
    "adaptive_avg_pool2d_backward": [t(2, 4, 2, 2), IMAGE],
    "reshape": [t(2, 3), [3, 2]],
    "transpose": [t(2, 3), 0, 1],
    "permute": [t(2, 3, 4), [2, 0, 1]],
    "expand": [t(1, 3), [2, 3]],
    "unsqueeze": [t(2), 0],
    "squeeze": [t(1, 2), [0]],
    "slice": [t(4, 3), 0, 1, 3, 1],
    "slice_backward": [t(2, 3), [4, 3], 0, 1, 3, 1],
    "select": [t(4, 3), 0, 2],
    "select_backward": [t(3), [4, 3], 0, 2],
    "cat": [[t(2), t(3)], 0],
    "stack": [[t(2), t(2)], 0],
    "flip": [t(2, 3), [1]],
    "roll": [t(4), [1], [0]],
    "pad": [t(2, 3), [1, 1], ZERO],
    "repeat": [t(2), [3, 2]],
    "tril": [t(3, 3), 0],
    "triu": [t(3, 3), 1],
}


def split(raw: list[Any]) -> tuple[list[Any], list[torch.Tensor]]:
    """Arguments as a program writes them, and the tensors in order."""
    tensors: list[torch.Tensor] = []

    def place(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            tensors.append(item)
            return len(tensors) - 1
        return [place(entry) for entry in item] if isinstance(item, list) else item

    return [place(item) for item in raw], tensors


def test_ops_document_is_current() -> None:
    root = Path(__file__).resolve().parents[2]
    assert (root / "docs" / "ops.md").read_text() == reference()


def test_ops_module_prints_its_document() -> None:
    printed = subprocess.run([sys.executable, "-m", "tolsey.runtime.ops"], capture_output=True, text=True, check=True)
    assert printed.stdout == reference()


def test_ops_samples_cover_the_list() -> None:
    assert set(SAMPLES) == set(OPS)


@pytest.mark.parametrize("name", sorted(OPS))
def test_op_runs_as_its_meta_shapes_say_and_leaves_inputs_alone(name: str) -> None:
    op = OPS[name]
    raw, tensors = split(SAMPLES[name])
    args = op.parse(raw)
    assert list(refs(args)) == list(range(len(tensors)))
    before = [tensor.clone() for tensor in tensors]
    real = op.build(args, CPU)(*tensors)
    promised = op.build(args, META)(*[tensor.to("meta") for tensor in tensors])
    reals, promises = ((real,), (promised,)) if op.outputs == 1 else (tuple(real), tuple(promised))
    assert len(reals) == len(promises) == op.outputs
    assert [(r.shape, r.dtype) for r in reals] == [(p.shape, p.dtype) for p in promises]
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.aten))
def test_op_computes_the_bits_of_its_aten_overload(name: str) -> None:
    op = OPS[name]
    raw, tensors = split(SAMPLES[name])
    packet, _, overload = op.aten.partition(".")
    call = getattr(getattr(torch.ops.aten, packet), overload)
    values = [*_filled(op.parse(raw), tensors)]
    schema = call._schema.arguments
    positional = sum(not argument.kwarg_only for argument in schema)
    named = {item.name: value for item, value in zip(schema[positional:], values[positional:], strict=False)}
    expected = call(*values[:positional], **named)
    found = op.build(op.parse(raw), CPU)(*tensors)
    for one, other in zip(*((value,) if op.outputs == 1 else value for value in (found, expected)), strict=True):
        assert one.dtype == other.dtype and one.stride() == other.stride()
        assert one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()


def _filled(args: list[Any], tensors: list[torch.Tensor]) -> list[Any]:
    """Parsed arguments with tensors in the place of their ids."""
    return [
        tensors[arg.id] if isinstance(arg, Ref) else _filled(arg, tensors) if isinstance(arg, list) else arg
        for arg in args
    ]


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.into))
def test_op_written_over_an_argument_gives_the_same_bits(name: str) -> None:
    op = OPS[name]
    raw, tensors = split(SAMPLES[name])
    args = op.parse(raw)
    expected = op.build(args, CPU)(*tensors)
    assert op.into is not None
    for place in range(len(tensors)):
        given = [tensor.clone() for tensor in tensors]
        found = op.into(args, place)(*given)
        assert found.data_ptr() == given[place].data_ptr() and torch.equal(found, expected)
        assert all(torch.equal(given[other], tensors[other]) for other in range(len(tensors)) if other != place)


def test_keep_mask_is_a_function_of_its_position_in_whatever_order_steps_come() -> None:
    args = OPS["keep_mask"].parse([0, [3, 5], 2, 1 << 23, "float32"])
    kept = OPS["keep_mask"].build(args, CPU)
    for low, high, step in [(1, 0, 5), (1, 0, 6), (1, 0, 5), (1, 0, 10**6), (2, 0, 10**6), (1, 9, 6), (1, 0, 6)]:
        fresh = OPS["keep_mask"].build(args, CPU)
        assert torch.equal(kept(torch.tensor([low, high, step])), fresh(torch.tensor([low, high, step])))
    first = kept(torch.tensor([1, 0, 6]))
    first.zero_()
    assert bool(kept(torch.tensor([1, 0, 6])).any())


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("mm", [0]),
        ("mm", [0, "1"]),
        ("mm", [0, -1]),
        ("mm", [0, True]),
        ("mul_scalar", [0, 0.5]),
        ("mul_scalar", [0, "zz"]),
        ("full", ["complex64", [1], 0]),
        ("full", ["float32", [1] * 99, 0]),
        ("gelu", [0, "exec"]),
        ("sum", [0, 1, True]),
        ("literal", ["uint8", [1], "0g"]),
        ("cat", [3, 0]),
    ],
)
def test_parse_argument_of_another_kind_refused(name: str, raw: list[Any]) -> None:
    with pytest.raises(RemoteViolation, match=name):
        OPS[name].parse(raw)


@pytest.mark.parametrize("value", [0.1, -0.0, float("inf"), 5e-324])
def test_float_hex_round_trip_keeps_bits(value: float) -> None:
    assert float_hex(float_of_hex(float_hex(value))) == float_hex(value) and len(float_hex(value)) == 16


def test_parse_gives_refs_for_tensors_only() -> None:
    assert OPS["cat"].parse([[3, 4], 0]) == [[Ref(3), Ref(4)], 0]
