"""The same work gives the same root, in any process and from any checkpoint; other work gives another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tolsey.errors import RemoteViolation
from tolsey.numerics import PROFILE
from tolsey.protocol.checkpoint import Segment
from tolsey.runtime import author, state
from tolsey.runtime.author import Job
from tolsey.runtime.segment import StepResult, run_segment, segment_bounds

Run = Callable[[Job], Any]
MakeJob = Callable[..., Job]


def test_run_segment_resumed_from_file_equals_straight_through(tmp_path: Path, cnn: Any) -> None:
    state.write(cnn.after(3), tmp_path / "half")
    resumed = cnn.after(6, start=state.read(tmp_path / "half", cnn.program))
    assert state.root_of(resumed, PROFILE).hex() == cnn.root(6)


def test_run_segment_with_dropout_resumed_equals_straight_through(run: Run, make_gpt_job: MakeJob) -> None:
    runner = run(make_gpt_job(dropout=0.2, micro_batches=2))
    resumed = runner.after(4, start=runner.after(2))
    assert state.root_of(resumed, PROFILE).hex() == runner.root(4)


def test_run_segment_chain_of_roots_links(gpt: Any) -> None:
    current, last, steps = gpt.first(), gpt.built.initial_root, []
    for index in range(3):
        _, stop = segment_bounds(index, steps=6, steps_per_segment=2)
        for item in run_segment(gpt.trainer, current, index=index, last_step=stop, profile=PROFILE):
            if isinstance(item, StepResult):
                steps.append(item.step)
            else:
                done, current = item
        assert isinstance(done, Segment) and done.input_root == last
        assert (done.index, done.first_step, done.last_step) == (index, 2 * index, stop)
        last = done.output_root
    assert steps == list(range(6)) and last.hex() == gpt.root(6)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"lr": "1.0000001e-2"},
        {"clip_norm": "0.99"},
        {"batch_size": 5},
        {"optimiser": author.adamw(weight_decay="0.1001")},
    ],
)
def test_root_any_setting_changed_differs(gpt: Any, run: Run, make_gpt_job: MakeJob, change: dict[str, Any]) -> None:
    assert run(make_gpt_job(**change)).root(2) != gpt.root(2)


def test_root_one_byte_of_data_changed_differs(
    gpt: Any, run: Run, make_gpt_job: MakeJob, make_tokens: Callable[..., author.Data]
) -> None:
    first = gpt.data.example_at(0) * 8
    raw = bytearray(gpt.job.data.built.files[0])
    raw[first] ^= 1
    other = run(make_gpt_job(data=make_tokens(bytes(raw))))
    assert other.built.initial_root == gpt.built.initial_root
    assert other.root(1) != gpt.root(1)


def test_root_one_bit_of_one_parameter_changed_differs(gpt: Any) -> None:
    first = gpt.first()
    before = state.root_of(first, PROFILE)
    first.tensors["param.norm.weight"].view(torch.int32)[0] ^= 1
    assert state.root_of(first, PROFILE) != before


def test_step_leaves_the_state_it_was_given_alone(cnn: Any) -> None:
    first = cnn.first()
    before = state.root_of(first, PROFILE)
    after = cnn.trainer.step(first).state
    assert state.root_of(first, PROFILE) == before != state.root_of(after, PROFILE)
    assert (after.step, after.cursor) == (1, 8)


def test_step_reports_norm_before_clipping_and_rate(gpt: Any) -> None:
    result = gpt.trainer.step(gpt.first())
    assert result.grad_norm > 1 and result.lr == pytest.approx(0.005) and result.step_s > 0


def test_step_label_outside_its_classes_is_the_programs_fault(run: Run) -> None:
    data = author.arrays(x=torch.zeros(4, 2), y=torch.full((4,), 7))
    runner = run(
        Job(
            name="bad-label",
            model=lambda: nn.Linear(2, 3),
            data=data,
            batch_size=2,
            steps=1,
            steps_per_segment=1,
            lr="1",
        )
    )
    with pytest.raises(RemoteViolation, match="step 0 cannot be computed"):
        runner.trainer.step(runner.first())


@pytest.mark.parametrize(("index", "expected"), [(0, (0, 4)), (1, (4, 8)), (2, (8, 10))])
def test_segment_bounds_last_is_shorter(index: int, expected: tuple[int, int]) -> None:
    assert segment_bounds(index, steps=10, steps_per_segment=4) == expected


@pytest.mark.parametrize("index", [-1, 3])
def test_segment_bounds_outside_the_job_refused(index: int) -> None:
    with pytest.raises(ValueError, match="a job with 3 segments"):
        segment_bounds(index, steps=10, steps_per_segment=4)
