"""Small models and jobs that the runtime's tests share. One thread, so that figures and bits do not wander."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tolsey.runtime import admission, author, executor, segment, state
from tolsey.runtime.author import BuiltJob, Job
from tolsey.runtime.dataset import Dataset
from tolsey.runtime.state import TrainingState

TEXT = b"The quick brown fox jumps over the lazy dog. " * 200


class TinyGPT(nn.Module):
    """One attention block over bytes: every kind of operation of the big one, in milliseconds."""

    def __init__(self, dropout: float = 0.0, width: int = 16, context: int = 8) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(context, width)
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.deep = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.logits = nn.Linear(width, 256, bias=False)
        self.dropout = dropout

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        stream = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        batch, time, width = stream.shape
        parts = self.project(self.norm(stream)).split(width, 2)
        query, key, value = (part.view(batch, time, 2, width // 2).transpose(1, 2) for part in parts)
        seen = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        stream = stream + self.mix(seen.transpose(1, 2).reshape(batch, time, width))
        return self.logits(self.last(stream + self.deep(stream)))


class TinyCNN(nn.Module):
    """Convolution, batch normalisation, in-place ReLU, both kinds of pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, padding=1, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classes = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classes(self.features(images.float() / 16).flatten(1))


def gpt_job(**changes: Any) -> Job:
    dropout = changes.pop("dropout", 0.0)
    settings: dict[str, Any] = {
        "name": "tiny-gpt",
        "model": lambda: TinyGPT(dropout),
        "data": changes.pop("data", None) or tokens(TEXT),
        "batch_size": 4,
        "steps": 6,
        "steps_per_segment": 2,
        "lr": "1e-2",
        "clip_norm": "1.0",
        "seed": 7,
        "optimiser": author.adamw(weight_decay="0.1"),
        "schedule": author.cosine(warmup_steps=2),
    }
    return Job(**settings | changes)


def cnn_job(**changes: Any) -> Job:
    images = (torch.arange(40 * 64) * 7919 % 17).to(torch.uint8).reshape(40, 1, 8, 8)
    settings: dict[str, Any] = {
        "name": "tiny-cnn",
        "model": TinyCNN,
        "data": author.arrays(x=images, y=torch.arange(40) % 3),
        "batch_size": 8,
        "steps": 6,
        "steps_per_segment": 3,
        "lr": "0.01",
        "seed": 9,
        "optimiser": author.sgd(momentum="0.9", weight_decay="1e-3", nesterov=True),
    }
    return Job(**settings | changes)


def tokens(raw: bytes, context: int = 8) -> author.Data:
    spec = author.TensorSpec
    return author.Data(
        built=author.dataset.build_tokens(raw),
        batch=lambda size: {"x": spec("int64", (size, context)), "y": spec("int64", (size, context))},
    )


class Runner:
    """A job built and ready to step in this process."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self.built: BuiltJob = author.build(job, folder)
        self.admitted = admission.admit_bytes(self.built.program_path.read_bytes())
        self.program = self.admitted.program
        self.data = Dataset(self.built.manifest, self.built.data_paths, self.program.batch, job.seed)
        executable = executor.Executable(self.admitted, profile=job.profile)
        self.trainer = segment.Trainer(executable, self.data, seed=job.seed)

    def first(self) -> TrainingState:
        return state.initial_state(self.program, self.job.seed, self.built.initial_path)

    def after(self, steps: int, start: TrainingState | None = None) -> TrainingState:
        current = self.first() if start is None else start
        for result in self.trainer.steps(current, steps):
            current = result.state
        return current

    def root(self, steps: int) -> str:
        return state.root_of(self.after(steps), self.job.profile).hex()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Job], Runner]:
    """Builds a job in a fresh folder."""
    count = iter(range(1000))
    return lambda job: Runner(job, tmp_path / f"job{next(count)}")


@pytest.fixture(scope="session")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(gpt_job(), tmp_path_factory.mktemp("gpt"))


@pytest.fixture(scope="session")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(cnn_job(), tmp_path_factory.mktemp("cnn"))


@pytest.fixture(scope="session")
def make_gpt_job() -> Callable[..., Job]:
    return gpt_job


@pytest.fixture(scope="session")
def make_cnn_job() -> Callable[..., Job]:
    return cnn_job


@pytest.fixture(scope="session")
def make_tokens() -> Callable[..., author.Data]:
    return tokens
