"""Findings of the static analysis: an edit elsewhere makes none new, a new one is never passed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tolsey.contracts import triage
from tolsey.errors import ConfigError

ZERO = "Pot.take(uint256) uses a dangerous strict equality:\n\t- left == 0"
LATE = "Pot.close() uses timestamp for comparisons\n\tDangerous comparisons:\n\t- block.timestamp > end"


def report(*found: tuple[str, str]) -> str:
    return json.dumps({"success": True, "results": {"detectors": [{"check": c, "description": d} for c, d in found]}})


def placed(check: str, words: str, line: int) -> tuple[str, str]:
    """A finding as slither words it: after each name and expression its place, at the end a line break."""
    first, *rest = words.replace(" uses", f" (Pot.sol#{line}-{line + 9}) uses").split("\n")
    return check, "\n".join([first, *(f"{r} (Pot.sol#{line + 3})" if "- " in r else r for r in rest), ""])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the check with a slither that gives this report, against a file that answers ZERO and LATE."""

    def main(found: str | None, *, status: int = 0, says: str = "") -> int:
        given, script = tmp_path / "given.json", tmp_path / "slither"
        given.write_text(found or "")
        copy = f'cp "{given}" "$5"' if found is not None else ":"
        script.write_text(f"#!/bin/sh\n{copy}\ncat <<'END' >&2\n{says}\nEND\nexit {status}\n")
        script.chmod(0o755)
        known = tmp_path / "known.json"
        groups = [("incorrect-equality", "a counter", [ZERO]), ("timestamp", "by design", [LATE])]
        known.write_text(json.dumps([{"check": c, "reason": r, "findings": f} for c, r, f in groups]))
        monkeypatch.setattr(triage, "TRIAGE", known)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return triage.main()

    return main


def test_main_findings_moved_by_an_edit_pass(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for line in (10, 4711):
        assert run(report(placed("timestamp", LATE, line), placed("incorrect-equality", ZERO, line))) == 0
    assert "2 findings, 0 new, 0 gone" in capsys.readouterr().out


def test_main_another_expression_in_a_known_place_is_new(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    other = ZERO.replace("left == 0", "balance == 0")
    assert run(report(placed("timestamp", LATE, 1), placed("incorrect-equality", other, 1))) == 1
    told = capsys.readouterr().out
    assert json.dumps(other) in told
    assert "1 new, 1 gone" in told


def test_main_a_known_finding_found_twice_is_new(run: Callable[..., int]) -> None:
    once = [placed("timestamp", LATE, 1), placed("incorrect-equality", ZERO, 1)]
    assert run(report(*once, placed("timestamp", LATE, 50))) == 1


def test_main_a_finding_that_is_gone_is_told(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(report(placed("timestamp", LATE, 1))) == 1
    assert "gone: incorrect-equality" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "status", "says"),
    [
        (None, 0, "no report"),
        ("{}", 255, "forge: not found"),
        (report(), 0, "Impossible to generate IR for Pot.take (Pot.sol#1-9):"),
    ],
)
def test_main_an_analysis_that_failed_is_no_pass(
    run: Callable[..., int], found: str | None, status: int, says: str
) -> None:
    with pytest.raises(ConfigError, match=says.partition("(")[0]):
        run(found, status=status, says=says)


def test_main_code_of_others_that_slither_cannot_read_is_no_failure(run: Callable[..., int]) -> None:
    says = "Impossible to generate IR for Pot._guard (node_modules/@openzeppelin/Guard.sol#1-9):"
    assert run(report(placed("timestamp", LATE, 1), placed("incorrect-equality", ZERO, 1)), says=says) == 0


def test_triaged_without_a_reason_is_refused() -> None:
    with pytest.raises(ConfigError, match="no reason is given for timestamp"):
        triage.triaged(json.dumps([{"check": "timestamp", "reason": " ", "findings": [LATE]}]))


def test_triaged_the_committed_file_answers_findings_of_our_own_code() -> None:
    known = triage.triaged(triage.TRIAGE.read_text())
    ours = {path.stem for path in triage.SOLIDITY.glob("*.sol")}
    assert known
    assert {words.removeprefix("Low level call in ").partition(".")[0] for _, words in known} <= ours
