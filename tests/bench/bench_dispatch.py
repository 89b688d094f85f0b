"""Measures `with tolsey.exact()` around an ordinary training loop against the same loop without it.

    python tests/bench/bench_dispatch.py [--quick]

The two loops live side by side in one process, on one thread, and take short blocks of steps in turns, each first
every other time; the ratio is that of a pair of blocks by processor time. Stock is PyTorch as it comes: fused
attention, oneDNN, its own vector code. AdamW one parameter at a time, clipping, no dropout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import table
import torch
from bench_runtime import Cost, Wide, cost_of
from torch import nn

import tolsey
from tolsey.numerics import library

BLOCK_S = 0.5


class Pictures(nn.Module):
    """A small residual network for images of 32 x 32, 0.3 million parameters."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.begin = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True)),
                *(nn.Conv2d(2 * width, width, 3, padding=1), nn.BatchNorm2d(width)),
            )
            for _ in range(8)
        )
        self.classes = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.begin(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.classes(x)


def loop(
    make: Callable[[], nn.Module], x: torch.Tensor, y: torch.Tensor, block: Callable[[], AbstractContextManager[None]]
) -> tuple[Callable[[int, int], None], int]:
    """A function that takes `count` steps inside `block`, and how many parameters there are."""
    model = make()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run(first: int, count: int) -> None:
        with block():
            for _ in range(count):
                optimiser.zero_grad()
                logits = model(x)
                nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1)).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()

    return run, sum(parameter.numel() for parameter in model.parameters())


def contest(name: str, make: Callable[[], nn.Module], x: torch.Tensor, y: torch.Tensor, rounds: int) -> None:
    """Prints what a step costs in both ways, and their ratio."""
    exact, parameters = loop(make, x, y, tolsey.exact)
    stock, _ = loop(make, x, y, nullcontext)
    exact(0, 2)
    stock(0, 2)
    count = max(1, round(BLOCK_S / cost_of(stock, 0, 2).processor_s))
    costs: dict[str, list[Cost]] = {"exact": [], "stock": []}
    for round_ in range(rounds):
        sides = (("exact", exact), ("stock", stock))
        for side, run in sides if round_ % 2 else reversed(sides):
            costs[side].append(cost_of(run, 0, count))
    ratios = [ours.processor_s / theirs.processor_s for ours, theirs in zip(*costs.values(), strict=True)]
    ours, theirs = (1e3 * statistics.median(one.processor_s for one in side) for side in costs.values())
    table.row(f"{name}, {parameters / 1e6:.1f} M: a step exact, stock", f"{ours:.1f} ms, {theirs:.1f} ms")
    table.row(f"{name}: exact / stock, {rounds} pairs", table.spread(ratios, ".2f"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs")
    rounds = 4 if parser.parse_args().quick else 12
    torch.set_num_threads(1)
    library.current().threads = 1
    table.head()
    table.row("kernels, PyTorch's vector code", f"{library.current().isa}, {torch.backends.cpu.get_cpu_capability()}")
    tokens = torch.arange(16 * 64).reshape(16, 64) * 7919 % 256
    contest("GPT", lambda: Wide(2, 128), tokens, tokens, rounds)
    contest("GPT", lambda: Wide(4, 256), tokens, tokens, rounds)
    contest("CNN", Pictures, torch.rand(16, 3, 32, 32), torch.arange(16) % 10, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
