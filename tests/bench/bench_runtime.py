"""Measures the runtime: graph executor against eager PyTorch, capture, state root, checkpoint file.

    python tests/bench/bench_runtime.py [--quick]

Ratios compare interleaved runs in one process on one thread, so that a busy machine hits both alike; the figure is the
median over rounds of (executor time / eager time) for the same steps on the same data. Eager is the usual loop:
zero_grad, forward, backward, clip_grad_norm_, optimiser step, with torch.optim and the default attention kernel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tolsey.runtime import admission, author, determinism, executor, segment, state
from tolsey.runtime.dataset import Dataset

EXAMPLES = Path(__file__).resolve().parents[2] / "client" / "examples"


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


def executor_ratio(job: author.Job, rounds: int, steps: int) -> dict[str, float]:
    """Median step times and their ratio, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        built = author.build(job, Path(folder))
        build_s = time.perf_counter() - start
        start = time.perf_counter()
        admitted = admission.admit_bytes(built.program_path.read_bytes())
        admit_s = time.perf_counter() - start
        data = Dataset(built.manifest, built.data_paths, built.program.batch, job.seed)
        trainer = segment.Trainer(executor.Executable(admitted), data, seed=job.seed)
        current = state.initial_state(built.program, job.seed, built.initial_path)
        eager = eager_loop(job, data, job.micro_batches)
        number, ratios, ours_s, eager_s = 0, [], [], []
        for round_ in range(rounds + 1):
            start = time.perf_counter()
            for _ in range(steps):
                current = trainer.step(current).state
            middle = time.perf_counter()
            for place in range(steps):
                eager(number + place)
            end = time.perf_counter()
            number += steps
            if round_:  # the first round warms up both
                ours_s.append((middle - start) / steps)
                eager_s.append((end - middle) / steps)
                ratios.append((middle - start) / (end - middle))
    params = sum(item.spec.size_bytes // 4 for item in built.program.state.values() if item.role == "param")
    return {
        "params": params,
        "nodes": len(built.program.grad.nodes) + len(built.program.update.nodes),
        "build_s": round(build_s, 2),
        "admit_s": round(admit_s, 3),
        "executor_ms": round(statistics.median(ours_s) * 1e3, 2),
        "eager_ms": round(statistics.median(eager_s) * 1e3, 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def state_speeds(megabytes: int) -> dict[str, float]:
    """MB/s of root, write and read for a state of large tensors, on one core; the best of three."""
    from tolsey.runtime.graph import Phase, Program, StateTensor, TensorSpec  # noqa: PLC0415  # for this figure only

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
    size = 4 * spec.size_bytes / 1e6

    def speed(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return round(size / min(times), 0)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        return {
            "state_mb": round(size, 1),
            "root_mb_s": speed(lambda: state.root_of(whole, "pinned")),
            "write_mb_s": speed(lambda: state.write(whole, path)),
            "read_mb_s": speed(lambda: state.read(path, program)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and a smaller state")
    quick = parser.parse_args().quick
    determinism.pin("pinned")
    rounds, steps = (5, 6) if quick else (15, 12)
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
    for name, job in jobs.items():
        scale = 10 if name == "digits_cnn" else 1
        print(json.dumps({"bench": name, **executor_ratio(job, rounds, steps * scale)}), flush=True)
    print(json.dumps({"bench": "state", **state_speeds(64 if quick else 400)}))


if __name__ == "__main__":
    main()
