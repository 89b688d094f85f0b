"""The training state, its file and its root.

The file is a safetensors file: u64le(header size) ‖ JSON header ‖ tensor bytes. We write it ourselves in one fixed
way (names sorted, header padded with spaces to 8 bytes, tensors without gaps in name order), so that equal states are
equal files; a file from a stranger may be laid out in any valid way, but before a tensor is built from it:

    header at most 1 MiB, no key twice, no unknown key; names, dtypes and shapes exactly those of the program;
    ranges without overlap that fill the file to its last byte; every NaN canonical.

Step and cursor stand in `__metadata__` as decimal strings. Next in the flow: segment.py; protocol/checkpoint.py hashes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from tolsey.errors import RemoteViolation, StorageError
from tolsey.protocol.checkpoint import (
    DTYPE_FROM_FILE,
    DTYPE_IN_FILE,
    MAX_HEADER_BYTES,
    MAX_HEADER_DEPTH,
    StateRoot,
    TensorBytes,
    state_root_of,
    tensor_root,
)
from tolsey.protocol.encoding import is_deeper
from tolsey.runtime import initial
from tolsey.runtime.admission import spec_of
from tolsey.runtime.graph import Program, TensorSpec
from tolsey.runtime.initial import raw_bytes
from tolsey.runtime.ops import DTYPES

MAX_STEP: Final = 1 << 48


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Everything a run remembers between two steps.

    Attributes:
        tensors: by name; owned by the state and never changed in place.
        step: optimiser steps done.
        cursor: examples consumed.
    """

    tensors: Mapping[str, torch.Tensor]
    step: int
    cursor: int

    def to(self, device: torch.device | str) -> TrainingState:
        """The same state on another device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return TrainingState(tensors=moved, step=self.step, cursor=self.cursor)


def initial_state(program: Program, seed: int, literals: Path | None = None) -> TrainingState:
    """The state before the first step: recipes of the program, and a file for tensors that have none.

    Args:
        literals: a safetensors file with exactly the tensors without recipe, or None where there are none.

    Raises:
        RemoteViolation: the file is missing, not needed, or holds something else.
    """
    wanted = {name: item.spec for name, item in program.state.items() if item.recipe is None}
    if bool(wanted) != (literals is not None):
        given = "no file" if literals is None else "a file"
        raise RemoteViolation(f"{len(wanted)} tensors need an initial tensors file, the job brings {given}")
    tensors = {} if literals is None else read_tensors(literals, wanted)[0]
    for name, item in program.state.items():
        if item.recipe is not None:
            tensors[name] = initial.make(item.spec, item.recipe, seed)
    return TrainingState(tensors=tensors, step=0, cursor=0)


def encode_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file of these tensors in our one layout, without metadata."""
    header = encode_header({name: spec_of(tensor) for name, tensor in tensors.items()}, {})
    return header + b"".join(raw_bytes(tensors[name]) for name in sorted(tensors, key=str.encode))


def root_of(state: TrainingState, profile: str) -> StateRoot:
    """The 32-byte root (protocol/checkpoint.py)."""
    roots = []
    for name in sorted(state.tensors, key=str.encode):
        tensor = state.tensors[name]
        spec = spec_of(tensor)
        roots.append(tensor_root(TensorBytes(name=name, dtype=spec.dtype, shape=spec.shape, raw=raw_bytes(tensor))))
    return state_root_of(roots, step=state.step, cursor=state.cursor, profile=profile)


def encode_header(tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Length and header of a safetensors file in our one layout."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name in sorted(tensors, key=str.encode):
        stop = start + tensors[name].size_bytes
        header[name] = {
            "dtype": DTYPE_IN_FILE[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write(state: TrainingState, path: Path) -> int:
    """Writes the state's file whole or not at all; gives its size in bytes.

    Raises:
        StorageError: the disk refuses.
    """
    specs = {name: spec_of(tensor) for name, tensor in state.tensors.items()}
    header = encode_header(specs, {"step": str(state.step), "cursor": str(state.cursor)})
    names = sorted(state.tensors, key=str.encode)
    return write_atomically(path, [header, *(raw_bytes(state.tensors[name]) for name in names)])


def write_atomically(path: Path, parts: list[bytes | memoryview]) -> int:
    """Writes parts into a neighbour file, flushes it, renames it into place and flushes the folder.

    Raises:
        StorageError: the disk refuses; nothing is left at `path` that was not there.
    """
    neighbour = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(neighbour, "wb") as file:
            size = sum(file.write(part) for part in parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(neighbour, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        neighbour.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror}", fix="free some space or choose another folder"
        ) from error
    return size


def read(path: Path, program: Program, *, device: torch.device | str = "cpu") -> TrainingState:
    """The state in a file from anybody, checked against the program.

    Raises:
        RemoteViolation: the file breaks a rule of the docstring above; names the first.
        StorageError: the file cannot be read.
    """
    tensors, metadata = read_tensors(path, {name: item.spec for name, item in program.state.items()})
    step, cursor = (_counter(metadata, key) for key in ("step", "cursor"))
    if set(metadata) != {"step", "cursor"}:
        raise RemoteViolation(f"checkpoint has metadata {sorted(metadata)[:5]}, expected step and cursor")
    return TrainingState(tensors={name: item.to(device) for name, item in tensors.items()}, step=step, cursor=cursor)


def read_tensors(path: Path, expected: Mapping[str, TensorSpec]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that must hold exactly `expected`.

    Raises:
        RemoteViolation: header, names, dtypes, shapes, ranges, size or a NaN are not as they must be.
        StorageError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header, start = _read_header(file, size)
            metadata = _metadata(header.pop("__metadata__", {}))
            ranges = check_header(header, expected, size - start)
            tensors = {}
            for name, (first, last) in ranges.items():
                file.seek(start + first)
                tensors[name] = _tensor(name, expected[name], file.read(last - first))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    return tensors, metadata


def check_header(
    header: Mapping[str, Any], expected: Mapping[str, TensorSpec], data_bytes: int
) -> dict[str, tuple[int, int]]:
    """First and last byte of each tensor in the data part, all rules checked."""
    if set(header) != set(expected):
        odd = sorted(set(header) ^ set(expected))[:3]
        counts = f"{len(header)} tensors, expected are {len(expected)}"
        raise RemoteViolation(f"file holds {counts}; first differing: {odd!r:.200}")
    ranges = {}
    for name, entry in header.items():
        spec = expected[name]
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise RemoteViolation(f"header of {name!r:.80} has not exactly dtype, shape and data_offsets")
        dtype = entry["dtype"] if isinstance(entry["dtype"], str) else ""
        shape, offsets = entry["shape"], entry["data_offsets"]
        same = DTYPE_FROM_FILE.get(dtype) == spec.dtype and shape == list(spec.shape)
        if not same or any(type(size) is not int for size in shape):
            raise RemoteViolation(f"{name!r:.80} is {dtype:.10}{shape!r:.60}, the program declares {spec}")
        if not isinstance(offsets, list) or len(offsets) != 2 or any(type(item) is not int for item in offsets):
            raise RemoteViolation(f"{name!r:.80} has no readable range")
        first, last = offsets
        if not 0 <= first <= last <= data_bytes or last - first != spec.size_bytes:
            claim = f"bytes {first} to {last} of {data_bytes}"
            raise RemoteViolation(f"{name!r:.80} claims {claim}, it needs {spec.size_bytes}")
        ranges[name] = (first, last)
    end = 0
    for first, last in sorted(ranges.values()):
        if first != end:
            raise RemoteViolation(f"tensor ranges leave a gap or overlap at byte {end}")
        end = last
    if end != data_bytes:
        raise RemoteViolation(f"file has {data_bytes} bytes of data, its header describes {end}")
    return ranges


def _read_header(file: Any, size: int) -> tuple[dict[str, Any], int]:
    raw = file.read(8)
    length = int.from_bytes(raw, "little")
    if len(raw) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
        raise RemoteViolation(f"header of {length} bytes in a file of {size}, allowed are {MAX_HEADER_BYTES}")
    text = file.read(length)
    if is_deeper(text, MAX_HEADER_DEPTH):
        raise RemoteViolation(f"header nests deeper than {MAX_HEADER_DEPTH} levels", evidence=text[:4096])
    try:
        header = json.loads(text, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise RemoteViolation(f"header is not readable JSON: {error!s:.100}", evidence=text[:4096]) from error
    if not isinstance(header, dict):
        raise RemoteViolation("header is no JSON object", evidence=text[:4096])
    return header, 8 + length


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _metadata(raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict) or len(raw) > 16 or any(not isinstance(value, str) for value in raw.values()):
        raise RemoteViolation("file metadata is no object of at most 16 strings")
    return raw


def _counter(metadata: Mapping[str, str], key: str) -> int:
    text = metadata.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 15) or str(int(text)) != text or int(text) > MAX_STEP:
        raise RemoteViolation(f"checkpoint has {key} {text!r:.40}, not a whole number up to {MAX_STEP}")
    return int(text)


def _tensor(name: str, spec: TensorSpec, raw: bytes) -> torch.Tensor:
    if len(raw) != spec.size_bytes:
        raise RemoteViolation(f"{name!r:.80} has {len(raw)} bytes in the file, it needs {spec.size_bytes}")
    if not raw:
        return torch.empty(spec.shape, dtype=DTYPES[spec.dtype])
    if spec.dtype == "bool" and raw.translate(None, b"\x00\x01"):
        raise RemoteViolation(f"{name!r:.80} holds bytes that are neither true nor false")
    tensor = torch.frombuffer(bytearray(raw), dtype=DTYPES[spec.dtype]).reshape(spec.shape)
    if tensor.is_floating_point() and bool(torch.isnan(tensor).any()) and bytes(raw_bytes(tensor)) != raw:
        raise RemoteViolation(f"{name!r:.80} holds a NaN that is not the canonical one")
    return tensor
