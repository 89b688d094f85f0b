from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.errors import RemoteViolation
from tolsey.protocol import encoding
from tolsey.protocol.encoding import (
    MAX_JSON_DEPTH,
    address_word,
    canonical_json,
    keccak256,
    parse_canonical_json,
    sha256,
    tag,
    word,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 200), 1 << 200) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


def test_keccak256_empty_is_ethereums_not_nists() -> None:
    assert keccak256().hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


def test_hashes_of_parts_equal_the_hash_of_their_concatenation() -> None:
    assert keccak256(b"a", b"", b"bc") == keccak256(b"abc")
    assert sha256(b"a", memoryview(b"bc")).hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_tag_is_the_solidity_bytes32_literal() -> None:
    assert tag(b"tolsey/leaf/1") == b"tolsey/leaf/1" + bytes(19)


def test_tag_longer_than_a_word_raises() -> None:
    with pytest.raises(ValueError, match="32"):
        tag(b"x" * 33)


def test_domain_tags_are_all_different() -> None:
    tags = [value for name, value in vars(encoding).items() if name.startswith("TAG_")]
    assert len(tags) >= 14
    assert len({tag(value) for value in tags}) == len(tags)


def test_word_is_big_endian_and_bounded() -> None:
    assert word(258) == bytes(30) + b"\x01\x02"
    with pytest.raises(OverflowError):
        word(1 << 256)
    with pytest.raises(OverflowError):
        word(-1)


def test_address_word_pads_left_and_ignores_case() -> None:
    assert address_word("0x" + "aB" * 20) == bytes(12) + b"\xab" * 20


@pytest.mark.parametrize("account", ["0x", "0x" + "ab" * 19, "0x" + "ab" * 21, "0x" + "zz" * 20, "0x" + "ab " * 20, 5])
def test_address_word_of_no_account_raises_value_error(account: str) -> None:
    with pytest.raises(ValueError):
        address_word(account)


@given(JSON)
def test_canonical_json_round_trip_gives_the_same_value_and_bytes(value: object) -> None:
    raw = canonical_json(value)
    assert parse_canonical_json(raw, max_bytes=len(raw)) == value
    assert canonical_json(json.loads(raw)) == raw


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(), min_size=2))
def test_canonical_json_does_not_depend_on_insertion_order(value: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@pytest.mark.parametrize("value", [0.5, {"a": [1, 2.0]}, {1: 2}, {"a": b"x"}, float("nan"), {"a": {3}}])
def test_canonical_json_of_an_ambiguous_value_raises(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b"NaN",
        b"-0",
        b"01",
        b'"\\u0041"',
        b'"\\ud800"',
        b"\xff\xfe1\x00",
        b"\xef\xbb\xbf1",
        b'"\xff"',
        b"1\n",
        b"[" * 100_000,
        b"9" * 5_000,
    ],
)
def test_parse_of_non_canonical_bytes_blames_the_sender(raw: bytes) -> None:
    with pytest.raises(RemoteViolation):
        parse_canonical_json(raw, max_bytes=200_000)


def test_parse_at_the_depth_limit_passes_and_one_deeper_is_refused() -> None:
    nested = b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH
    assert isinstance(parse_canonical_json(nested, max_bytes=1_000), list)
    with pytest.raises(RemoteViolation, match="deeper than 64"):
        parse_canonical_json(b"[" + nested + b"]", max_bytes=1_000)


def test_parse_does_not_count_brackets_inside_strings() -> None:
    text = '[{"' * 50 + "\\"
    assert parse_canonical_json(canonical_json([text, text]), max_bytes=1_000) == [text, text]


def test_parse_of_depth_behind_an_escaped_quote_is_refused() -> None:
    with pytest.raises(RemoteViolation):
        parse_canonical_json(b'["\\\\",' + b"[" * 100_000, max_bytes=200_000)


def test_parse_longer_than_allowed_is_refused_unread() -> None:
    with pytest.raises(RemoteViolation, match="3 bytes where at most 2"):
        parse_canonical_json(b"123", max_bytes=2)


@given(st.binary(max_size=60))
def test_parse_of_any_bytes_gives_a_value_or_blames_the_sender(raw: bytes) -> None:
    try:
        value = parse_canonical_json(raw, max_bytes=100)
    except RemoteViolation:
        return
    assert canonical_json(value) == raw
