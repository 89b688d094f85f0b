"""What a training step takes on this machine under each profile: for people who wonder, no promise is made with it.

Apart from speed.py, because it captures a job, which the training process never has to. Next in the flow: `tolsey
doctor` shows it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from tolsey.numerics import library
from tolsey.runtime import admission, author
from tolsey.runtime.dataset import Dataset
from tolsey.runtime.executor import Executable
from tolsey.runtime.segment import Trainer
from tolsey.runtime.speed import ENOUGH_S
from tolsey.runtime.state import initial_state

WARM_UP_STEPS, LEAST_STEPS = 3, 5


def step_seconds(job: author.Job, folder: Path, profiles: Sequence[str]) -> dict[str, float]:
    """Seconds of a training step of a job under each profile, on one thread: the median of some, once it is captured.

    Args:
        folder: an empty one, for the captured job.
    """
    built = author.build(job, folder)
    admitted = admission.admit_bytes(built.program_path.read_bytes())
    data = Dataset(built.manifest, built.data_paths, admitted.program.batch, job.seed)
    exact, before = library.current(), (library.current().threads, torch.get_num_threads())
    exact.threads = 1
    torch.set_num_threads(1)
    try:
        return {profile: _median_step_s(job, built, admitted, data, profile) for profile in profiles}
    finally:
        exact.threads = before[0]
        torch.set_num_threads(before[1])


def _median_step_s(
    job: author.Job, built: author.BuiltJob, admitted: admission.Admitted, data: Dataset, profile: str
) -> float:
    trainer = Trainer(Executable(admitted, profile=profile), data, seed=job.seed)
    state, taken = initial_state(admitted.program, job.seed, built.initial_path), list[float]()
    while len(taken) < job.steps and not (len(taken) >= WARM_UP_STEPS + LEAST_STEPS and sum(taken) > ENOUGH_S):
        result = trainer.step(state)
        state = result.state
        taken.append(result.step_s)
    return statistics.median(taken[WARM_UP_STEPS:])
