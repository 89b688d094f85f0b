"""The compiled contracts that ship with this package: ABI and creation code, one JSON file each.

They are the single source of every name used against the chain (calls, logs, errors); nothing here is written by hand
(contracts/compile.py makes the files, a test rebuilds them). Next in the flow: gateway.py, reverts.py, events.py.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from tolsey.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Artifact:
    """One contract: its name, its ABI (the JSON list), and its creation code."""

    name: str
    abi: tuple[dict[str, Any], ...]
    bytecode: bytes

    def entries(self, kind: str) -> tuple[dict[str, Any], ...]:
        """The ABI entries of one type: "function", "event" or "error"."""
        return tuple(entry for entry in self.abi if entry["type"] == kind)


@functools.cache
def artifact(name: str) -> Artifact:
    """The compiled contract of that name.

    Raises:
        ConfigError: this installation has no such file.
    """
    resource = files("tolsey.contracts") / "artifacts" / f"{name}.json"
    try:
        content = json.loads(resource.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"this installation has no compiled contract {name}", fix="python -m tolsey.contracts.compile"
        ) from error
    return Artifact(name, tuple(content["abi"]), bytes.fromhex(content["bytecode"].removeprefix("0x")))
