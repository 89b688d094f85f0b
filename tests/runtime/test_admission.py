"""Programs from strangers: what is malformed, impossible, too large or unsafe is refused before anything runs."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tolsey.errors import RemoteViolation
from tolsey.numerics import int8
from tolsey.protocol.encoding import canonical_json
from tolsey.protocol.job import EXACT_FP32, EXACT_INT8, PINNED
from tolsey.runtime import admission, graph
from tolsey.runtime.ops import float_hex

Edit = Callable[[dict[str, Any]], object]


def minimal() -> dict[str, Any]:
    """The smallest honest program: one weight, loss = mean(w * x), plain descent."""
    vector: list[Any] = ["float32", [4]]
    return {
        "format": "tolsey/program/1",
        "ops": 1,
        "data": {"kind": "examples"},
        "micro_batches": 1,
        "state": {"param.w": {"spec": vector, "role": "param", "init": [["full", float_hex(1.0)]]}},
        "batch": {"x": vector},
        "rates": {
            "optimiser": {"kind": "sgd", "options": {"momentum": "0", "weight_decay": "0", "nesterov": False}},
            "schedule": {
                "kind": "constant",
                "peak_lr": "0.1",
                "warmup_steps": 0,
                "total_steps": 10,
                "final_ratio": "0",
            },
        },
        "phases": {
            "grad": {
                "inputs": [["state", "param.w"], ["batch", "x"]],
                "nodes": [
                    {"op": "mul", "args": [0, 1], "out": [vector]},
                    {"op": "mean", "args": [2, [], False], "out": [["float32", []]]},
                    {"op": "div_scalar", "args": [1, 4], "out": [vector]},
                ],
                "outputs": [["loss", "", 3], ["grad", "w", 4]],
            },
            "update": {
                "inputs": [["state", "param.w"], ["grad", "w"], ["scalar", "lr"]],
                "nodes": [
                    {"op": "mul", "args": [1, 2], "out": [vector]},
                    {"op": "sub", "args": [0, 3], "out": [vector]},
                ],
                "outputs": [["state", "param.w", 4]],
            },
        },
    }


def admit(program: dict[str, Any], memory_bytes: int = 1 << 20, profile: str = PINNED) -> admission.Admitted:
    return admission.admit_bytes(canonical_json(program), memory_bytes=memory_bytes, profile=profile)


def node(program: dict[str, Any], place: int = 0) -> Any:
    return program["phases"]["grad"]["nodes"][place]


def append(op: str, args: list[Any], *outs: list[Any]) -> Edit:
    return lambda p: p["phases"]["grad"]["nodes"].append({"op": op, "args": args, "out": list(outs)})


def put(*path: Any, value: Any) -> Edit:
    """Sets program[path[0]][path[1]]… = value."""

    def edit(program: Any) -> None:
        for key in path[:-1]:
            program = program[key]
        program[path[-1]] = value

    return edit


def test_admit_minimal_program_passes_with_its_sizes() -> None:
    admitted = admit(minimal())
    assert admitted.state_bytes == 16 and 48 <= admitted.peak_bytes <= 200


NODE = ("phases", "grad", "nodes", 0)
HUGE = [1 << 24, 1 << 20]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("format", value="tolsey/program/2"), "format"),
        (put("ops", value=2), "operations"),
        (put("extra", value=1), "exactly"),
        (put("state", value={}), "at least one state tensor"),
        (put("micro_batches", value=0), "micro_batches"),
        (put("micro_batches", value=True), "micro_batches"),
        (put("rates", "optimiser", "kind", value="lion"), "lion"),
        (put("rates", "schedule", "peak_lr", value="1e-999999999"), "smaller"),
        (put("rates", "schedule", "code", value="x"), "rates"),
        (put("state", "param.w", "init", value=[["full", "zz"]]), "recipe"),
        (put("state", "param.w", "init", value=[["mul", float_hex(1.0)]]), "recipe"),
        (put("state", "param.w", "init", value=[["full", float_hex(1.0)]] * 2), "recipe"),
        (put("state", "param.w", "init", value=[["literal", "00"]]), "recipe"),
        (put("state", "param.w", "spec", value=["float32", [-4]]), "impossible"),
        (put("state", "param.w", "spec", value=["float32", [1 << 40, 1 << 40]]), "impossible"),
        (put("state", "param.w", "spec", value=["object", [4]]), "dtype"),
        (put("state", "param.w", "role", value="root"), "role"),
        (put("batch", "x", value=["float32", []]), "batch size"),
        (put(*NODE, "op", value="os.system"), "unknown operation 'os.system'"),
        (put(*NODE, "op", value="__import__"), "unknown operation"),
        (put(*NODE, "op", value=["mul"]), "unknown operation"),
        (put(*NODE, "args", value=[0, 2]), "reads value 2, only 2 are defined"),  # itself: a cycle
        (put(*NODE, "args", value=[0, 3]), "reads value 3"),  # a later node: a longer cycle
        (put(*NODE, "args", value=[0, 10**9]), "reads value 1000000000"),
        (put(*NODE, "args", value=[0, -1]), "argument other is -1"),
        (put(*NODE, "args", value=[0]), "takes 2 arguments"),
        (put(*NODE, "out", value=[["float32", [5]]]), "gives float32[4], the program declares float32[5]"),
        (put(*NODE, "out", value=[["float64", [4]]]), "declares float64[4]"),
        (put(*NODE, "out", value=[]), "gives 1 values"),
        (put("phases", "grad", "outputs", value=[["loss", "", 2], ["grad", "w", 4]]), "loss '' is float32[4]"),
        (put("phases", "grad", "outputs", value=[["loss", "", 3]]), "does not give: ['w']"),
        (put("phases", "grad", "outputs", value=[["grad", "w", 4]]), "must give one loss"),
        (put("phases", "grad", "outputs", value=[["loss", "", 3], ["grad", "w", 99]]), "value 99 of 5"),
        (put("phases", "grad", "outputs", value=[["loss", "", 3], ["grad", "w", 4], ["grad", "w", 4]]), "twice"),
        (put("phases", "grad", "outputs", value=[["loss", "", 3], ["grad", "w", 3]]), "must be float32[4]"),
        (put("phases", "grad", "outputs", 1, value=["state", "param.q", 4]), "does not declare"),
        (put("phases", "grad", "inputs", 1, value=["file", "/etc/passwd"]), "role 'file'"),
        (put("phases", "grad", "inputs", 1, value=["sum", "w"]), "one micro-batch"),
        (put("phases", "update", "inputs", 2, value=["scalar", "decay"]), "sgd has none such"),
        (append("full", ["float32", HUGE, 0], ["float32", HUGE]), "allowed are"),
        (append("full", ["float32", [1 << 30] * 8, 0], ["float32", [4]]), "impossible"),
        (append("expand", [0, [1 << 10, 1 << 10, 4]], ["float32", [1 << 10, 1 << 10, 4]]), "allowed are"),
        (append("mm", [0, 1], ["float32", [4]]), "mm) is impossible"),
        (append("reshape", [0, [-5, 3]], ["float32", [4]]), "impossible"),
        (append("literal", ["float32", [4], "00"], ["float32", [4]]), "do not fill"),
        (append("keep_mask", [0, [4], 0, 1 << 25, "float32"], ["float32", [4]]), "threshold"),
    ],
)
def test_admit_hostile_program_refused(edit: Edit, message: str) -> None:
    program = minimal()
    edit(program)
    with pytest.raises(RemoteViolation) as caught:
        admit(program)
    assert message in caught.value.message


def test_admit_many_small_values_alive_together_refused() -> None:
    program, held = minimal(), ["float32", [1 << 14]]
    nodes = [{"op": "full", "args": ["float32", [1 << 14], place], "out": [held]} for place in range(32)]
    total = [{"op": "stack", "args": [list(range(5, 37)), 0], "out": [["float32", [32, 1 << 14]]]}]
    program["phases"]["grad"]["nodes"] += nodes + total
    with pytest.raises(RemoteViolation, match="needs about"):
        admit(program, memory_bytes=4 << 20)
    assert admit(program, memory_bytes=5 << 20).peak_bytes > 4 << 20


def test_admit_counts_what_micro_batches_are_added_up_in() -> None:
    program = minimal()
    one = admit(program).peak_bytes
    assert admit(program, profile=EXACT_FP32).peak_bytes == one
    assert admit(program, memory_bytes=1 << 30, profile=EXACT_INT8).peak_bytes == one + int8.SCRATCH_BYTES
    program["micro_batches"] = 8  # each place of the one parameter: 8 gradients, a result, and words to round it
    summed = one + int8.SCRATCH_BYTES + 4 * (8 * 4 + 4 + 64 + 4)
    assert admit(program, memory_bytes=1 << 30, profile=EXACT_INT8).peak_bytes == summed
    with pytest.raises(RemoteViolation, match=f"needs about {summed} bytes of memory, allowed are {summed - 1}"):
        admit(program, memory_bytes=summed - 1, profile=EXACT_INT8)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"format":1.5}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":1,"a":2}',
        b"\xff\xfe",
        b'{"format": "tolsey/program/1"}',
        b"1" * 5000,
    ],
)
def test_decode_bytes_that_are_no_program_refused(raw: bytes) -> None:
    with pytest.raises(RemoteViolation):
        graph.decode(raw)


def test_decode_a_million_nodes_refused_quickly() -> None:
    program = minimal()
    one = json.dumps(node(program), sort_keys=True, separators=(",", ":"))
    text = canonical_json(program).decode()
    nodes = json.dumps(program["phases"]["grad"]["nodes"], sort_keys=True, separators=(",", ":"))
    raw = text.replace(nodes, "[" + ",".join([one] * 1_000_000) + "]").encode()
    start = time.process_time()
    with pytest.raises(RemoteViolation, match="bytes where at most"):
        graph.decode(raw)
    assert time.process_time() - start < 1


def test_decode_more_nodes_than_allowed_refused() -> None:
    program = minimal()
    program["phases"]["grad"]["nodes"] = [node(program)] * (graph.MAX_NODES + 1)
    with pytest.raises(RemoteViolation, match="at most 100000"):
        graph.decode(canonical_json(program))


# Kernels that trust their inputs: each case is an honest call with one input replaced.
IMAGE, POOLED, CHANNELS = ["float32", [2, 4, 6, 6]], ["float32", [2, 4, 3, 3]], ["float32", [4]]
PLACES, WINDOW = ["int64", [2, 4, 3, 3]], [[2, 2], [2, 2], [0, 0], [1, 1], False]
CONVOLUTION = [[1, 1], [1, 1], [1, 1], False, [0, 0], 1]
SCALAR, ALL = ["float32", []], [True, True, True]


def fill(spec: list[Any]) -> dict[str, Any]:
    return {"op": "full", "args": [spec[0], spec[1], 0], "out": [spec]}


def unsafe(fills: list[list[Any]], *nodes: dict[str, Any]) -> dict[str, Any]:
    """The minimal program with constants 5, 6, … and then these nodes."""
    program = minimal()
    program["phases"]["grad"]["nodes"] += [fill(spec) for spec in fills] + list(nodes)
    return program


def call(op: str, args: list[Any], *outs: list[Any]) -> dict[str, Any]:
    return {"op": op, "args": args, "out": list(outs)}


LOGITS, TARGETS = ["float32", [8, 3]], ["int64", [8]]
UNSAFE = {
    "max_pool2d_backward with invented places": unsafe(
        [POOLED, IMAGE, PLACES], call("max_pool2d_backward", [5, 6, *WINDOW, 7], IMAGE)
    ),
    "max_pool2d_backward with another input": unsafe(
        [POOLED, IMAGE, IMAGE],
        call("max_pool2d", [6, *WINDOW], POOLED, PLACES),
        call("max_pool2d_backward", [5, 7, *WINDOW, 9], IMAGE),
    ),
    "nll_loss_backward without its loss": unsafe(
        [SCALAR, LOGITS, TARGETS, SCALAR], call("nll_loss_backward", [5, 6, 7, None, 1, -100, 8], LOGITS)
    ),
    "nll_loss_backward with other targets": unsafe(
        [SCALAR, LOGITS, TARGETS, ["int64", [8]]],
        call("cast", [7, "int64"], TARGETS),
        call("nll_loss", [6, 7, None, 1, -100], SCALAR, SCALAR),
        call("nll_loss_backward", [5, 6, 9, None, 1, -100, 11], LOGITS),
    ),
    "layer_norm_backward with short statistics": unsafe(
        [IMAGE, ["float32", [1]]],
        call("layer_norm_backward", [5, 5, [6], 6, 6, None, None, ALL], IMAGE, ["float32", [6]], ["float32", [6]]),
    ),
    "group_norm with zero groups": unsafe(
        [IMAGE],
        call(
            "group_norm", [5, None, None, 2, 4, 36, 0, float_hex(0.1)], IMAGE, ["float32", [2, 0]], ["float32", [2, 0]]
        ),
    ),
    "group_norm_backward with short statistics": unsafe(
        [IMAGE, ["float32", [1, 1]]],
        call("group_norm_backward", [5, 5, 6, 6, None, 2, 4, 36, 2, ALL], IMAGE, CHANNELS, CHANNELS),
    ),
    "batch_norm with short running mean": unsafe(
        [IMAGE, CHANNELS, ["float32", [1]]],
        call(
            "batch_norm",
            [5, 6, 6, 7, 6, True, float_hex(0.1), float_hex(0.1)],
            IMAGE,
            CHANNELS,
            CHANNELS,
            CHANNELS,
            CHANNELS,
        ),
    ),
    "batch_norm_backward with short statistics": unsafe(
        [IMAGE, CHANNELS, ["float32", [1]]],
        call("batch_norm_backward", [5, 5, 6, None, None, 7, 7, True, float_hex(0.1), ALL], IMAGE, CHANNELS, CHANNELS),
    ),
    "convolution_backward with a larger gradient": unsafe(
        [["float32", [2, 8, 9, 9]], IMAGE, ["float32", [8, 4, 3, 3]]],
        call(
            "convolution_backward",
            [5, 6, 7, [8], *CONVOLUTION, ALL],
            IMAGE,
            ["float32", [8, 4, 3, 3]],
            ["float32", [8]],
        ),
    ),
    "avg_pool2d_backward with a larger gradient": unsafe(
        [["float32", [2, 4, 5, 5]], IMAGE],
        call("avg_pool2d_backward", [5, 6, [2, 2], [2, 2], [0, 0], False, True, None], IMAGE),
    ),
    "adaptive_avg_pool2d_backward with other channels": unsafe(
        [["float32", [2, 9, 2, 2]], IMAGE], call("adaptive_avg_pool2d_backward", [5, 6], IMAGE)
    ),
    "embedding_backward with fewer rows": unsafe(
        [["float32", [2, 4]], ["int64", [3]]], call("embedding_backward", [5, 6, 7, -1, False], ["float32", [7, 4]])
    ),
    "softmax_backward with another shape": unsafe(
        [["float32", [2, 4]], ["float32", [2, 1]]], call("softmax_backward", [5, 6, 1, "float32"], ["float32", [2, 4]])
    ),
}


@pytest.mark.parametrize("case", sorted(UNSAFE))
def test_admit_kernel_input_without_its_origin_refused(case: str) -> None:
    with pytest.raises(RemoteViolation) as caught:
        admit(UNSAFE[case], memory_bytes=1 << 30)
    assert case.split(" ")[0] in caught.value.message and "impossible" not in caught.value.message


def test_admit_gradient_that_was_not_asked_for_cannot_be_read() -> None:
    kernel, empty = ["float32", [8, 4, 3, 3]], ["float32", [0]]
    program = unsafe(
        [["float32", [2, 8, 6, 6]], IMAGE, kernel],
        call("convolution_backward", [5, 6, 7, [8], *CONVOLUTION, [False, True, False]], empty, kernel, empty),
        call("neg", [8], empty),
    )
    with pytest.raises(RemoteViolation, match="not asked for"):
        admit(program, memory_bytes=1 << 30)


def test_admit_honest_programs_pass(gpt: Any, cnn: Any) -> None:
    for runner in (gpt, cnn):
        program = json.loads(runner.program.encode())
        assert admission.admit_bytes(canonical_json(copy.deepcopy(program))).peak_bytes == runner.admitted.peak_bytes
