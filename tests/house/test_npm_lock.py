"""The npm lock holds for every machine: all platforms, by hash, from nobody's private registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOCK: dict[str, dict[str, Any]] = json.loads((ROOT / "package-lock.json").read_text())["packages"]
INSTALLED = {path: package for path, package in LOCK.items() if path}


def test_lock_lists_the_tools_of_every_platform() -> None:
    wanted = {
        f"node_modules/{name}": version
        for package in INSTALLED.values()
        for name, version in package.get("optionalDependencies", {}).items()
    }
    assert len(wanted) == 2 * 5, "anvil and forge, each for five platforms"
    assert {path: LOCK.get(path, {}).get("version") for path in wanted} == wanted


def test_lock_fits_the_package_file() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    assert LOCK[""]["devDependencies"] == package["devDependencies"]


def test_lock_names_a_hash_for_each_package_and_no_registry() -> None:
    assert [path for path, package in INSTALLED.items() if not package["integrity"].startswith("sha512-")] == []
    assert [path for path, package in INSTALLED.items() if "resolved" in package] == []
