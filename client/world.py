"""A whole market on this machine, started and stopped: what `tolsey up` and `down` do, for commands and SDK alike.

`start` leaves a keeper process behind (local_market.py), which outlives its caller; it returns when every part of the
market serves, or stops what had come up. Next in the flow: local_market.py; world_view.py shows the market.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tolsey.client import local_market
from tolsey.client.config import KEEPER_LOG, Settings
from tolsey.client.views import DownView
from tolsey.errors import ConfigError, TolseyError

ENGINES = ("auto", "anvil", "embedded")


class KeeperFailed(TolseyError):
    """What the keeper said before it ended, with its exit code."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(said["error"], fix=said["fix"])
        self.exit_code = said["code"]


def start(folder: Path, *, workers: int, verifiers: int, engine: str, say: Callable[[str], None]) -> Settings:
    """A market in `folder`, and where its client finds it; blocks until it serves.

    Args:
        engine: of the chain, one of ENGINES. say: told what has come up, a line each.

    Raises:
        ConfigError, KeeperFailed: it did not come up, or one runs there; nothing of it is left running.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine is {engine!r}; it is auto, anvil or embedded", fix="--engine auto")
    arguments = ["--workers", str(workers), "--verifiers", str(verifiers), "--engine", engine]
    with local_market.started_keeper(folder, arguments) as output:
        for line in output:
            said = json.loads(line)
            if "say" in said:
                say(said["say"])
            if "error" in said:
                raise KeeperFailed(said)
            if said.get("event") == "ready":
                return settings_of(folder)
        log = folder / KEEPER_LOG
        raise ConfigError(f"the market did not come up: {local_market.last_words(log)}", fix=f"less {log}")


def stop(folder: Path) -> DownView:
    """Stops the market in `folder`, if one runs; blocks until it is gone.

    Raises:
        ConfigError: its keeper does not end.
    """
    return DownView(stopped=local_market.stop_market(folder), home=str(folder))


def settings_of(folder: Path) -> Settings:
    """Where the client of the market in `folder` finds it.

    Raises:
        ConfigError: no market was ever started there.
    """
    if not (folder / "network.toml").is_file():
        raise ConfigError(f"no market was ever started in {folder}", fix="tolsey up")
    return Settings.find(network=folder / "network.toml", home=folder / "client")
