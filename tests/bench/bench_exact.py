"""Measures whole training steps under `exact-fp32/1` against stock PyTorch on this CPU: their time and their memory.

    python tests/bench/bench_exact.py [--quick] [--isa NAME …] [--job NAME …] [--part time|memory]

Three run the same steps on the same data: the captured program on the exact kernels, the same program on PyTorch's own
(`pinned`), and the usual eager loop of plain PyTorch with its defaults (torch.optim, the default attention kernel, no
deterministic mode). They take turns in short blocks in one process, each first every third time, so that a busy machine
hits all alike; a ratio is the median over rounds. One thread: processor time; two: what passed on the wall. Our
kernels then have two threads, and PyTorch in the same process one, as in a worker's.

A build narrower than the machine is compared with a PyTorch that is held to the same instructions (ATen, oneDNN and MKL
by their variables), and, without a verdict, with one that uses all of the machine.

Memory is the most that lay in RAM (VmHWM) above what lay there before state and model were made, each engine in a
process of its own over the same few steps.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import table
import torch
from bench_runtime import EXAMPLES, Cost, Wide, cost_of, eager_loop
from torch import nn
from vendors import LIMITS, environment

from tolsey.numerics import PROFILE, build, library
from tolsey.runtime import admission, author, executor, segment, state
from tolsey.runtime.author import Job
from tolsey.runtime.dataset import Dataset

MOST_RATIO: Final = {False: 1.10, True: 1.20}
"""Exact time over eager time, by whether a model is small."""
SMALL: Final = 1_000_000
"""Parameters."""
MOST_MEMORY: Final = 1.2
BLOCK_S: Final = 0.1
MEMORY_STEPS: Final = 4


class Residual(nn.Module):
    """Two convolutions with batch norm around a short cut."""

    def __init__(self, channels: int, wider: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(channels, wider, 3, stride, 1, bias=False),
            nn.Conv2d(wider, wider, 3, 1, 1, bias=False),
        )
        self.first_norm, self.second_norm = nn.BatchNorm2d(wider), nn.BatchNorm2d(wider)
        self.short = nn.Identity()
        if stride > 1 or channels != wider:
            self.short = nn.Sequential(nn.Conv2d(channels, wider, 1, stride, bias=False), nn.BatchNorm2d(wider))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.short(x))


class ResNet(nn.Module):
    """The 18-layer network for 32 x 32 images (He et al. 2015), with as many channels as asked for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
        for stage in range(4):
            for block in range(2):
                layers.append(Residual(channels, width << stage, 2 if stage and not block else 1))
                channels = width << stage
        self.features = nn.Sequential(*layers)
        self.classes = nn.Linear(channels, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classes(self.features(images.float() / 255).mean([2, 3]))


def byte_gpt(name: str, blocks: int, width: int, batch_size: int) -> Job:
    return Job(
        name=name,
        model=lambda: Wide(blocks, width),
        data=author.text_file(context=64),
        batch_size=batch_size,
        steps=1000,
        steps_per_segment=100,
        lr="1e-3",
        clip_norm="1.0",
    )


def resnet(name: str, width: int, batch_size: int) -> Job:
    drawn = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (256, 3, 32, 32), generator=drawn, dtype=torch.uint8)
    return Job(
        name=name,
        model=lambda: ResNet(width),
        data=author.arrays(x=images, y=torch.randint(0, 10, (256,), generator=drawn)),
        batch_size=batch_size,
        steps=1000,
        steps_per_segment=100,
        lr="0.01",
        optimiser=author.sgd(momentum="0.9", weight_decay="5e-4"),
    )


JOBS: Final[dict[str, Callable[[], Job]]] = {
    "digits_cnn": lambda: author.load(EXAMPLES / "digits_cnn.py"),
    "gpt_0.1m": lambda: byte_gpt("gpt-tiny", 1, 64, 8),
    "byte_gpt": lambda: author.load(EXAMPLES / "byte_gpt.py"),
    "gpt_3m": lambda: byte_gpt("gpt-3m", 4, 256, 16),
    "resnet_3m": lambda: resnet("resnet-3m", 32, 16),
    "gpt_14m": lambda: byte_gpt("gpt-14m", 8, 384, 16),
    "resnet_11m": lambda: resnet("resnet-11m", 64, 8),
}
QUICK: Final = ("digits_cnn", "byte_gpt", "gpt_3m", "resnet_3m")


class Graph:
    """Steps of the captured program in `folder`."""

    def __init__(self, job: Job, folder: Path, profile: str) -> None:
        admitted = admission.admit_bytes((folder / "program.json").read_bytes())
        initial = folder / "initial.safetensors"
        self.program = admitted.program
        self._trainer = segment.Trainer(
            executor.Executable(admitted, profile=profile), data_of(job, folder, admitted), seed=job.seed
        )
        self._state = state.initial_state(self.program, job.seed, initial if initial.exists() else None)

    def __call__(self, first: int, count: int) -> None:
        for _ in range(count):
            self._state = self._trainer.step(self._state).state


class Eager:
    """Steps of plain PyTorch."""

    def __init__(self, job: Job, folder: Path) -> None:
        admitted = admission.admit_bytes((folder / "program.json").read_bytes())
        self._step = eager_loop(job, data_of(job, folder, admitted), job.micro_batches)

    def __call__(self, first: int, count: int) -> None:
        for step in range(first, first + count):
            self._step(step)


def data_of(job: Job, folder: Path, admitted: admission.Admitted) -> Dataset:
    return Dataset(job.data.built.manifest, sorted((folder / "data").iterdir()), admitted.program.batch, job.seed)


def engine(name: str, job: Job, folder: Path) -> Callable[[int, int], None]:
    return Eager(job, folder) if name == "eager" else Graph(job, folder, PROFILE if name == "exact" else "pinned")


# in the processes that measure


def measure_time(job: Job, folder: Path, threads: int, rounds: int) -> dict[str, list[Cost]]:
    """What a step costs with each engine in each round."""
    library.current().threads = threads
    engines = {name: engine(name, job, folder) for name in ("exact", "pinned", "eager")}

    def cost(name: str, first: int, steps: int) -> Cost:
        torch.set_num_threads(1 if name == "exact" else threads)  # as in a worker's process
        return cost_of(engines[name], first, steps)

    for name in engines:
        cost(name, 0, 3)
    once = cost("eager", 3, 1)
    count = max(1, round(BLOCK_S / once.clock_s))
    step, costs = 4, {name: list[Cost]() for name in engines}
    for round_ in range(rounds + 1):
        names = list(engines)
        for name in names[round_ % 3 :] + names[: round_ % 3]:
            costs[name].append(cost(name, step, count))
        step += count
    return {name: taken[1:] for name, taken in costs.items()}  # the first warms up


def measure_memory(job: Job, folder: Path, name: str) -> int:
    """Bytes at the worst moment above what lay in memory before."""
    torch.set_num_threads(1)
    library.current().threads = 1
    torch.randn(64, 64) @ torch.randn(64, 64)  # libraries make their tables at the first use
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    engine(name, job, folder)(0, MEMORY_STEPS)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure(what: dict[str, Any]) -> None:
    """The child's part: one measurement, its result as JSON on the last line."""
    job, folder = JOBS[what["job"]](), Path(what["folder"])
    if what["kind"] == "memory":
        result: Any = measure_memory(job, folder, what["engine"])
    else:
        taken = measure_time(job, folder, what["threads"], what["rounds"])
        result = {name: [[cost.processor_s, cost.clock_s] for cost in costs] for name, costs in taken.items()}
    print(json.dumps(result))


# in the process that asks


def ask(isa: str, limited: bool, **what: Any) -> Any:
    """The result of a measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", json.dumps(what)]
    done = subprocess.run(command, env=environment(isa, limited=limited), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring {what} on {isa} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def time_rows(name: str, folder: str, isa: str, small: bool, rounds: int) -> bool:
    """Ratios of one job on one build."""
    met = True
    for threads in (1, 2):
        for limited in (True, False) if LIMITS[isa] and threads == 1 else (True,):
            costs = ask(isa, limited, kind="time", job=name, folder=folder, threads=threads, rounds=rounds)
            clock = 0 if threads == 1 else 1
            seconds = {who: [cost[clock] for cost in taken] for who, taken in costs.items()}
            ratio = [ours / theirs for ours, theirs in zip(seconds["exact"], seconds["eager"], strict=True)]
            graph = [ours / theirs for ours, theirs in zip(seconds["exact"], seconds["pinned"], strict=True)]
            steps = ", ".join(f"{who} {1e3 * statistics.median(taken):.1f}" for who, taken in seconds.items())
            what = f"{name} {isa}, {threads} thread{'s' * (threads > 1)}" + ("" if limited else ", PyTorch unlimited")
            table.row(f"{what}: ms a step", steps)
            table.row(f"{what}: exact / pinned program", table.spread(graph))
            if limited:
                most, found = MOST_RATIO[small], statistics.median(ratio)
                met &= table.row(f"{what}: exact / eager", table.spread(ratio), f"median <= {most}", found <= most)
            else:
                table.row(f"{what}: exact / eager", table.spread(ratio))
    return met


def memory_row(name: str, folder: str, small: bool) -> bool:
    """Peak memory of one job; of small models Python's own objects are the most of it, so they get no verdict."""
    isa = library.current().isa
    peak = {
        who: ask(isa, False, kind="memory", job=name, folder=folder, engine=who) for who in ("exact", "pinned", "eager")
    }
    ratio = peak["exact"] / peak["eager"]
    shown = ", ".join(f"{who} {size / 1e6:.0f}" for who, size in peak.items()) + f" MB: {ratio:.2f}"
    if small:
        return table.row(f"{name}: peak memory, exact / eager", shown)
    return table.row(f"{name}: peak memory, exact / eager", shown, f"<= {MOST_MEMORY}", ratio <= MOST_MEMORY)


def main() -> int:
    """Prints the table; 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer models and rounds")
    parser.add_argument("--isa", nargs="*", help="builds to run (avx2 and avx512, where the CPU has them)")
    parser.add_argument("--job", nargs="*", help=f"of {', '.join(JOBS)}")
    parser.add_argument("--part", choices=("time", "memory"), help="only this (both)")
    parser.add_argument("--rounds", type=int, help="blocks of each engine")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(json.loads(options.measure))
        return 0
    isas = options.isa or [isa for isa in LIMITS if isa in build.runnable()]
    rounds = options.rounds or (6 if options.quick else 12)
    table.head()
    met = True
    for name in options.job or (QUICK if options.quick else tuple(JOBS)):
        job = JOBS[name]()
        with tempfile.TemporaryDirectory() as folder:
            built = author.build(job, Path(folder))
            params = sum(item.spec.size_bytes // 4 for item in built.program.state.values() if item.role == "param")
            nodes = len(built.program.grad.nodes) + len(built.program.update.nodes)
            table.row(f"{name}: parameters, nodes", f"{params}, {nodes}")
            if options.part != "memory":
                for isa in isas:
                    met &= time_rows(name, folder, isa, params < SMALL, rounds)
            if options.part != "time":
                met &= memory_row(name, folder, params < SMALL)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
