"""Where a worker's or verifier's home lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tolsey.contracts.purse import Role
from tolsey.contracts.role_command import home_of


def test_home_is_made_private(tmp_path: Path) -> None:
    folder = home_of("verifier", tmp_path / "network.toml", tmp_path / "a" / "home")
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("role", ["worker", "verifier"])
def test_home_default_lies_beside_the_network_file(role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two markets on one machine must not share a home: their files have the same name."""
    monkeypatch.delenv("TOLSEY_HOME", raising=False)
    assert home_of(role, tmp_path / "network.toml", None) == tmp_path / role
    monkeypatch.setenv("TOLSEY_HOME", str(tmp_path / "mine"))
    assert home_of(role, tmp_path / "network.toml", None) == tmp_path / "mine"
