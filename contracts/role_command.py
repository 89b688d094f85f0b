"""What `tolsey worker` and `tolsey verifier` share: options, the home folder, and the commands that any home has.

`stop`, `withdraw` and `leave` are the same for both, told by the role; each room adds them to its own app in the order
of its help. Nothing here loads web3 before a command runs. Next in the flow: purse.py moves the money.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tolsey.contracts.amounts import parse_dollars
from tolsey.contracts.network_file import network_path
from tolsey.storage.process import end, running_pid

if TYPE_CHECKING:
    from tolsey.contracts.purse import Purse, Role

NETWORK = typer.Option("local", "--network", envvar="TOLSEY_NETWORK", help="Network file, or the name of a market.")
PASSPHRASE_FILE = typer.Option(None, "--passphrase-file", help="Its first line opens the keys.")
ANNOUNCE = typer.Option([], help="Multiaddr to tell others instead (repeatable).")
BOOTSTRAP = typer.Option([], help="Peer to meet first (repeatable); else the network file's.")
JSON = typer.Option(False, "--json", help="Machine-readable output.")
LISTEN = typer.Option("/ip4/127.0.0.1/tcp/0", help="Multiaddr to accept peers on.")
FAUCET = typer.Option(False, help="Take test dollars and gas from a test chain.")
RPC_URL = typer.Option(None, help="Chain endpoint in place of the network file's.")
VERBOSE = typer.Option(False, "--verbose", "-v", help="Debug records.")


def home_option(role: Role) -> Any:
    """`--home`."""
    return typer.Option(None, "--home", help=f"Folder of this {role}; one running {role} each.")


def home_of(role: Role, network: Path, home: Path | None) -> Path:
    """The role's folder, made private: as given, else $TOLSEY_HOME, else named by the role beside the network file.

    Two markets on one machine do not share a home: their network files lie in two folders.
    """
    given = home or os.environ.get("TOLSEY_HOME")
    folder = Path(given or network.parent / role).resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def open_purse(role: Role, network: str, home: Path | None, passphrase_file: Path | None) -> Purse:
    """The money of the role's account."""
    from tolsey.contracts.purse import Purse  # noqa: PLC0415  # loads web3

    path = network_path(network)
    return Purse(path, home_of(role, path, home), passphrase_file, role)


def say(outcome: Any, json_output: bool) -> None:
    """Prints a purse.Outcome."""
    typer.echo(json.dumps(dataclasses.asdict(outcome), indent=1) if json_output else outcome.message)


def add_stop(app: typer.Typer, role: Role) -> None:
    """`stop`."""
    home_ = home_option(role)

    @app.command(help=f"Stop a running {role} in order and wait until it is gone.")
    def stop(network: str = NETWORK, home: Path | None = home_, json_output: bool = JSON) -> None:
        folder = home_of(role, network_path(network), home)
        pid = running_pid(folder, role)
        if pid is not None:
            end(pid)
        if json_output:
            typer.echo(json.dumps({"stopped": pid is not None, "pid": pid, "home": str(folder)}))
        else:
            typer.echo(f"no {role} runs in {folder}" if pid is None else f"{role} {pid} stopped")


def add_withdraw(app: typer.Typer, role: Role) -> None:
    """`withdraw`."""
    home_ = home_option(role)
    to_ = typer.Option(None, "--to", help=f"Account to send them to; else the {role}'s own.")

    @app.command(help="Take earnings out of the market.")
    def withdraw(
        amount: str = typer.Argument(help="Test dollars out of the market."),
        to: str | None = to_,
        network: str = NETWORK,
        home: Path | None = home_,
        passphrase_file: Path | None = PASSPHRASE_FILE,
        json_output: bool = JSON,
    ) -> None:
        units = parse_dollars("AMOUNT", amount)
        say(open_purse(role, network, home, passphrase_file).withdraw(units, to), json_output)


def add_leave(app: typer.Typer, role: Role, what: str) -> None:
    """`leave`; `what` finishes its help."""
    home_ = home_option(role)

    @app.command(help=f"Leave the market: {what}, or take it once its time has passed.")
    def leave(
        network: str = NETWORK,
        home: Path | None = home_,
        passphrase_file: Path | None = PASSPHRASE_FILE,
        json_output: bool = JSON,
    ) -> None:
        say(open_purse(role, network, home, passphrase_file).leave(), json_output)
