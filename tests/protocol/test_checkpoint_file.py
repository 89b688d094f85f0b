"""The header of a checkpoint file: one layout when we write, every claim checked when others do. Without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tolsey.errors import RemoteViolation
from tolsey.protocol import checkpoint_file
from tolsey.protocol.checkpoint_file import (
    LENGTH_BYTES,
    FileTensor,
    encode_counters,
    encode_header,
    header_bytes,
    parse_header,
    step_and_cursor,
)

Header = dict[str, Any]
DATA_BYTES = 41


def honest() -> Header:
    return {
        "__metadata__": {"step": "1"},
        "b": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [16, 40]},
        "none": {"dtype": "F32", "shape": [0, 7], "data_offsets": [40, 40]},
        "c": {"dtype": "BOOL", "shape": [], "data_offsets": [40, 41]},
    }


def test_parse_header_any_valid_order_is_taken_as_the_bytes_lie() -> None:
    header = parse_header(json.dumps(honest()).encode(), DATA_BYTES)
    assert list(header.tensors) == ["b", "a", "none", "c"] and header.metadata == {"step": "1"}
    assert header.tensors["a"] == FileTensor(dtype="float32", shape=(2, 3), first=16, last=40)


def test_encode_header_is_one_layout_that_parses_back() -> None:
    tensors = {"é": ("bfloat16", (3,)), "z": ("int8", (1,)), "a": ("float64", (2, 2))}
    raw = encode_header(tensors, encode_counters(30, 480))
    assert raw == encode_header(dict(reversed(tensors.items())), encode_counters(30, 480))
    length = header_bytes(raw[:LENGTH_BYTES], len(raw) + 39)
    assert len(raw) == LENGTH_BYTES + length and length % 8 == 0
    header = parse_header(raw[LENGTH_BYTES:], 39)
    assert {name: (item.dtype, item.shape) for name, item in header.tensors.items()} == tensors
    assert list(header.tensors) == ["a", "z", "é"] and step_and_cursor(header.metadata) == (30, 480)


def edit(name: str, field: str, value: Any) -> Callable[[Header], object]:
    return lambda header: header[name].update({field: value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (edit("a", "dtype", "PICKLE"), "element type 'PICKLE'"),
        (edit("a", "dtype", ["F32"]), "element type"),
        (edit("a", "shape", [2, 3.0]), "impossible shape"),
        (edit("a", "shape", [2, True, 3]), "impossible shape"),
        (edit("a", "shape", [-2, -3]), "impossible shape"),
        (edit("none", "shape", [0, 1 << 48]), "impossible shape"),
        (edit("a", "shape", {}), "impossible shape"),
        (edit("a", "shape", [2, 2]), "it needs 16"),
        (edit("a", "data_offsets", [16, 1 << 60]), "it needs 24"),
        (edit("a", "data_offsets", [-8, 16]), "it needs 24"),
        (edit("a", "data_offsets", [40, 16]), "it needs 24"),
        (edit("a", "data_offsets", [17, 41]), "gap or overlap at byte 16"),
        (edit("a", "data_offsets", [0, 24]), "gap or overlap"),
        (edit("a", "data_offsets", [16, 40.0]), "no readable range"),
        (edit("a", "data_offsets", [16, 40, 41]), "no readable range"),
        (edit("a", "data_offsets", "x"), "no readable range"),
        (edit("a", "code", 1), "not exactly dtype"),
        (lambda header: header["a"].pop("shape"), "not exactly dtype"),
        (lambda header: header.update(a=7), "not exactly dtype"),
        (lambda header: header.pop("c"), "describes 40"),
        (lambda header: header.update(d=header["c"]), "gap or overlap"),
        (lambda header: header.update({"\ud800": header.pop("c")}), "no text"),
        (lambda header: header.update({"x" * 513: header.pop("c")}), "513 bytes"),
        (lambda header: header.update(__metadata__={"step": 1}), "metadata"),
        (lambda header: header.update(__metadata__=[]), "metadata"),
        (lambda header: header.update(__metadata__=dict.fromkeys(map(str, range(17)), "")), "metadata"),
    ],
)
def test_parse_header_lie_is_refused_by_name(change: Callable[[Header], object], reason: str) -> None:
    header = honest()
    change(header)
    with pytest.raises(RemoteViolation, match=reason):
        parse_header(json.dumps(header).encode(), DATA_BYTES)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "no JSON object"),
        (b"{]", "not readable JSON"),
        (b"\xff", "not readable JSON"),
        (b'{"a": {}, "a": {}}', "twice"),
        (b"[" * 200_000, "nests deeper"),
    ],
)
def test_parse_header_text_that_is_no_header_refused(text: bytes, reason: str) -> None:
    with pytest.raises(RemoteViolation, match=reason):
        parse_header(text, 0)


@pytest.mark.parametrize(
    ("first", "file_bytes"),
    [
        (b"", 0),
        (b"\x02", 1),
        ((3).to_bytes(8, "little"), 10),
        ((checkpoint_file.MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 1 << 30),
    ],
)
def test_header_bytes_longer_than_file_or_bound_refused(first: bytes, file_bytes: int) -> None:
    with pytest.raises(RemoteViolation, match=f"in a file of {file_bytes}"):
        header_bytes(first, file_bytes)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"step": "1"},
        {"step": "-1", "cursor": "0"},
        {"step": "01", "cursor": "0"},
        {"step": "1", "cursor": "1e3"},
        {"step": "1", "cursor": "0", "code": "x"},
        {"step": "9" * 20, "cursor": "0"},
        {"step": str((1 << 48) + 1), "cursor": "0"},
        {"step": "²", "cursor": "0"},
    ],
)
def test_step_and_cursor_that_are_no_plain_numbers_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(RemoteViolation, match="checkpoint has"):
        step_and_cursor(metadata)
