"""Measures the runtime: graph executor against eager PyTorch, capture, state root, checkpoint file.

    python tests/bench/bench_runtime.py [--quick]

The ratio is of short blocks of steps that alternate in one process on one thread, graph and eager in turn and each
first every other time, so that a busy machine hits both alike; per pair of blocks (graph time / eager time), of the
same steps on the same data. The verdict is by processor time: on one thread it is the clock's time without what other
processes took. Eager is the usual loop: zero_grad, forward, backward, clip_grad_norm_, optimiser step, with torch.optim
and the default attention kernel. Both run under the environment of a training process, the allocator's part included.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import table
import torch
from torch import nn

from tolsey.runtime import admission, author, determinism, executor, segment, state
from tolsey.runtime.dataset import Dataset
from tolsey.runtime.environment import child_environment
from tolsey.runtime.graph import Phase, Program, StateTensor, TensorSpec

EXAMPLES = Path(__file__).resolve().parents[2] / "client" / "examples"
MOST_RATIO = 1.05
LEAST_ROOT_GB_S = 1.2
BLOCK_S = 0.04


class Wide(nn.Module):
    """The byte GPT's blocks with 3.3 million parameters: fewer microseconds of Python per millisecond of arithmetic."""

    def __init__(self, blocks: int = 4, width: int = 256) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(blocks)
        )
        self.logits = nn.Linear(width, 256, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        stream = self.token(tokens) + self.place.weight
        for block in self.blocks:
            stream = block(stream)
        return self.logits(stream)


def eager_loop(job: author.Job, data: Dataset, micro_batches: int) -> Callable[[int], None]:
    """One eager step as a function of the step number."""
    model = job.model()
    model.train()
    options = job.optimiser.options
    if job.optimiser.kind == "adamw":
        optimiser: torch.optim.Optimizer = torch.optim.AdamW(
            model.parameters(), lr=float(job.lr), weight_decay=float(options["weight_decay"])
        )
    else:
        optimiser = torch.optim.SGD(
            model.parameters(),
            lr=float(job.lr),
            momentum=float(options["momentum"]),
            weight_decay=float(options["weight_decay"]),
        )

    def step(number: int) -> None:
        optimiser.zero_grad()
        for micro in range(micro_batches):
            batch = data.batch(number, micro, micro_batches)
            logits = model(batch["x"])
            loss = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch["y"].reshape(-1))
            (loss / micro_batches).backward()
        if job.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), float(job.clip_norm))
        optimiser.step()
        loss.item()

    return step


class Contest:
    """One job, built, and two functions that run its steps: the graph's and the eager one."""

    def __init__(self, job: author.Job, folder: Path) -> None:
        start = time.perf_counter()
        built = author.build(job, folder)
        self.build_s = time.perf_counter() - start
        start = time.perf_counter()
        admitted = admission.admit_bytes(built.program_path.read_bytes())
        self.admit_s = time.perf_counter() - start
        program = built.program
        data = Dataset(built.manifest, built.data_paths, program.batch, job.seed)
        self._trainer = segment.Trainer(executor.Executable(admitted), data, seed=job.seed)
        self._state = state.initial_state(program, job.seed, built.initial_path)
        self._eager = eager_loop(job, data, job.micro_batches)
        self.params = sum(item.spec.size_bytes // 4 for item in program.state.values() if item.role == "param")
        self.nodes = len(program.grad.nodes) + len(program.update.nodes)

    def graph(self, first: int, count: int) -> None:
        """`count` steps; the state knows which."""
        for _ in range(count):
            self._state = self._trainer.step(self._state).state

    def eager(self, first: int, count: int) -> None:
        """The same steps."""
        for step in range(first, first + count):
            self._eager(step)

    def pairs(self, rounds: int) -> tuple[list[Cost], list[Cost]]:
        """What a step costs, graph and eager, in each of `rounds` pairs of blocks; some before are not counted."""
        self.graph(0, 5)
        self.eager(0, 4)
        count = max(1, round(BLOCK_S / cost_of(self.eager, 4, 1).processor_s))
        step, graph, eager = 5, list[Cost](), list[Cost]()
        for round_ in range(rounds + 2):
            sides = ((self.graph, graph), (self.eager, eager))
            for run, costs in sides if round_ % 2 else reversed(sides):
                costs.append(cost_of(run, step, count))
            step += count
        return graph[2:], eager[2:]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds a step."""

    processor_s: float
    clock_s: float


def cost_of(run: Callable[[int, int], None], first: int, count: int) -> Cost:
    clock, processor = time.perf_counter(), time.process_time()
    run(first, count)
    return Cost((time.process_time() - processor) / count, (time.perf_counter() - clock) / count)


def contest(name: str, job: author.Job, rounds: int) -> bool:
    """Prints the figures of one job; whether the target was met."""
    with tempfile.TemporaryDirectory() as folder:
        both = Contest(job, Path(folder))
        graph, eager = both.pairs(rounds)
    processor = [one.processor_s / other.processor_s for one, other in zip(graph, eager, strict=True)]
    clock = [one.clock_s / other.clock_s for one, other in zip(graph, eager, strict=True)]
    ours, theirs = (1e3 * statistics.median(one.processor_s for one in side) for side in (graph, eager))
    table.row(
        f"{name}: parameters, nodes; capture, admission",
        f"{both.params}, {both.nodes}; {both.build_s:.2f} s, {both.admit_s:.3f} s",
    )
    table.row(f"{name}: a step of the graph, of eager", f"{ours:.2f} ms, {theirs:.2f} ms")
    table.row(f"{name}: graph / eager by the clock", table.spread(clock))
    met = statistics.median(processor) <= MOST_RATIO
    return table.row(f"{name}: graph / eager, {rounds} pairs", table.spread(processor), f"median <= {MOST_RATIO}", met)


def state_speeds(megabytes: int) -> bool:
    """Root, write and read of a state of large tensors, the best of five; whether the root's target was met."""
    rows = megabytes * 1_000_000 // 4 // 4 // 1024
    spec = TensorSpec("float32", (rows, 1024))
    tensors = {f"param.{place}": torch.randn(rows, 1024) for place in range(4)}
    empty = Phase(inputs=(), nodes=(), outputs=())
    program = Program(
        state={name: StateTensor(spec=spec, role="param", recipe=None) for name in tensors},
        batch={"x": spec},
        data={},
        micro_batches=1,
        rates={},
        grad=empty,
        update=empty,
    )
    whole = state.TrainingState(tensors=tensors, step=1, cursor=1)
    size = 4 * spec.size_bytes

    def speed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
        times = []
        for _ in range(5):
            start = clock()
            work()
            times.append(clock() - start)
        return size / min(times) / 1e9

    def plain() -> None:
        for tensor in tensors.values():
            hashlib.sha256(memoryview(tensor.numpy()).cast("B")).digest()

    cores = os.cpu_count() or 1
    alone, root = (speed(work, time.process_time) for work in (plain, lambda: state.root_of(whole, "pinned")))
    table.row(f"state of {size / 1e6:.0f} MB: SHA-256 alone, one core", f"{alone:.2f} GB/s of processor time")
    measured = f"{root:.2f} GB/s of processor time: {root / alone:.2f} of SHA-256 alone"
    met = table.row("its root, one core", measured, f">= {LEAST_ROOT_GB_S} GB/s", root >= LEAST_ROOT_GB_S)
    table.row("its root by the clock, one thread", f"{speed(lambda: state.root_of(whole, 'pinned')):.2f} GB/s")
    table.row(
        f"its root by the clock, {cores} threads",
        f"{speed(lambda: state.root_of(whole, 'pinned', threads=cores)):.2f} GB/s",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        table.row("checkpoint file: write, synced", f"{speed(lambda: state.write(whole, path)):.2f} GB/s")
        table.row("checkpoint file: read, checked", f"{speed(lambda: state.read(path, program)):.2f} GB/s")
    return met


def main() -> int:
    """Prints the table; 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and a smaller state")
    quick = parser.parse_args().quick
    environment = child_environment(os.environ)
    if dict(os.environ) != environment:  # the allocator and the libraries read it when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    determinism.pin("pinned")
    jobs = {"byte_gpt": author.load(EXAMPLES / "byte_gpt.py"), "digits_cnn": author.load(EXAMPLES / "digits_cnn.py")}
    if not quick:
        jobs["wide_gpt"] = author.Job(
            name="wide-gpt",
            model=Wide,
            data=author.text_file(context=64),
            batch_size=16,
            steps=1000,
            steps_per_segment=100,
            lr="1e-3",
            clip_norm="1.0",
        )
    table.head()
    met = [contest(name, job, 20 if quick or name == "wide_gpt" else 100) for name, job in jobs.items()]
    met.append(state_speeds(64 if quick else 400))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
