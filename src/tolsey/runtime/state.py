"""The training state, its file and its root.

The file's layout and what is believed of a stranger's header are protocol/checkpoint_file.py. Here, on top of that and
before a tensor is built: names, dtypes and shapes exactly those of the program, every NaN canonical, booleans 0 or 1.

Next in the flow: segment.py; protocol/checkpoint.py hashes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tolsey.errors import RemoteViolation, StorageError
from tolsey.protocol import checkpoint_file
from tolsey.protocol.checkpoint import StateRoot, TensorBytes, state_root
from tolsey.protocol.checkpoint_file import Header
from tolsey.runtime import initial
from tolsey.runtime.admission import spec_of
from tolsey.runtime.graph import Program, TensorSpec
from tolsey.runtime.initial import has_nan, raw_bytes
from tolsey.runtime.ops import DTYPES


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
    return _header(tensors, {}) + b"".join(raw_bytes(tensors[name]) for name in sorted(tensors, key=str.encode))


def root_of(state: TrainingState, profile: str, *, threads: int = 1) -> StateRoot:
    """The 32-byte root (protocol/checkpoint.py), hashed by so many threads: the root does not depend on them."""
    tensors = (_bytes_of(name, tensor) for name, tensor in state.tensors.items())
    return state_root(tensors, step=state.step, cursor=state.cursor, profile=profile, threads=threads)


def _bytes_of(name: str, tensor: torch.Tensor) -> TensorBytes:
    spec = spec_of(tensor)
    return TensorBytes(name=name, dtype=spec.dtype, shape=spec.shape, raw=raw_bytes(tensor))


def write(state: TrainingState, path: Path) -> int:
    """Writes the state's file whole or not at all; gives its size in bytes.

    Raises:
        StorageError: the disk refuses.
    """
    header = _header(state.tensors, checkpoint_file.encode_counters(state.step, state.cursor))
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
    step, cursor = checkpoint_file.step_and_cursor(metadata)
    return TrainingState(tensors={name: item.to(device) for name, item in tensors.items()}, step=step, cursor=cursor)


def read_tensors(path: Path, expected: Mapping[str, TensorSpec]) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    """Tensors and metadata of a safetensors file that must hold exactly `expected`.

    Raises:
        RemoteViolation: header, names, dtypes, shapes, ranges, size or a NaN are not as they must be.
        StorageError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = checkpoint_file.header_bytes(file.read(checkpoint_file.LENGTH_BYTES), size)
            start = checkpoint_file.LENGTH_BYTES + length
            header = checkpoint_file.parse_header(file.read(length), size - start)
            _check_specs(header, expected)
            tensors = {}
            for name, item in header.tensors.items():
                file.seek(start + item.first)
                raw = bytearray(item.last - item.first)
                del raw[file.readinto(raw) :]
                tensors[name] = _tensor(name, expected[name], raw)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    return tensors, header.metadata


def _check_specs(header: Header, expected: Mapping[str, TensorSpec]) -> None:
    if set(header.tensors) != set(expected):
        odd = sorted(set(header.tensors) ^ set(expected))[:3]
        counts = f"{len(header.tensors)} tensors, expected are {len(expected)}"
        raise RemoteViolation(f"file holds {counts}; first differing: {odd!r:.200}")
    for name, item in header.tensors.items():
        found = TensorSpec(item.dtype, item.shape)
        if found != expected[name]:
            raise RemoteViolation(f"{name!r:.80} is {found!s:.80}, the program declares {expected[name]}")


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    specs = {name: spec_of(tensor) for name, tensor in tensors.items()}
    return checkpoint_file.encode_header({name: (spec.dtype, spec.shape) for name, spec in specs.items()}, metadata)


def _tensor(name: str, spec: TensorSpec, raw: bytearray) -> torch.Tensor:
    if len(raw) != spec.size_bytes:
        raise RemoteViolation(f"{name!r:.80} has {len(raw)} bytes in the file, it needs {spec.size_bytes}")
    if not raw:
        return torch.empty(spec.shape, dtype=DTYPES[spec.dtype])
    if spec.dtype == "bool" and raw.translate(None, b"\x00\x01"):
        raise RemoteViolation(f"{name!r:.80} holds bytes that are neither true nor false")
    tensor = torch.frombuffer(raw, dtype=DTYPES[spec.dtype]).reshape(spec.shape)
    if has_nan(tensor) and bytes(raw_bytes(tensor)) != raw:
        raise RemoteViolation(f"{name!r:.80} holds a NaN that is not the canonical one")
    return tensor
