"""Refusals in words: every error has a sentence with its own arguments, and no bytes break the reader."""

from __future__ import annotations

import string
from typing import Any

import pytest
from eth_abi.abi import encode as abi_encode
from hypothesis import given, settings
from hypothesis import strategies as st

from tolsey.contracts.abi import interface, type_text
from tolsey.contracts.reverts import CONTRACTS, SENTENCES, error_names, from_revert_data
from tolsey.protocol.encoding import keccak256
from tolsey.protocol.lifecycle import State

ENTRIES = {entry.name: entry for name in CONTRACTS for entry in interface(name).errors.values()}
SAMPLES: dict[str, Any] = {"address": "0x" + "22" * 20, "bytes32": b"term".ljust(32, b"\0"), "string": "words"}


def sample(kind: str) -> Any:
    return SAMPLES.get(kind, 3)


def test_every_error_of_the_abi_has_a_sentence() -> None:
    assert error_names() - set(SENTENCES) == set()


def test_every_sentence_is_of_an_error_of_the_abi() -> None:
    inherited = {
        name for name in SENTENCES if not name.startswith(("JobMarket_", "Ledger_", "Registry_", "PanelJudge_"))
    }
    assert set(SENTENCES) - inherited - error_names() == set()


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_sentence_speaks_only_of_the_errors_own_arguments(name: str) -> None:
    entry = ENTRIES[name]
    fields = {field for _, field, _, _ in string.Formatter().parse(SENTENCES[name][0]) if field}
    assert fields <= {c["name"] for c in entry.inputs}
    kinds = [type_text(c) for c in entry.inputs]
    raw = entry.selector + abi_encode(kinds, [sample(kind) for kind in kinds])
    found = from_revert_data(raw, action="try it")
    assert found.name == name and found.selector == entry.selector
    assert set(found.args_by_name) == {c["name"] for c in entry.inputs}
    assert found.message.startswith("cannot try it: ") and "{" not in found.message


def test_states_are_named() -> None:
    entry = ENTRIES["JobMarket_WrongState"]
    raw = entry.selector + abi_encode(["bytes32", "uint8", "uint8"], [b"\x01" * 32, 1, 3])
    found = from_revert_data(raw, action="commit")
    assert "is Drawn, the call needs Accepted" in found.message and found.args_by_name["actual"] is State.DRAWN


def test_lack_of_money_proposes_a_deposit() -> None:
    entry = ENTRIES["Ledger_InsufficientFree"]
    raw = entry.selector + abi_encode(["address", "uint256", "uint256"], ["0x" + "22" * 20, 10, 3])
    found = from_revert_data(raw, action="accept the offer")
    assert "3 token units free" in found.message and "10 are needed" in found.message
    assert "tolsey wallet deposit" in found.diagnostics()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "without a reason"),
        (b"\x01\x02", "unknown refusal 0x0102"),
        (b"\xde\xad\xbe\xef" + bytes(32), "unknown refusal 0xdeadbeef"),
        (keccak256(b"Error(string)")[:4] + abi_encode(["string"], ["too old"]), "too old"),
        (keccak256(b"Panic(uint256)")[:4] + abi_encode(["uint256"], [0x11]), "arithmetic overflow"),
        (keccak256(b"Panic(uint256)")[:4] + abi_encode(["uint256"], [0x77]), "code 0x77"),
        (keccak256(b"Error(string)")[:4] + b"\xff" * 40, "unknown refusal"),
    ],
)
def test_other_refusals_are_told_as_they_are(raw: bytes, words: str) -> None:
    assert words in from_revert_data(raw, action="do it").message


@given(
    selector=st.sampled_from([*(e.selector for e in ENTRIES.values()), b"\x08\xc3\x79\xa0"]),
    rest=st.binary(max_size=300),
)
@settings(max_examples=300, deadline=None)
def test_no_bytes_break_the_reader(selector: bytes, rest: bytes) -> None:
    assert from_revert_data(selector + rest, action="do it").message
