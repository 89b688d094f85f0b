"""From `tolsey run` to the first step and to the end, on a local market of one worker and one verifier.

The whole path of a buyer: building the job, listings, an offer, two transactions, the worker's fetching and start. The
rest of a job's time is its clocks (verdict and challenge windows), which are printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "tolsey.client.cli")
EXAMPLE = Path(__file__).resolve().parents[2] / "client" / "examples" / "byte_gpt.py"
JOB = (
    '[job]\nfile = "{file}"\nsteps = 40\nsteps_per_segment = 20\nsegments_per_window = 2\n\n[market]\nmax_cost = "5"\n'
)


def tolsey(folder: Path, *words: str) -> Any:
    environment = {**os.environ, "TOLSEY_NETWORK": str(folder / "network.toml")}
    done = subprocess.run([*COMMAND, *words, "--json"], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"tolsey {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    runs = 1 if parser.parse_args().quick else 3
    with tempfile.TemporaryDirectory(prefix="tolsey-bench-") as name:
        folder = Path(name) / "market"
        job = Path(name) / "job.toml"
        job.write_text(JOB.format(file=EXAMPLE))
        began = time.monotonic()
        tolsey(folder, "up", "--workers", "1", "--verifiers", "1", "--home", str(folder))
        print(f"market of 1 worker and 1 verifier up after {time.monotonic() - began:.1f} s")
        try:
            first, whole = [], []
            for _ in range(runs):
                began = time.monotonic()
                done = tolsey(folder, "run", str(job), "--yes")
                whole.append(time.monotonic() - began)
                first.append(done["first_step_s"])
            clocks = tolsey(folder, "plan", str(job))["clocks"]
        finally:
            tolsey(folder, "down", "--home", str(folder))
    print(f"{'figure':34} {'median':>8} {'least':>8} {'most':>8}   ({runs} runs)")
    for label, values in (("run to first step told, s", first), ("run to paid, s", whole)):
        print(f"{label:34} {statistics.median(values):8.1f} {min(values):8.1f} {max(values):8.1f}")
    print(f"{'of which challenge window, s':34} {clocks['challenge_window_s']:8.1f}")


if __name__ == "__main__":
    main()
