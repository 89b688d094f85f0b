"""Options that many commands share, and how a command opens the market and prints what it got."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import RenderableType

from tolsey.client import render, views
from tolsey.client.market import Market

NETWORK = typer.Option(None, "--network", help="Network file; else $TOLSEY_NETWORK, else the local market.")
HOME = typer.Option(None, "--home", help="The client's folder; else $TOLSEY_HOME, else beside the network file.")
PASSPHRASE_FILE = typer.Option(None, "--passphrase-file", help="Its first line opens the wallet.")
JSON = typer.Option(False, "--json", help="Print JSON (docs/json.md).")
JOB = typer.Argument(..., help="A job's id, or an unambiguous beginning of it.")


def open_market(network: Path | None, home: Path | None, passphrase_file: Path | None = None) -> Market:
    """The market that the options name."""
    return Market.open(network=network, home=home, passphrase_file=passphrase_file)


def show(view: Any, as_json: bool, drawn: RenderableType) -> None:
    """Prints a view as JSON or as drawn for people."""
    if as_json:
        print(views.dumps(view))
    else:
        render.out.print(drawn)


def is_interactive() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty()


def agreed(question: str) -> bool:
    """Asks a person on standard error; yes is `y` or `yes`, everything else is no.

    Reads the terminal below Python's own buffer: the thread that waits here is left behind on Ctrl-C, and one that
    holds the buffer's lock would stop the interpreter from ending.
    """
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    return os.read(sys.stdin.fileno(), 1024).strip().lower() in (b"y", b"yes")
