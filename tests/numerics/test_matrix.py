"""The matrix (matrix.py) can tell two roots from one; `.ci/run` prints the whole of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tolsey.numerics import build

from . import matrix


def test_other_roots_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that gives another root, and a loop that ends elsewhere than the graph."""

    def run(packages: Path | None, isa: str, threads: int, level: str, folder: Path) -> tuple[str, dict[str, str]]:
        way = "graph" if isa == build.runnable()[0] else "plain loop"
        return "2.13", {"gpt, SGD, graph": "aa", f"gpt, SGD, {way}": "aa", "gpt, AdamW, graph": way}

    monkeypatch.setattr(matrix, "run", run)
    monkeypatch.setattr(matrix, "jobs", dict)
    monkeypatch.setattr(sys, "argv", ["matrix.py"])
    assert matrix.main() == (len(build.runnable()) > 1)
    assert "gpt, SGD: 1 root in" in capsys.readouterr().out
    monkeypatch.setattr(matrix, "run", lambda *_: ("2.13", {"gpt, SGD, graph": "aa", "gpt, SGD, plain loop": "bb"}))
    assert matrix.main() == 1
    assert "gpt, SGD: 2 roots" in capsys.readouterr().out


def test_each_version_has_every_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(packages: Path | None, *cell: object) -> tuple[str, dict[str, str]]:
        return (packages.name if packages else "own"), {"gpt, SGD, graph": "aa"}

    monkeypatch.setattr(matrix, "run", run)
    monkeypatch.setattr(matrix, "jobs", dict)
    monkeypatch.setattr(matrix.torch_versions, "installed", Path)
    monkeypatch.setattr(sys, "argv", ["matrix.py", "--torch", "2.8.0", "--torch", "2.12.1"])
    assert matrix.main() == 0
    printed = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    of_one = [[isa, str(threads), level] for isa, threads, level in matrix.cells()]
    assert printed[1:-1] == [[*cell, version] for version in ("own", "2.8.0", "2.12.1") for cell in of_one]
