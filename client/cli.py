"""`tolsey`: one command for buyer, worker and verifier; every room brings its own subcommand.

This file loads nothing heavy: a subcommand's module is imported when it is typed, and `--help` lists the names from
the table below and from the entry points in the group `tolsey.commands`. It is also the one place where an error
becomes words on standard error and an exit code (exit_codes.py). Next in the flow: commands/.
"""

from __future__ import annotations

import logging
import os
import sys
import termios
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from tolsey import __version__, log
from tolsey.client import exit_codes
from tolsey.errors import ConfigError, TolseyError

GROUP = "tolsey.commands"
TRACEBACK_VARIABLE = "TOLSEY_VERBOSE"

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("world", "Start a whole local market: chain, workers, verifiers, a funded wallet."),
    "down": ("world", "Stop the local market."),
    "status": ("world", "Show the local market: processes, chain head, listings, jobs."),
    "demo": ("world", "Buy, verify, pay, catch a liar, audit: the whole story in three minutes."),
    "run": ("buy", "Buy a training job: offers, plan, escrow, progress, result."),
    "plan": ("buy", "Show what a job would cost, without buying it."),
    "offers": ("buy", "List what workers sell now."),
    "follow": ("buy", "Serve a job's inputs and reveal its secrets until it is final."),
    "ps": ("jobs", "List my jobs."),
    "show": ("jobs", "Show one job's timeline: states, roots, draws, verdicts, money."),
    "logs": ("jobs", "Print a job's loss, step by step."),
    "wait": ("jobs", "Wait until a job is final; the exit code says how it ended."),
    "get": ("jobs", "Download the final checkpoint and check it against the chain."),
    "cancel": ("jobs", "Cancel a job before its worker commits; the forfeit goes to the worker."),
    "audit": ("trust", "Re-run segments of a job, or rebuild the whole market from its logs."),
    "wallet": ("money", "Create, show and fund the wallet; deposit to and withdraw from the market."),
    "doctor": ("machine", "Test this machine: profiles it can run, bits of its kernels, speed."),
    "bench": ("machine", "Measure this machine."),
}
"""Name -> module under commands/ and its first help line (a test compares it with the command's own)."""


class LazyGroup(TyperGroup):
    """Lists every command by name and imports the module of the one that was typed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *sorted(set(_foreign()) - set(COMMANDS))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A placeholder that can only be listed; `resolve_command` loads the real one."""
        if cmd_name in COMMANDS:
            return TyperCommand(name=cmd_name, help=COMMANDS[cmd_name][1], rich_help_panel=_panel(cmd_name))
        if cmd_name in _foreign():
            return TyperCommand(
                name=cmd_name, help=_FOREIGN_HELP.get(cmd_name, f"Commands of {cmd_name}."), rich_help_panel="Serve"
            )
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        self.commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}  # for "did you mean"
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, (load(name) if name is not None and placeholder is not None else placeholder), rest


_FOREIGN_HELP = {
    "worker": "Sell training: start, stop and watch a worker.",
    "verifier": "Replay samples of other people's training for a fee.",
    "chain": "Run a local chain and deploy the market's contracts.",
}
_PANELS = {
    "world": "Local market",
    "buy": "Buy",
    "jobs": "Jobs",
    "trust": "Trust",
    "money": "Money",
    "machine": "This machine",
}

app = typer.Typer(
    name="tolsey",
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tolsey {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Debug records and full tracebacks."),
    version: bool = typer.Option(False, "--version", callback=_say_version, is_eager=True, help="Print the version."),
) -> None:
    """A market for training in which money moves only for work that anybody can run again."""
    if verbose:
        os.environ[TRACEBACK_VARIABLE] = "1"  # follow-up processes inherit it
    log.set_up(verbose=verbose)
    if not verbose:
        for name in ("tolsey", "matplotlib"):
            logging.getLogger(name).setLevel(logging.WARNING)  # a buyer wants results, not records


def load(name: str) -> Any:
    """The command object of a name that `list_commands` gave.

    Raises:
        ConfigError: the room's module cannot be imported, mostly because an extra is not installed.
    """
    try:
        if name in COMMANDS:
            found: typer.Typer = import_module(f"tolsey.client.commands.{COMMANDS[name][0]}").app
            # A file holds several commands; Typer makes a lone one the group itself.
            group = typer.main.get_group(found)
            return group.commands[name]
        return typer.main.get_command(_foreign()[name].load())
    except ImportError as cause:
        missing = (cause.name or "").split(".")[0]
        fix = "pip install 'tolsey[torch]'" if missing == "torch" else "pip install tolsey (and see --verbose)"
        raise ConfigError(f"`tolsey {name}` cannot be loaded: {cause}", fix=fix) from cause


def main(argv: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits; every TolseyError becomes its diagnostics and its exit code."""
    with _kept_terminal():
        try:
            app(argv)
        except BaseException as caught:  # noqa: BLE001  # the last door: sorted below, nothing is swallowed
            sys.exit(report(caught))
    sys.exit(0)


@contextmanager
def _kept_terminal() -> Iterator[None]:
    """Gives the terminal back as it was: a passphrase prompt that Ctrl-C leaves behind has turned its echo off."""
    try:
        before = termios.tcgetattr(sys.stdin)
    except (OSError, ValueError, termios.error):  # no terminal
        yield
        return
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def report(caught: BaseException) -> int:
    """Tells a person what went wrong on standard error and gives the exit code."""
    if isinstance(caught, SystemExit):
        return caught.code if isinstance(caught.code, int) else int(caught.code is not None)
    leaf = exit_codes.leaf_of(caught)
    if isinstance(leaf, KeyboardInterrupt | exit_codes.Interrupted):
        print(": ".join(["interrupted", *map(str, leaf.args)]), file=sys.stderr)
        return exit_codes.INTERRUPTED
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(caught)
    if isinstance(leaf, TolseyError):
        print(f"error: {leaf.diagnostics()}", file=sys.stderr)
        return leaf.exit_code
    if not os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(caught)
    print("this is a bug of tolsey, not yours: please report it with the lines above", file=sys.stderr)
    return exit_codes.BUG


def _panel(name: str) -> str:
    return _PANELS[COMMANDS[name][0]]


def _foreign() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


if __name__ == "__main__":
    main()
