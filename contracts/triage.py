"""Static analysis of the contracts: every finding of slither was looked at, and what was thought of it is written down.

`python -m tolsey.contracts.triage` runs the slither that is first in the path over `solidity/` and compares what it
finds with `solidity/slither.triage.json`: groups of findings of one check that one reason answers. It fails where a
finding is new and where a written one is found no more, so that neither a danger nor a stale excuse stays unread.

Slither's own ids hash the line numbers of a finding's expressions: any edit above it made the same finding new. Here a
finding is its check and its words, with the places cut out; a changed expression is a new finding.

Slither lives in an environment of its own (`make slither`), because its pins are not ours. Next in the flow:
compile.py, which makes the artifacts.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tolsey.contracts.compile import SOLIDITY
from tolsey.errors import ConfigError

TRIAGE = SOLIDITY / "slither.triage.json"
_PLACE = re.compile(r" \([^()\s]+\.sol#\d+(?:-\d+)?\)")
_UNREAD = re.compile(r"Impossible to generate IR for \S+ \((?!node_modules/).*")

Findings = Counter[tuple[str, str]]
"""(check, words without places), as often as found."""


def main() -> int:
    """Command line; returns the exit status."""
    found, known = analyse(), triaged(TRIAGE.read_text())
    for check, words in (found - known).elements():
        print(f"new: {check}: {words}\n  mend it, or add to {TRIAGE.name}: {json.dumps(words)}")
    for check, words in (known - found).elements():
        print(f"gone: {check}: {words}\n  take it out of {TRIAGE.name}")
    print(f"slither: {found.total()} findings, {(found - known).total()} new, {(known - found).total()} gone")
    return 0 if found == known else 1


def analyse() -> Findings:
    """What slither finds now.

    Raises:
        ConfigError: it could not be run, or it skipped code of ours.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["slither", ".", "--config-file", "slither.config.json", "--json", str(report)]
        try:
            done = subprocess.run(
                command, cwd=SOLIDITY, env={**os.environ, "FOUNDRY_PROFILE": "quick"}, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise ConfigError("there is no slither in the path", fix="make slither") from error
        said = done.stdout + done.stderr
        if done.returncode != 0 or not report.is_file():
            raise ConfigError(f"slither failed ({done.returncode}):\n{said}")
        if skipped := _UNREAD.findall(said):
            raise ConfigError("slither did not read all of our code:\n" + "\n".join(skipped))
        return findings(report.read_text())


def findings(report: str) -> Findings:
    """The findings of slither's JSON report."""
    return Counter(
        (found["check"], _PLACE.sub("", found["description"]).strip())
        for found in json.loads(report)["results"].get("detectors", [])
    )


def triaged(text: str) -> Findings:
    """The findings written down in a triage file.

    Raises:
        ConfigError: one has no reason.
    """
    groups = json.loads(text)
    if bare := [group["check"] for group in groups if not group["reason"].strip()]:
        raise ConfigError(f"{TRIAGE.name}: no reason is given for {', '.join(bare)}")
    return Counter((group["check"], words) for group in groups for words in group["findings"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigError as failure:
        sys.exit(failure.message)
