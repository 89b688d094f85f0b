"""The corners of the matrix (matrix.py), and that it can tell two roots from one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tolsey.numerics import build

from . import matrix


@pytest.mark.slow
def test_corners_of_the_matrix_have_one_root() -> None:
    command = [sys.executable, "-P", matrix.__file__, "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = len(build.runnable())
    assert f"gpt, SGD: 1 root in {rows} rows" in done.stdout and f"cnn, SGD: 1 root in {rows} rows" in done.stdout


def test_other_roots_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that gives another root, and a loop that ends elsewhere than the graph."""

    def run(python: str, isa: str, threads: int, level: str, folder: Path) -> tuple[str, dict[str, str]]:
        way = "graph" if isa == build.runnable()[0] else "plain loop"
        return "2.13", {"gpt, SGD, graph": "aa", f"gpt, SGD, {way}": "aa", "gpt, AdamW, graph": way}

    monkeypatch.setattr(matrix, "run", run)
    monkeypatch.setattr(matrix, "jobs", dict)
    monkeypatch.setattr(sys, "argv", ["matrix.py", "--quick"])
    assert matrix.main() == (len(build.runnable()) > 1)
    assert "gpt, SGD: 1 root in" in capsys.readouterr().out
    monkeypatch.setattr(matrix, "run", lambda *_: ("2.13", {"gpt, SGD, graph": "aa", "gpt, SGD, plain loop": "bb"}))
    assert matrix.main() == 1
    assert "gpt, SGD: 2 roots" in capsys.readouterr().out


def test_a_torch_that_brings_cuda_is_not_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []

    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        report = '{"install": [{"metadata": {"requires_dist": ["filelock", "nvidia-cublas-cu12==12.8"]}}]}'
        return subprocess.CompletedProcess(command, 0, stdout=report, stderr="")

    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(subprocess, "run", answer)
    assert matrix.interpreter("2.8.0") is None
    assert len(commands) == 1 and "--dry-run" in commands[0]
    assert "not downloaded, not compared" in capsys.readouterr().out
