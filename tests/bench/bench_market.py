"""From `tolsey run` to the first step and to the end, on a local market of one worker and one verifier.

    python tests/bench/bench_market.py [--quick]

The whole path of a buyer, each time in a process of its own, from its start: building the job, an offer, two
transactions, the worker's fetching and start. What is left of a job's time is its clocks (verdict and challenge
windows, which a local market sets by how fast the machine is), printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

import table

COMMAND = (sys.executable, "-m", "tolsey.client.cli")
EXAMPLE = Path(__file__).resolve().parents[2] / "client" / "examples" / "byte_gpt.py"
JOB = (
    '[job]\nfile = "{file}"\nsteps = 40\nsteps_per_segment = 20\nsegments_per_window = 2\n\n[market]\nmax_cost = "5"\n'
)
MOST_FIRST_STEP_S = 15.0
STAGES = {
    "planned": "built, priced and offered",
    "accepted": "escrow locked",
    "first step": "fetched, started, first step told",
    "paid": "trained, verified, challenge window over, paid",
}


def tolsey(folder: Path, *words: str) -> Any:
    """A command's answer."""
    environment = {**os.environ, "TOLSEY_NETWORK": str(folder / "network.toml")}
    done = subprocess.run([*COMMAND, *words, "--json"], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"tolsey {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def bought(folder: Path, job: Path) -> dict[str, float]:
    """Seconds from a buyer's start to the end of each stage, and its processor time at the first step ("processor")."""
    command = [sys.executable, __file__, "--buy", str(job), "--network", str(folder / "network.toml")]
    began = time.monotonic()  # one clock for all processes of a machine
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seen: dict[str, float] = json.loads(done.stdout)
    return {stage: seen[stage] - began for stage in STAGES} | {"processor": seen["processor"]}


def buy(network: Path, job: Path) -> None:
    """Buys a job as `tolsey run` does and prints when each stage was over."""
    from tolsey.client.market import Market  # noqa: PLC0415  # loading it is part of what is measured
    from tolsey.client.serve import Update  # noqa: PLC0415

    seen: dict[str, float] = {}

    def over(stage: str) -> bool:
        seen.setdefault(stage, time.monotonic())
        return True

    def watch(update: Update) -> None:
        if update.progress is not None and update.progress.step > 0:
            over("first step")
            seen.setdefault("processor", time.process_time())

    done = Market.open(network=network).run(
        job, decide=lambda plan: over("planned"), watch=watch, tell=lambda event, value: over(event)
    )
    if done is None or done.state != "completed":
        raise SystemExit(f"the job ended as {done}")
    over("paid")
    print(json.dumps(seen))


def main() -> int:
    """Prints the table; 1 where the target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one job in place of three")
    parser.add_argument("--buy", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--network", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.buy:
        buy(arguments.network, arguments.buy)
        return 0
    signal.signal(signal.SIGTERM, _stop)  # so that the market is taken down then too
    runs = 1 if arguments.quick else 3
    with tempfile.TemporaryDirectory(prefix="tolsey-bench-") as name:
        folder = Path(name) / "market"
        job = Path(name) / "job.toml"
        job.write_text(JOB.format(file=EXAMPLE))
        table.head()
        try:
            began = time.monotonic()
            tolsey(folder, "up", "--workers", "1", "--verifiers", "1", "--home", str(folder))
            table.row("a market of 1 worker and 1 verifier is up", f"{time.monotonic() - began:.1f} s")
            seen = [bought(folder, job) for _ in range(runs)]
            clocks = tolsey(folder, "plan", str(job))["clocks"]
        finally:
            tolsey(folder, "down", "--home", str(folder))
    before = dict.fromkeys(range(runs), 0.0)
    for stage, what in STAGES.items():
        took = [one[stage] - before[place] for place, one in enumerate(seen)]
        before = {place: one[stage] for place, one in enumerate(seen)}
        table.row(f"{'run' if stage == 'planned' else 'then'}: {what}", _figure(took))
    window_s = clocks["challenge_window_s"]
    table.row("of which challenge window", f"{window_s} s")
    first = [one["first step"] for one in seen]
    met = table.row(
        "from run to first step",
        _figure(first),
        f"median <= {MOST_FIRST_STEP_S:.0f} s",
        statistics.median(first) <= MOST_FIRST_STEP_S,
    )
    table.row("of it the buyer's own processor time", _figure([one["processor"] for one in seen]))
    table.row("from run to paid", _figure([one["paid"] for one in seen]))
    return 0 if met else 1


def _figure(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f}, {len(values)} runs)"


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit("stopped")


if __name__ == "__main__":
    sys.exit(main())
