"""A step that runs out of memory half-way leaves the state as it was, and the machine is blamed, not the job.

In a process of its own, whose address space is bounded once it is warm.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tolsey.numerics import PROFILE

CHILD = """
import json, resource, sys
from pathlib import Path
import numpy, torch
from torch import nn
from tolsey.errors import ConfigError
from tolsey.runtime import admission, author, state
from tolsey.runtime.dataset import Dataset
from tolsey.runtime.executor import Executable
from tolsey.runtime.segment import Trainer

profile, folder = sys.argv[1], Path(sys.argv[2])
torch.set_num_threads(1)
HIDDEN, BATCH = 16384, 512  # a hidden layer takes 32 MiB, state and gradients 5 MiB
job = author.Job(
    name="wide",
    model=lambda: nn.Sequential(nn.Linear(8, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 8)),
    data=author.arrays(x=numpy.ones((BATCH, 8), "f4"), y=numpy.zeros((BATCH, 8), "f4")),
    loss="mse", batch_size=BATCH, steps=10, steps_per_segment=5, lr="0.01", clip_norm="1.0",
)
built = author.build(job, folder)
admitted = admission.admit(built.program)
data = Dataset(built.manifest, built.data_paths, built.program.batch, job.seed)
trainer = Trainer(Executable(admitted, profile=profile), data, seed=job.seed)
first = trainer.step(state.initial_state(built.program, job.seed)).state
before, expected = state.root_of(first, profile), state.root_of(trainer.step(first).state, profile)
pages = int(Path("/proc/self/statm").read_text().split()[0])
limits = resource.getrlimit(resource.RLIMIT_AS)
said = None
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (48 << 20), limits[1]))
try:
    trainer.step(first)
except ConfigError as error:
    said = error.message
finally:
    resource.setrlimit(resource.RLIMIT_AS, limits)
print(json.dumps({
    "said": said,
    "unchanged": state.root_of(first, profile) == before,
    "same after": state.root_of(trainer.step(first).state, profile) == expected,
}))
"""


@pytest.mark.parametrize("profile", ["pinned", PROFILE])
def test_step_out_of_memory_leaves_the_state_and_can_be_tried_again(profile: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD, profile, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["said"] is not None and "step 1 needs more memory than this machine has left" in found["said"]
    assert found["unchanged"] and found["same after"]
