"""How fast this machine multiplies matrices in the pinned configuration, and trains: for estimates, no more.

Training runs below the figure of matrices, because it does more than products: who estimates with it takes a margin.
Next in the flow: child.py tells it, the worker's listing carries it; `tolsey doctor` shows what a step takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from tolsey.numerics import library
from tolsey.runtime import admission, author
from tolsey.runtime.dataset import Dataset
from tolsey.runtime.executor import Executable
from tolsey.runtime.segment import Trainer
from tolsey.runtime.state import initial_state

SIZE: Final = {"cpu": 512, "cuda": 4096}
"""Edge of the square matrices: large enough for the library's blocking, 3 MiB a piece on a CPU."""
ENOUGH_S: Final = 0.5
WARM_UP_STEPS, LEAST_STEPS = 3, 5


def flops_per_s(device: torch.device | str = "cpu") -> int:
    """Floating-point operations a second of float32 products, the best of several."""
    place = torch.device(device)
    size = SIZE["cuda" if place.type == "cuda" else "cpu"]
    left, right = torch.ones(size, size, device=place), torch.ones(size, size, device=place)
    best_s, started = float("inf"), time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - started < ENOUGH_S:
            before = time.perf_counter()
            float((left @ right)[0, 0])  # the copy to the host waits for a device
            best_s = min(best_s, time.perf_counter() - before)
    return int(2 * size**3 / best_s)


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
