"""`tolsey up`, `down`, `status` and `demo`: a whole market on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import typer

from tolsey.client import render, views
from tolsey.client.commands import shared
from tolsey.client.config import market_folder
from tolsey.client.exit_codes import on_interrupt
from tolsey.errors import ConfigError

app = typer.Typer()

FOLDER = typer.Option(None, "--home", help="The market's folder; ~/.local/share/tolsey/local by default.")
ENGINE = typer.Option("auto", "--engine", help="auto, anvil or embedded.")


@app.command("up")
def up(
    workers: int = typer.Option(3, "--workers", min=1, max=16, help="How many workers."),
    verifiers: int = typer.Option(3, "--verifiers", min=0, max=16, help="How many verifiers."),
    engine: str = ENGINE,
    home: Path | None = FOLDER,
    json_output: bool = shared.JSON,
) -> None:
    """Start a whole local market: chain, workers, verifiers, a funded wallet."""
    from tolsey.client import world  # noqa: PLC0415  # loads web3 and libp2p

    folder = (home or market_folder()).resolve()

    def say(line: str) -> None:
        if not json_output:
            render.err.print(line)

    with on_interrupt(lambda: f"what had come up in {folder} was stopped again; tolsey up starts it"):
        world.start(folder, workers=workers, verifiers=verifiers, engine=engine, say=say)
    _print_status(folder, json_output)
    if not json_output:
        render.err.print("next: tolsey run SPEC.toml, tolsey offers, tolsey down")


@app.command("down")
def down(home: Path | None = FOLDER, json_output: bool = shared.JSON) -> None:
    """Stop the local market."""
    from tolsey.client import world  # noqa: PLC0415  # loads web3 and libp2p

    folder = (home or market_folder()).resolve()
    done = world.stop(folder)
    if json_output:
        print(views.dumps(done))
    else:
        render.err.print("stopped" if done.stopped else f"no market runs in {folder}")


@app.command("status")
def status(home: Path | None = FOLDER, json_output: bool = shared.JSON) -> None:
    """Show the local market: processes, chain head, listings, jobs."""
    _print_status((home or market_folder()).resolve(), json_output)


@app.command("demo")
def demo(
    engine: str = ENGINE,
    fast: bool = typer.Option(False, "--fast", help="A smaller job."),
    keep: bool = typer.Option(False, "--keep", help="Leave the demo's folder on disk."),
) -> None:
    """Buy, verify, pay, catch a liar, audit: the whole story in three minutes."""
    from tolsey.client import demo as story  # noqa: PLC0415  # loads web3 and libp2p

    if engine not in ("auto", "anvil", "embedded"):
        raise ConfigError(f"--engine is {engine!r}; it is auto, anvil or embedded")
    raise typer.Exit(story.main(engine=cast(Any, engine), fast=fast, keep=keep))


def _print_status(folder: Path, json_output: bool) -> None:
    from tolsey.client import world, world_view  # noqa: PLC0415  # loads web3 and libp2p

    view, money = world_view.status(world.settings_of(folder), folder)
    shared.show(view, json_output, render.status(view, money))
