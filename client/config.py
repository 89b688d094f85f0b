"""Where the client finds the market, its own folder and its passphrase.

The network file comes from --network, else $TOLSEY_NETWORK, else the local market's. The folder comes from --home,
else $TOLSEY_HOME, else beside it. Nothing is read from the working directory: a market is never chosen by accident.
Next in the flow: session.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tolsey.errors import ConfigError

NETWORK_VARIABLE = "TOLSEY_NETWORK"
HOME_VARIABLE = "TOLSEY_HOME"
DATA_VARIABLE = "XDG_DATA_HOME"
LOCAL = "local"
KEEPER_LOG = "keeper.log"
"""What `tolsey up` leaves beside the network file that it writes."""
LOCAL_PASSPHRASE = "local"
"""Of every key that `tolsey up` makes: they hold test dollars of a chain that lives on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one invocation works with.

    Attributes:
        network_path: the network file (contracts/network_file.py).
        home: folder of this client: keys, database, contents. Made where missing.
        passphrase_file: whose first line opens the keys; None asks the environment, then the terminal.
    """

    network_path: Path
    home: Path
    passphrase_file: Path | None = None

    @classmethod
    def find(
        cls, *, network: Path | None = None, home: Path | None = None, passphrase_file: Path | None = None
    ) -> Settings:
        """The settings from options, then the environment, then the local market.

        Raises:
            ConfigError: there is no network file at the place that these name.
        """
        named = network or _path_from(NETWORK_VARIABLE)
        path = named or market_folder() / "network.toml"
        if not path.is_file():
            raise ConfigError(
                f"no network file at {path}" + ("" if named else ": no local market runs on this machine"),
                fix="tolsey up, or --network FILE" if named is None else "check --network or $TOLSEY_NETWORK",
            )
        folder = home or _path_from(HOME_VARIABLE) or path.parent / "client"
        beside = folder / "passphrase"
        if passphrase_file is None and beside.is_file():
            passphrase_file = beside
        return cls(network_path=path.resolve(), home=folder.resolve(), passphrase_file=passphrase_file)


def market_folder(name: str = LOCAL) -> Path:
    """Where the market called `name` keeps its files on this machine."""
    data = os.environ.get(DATA_VARIABLE)
    return (Path(data) if data else Path.home() / ".local" / "share") / "tolsey" / name


def up_again(network_path: Path) -> str | None:
    """The command that starts this network's local market again; None for a network that `tolsey up` did not make."""
    folder = network_path.parent
    if not (folder / KEEPER_LOG).exists():
        return None
    return "tolsey up" if folder == market_folder().resolve() else f"tolsey up --home {folder}"


def _path_from(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
