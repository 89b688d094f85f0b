"""Checkpoint files: one layout, whole or absent, and lying headers refused before a tensor is built."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tolsey.errors import RemoteViolation, StorageError
from tolsey.protocol.checkpoint import PIECE_BYTES
from tolsey.runtime import state
from tolsey.runtime.graph import TensorSpec
from tolsey.runtime.initial import has_nan, raw_bytes

SPECS = {"a": TensorSpec("float32", (2, 3)), "b": TensorSpec("int64", (2,)), "c": TensorSpec("bool", ())}
Header = dict[str, Any]


def honest() -> tuple[Header, bytes]:
    header = {
        "__metadata__": {"step": "1"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
        "c": {"dtype": "BOOL", "shape": [], "data_offsets": [40, 41]},
    }
    return header, bytes(41)


def save(path: Path, header: Any, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_read_tensors_honest_file_passes(tmp_path: Path) -> None:
    tensors, metadata = state.read_tensors(save(tmp_path / "f", *honest()), SPECS)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {"a": (2, 3), "b": (2,), "c": ()}
    assert metadata == {"step": "1"}


def edit(name: str, field: str, value: Any) -> Callable[[Header], None]:
    return lambda header: header[name].update({field: value})


@pytest.mark.parametrize(
    "change",
    [
        edit("a", "dtype", "F16"),
        edit("a", "dtype", "PICKLE"),
        edit("a", "dtype", ["F32"]),
        edit("a", "shape", [3, 2]),
        edit("a", "shape", [2, 3.0]),
        edit("a", "shape", [2, True, 3]),
        edit("a", "data_offsets", [0, 1 << 60]),
        edit("a", "data_offsets", [-24, 0]),
        edit("a", "data_offsets", [24, 0]),
        edit("a", "data_offsets", [17, 41]),
        edit("a", "data_offsets", [0, 24.0]),
        edit("a", "data_offsets", "x"),
        edit("a", "code", 1),
        lambda header: header.pop("a"),
        lambda header: header.update(d=header["a"]),
        lambda header: header.update(a=7),
        lambda header: header.update(__metadata__={"step": 1}),
        lambda header: header.update(__metadata__=[]),
    ],
)
def test_read_tensors_lying_header_refused(tmp_path: Path, change: Callable[[Header], object]) -> None:
    header, data = honest()
    change(header)
    with pytest.raises(RemoteViolation):
        state.read_tensors(save(tmp_path / "f", header, data), SPECS)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x01",
        (1 << 63).to_bytes(8, "little"),
        (99).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{]",
        (2 << 20).to_bytes(8, "little") + b"{" + b" " * (3 << 20),
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
)
def test_read_tensors_bytes_that_are_no_file_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "f").write_bytes(raw)
    with pytest.raises(RemoteViolation):
        state.read_tensors(tmp_path / "f", SPECS)


def test_read_tensors_key_twice_refused(tmp_path: Path) -> None:
    header, data = honest()
    text = json.dumps(header).replace('"b":', '"a": {}, "b":').encode()
    with pytest.raises(RemoteViolation, match="twice"):
        state.read_tensors(save(tmp_path / "f", text, data), SPECS)


@pytest.mark.parametrize("data", [bytes(40), bytes(42)])
def test_read_tensors_data_of_another_size_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RemoteViolation):
        state.read_tensors(save(tmp_path / "f", honest()[0], data), SPECS)


@pytest.mark.parametrize(
    ("place", "raw", "reason"),
    [
        (0, bytes.fromhex("010080ff"), "NaN"),
        (0, bytes.fromhex("0000c0ff"), "NaN"),
        (40, b"\x02", "neither true"),
    ],
)
def test_read_tensors_value_without_canonical_form_refused(tmp_path: Path, place: int, raw: bytes, reason: str) -> None:
    header, data = honest()
    data = data[:place] + raw + data[place + len(raw) :]
    with pytest.raises(RemoteViolation, match=reason):
        state.read_tensors(save(tmp_path / "f", header, data), SPECS)


def test_raw_bytes_every_nan_becomes_the_quiet_one() -> None:
    odd = torch.tensor([0x7F800001, 0x3F800000, 0xFFC12345 - (1 << 32)], dtype=torch.int32).view(torch.float32)
    assert bytes(raw_bytes(odd)).hex() == "0000c07f" + "0000803f" + "0000c07f"
    assert bytes(raw_bytes(torch.tensor([-0.0]))).hex() == "00000080"
    assert bytes(raw_bytes(torch.tensor([float("nan")], dtype=torch.bfloat16))).hex() == "c07f"
    endless = torch.tensor([float("inf"), float("-inf"), 1.0])
    assert bytes(raw_bytes(endless)) == endless.numpy().tobytes() and not has_nan(endless)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        largest = torch.full((100_003,), torch.finfo(dtype).max, dtype=dtype)
        assert not has_nan(largest)
        for place in (0, 50_000, 100_002):
            odd = largest.clone()
            odd[place] = float("nan")
            assert has_nan(odd)
    assert bytes(raw_bytes(torch.arange(6).reshape(2, 3).T)) == bytes(raw_bytes(torch.tensor([0, 3, 1, 4, 2, 5])))


def test_write_equal_states_are_equal_files_and_safetensors_reads_them(tmp_path: Path, cnn: Any) -> None:
    first = cnn.after(2)
    shuffled = state.TrainingState(
        tensors=dict(reversed(list(first.tensors.items()))), step=first.step, cursor=first.cursor
    )
    sizes = [state.write(first, tmp_path / "a"), state.write(shuffled, tmp_path / "b")]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sizes[0] == (tmp_path / "a").stat().st_size
    for name, tensor in load_file(tmp_path / "a").items():
        assert torch.equal(tensor, first.tensors[name])


def test_read_round_trip_keeps_root(tmp_path: Path, cnn: Any) -> None:
    before = cnn.after(2)
    state.write(before, tmp_path / "s")
    after = state.read(tmp_path / "s", cnn.program)
    assert (after.step, after.cursor) == (2, 16)
    assert state.root_of(after, "pinned") == state.root_of(before, "pinned")


def test_read_bad_counters_refused(tmp_path: Path, cnn: Any) -> None:
    state.write(cnn.first(), tmp_path / "s")
    raw = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(raw.replace(b'"step":"0"', b'"step":"-"', 1))
    with pytest.raises(RemoteViolation, match="step '-'"):
        state.read(tmp_path / "s", cnn.program)


@pytest.mark.parametrize("threads", [2, 5])
def test_root_of_is_the_same_for_any_number_of_threads(threads: int) -> None:
    torch.manual_seed(3)
    sizes = [0, 7, PIECE_BYTES // 4 - 1, PIECE_BYTES // 4, PIECE_BYTES // 4 + 1, 3 * PIECE_BYTES // 4 + 5, *range(20)]
    tensors = {f"t{place}": torch.randn(size) for place, size in enumerate(sizes)}
    tensors["t3"][5] = float("nan")
    one = state.TrainingState(tensors=tensors, step=3, cursor=4)
    assert state.root_of(one, "pinned", threads=threads) == state.root_of(one, "pinned")


def test_write_disk_refuses_leaves_nothing(tmp_path: Path, cnn: Any) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        state.write(cnn.first(), tmp_path / "missing" / "s")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        state.write(cnn.first(), tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_read_missing_file_is_a_storage_error(tmp_path: Path, cnn: Any) -> None:
    with pytest.raises(StorageError):
        state.read(tmp_path / "none", cnn.program)


def test_read_tensors_deep_header_under_a_lifted_recursion_limit_refused(tmp_path: Path) -> None:
    """py-evm lifts the interpreter's limit when it is imported; json.loads then overflows the C stack."""
    header = b"[" * 500_000 + b"]" * 500_000
    path = tmp_path / "deep.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    program = (
        "import sys; sys.setrecursionlimit(10**9)\n"
        "from pathlib import Path\n"
        "from tolsey.errors import RemoteViolation\n"
        "from tolsey.runtime.state import read_tensors\n"
        "try: read_tensors(Path(sys.argv[1]), {})\n"
        "except RemoteViolation as error: print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, "nests deeper" in done.stdout) == (0, True), done.stderr[-500:]
