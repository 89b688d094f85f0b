"""Data sets: files are what their ids say, every example comes once an epoch, lying manifests are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tolsey.errors import RemoteViolation, SpecInvalid
from tolsey.protocol import philox
from tolsey.protocol.encoding import canonical_json
from tolsey.runtime import dataset
from tolsey.runtime.dataset import Dataset, build_examples, build_tokens, decode_manifest
from tolsey.runtime.graph import TensorSpec

XY = {"x": TensorSpec("int64", (2, 4)), "y": TensorSpec("int64", (2, 4))}


def opened(folder: Path, built: dataset.BuiltData, batch: dict[str, TensorSpec], seed: int = 3) -> Dataset:
    paths = []
    for place, raw in enumerate(built.files):
        paths.append(folder / str(place))
        paths[-1].write_bytes(raw)
    return Dataset(decode_manifest(built.manifest.encode()), paths, batch, seed)


def test_tokens_batches_are_shifted_windows_in_the_job_order(tmp_path: Path) -> None:
    raw = bytes(range(41))  # ten windows of four, and one token to spare
    data = opened(tmp_path, build_tokens(raw), XY)
    assert data.count == 10
    for step in range(15):
        batch = data.batch(step, 0, 1)
        for row in range(2):
            epoch, place = divmod(step * 2 + row, 10)
            first = 4 * philox.permute(3, epoch, place, 10)
            assert batch["x"][row].tolist() == list(range(first, first + 4))
            assert batch["y"][row].tolist() == list(range(first + 1, first + 5))
    assert batch["x"].dtype == torch.int64


def test_tokens_uint16_little_endian(tmp_path: Path) -> None:
    raw = numpy.arange(300, 309, dtype="<u2").tobytes()
    data = opened(tmp_path, build_tokens(raw, dtype="uint16"), XY)
    assert sorted(data.batch(0, 0, 1)["x"][:, 0].tolist()) == [300, 304]


def test_examples_every_one_once_an_epoch_across_micro_batches(tmp_path: Path) -> None:
    built = build_examples({"x": torch.arange(12).reshape(12, 1), "y": torch.arange(12) % 5})
    batch = {"x": TensorSpec("int64", (3, 1)), "y": TensorSpec("int64", (3,))}
    data = opened(tmp_path, built, batch)
    for epoch in range(2):
        drawn = [data.batch(2 * epoch + step, micro, 2) for step in range(2) for micro in range(2)]
        rows = torch.cat([item["x"] for item in drawn]).flatten().tolist()
        assert sorted(rows) == list(range(12))
        assert torch.cat([item["y"] for item in drawn]).tolist() == [row % 5 for row in rows]


def test_order_far_along_equals_reference(tmp_path: Path) -> None:
    data = opened(tmp_path, build_tokens(bytes(41)), XY)
    positions = [0, 4095, 4096, 4101, 1_000_003, 1_000_004]
    assert [data.example_at(p) for p in positions] == [philox.permute(3, p // 10, p % 10, 10) for p in positions]
    assert Counter(data.example_at(p) for p in range(4090, 4110)) == Counter({i: 2 for i in range(10)})


def test_dataset_one_byte_changed_refused(tmp_path: Path) -> None:
    built = build_tokens(bytes(41))
    (tmp_path / "f").write_bytes(bytes(40) + b"\1")
    with pytest.raises(RemoteViolation, match=built.manifest.files[0].content.hex()):
        Dataset(built.manifest, [tmp_path / "f"], XY, 0)


def test_dataset_other_length_refused_without_hashing(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(40))
    with pytest.raises(RemoteViolation, match="found 40 bytes"):
        Dataset(build_tokens(bytes(41)).manifest, [tmp_path / "f"], XY, 0)


@pytest.mark.parametrize(
    "batch",
    [
        {"x": TensorSpec("int64", (2, 4))},
        {"x": TensorSpec("int64", (2, 4)), "y": TensorSpec("int64", (2, 5))},
        {"x": TensorSpec("uint8", (2, 4)), "y": TensorSpec("uint8", (2, 4))},
        {"x": TensorSpec("int64", (2, 64)), "y": TensorSpec("int64", (2, 64))},
    ],
)
def test_tokens_that_do_not_fit_the_program_refused(tmp_path: Path, batch: dict[str, TensorSpec]) -> None:
    with pytest.raises(RemoteViolation):
        opened(tmp_path, build_tokens(bytes(41)), batch)


def test_examples_that_do_not_fit_the_program_refused(tmp_path: Path) -> None:
    built = build_examples({"x": torch.zeros(4, 3)})
    for spec in (TensorSpec("float32", (2, 4)), TensorSpec("float64", (2, 3))):
        with pytest.raises(RemoteViolation, match="wants examples"):
            opened(tmp_path, built, {"x": spec})


FILE = {"name": "a", "content": "00" * 32, "size_bytes": 5}
TOKENS = {"format": "tolsey/dataset/1", "kind": "tokens", "dtype": "uint8", "files": [FILE]}
EXAMPLES = {
    "format": "tolsey/dataset/1",
    "kind": "examples",
    "fields": {"x": ["float32", [3]]},
    "files": [FILE | {"count": 2}],
}


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {**TOKENS, "kind": "code"},
        {**TOKENS, "kind": ["tokens"]},
        {**TOKENS, "dtype": "float32"},
        {**TOKENS, "dtype": ["uint8"]},
        {**TOKENS, "files": []},
        {**TOKENS, "files": [FILE] * 10_001},
        {**TOKENS, "format": "tolsey/dataset/2"},
        {**TOKENS, "extra": 1},
        {**TOKENS, "files": [FILE | {"path": "/"}]},
        {**TOKENS, "files": [FILE | {"size_bytes": -1}]},
        {**TOKENS, "files": [FILE | {"size_bytes": True}]},
        {**TOKENS, "files": [FILE | {"content": "zz" * 32}]},
        {**TOKENS, "files": [FILE | {"name": "x" * 600}]},
        {**EXAMPLES, "files": [FILE]},
        {**EXAMPLES, "files": [FILE | {"count": 0}]},
        {**EXAMPLES, "fields": {}},
        {**EXAMPLES, "fields": {"x": ["float32", [1 << 40]]}},
        {**EXAMPLES, "fields": {"x": [["float32"], [3]]}},
        {**EXAMPLES, "fields": {"x": "float32"}},
    ],
)
def test_decode_manifest_malformed_refused(value: Any) -> None:
    with pytest.raises(RemoteViolation):
        decode_manifest(canonical_json(value))


def test_decode_manifest_round_trip() -> None:
    for value in (TOKENS, EXAMPLES):
        raw = canonical_json(value)
        assert decode_manifest(raw).encode() == raw


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_tokens(b""),
        lambda: build_tokens(b"abc", dtype="uint16"),
        lambda: build_tokens(b"abc", dtype="int64"),
        lambda: build_examples({"x": torch.zeros(3), "y": torch.zeros(4)}),
        lambda: build_examples({"x": torch.zeros(0)}),
        lambda: build_examples({"x": torch.zeros(3, dtype=torch.complex64)}),
    ],
)
def test_build_impossible_data_refused(build: Callable[[], object]) -> None:
    with pytest.raises(SpecInvalid):
        build()
