"""docs/attacks.md names tests that exist, every way to cheat that is shipped, and the exit codes of the program."""

from __future__ import annotations

import re
from pathlib import Path

from tolsey.testing.dishonest import MODES
from tolsey.testing.dishonest_verifiers import DISHONEST

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "attacks.md").read_text()
NAMED = re.findall(r"`([\w./-]+\.(?:py|sol))(?:::(\w+))?`", PAGE)


def test_every_test_on_the_page_exists() -> None:
    assert len(NAMED) > 40
    for path, name in NAMED:
        assert (ROOT / path).is_file(), path
        if name:
            assert re.search(rf"(def|function) {name}\(", (ROOT / path).read_text()), f"{path}::{name}"


def test_every_dishonest_worker_has_its_row() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| `[\w-]+` \|", line)]
    assert {row.split("`")[1] for row in rows if "::" in row} == set(MODES)


def test_every_dishonest_verifier_has_its_test_on_the_page() -> None:
    tests = " ".join(name for path, name in NAMED if path == "tests/verifier/test_market.py")
    for conduct in DISHONEST:
        assert conduct.replace("-", "_") in tests, conduct
