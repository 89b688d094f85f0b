"""Ctrl-C: whatever is being done ends at once, and the last line says what became of the money."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tolsey.client import cli
from tolsey.client.exit_codes import INTERRUPTED, Interrupted
from tolsey.client.money import Money
from tolsey.client.watching import Screen

from .test_command_line import NETWORK
from .typist import PATIENCE_S, at_terminal

CTRL_C = b"\x03"


def at_shop_window(folder: Path) -> str:
    (folder / "network.toml").write_text(NETWORK)
    return f"import pathlib, shop_window; shop_window.main(pathlib.Path({str(folder)!r}))"


async def test_ctrl_c_at_the_money_prompt_buys_nothing_and_ends_at_once(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE_S), at_terminal(at_shop_window(tmp_path)) as person:
        await person.until("Lock the escrow and buy?")
        await person.type(CTRL_C)
        assert await person.end() == INTERRUPTED, person.seen
    assert "interrupted: nothing was bought" in person.seen and "Traceback" not in person.seen


async def test_ctrl_c_while_the_escrow_is_locked_says_where_to_look(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE_S), at_terminal(at_shop_window(tmp_path)) as person:
        await person.until("Lock the escrow and buy?")
        await person.type(b"y\n")
        await person.until("a block is due")
        await person.type(CTRL_C)
        assert await person.end() == INTERRUPTED, person.seen
    assert "the escrow may be locked already: tolsey show" in person.seen


async def test_no_at_the_money_prompt_buys_nothing(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE_S), at_terminal(at_shop_window(tmp_path)) as person:
        await person.until("Lock the escrow and buy?")
        await person.type(b"\n")
        assert await person.end() == 1, person.seen
    assert "not bought; nothing was signed" in person.seen


def test_ctrl_c_after_acceptance_says_that_the_job_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Interrupted) as caught, Screen(Money(), quiet=True) as screen:
        screen.tell("locking", "ab" * 32)
        screen.tell("accepted", "ab" * 32)
        raise BaseExceptionGroup("nursery", [KeyboardInterrupt()])
    assert cli.report(caught.value) == INTERRUPTED
    said = capsys.readouterr().err
    assert "the job goes on" in said and "tolsey follow abababababab" in said and "tolsey cancel abababababab" in said
