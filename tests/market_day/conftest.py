"""One local market of separate processes for all stories of the day, used as a person would: by typing commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tolsey.client.config import LOCAL_PASSPHRASE
from tolsey.contracts.wallet import PASSPHRASE_VARIABLE

COMMAND = (sys.executable, "-m", "tolsey.client.cli")
PATIENCE_S = 600


@dataclass
class Town:
    """A running market in `folder`.

    Attributes:
        restarted: processes that a story killed and started again; ended with the market.
    """

    folder: Path
    restarted: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TOLSEY_") or k == "TOLSEY_ANVIL"}
        return {**kept, "TOLSEY_NETWORK": str(self.folder / "network.toml")}

    def type(self, *words: str) -> tuple[int, Any]:
        """Types `tolsey words… --json`; exit code and what it printed."""
        done = subprocess.run(
            [*COMMAND, *words, "--json"], env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if not done.stdout.strip():
            return done.returncode, done.stderr
        return done.returncode, json.loads(done.stdout)

    def lines(self, *words: str) -> Iterator[Any]:
        """What `tolsey words… --json` prints, line by line, while it runs; ended when the reader has enough."""
        with subprocess.Popen(
            [*COMMAND, *words, "--json"], env=self.environment, stdout=subprocess.PIPE, text=True
        ) as p:
            try:
                assert p.stdout is not None
                for line in p.stdout:
                    yield json.loads(line)
            finally:
                p.kill()

    def member(self, name: str) -> dict[str, Any]:
        """A process of the market as market.json names it."""
        note = json.loads((self.folder / "market.json").read_text())
        return next(m for m in note["members"] if m["name"] == name)

    def kill(self, name: str) -> None:
        """kill -9."""
        os.kill(self.member(name)["pid"], signal.SIGKILL)

    def restart_worker(self, name: str) -> None:
        """Starts a killed worker again on its old home; returns when it says that it serves."""
        home = self.folder / name
        port = (home / "port").read_text()
        process = subprocess.Popen(
            [*COMMAND, "worker", "start", "--json", "--network", str(self.folder / "network.toml"), "--home", str(home),
             "--listen", f"/ip4/127.0.0.1/tcp/{port}"],
            env={**self.environment, PASSPHRASE_VARIABLE: LOCAL_PASSPHRASE, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=(self.folder / f"{name}.log").open("a"), text=True,
        )  # fmt: skip
        self.restarted.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{") and json.loads(line).get("event") == "ready":
                return
        raise AssertionError(f"{name} ended before it served")

    def close(self) -> None:
        for process in self.restarted:
            process.terminate()
            process.wait(60)
        subprocess.run([*COMMAND, "down", "--home", str(self.folder)], env=self.environment, timeout=200, check=False)


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    town = Town(tmp_path_factory.mktemp("town") / "market")
    up = subprocess.run(
        [*COMMAND, "up", "--workers", "2", "--verifiers", "2", "--home", str(town.folder)],
        env=town.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield town
    finally:
        town.close()


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """A job of four segments in two windows, about 10 s of training."""
    example = Path(__file__).resolve().parents[2] / "client" / "examples" / "byte_gpt.py"
    path = tmp_path / "job.toml"
    path.write_text(
        f'[job]\nfile = "{example}"\nsteps = 80\nsteps_per_segment = 20\nsegments_per_window = 2\n\n'
        '[market]\nmax_cost = "5.00"\nverifiers = 2\nsamples = 1\n'
    )
    return path
