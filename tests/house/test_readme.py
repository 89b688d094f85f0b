"""README speaks of commands and targets that exist; the command page is what the program prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text() + (ROOT / "ARCHITECTURE.md").read_text()
MAKE_TARGETS = sorted(set(re.findall(r"(?:`|^)make ([a-z-]+)", TEXT, re.M)))
COMMANDS = sorted(set(re.findall(r"(?:`|^|\$ )tolsey ((?:(?:worker|verifier|chain|wallet) )?[a-z]+)\b", TEXT, re.M)))


def test_readme_names_commands() -> None:
    assert {"demo", "test"} <= set(MAKE_TARGETS)
    assert {"up", "run", "audit"} <= set(COMMANDS)


@pytest.mark.parametrize("target", MAKE_TARGETS)
def test_make_target_of_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_commands_of_readme_exist() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    missing = [command for command in COMMANDS if f"\n## tolsey {command}\n" not in page]
    assert missing == []


def test_command_page_is_current() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "tolsey.client.command_page"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == (ROOT / "docs" / "commands.md").read_text(), (
        "docs/commands.md is stale: python -m tolsey.client.command_page > docs/commands.md"
    )
