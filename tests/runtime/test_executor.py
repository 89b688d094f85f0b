"""What the executor does to save time is seen by nobody: bits, layouts and inputs are as if it did nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tolsey.numerics import PROFILE as EXACT
from tolsey.numerics import library
from tolsey.runtime import exact, executor
from tolsey.runtime.admission import META, spec_of
from tolsey.runtime.executor import PhaseRunner
from tolsey.runtime.graph import Node, Phase, Program, StateTensor, TensorSpec
from tolsey.runtime.ops import DTYPES, OPS, float_hex, refs

CPU = torch.device("cpu")
SQUARE = TensorSpec("float32", (3, 3))
WHOLE = TensorSpec("int64", (3, 3))
INPUTS = (("state", "param.w"), ("state", "param.k"), ("sum", "w"), ("batch", "x"))
HALF = float_hex(0.5)


def program(phase: Phase) -> Program:
    empty = Phase(inputs=(), nodes=(), outputs=())
    return Program(
        state={
            "param.w": StateTensor(spec=SQUARE, role="param", recipe=None),
            "param.k": StateTensor(spec=WHOLE, role="param", recipe=None),
        },
        batch={"x": SQUARE},
        data={},
        micro_batches=2,
        rates={},
        grad=phase,
        update=empty,
    )


def phase_of(calls: Sequence[tuple[str, list[Any]]], outputs: Sequence[int], role: str = "grad") -> Phase:
    """A phase over INPUTS; the specs that each node declares come from the meta device."""
    whole = program(Phase(inputs=(), nodes=(), outputs=()))
    specs = [whole.input_spec(role, name) for role, name in INPUTS]
    values = [torch.empty(spec.shape, dtype=DTYPES[spec.dtype], device=META) for spec in specs]
    nodes = []
    for name, raw in calls:
        args = OPS[name].parse(raw)
        values.append(OPS[name].build(args, META)(*[values[slot] for slot in refs(args)]))
        nodes.append(Node(name, raw, (spec_of(values[-1]),)))
    kept = tuple((role, str(place), slot) for place, slot in enumerate(outputs))
    return Phase(inputs=INPUTS, nodes=tuple(nodes), outputs=kept)


def inputs() -> dict[tuple[str, str], torch.Tensor]:
    """State and batch in row-major order, as the runtime keeps them; a summed gradient may lie in any."""
    numbers = torch.arange(9, dtype=torch.float32).reshape(3, 3)
    given = [numbers / 7 - 0.5, torch.arange(9).reshape(3, 3), (numbers / 5 + 0.1).T, numbers.flip(0) / 3 - 1]
    return dict(zip(INPUTS, given, strict=True))


def run_both_ways(phase: Phase, profile: str = "pinned") -> tuple[dict[Any, torch.Tensor], dict[Any, torch.Tensor]]:
    """Outputs of the fast and of the observed run, each from inputs of its own that must come out as they went in."""
    runner = PhaseRunner(program(phase), phase, CPU, profile)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    results = []
    for observer in (None, lambda node, outs: seen.extend((out, out.clone()) for out in outs)):
        values = inputs()
        results.append(runner.run(values, observer))
        assert all(torch.equal(values[key], tensor) for key, tensor in inputs().items())
    assert all(torch.equal(bits(kept), bits(copy)) for kept, copy in seen)
    return results[0], results[1]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def overwritten(calls: Sequence[tuple[str, list[Any]]], outputs: Sequence[int]) -> list[int]:
    """Which nodes write over an argument."""
    phase = phase_of(calls, outputs)
    runner = PhaseRunner(program(phase), phase, CPU)
    return [
        node
        for node, fast, plain in zip(runner._nodes, runner._code, runner._plain, strict=True)
        if fast[0] is not plain[0]
    ]


W, K, SUM, X = range(4)
FIRST, SECOND, THIRD = 4, 5, 6  # ids of the first nodes' values


def test_elementwise_chain_writes_over_what_nobody_reads_again() -> None:
    calls = [
        ("mul", [W, X]),
        ("addcmul", [FIRST, W, X, HALF]),
        ("sqrt", [SECOND]),
        ("div", [W, THIRD]),  # the second argument's memory
    ]
    assert overwritten(calls, [7]) == [1, 2, 3]
    assert run_both_ways(phase_of(calls, [7]))


def test_elementwise_value_read_twice_is_written_over_by_its_last_reader() -> None:
    calls = [("mul", [W, X]), ("neg", [FIRST]), ("add", [FIRST, SECOND])]
    assert overwritten(calls, [SECOND, THIRD]) == [2]
    assert run_both_ways(phase_of(calls, [SECOND, THIRD]))


@pytest.mark.parametrize(
    ("why", "calls", "outputs"),
    [
        ("inputs are the caller's", [("mul", [W, X])], [FIRST]),
        ("an output is kept", [("mul", [W, X]), ("neg", [FIRST])], [FIRST, SECOND]),
        ("a view shows it", [("mul", [W, X]), ("transpose", [FIRST, 0, 1]), ("neg", [FIRST])], [SECOND, THIRD]),
        ("a view shows it later", [("mul", [W, X]), ("neg", [FIRST]), ("reshape", [FIRST, [9]])], [SECOND, THIRD]),
        ("a product may be a view for all we know", [("mm", [W, X]), ("neg", [FIRST])], [SECOND]),
        ("another element type", [("add_scalar", [K, 1]), ("add", [FIRST, W])], [SECOND]),
        ("another shape", [("sum", [W, [0], True]), ("neg", [FIRST]), ("add", [W, SECOND])], [THIRD]),
        ("its layout is not known", [("mul", [SUM, X]), ("neg", [FIRST])], [SECOND]),
        ("the result's layout would change", [("mul", [W, X]), ("add", [SUM, FIRST])], [SECOND]),
    ],
)
def test_elementwise_result_gets_memory_of_its_own_where(
    why: str, calls: list[tuple[str, list[Any]]], outputs: list[int]
) -> None:
    assert overwritten(calls, outputs) == [], why


@st.composite
def phases(draw: st.DrawFn) -> Phase:
    """Up to 12 nodes over [3, 3] values, elementwise and views mixed, any of them outputs."""
    calls: list[tuple[str, list[Any]]] = []
    for count in range(draw(st.integers(1, 12))):
        square = st.sampled_from([W, SUM, X, *range(FIRST, FIRST + count)])
        one, two, three = draw(square), draw(square), draw(square)
        calls.append(
            draw(
                st.sampled_from(
                    [
                        ("add", [one, two]),
                        ("mul", [one, two]),
                        ("div", [one, two]),
                        ("maximum", [one, two]),
                        ("mul_scalar", [one, HALF]),
                        ("exp", [one]),
                        ("lerp", [one, two, HALF]),
                        ("addcmul", [one, two, three, HALF]),
                        ("clamp", [one, None, HALF]),
                        ("relu", [one]),
                        ("mm", [one, two]),
                        ("transpose", [one, 0, 1]),
                        ("reshape", [one, [3, 3]]),
                        ("permute", [one, [1, 0]]),
                        ("flip", [one, [1]]),
                    ]
                )
            )
        )
    last = FIRST + len(calls) - 1
    outputs = draw(st.lists(st.integers(FIRST, last), max_size=3, unique=True))
    return phase_of(calls, [*outputs, last])


@pytest.mark.parametrize("profile", ["pinned", EXACT])
@given(phase=phases())
@settings(max_examples=300, deadline=None)
def test_any_phase_gives_the_bits_and_layouts_of_a_run_that_overwrites_nothing(profile: str, phase: Phase) -> None:
    fast, observed = run_both_ways(phase, profile)
    for key, tensor in observed.items():
        assert torch.equal(bits(fast[key]), bits(tensor)) and fast[key].stride() == tensor.stride()


def test_state_given_back_is_row_major_so_that_a_checkpoint_loses_nothing() -> None:
    turned = run_both_ways(phase_of([("transpose", [W, 0, 1])], [FIRST], role="state"))[0]["state", "0"]
    assert torch.equal(turned, inputs()["state", "param.w"].T) and turned.is_contiguous()


@pytest.mark.parametrize("observer", [None, lambda node, outs: None])
def test_scalar_that_an_exact_node_reads_is_where_the_node_computes(
    observer: executor.Observer | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands for any that is not this machine's memory: of two numbers here it would make one here."""
    monkeypatch.setattr(exact, "require", lambda *given: library.current())
    number = TensorSpec("float32", ())
    phase = Phase(
        inputs=(("scalar", "lr"), ("scalar", "decay")),
        nodes=(Node("mul", [0, 1], (number,)), Node("mul", [0, 0], (number,))),
        outputs=(("metric", "product", 2), ("metric", "square", 3)),
    )
    given = {key: torch.tensor(0.5) for key in phase.inputs}
    found = PhaseRunner(program(phase), phase, META, EXACT).run(given, observer)
    assert {tensor.device for tensor in found.values()} == {META}


def test_step_observed_gives_the_same_state(gpt: Any) -> None:
    nodes: list[int] = []
    plain = gpt.trainer.step(gpt.first())
    watch: executor.Observer = lambda node, outs: nodes.append(node)
    traced = gpt.trainer.step(gpt.first(), (watch, watch))
    assert len(nodes) > 100 and (traced.loss, traced.grad_norm) == (plain.loss, plain.grad_norm)
    assert all(torch.equal(traced.state.tensors[name], tensor) for name, tensor in plain.state.tensors.items())
