"""One state root for all: builds of the kernels x threads x levels of PyTorch's vector code x versions of PyTorch.

    python -m tests.numerics.matrix [--torch VERSION …]        (`make matrix`)

Each row is a process of its own. In it two models are trained for some steps in both ways that Tolsey has: as a
captured graph, and as a plain loop inside `tolsey.exact()`; where both compute the same arithmetic (SGD) they must end
in the same state root. The programs of the graphs are captured once and handed to every row as files, as in a market.

`--torch` adds a version beside the environment's own (torch_versions.py installs it, a download of 0.5 to 0.9 GB). The
table names the build: 2.8.0+cu128 is 2.8.0 for CUDA 12.8. Exit status 1 if roots differ.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import tolsey
from tolsey.errors import ConfigError
from tolsey.numerics import PROFILE, build
from tolsey.runtime import admission, author, state
from tolsey.runtime.dataset import Dataset, decode_manifest
from tolsey.runtime.executor import Executable
from tolsey.runtime.segment import Trainer

from . import torch_versions

SOURCE, ROOT = Path(tolsey.__file__).parents[1], Path(__file__).parents[2]
SEED, STEPS, BATCH, CONTEXT = 11, 4, 4, 8
LEVELS = ("default", "avx2", "avx512")


class Tokens(nn.Module):
    """An encoder over bytes: embedding, attention with dropout, GELU, layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, 32), nn.Embedding(CONTEXT, 32)
        self.block = nn.TransformerEncoderLayer(32, 2, 64, 0.1, "gelu", batch_first=True, norm_first=True)
        self.logits = nn.Linear(32, 256, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits(self.block(self.token(tokens) + self.place.weight))


class Images(nn.Module):
    """Convolutions, batch norm, both kinds of pooling, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 3)),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images.float() / 16)


def jobs() -> dict[str, author.Job]:
    """What is trained, by name."""
    spec = author.TensorSpec
    tokens = author.Data(
        built=author.dataset.build_tokens(bytes(range(97, 123)) * 50),
        batch=lambda size: {"x": spec("int64", (size, CONTEXT)), "y": spec("int64", (size, CONTEXT))},
    )
    pixels = (torch.arange(40 * 64) * 7919 % 17).to(torch.uint8).reshape(40, 1, 8, 8)
    images = author.arrays(x=pixels, y=torch.arange(40) % 3)
    sgd = author.sgd(momentum="0.9", weight_decay="1e-3", nesterov=True)
    plans = {
        "gpt, SGD": (Tokens, tokens, sgd),
        "cnn, SGD": (Images, images, sgd),
        "gpt, AdamW": (Tokens, tokens, author.adamw()),
    }
    return {
        name: author.Job(
            **{"name": name, "model": model, "data": data, "optimiser": optimiser, "lr": "0.01", "seed": SEED},
            **{"batch_size": BATCH, "steps": STEPS, "steps_per_segment": STEPS},
        )
        for name, (model, data, optimiser) in plans.items()
    }


# One row: runs in a process of its own, under its own environment.


def roots(folder: Path) -> dict[str, str]:
    """State roots by program and way, in this process as it is."""
    found = {}
    for name, job in jobs().items():
        home = folder / name
        admitted = admission.admit_bytes((home / "program.json").read_bytes())
        manifest = decode_manifest((home / "dataset.json").read_bytes())
        data = Dataset(manifest, sorted((home / "data").iterdir()), admitted.program.batch, SEED)
        trainer = Trainer(Executable(admitted, profile=PROFILE), data, seed=SEED)
        first = state.initial_state(admitted.program, SEED, None)
        last = list(trainer.steps(first, STEPS))[-1].state
        found[f"{name}, graph"] = state.root_of(last, PROFILE).hex()
        found[f"{name}, plain loop"] = state.root_of(plain_loop(job, data), PROFILE).hex()
    return found


def plain_loop(job: author.Job, data: Dataset) -> state.TrainingState:
    """The same training as anybody would write it, and its state under the names that the job's has."""
    with tolsey.exact(SEED):
        model = job.model()
        if job.optimiser.kind == "sgd":
            optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-3, nesterov=True)
            for parameter in model.parameters():  # the job's begins with zeros, torch's with a copy of the gradient
                optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        else:
            optimiser = torch.optim.AdamW(model.parameters(), 0.01)
        for step in range(STEPS):
            batch = data.batch(step, 0, 1)
            torch.manual_seed(step)
            optimiser.zero_grad()
            logits = model(batch["x"])
            functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch["y"].reshape(-1)).backward()
            optimiser.step()
    moments = {"momentum_buffer": "momentum", "exp_avg": "adamw1", "exp_avg_sq": "adamw2"}
    tensors = {f"buffer.{name}": buffer for name, buffer in model.named_buffers()}
    for name, parameter in model.named_parameters():
        tensors[f"param.{name}"] = parameter.detach()
        kept = optimiser.state[parameter]
        tensors |= {f"{ours}.{name}": kept[theirs] for theirs, ours in moments.items() if theirs in kept}
    return state.TrainingState(tensors=tensors, step=STEPS, cursor=STEPS * BATCH)


# The table.


def cells() -> Iterator[tuple[str, int, str]]:
    """Build, threads, level of each row."""
    levels = [level for level in LEVELS if level == "default" or level in build.runnable()]
    return itertools.product(build.runnable(), (1, 2), levels)


def run(packages: Path | None, isa: str, threads: int, level: str, folder: Path) -> tuple[str, dict[str, str]]:
    """One row, with what lies in `packages` before the environment's own: the version of torch and the roots."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [*filter(None, [packages]), SOURCE, ROOT])),
        **{"TOLSEY_ISA": isa, "TOLSEY_THREADS": str(threads)},
        **{"OMP_NUM_THREADS": str(threads), "ATEN_CPU_CAPABILITY": level},
    }
    command = [sys.executable, "-P", "-m", "tests.numerics.matrix", "--row", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    version, found = json.loads(done.stdout.splitlines()[-1])
    return version, found


def main() -> int:
    """Prints the table; 1 if something that must be one root is two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch", action="append", default=[], metavar="VERSION")
    parser.add_argument("--row", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps((torch.__version__, roots(options.row))))
        return 0
    try:
        versions = [None, *map(torch_versions.installed, options.torch)]
    except ConfigError as error:
        raise SystemExit(error.diagnostics()) from error
    seen: dict[str, set[str]] = {}
    rows = [(packages, *cell) for packages in versions for cell in cells()]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for name, job in jobs().items():
            author.build(job, Path(folder) / name)
        results = pool.map(lambda row: run(*row, Path(folder)), rows)
        for (_, isa, threads, level), (version, found) in zip(rows, results, strict=True):
            if not seen:
                print(f"{'build':9} {'threads':7} {'ATen':8} {'torch':12}", *(f"{name:23}" for name in found))
            for name, root in found.items():
                # SGD is the same arithmetic in both ways, AdamW is not.
                seen.setdefault(name.rpartition(", ")[0] if "SGD" in name else name, set()).add(root)
            short = (f"{root[:16]:23}" for root in found.values())
            print(f"{isa:9} {threads:<7} {level:8} {version:12}", *short, flush=True)
    for name, different in seen.items():
        print(f"{name}: {len(different)} root{'s' * (len(different) > 1)} in {len(rows)} rows")
    return int(any(len(different) > 1 for different in seen.values()))


if __name__ == "__main__":
    sys.exit(main())
