"""A step that runs out of memory half-way leaves the state as it was, and the machine is blamed, not the job; a step
that has what its job asks for does not run out.

In processes of their own, whose address space is bounded once they are warm.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tolsey.numerics import PROFILE

START = """
import json, resource, sys
from pathlib import Path
import numpy, torch
from torch import nn
from tolsey.errors import ConfigError
from tolsey.numerics import library
from tolsey.runtime import admission, author, state
from tolsey.runtime.dataset import Dataset
from tolsey.runtime.executor import Executable
from tolsey.runtime.segment import Trainer

profile, folder = sys.argv[1], Path(sys.argv[2])
torch.set_num_threads(1)
library.current().threads = 1  # a job's memory counts one thread's

def trainer(job, admitted):
    data = Dataset(built.manifest, built.data_paths, built.program.batch, job.seed)
    return Trainer(Executable(admitted, profile=profile), data, seed=job.seed)

def refused(step, more_bytes):
    "What is said against a step with so much more memory than there is now, or None where it can be done."
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, limits[1]))
    try:
        step()
    except ConfigError as error:
        return error.message
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
"""

WIDE = """
HIDDEN, BATCH = 16384, 512  # a hidden layer takes 32 MiB, state and gradients 5 MiB
job = author.Job(
    name="wide",
    model=lambda: nn.Sequential(nn.Linear(8, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 8)),
    data=author.arrays(x=numpy.ones((BATCH, 8), "f4"), y=numpy.zeros((BATCH, 8), "f4")),
    loss="mse", batch_size=BATCH, steps=10, steps_per_segment=5, lr="0.01", clip_norm="1.0",
)
built = author.build(job, folder)
it = trainer(job, admission.admit(built.program))
first = it.step(state.initial_state(built.program, job.seed)).state
before, expected = state.root_of(first, profile), state.root_of(it.step(first).state, profile)
print(json.dumps({
    "said": refused(lambda: it.step(first), 48 << 20),
    "unchanged": state.root_of(first, profile) == before,
    "same after": state.root_of(it.step(first).state, profile) == expected,
}))
"""

SUMMED = """
job = author.Job(
    name="summed",
    model=lambda: nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(3)]),
    data=author.arrays(x=numpy.ones((64, 1024), "f4"), y=numpy.zeros((64, 1024), "f4")),
    loss="mse", batch_size=2, micro_batches=int(sys.argv[3]), steps=10, steps_per_segment=5, lr="0.01", profile=profile,
)
built = author.build(job, folder)
chain, admitted = admission.admit(built.program), admission.admit(built.program, profile=profile)
it, first = trainer(job, admitted), state.initial_state(built.program, job.seed)
print(json.dumps({
    "promised": built.memory_bytes == admitted.peak_bytes,
    "without sums": refused(lambda: it.step(first), chain.peak_bytes - chain.state_bytes),
    "with sums": refused(lambda: it.step(first), admitted.peak_bytes - admitted.state_bytes),
}))
"""


def told(script: str, *args: str) -> dict[str, Any]:
    """What a child prints at the end."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", START + script, *args], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("profile", ["pinned", PROFILE])
def test_step_out_of_memory_leaves_the_state_and_can_be_tried_again(profile: str, tmp_path: Path) -> None:
    found = told(WIDE, profile, str(tmp_path))
    assert found["said"] is not None and "step 1 needs more memory than this machine has left" in found["said"]
    assert found["unchanged"] and found["same after"]


@pytest.mark.parametrize(
    ("profile", "micro_batches"), [("exact-int8/1", 8), ("exact-int8/1", 17), ("exact-int8x3/1", 32)]
)
def test_estimate_covers_the_exact_sums_of_micro_batches(profile: str, micro_batches: int, tmp_path: Path) -> None:
    """A step fits into what is promised for it, and not into what it takes without sums."""
    found = told(SUMMED, profile, str(tmp_path), str(micro_batches))
    assert found["promised"] and found["with sums"] is None
    assert found["without sums"] is not None and "step 0 needs more memory" in found["without sums"]
