"""Generated pages equal the program; the command table equals the commands."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path

import pytest
import typer

from tolsey import errors
from tolsey.client import cli, exit_codes, views
from tolsey.client.market import AsyncMarket, Market
from tolsey.protocol.lifecycle import FINAL

DOCS = Path(__file__).parents[2] / "docs"


def test_exit_codes_page_is_current() -> None:
    assert (DOCS / "errors.md").read_text() == exit_codes.page()


def test_json_page_is_current() -> None:
    assert (DOCS / "json.md").read_text() == views.page()


def test_exit_codes_page_names_every_error() -> None:
    page = exit_codes.page()
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.TolseyError)]
    assert len(kinds) > 15
    assert all(f"`{kind.__name__}" in page for kind in kinds)


def test_exit_codes_every_final_state_has_its_own() -> None:
    assert set(exit_codes.BY_STATE) == FINAL
    assert len(set(exit_codes.BY_STATE.values())) == len(FINAL)
    taken = {k.exit_code for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.TolseyError)}
    assert not taken & (set(exit_codes.BY_STATE.values()) | {exit_codes.WAIT_TIMED_OUT, exit_codes.INTERRUPTED})


def test_commands_table_says_what_the_commands_say() -> None:
    for name, (module, words) in cli.COMMANDS.items():
        group = typer.main.get_group(import_module(f"tolsey.client.commands.{module}").app)
        command = group.commands[name]
        assert (command.help or "").splitlines()[0] == words, name


def test_commands_all_take_json_but_the_demo() -> None:
    for name in (*cli.COMMANDS, "worker", "verifier"):
        command = cli.load(name)
        for inner in getattr(command, "commands", {name: command}).values():
            options = {opt for p in inner.params for opt in p.opts}
            assert "--json" in options or name == "demo", f"{name} {inner.name}"


def test_sdk_has_the_verbs_of_the_commands() -> None:
    """The wallet's are methods of their own; the demo is a story, and doctor and bench look at no market."""
    verbs = set(cli.COMMANDS) - {"demo", "doctor", "bench"} | {"wallet_create", "deposit", "withdraw", "faucet"}
    for kind in (Market, AsyncMarket):
        assert {verb for verb in verbs if not callable(getattr(kind, verb, None))} == set()


@pytest.mark.parametrize("kind", views.ALL, ids=lambda kind: kind.__name__)
def test_views_document_every_key(kind: type) -> None:
    page = views.page().split(f"## {kind.__name__}\n")[1].split("\n## ")[0]
    assert all(f"| `{field.name}` |" in page for field in dataclasses.fields(kind))
