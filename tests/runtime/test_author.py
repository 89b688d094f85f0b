"""What an author writes becomes files and hashes; what cannot be a job is refused with a fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tolsey.errors import ConfigError, LocalViolation, RemoteViolation, SpecInvalid
from tolsey.runtime import author, cost, dataset, determinism, state
from tolsey.runtime.author import Job

EXAMPLES = Path(__file__).resolve().parents[2] / "client" / "examples"
Run = Callable[[Job], Any]


def test_build_writes_what_it_hashes(gpt: Any) -> None:
    built = gpt.built
    assert dataset.content_id_of_file(built.program_path) == built.program_id
    assert dataset.content_id_of_file(built.dataset_path) == built.dataset_id
    assert [dataset.content_id_of_file(path) for path in built.data_paths] == [f.content for f in built.manifest.files]
    assert built.initial_path is None and built.initial_root == state.root_of(gpt.first(), gpt.job.profile)
    assert built.memory_bytes > gpt.admitted.state_bytes


class Orthogonal(nn.Module):
    """One weight that no recipe makes, too large to be written into the program."""

    def __init__(self) -> None:
        super().__init__()
        self.big = nn.Linear(80, 80)
        nn.init.orthogonal_(self.big.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.big(x)


def test_build_weight_without_recipe_travels_as_file(run: Run) -> None:
    data = author.arrays(x=torch.eye(80), y=torch.zeros(80, 80))
    job = Job(name="o", model=Orthogonal, data=data, loss="mse", batch_size=8, steps=1, steps_per_segment=1, lr="0.1")
    runner = run(job)
    path = runner.built.initial_path
    assert path is not None and dataset.content_id_of_file(path) == runner.built.initial_id
    weight = runner.first().tensors["param.big.weight"]
    assert torch.allclose(weight @ weight.T, torch.eye(80), atol=1e-5)
    assert path.stat().st_size < 80 * 80 * 4 + 500  # the bias comes from the seed
    with pytest.raises(RemoteViolation, match="1 tensors need an initial tensors file"):
        state.initial_state(runner.program, job.seed, None)


def test_examples_load_and_learn(run: Run) -> None:
    job = author.load(EXAMPLES / "byte_gpt.py")
    runner = run(job)
    losses = [result.loss for result in runner.trainer.steps(runner.first(), 12)]
    assert losses[0] > 5 and losses[-1] < 3.5
    assert 350_000 < sum(s.spec.size_bytes // 4 for s in runner.program.state.values() if s.role == "param") < 500_000


def test_digits_example_learns_to_read(run: Run) -> None:
    pytest.importorskip("sklearn")
    runner = run(author.load(EXAMPLES / "digits_cnn.py"))
    losses = [result.loss for result in runner.trainer.steps(runner.first(), 60)]
    assert losses[0] > 2 and sum(losses[-10:]) / 10 < 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "defines NoneType"),
        ("job = 3\n", "defines int"),
    ],
)
def test_load_file_without_job_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "f.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        author.load(tmp_path / "f.py")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("import os\n\n1 / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("def f():\n    raise KeyError('x')\nf()\n", 2, "KeyError: 'x'"),
        ("job = (\n", 1, "SyntaxError: '(' was never closed"),
        ("import nosuchmodule\n", 1, "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
    ],
)
def test_load_file_that_raises_names_line_and_error(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "job.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        author.load(path)
    assert f"job.py line {line}: {words}" in caught.value.message


def test_blamed_on_passes_what_the_file_did_not_raise(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), author.blamed_on(tmp_path / "job.py"):
        1 / 0  # noqa: B018  # our own fault
    with pytest.raises(SpecInvalid), author.blamed_on(Path(__file__)):
        raise SpecInvalid("said already")


def test_load_missing_file_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no job file"):
        author.load(tmp_path / "none.py")


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 2.5},
        {"micro_batches": True},
        {"seed": -1},
        {"seed": 1 << 64},
        {"steps_per_segment": 7},
    ],
)
def test_job_impossible_number_refused(make_gpt_job: Callable[..., Job], change: dict[str, Any]) -> None:
    with pytest.raises(SpecInvalid):
        make_gpt_job(**change)


@pytest.mark.parametrize("change", [{"lr": 0.1}, {"clip_norm": "0"}, {"loss": "hinge"}])
def test_build_bad_setting_refused(run: Run, make_gpt_job: Callable[..., Job], change: dict[str, Any]) -> None:
    with pytest.raises(SpecInvalid):
        run(make_gpt_job(**change))


def test_text_file_missing_or_short_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        author.text_file(tmp_path / "none", context=4)
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(ConfigError, match="has 3 bytes"):
        author.text_file(tmp_path / "short", context=4)


def test_step_flops_counts_products_forward_and_backward(run: Run) -> None:
    data = author.arrays(x=torch.zeros(8, 6), y=torch.zeros(8, 5))
    runner = run(
        Job(
            name="f",
            model=lambda: nn.Linear(6, 5),
            data=data,
            loss="mse",
            batch_size=4,
            steps=3,
            steps_per_segment=3,
            lr="1",
            micro_batches=2,
        )
    )
    one_product = 2 * 4 * 6 * 5
    assert cost.step_flops(runner.program) == 2 * 2 * one_product  # two micro-batches; forward and weight gradient
    assert runner.built.work_flops == 3 * 4 * one_product


def test_class_fingerprint_is_stable_and_readable() -> None:
    first, second = determinism.class_fingerprint(), determinism.class_fingerprint()
    assert first == second and len(first[0]) == 32
    assert first[1]["torch"] == torch.__version__ and first[1]["threads"] == torch.get_num_threads()


def test_check_finds_a_changed_switch() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    try:
        determinism.pin("pinned")
        determinism.check()
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(LocalViolation, match="matmul precision is medium, it must be highest"):
            determinism.check()
        if torch.set_flush_denormal(True):
            torch.set_float32_matmul_precision("highest")
            with pytest.raises(LocalViolation, match="subnormal"):
                determinism.check()
    finally:
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(before[0])
        torch.set_float32_matmul_precision(before[1])


def test_job_profile_is_the_exact_one_unless_said_otherwise(make_gpt_job: Callable[..., Job]) -> None:
    assert make_gpt_job().profile == "exact-fp32/1"
    assert make_gpt_job(profile="pinned").profile == "pinned"
    with pytest.raises(
        SpecInvalid, match="profile 'fast' is not one of exact-fp32/1, exact-int8/1, exact-int8x3/1, pinned"
    ):
        make_gpt_job(profile="fast")


def test_pin_unknown_profile_refused() -> None:
    with pytest.raises(SpecInvalid, match="exact-fp32/2"):
        determinism.pin("exact-fp32/2")
