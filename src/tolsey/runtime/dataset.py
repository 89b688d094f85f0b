"""A data set as a manifest of content ids, and the order in which a job reads it.

The manifest is canonical JSON, one of two kinds:

    {"format": "tolsey/dataset/1", "kind": "tokens", "dtype": "uint8" | "uint16", "files": [file, …]}
    {"format": "tolsey/dataset/1", "kind": "examples", "fields": {name: [dtype, shape of one example]},
     "files": [file with "count", …]}
    file = {"name": …, "content": 64 hex digits, "size_bytes": …}

*tokens*: the files joined are one list of little-endian tokens; with context length T example i is tokens
i*T … i*T+T, the batch holds x = all but the last and y = all but the first of them (int64 [batch, T]). *examples*:
each file is a safetensors file with one tensor [count, …] per field; the batch holds rows of them.

Order. Examples are consumed in order of a global position p = 0, 1, 2, …; with N examples, epoch e = p div N, the
example is `philox.permute(seed, e, p mod N, N)`. Micro-batch m of step s covers the batch_size positions from
(s * micro_batches + m) * batch_size on. So a batch is a function of (seed, step, micro-batch); the worker chooses
nothing, and no example is left out or read twice in an epoch.

Every file is checked against its content id before its first byte is used. Next in the flow: segment.py.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy
import torch

from tolsey.errors import RemoteViolation, SpecInvalid, StorageError
from tolsey.protocol.content import CHUNK_BYTES, ContentId, content_id_of_bytes, manifest_of
from tolsey.protocol.encoding import canonical_json, parse_canonical_json
from tolsey.runtime import random, state
from tolsey.runtime.admission import spec_of
from tolsey.runtime.graph import MAX_NAME_BYTES, TensorSpec
from tolsey.runtime.ops import DTYPE_NAMES, DTYPES

FORMAT: Final = "tolsey/dataset/1"
MAX_MANIFEST_BYTES: Final = 4 << 20
MAX_FILES: Final = 10_000
TOKEN_DTYPES: Final = {"uint8": "<u1", "uint16": "<u2"}
ORDER_BLOCK: Final = 4096
"""Positions whose order is computed together: 5 ms each, a microsecond an example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One file of a data set: name (for people), content id, size, and examples in it (0 for tokens)."""

    name: str
    content: ContentId
    size_bytes: int
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataManifest:
    """What a job trains on.

    Attributes:
        kind: "tokens" or "examples".
        dtype: of tokens; "" for examples.
        fields: dtype and shape of one example by field name; empty for tokens.
        files: in the order in which they are joined.
    """

    kind: str
    dtype: str = ""
    fields: Mapping[str, TensorSpec] = field(default_factory=dict)
    files: tuple[DataFile, ...]

    def encode(self) -> bytes:
        """The canonical bytes."""
        files = [
            {"name": item.name, "content": item.content.hex(), "size_bytes": item.size_bytes}
            | ({"count": item.count} if self.kind == "examples" else {})
            for item in self.files
        ]
        fields = {name: spec.encode() for name, spec in self.fields.items()}
        own: dict[str, Any] = {"dtype": self.dtype} if self.kind == "tokens" else {"fields": fields}
        return canonical_json({"format": FORMAT, "kind": self.kind, "files": files} | own)

    @property
    def content_id(self) -> ContentId:
        return content_id_of_bytes(self.encode())

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(item.size_bytes for item in self.files)


def decode_manifest(raw: bytes) -> DataManifest:
    """The manifest in canonical bytes from a stranger.

    Raises:
        RemoteViolation: malformed, or a number or name outside its bounds.
    """
    value = parse_canonical_json(raw, max_bytes=MAX_MANIFEST_BYTES)
    kind = value.get("kind") if isinstance(value, dict) else None
    own = {"tokens": {"dtype"}, "examples": {"fields"}}.get(kind if isinstance(kind, str) else "")
    if own is None or set(value) != {"format", "kind", "files"} | own or value["format"] != FORMAT:
        raise RemoteViolation(f"no data set manifest of format {FORMAT}", evidence=raw[:4096])
    files = value["files"]
    if not isinstance(files, list) or not 1 <= len(files) <= MAX_FILES:
        raise RemoteViolation(f"a data set has 1 to {MAX_FILES} files")
    if kind == "tokens" and not (isinstance(value["dtype"], str) and value["dtype"] in TOKEN_DTYPES):
        raise RemoteViolation(f"tokens are {' or '.join(TOKEN_DTYPES)}, not {value['dtype']!r:.40}")
    return DataManifest(
        kind=value["kind"],
        dtype=value.get("dtype", ""),
        fields=_fields(value.get("fields", {}), kind == "examples"),
        files=tuple(_file(item, kind == "examples") for item in files),
    )


def _fields(raw: Any, needed: bool) -> dict[str, TensorSpec]:
    if not isinstance(raw, dict) or len(raw) > 64 or (needed and not raw):
        raise RemoteViolation("a data set of examples has 1 to 64 fields")
    fields = {}
    for name, item in raw.items():
        shape = item[1] if isinstance(item, list) and len(item) == 2 and isinstance(item[1], list) else None
        dtype = item[0] if shape is not None and isinstance(item[0], str) else ""
        if shape is None or dtype not in DTYPES or len(shape) > 7 or len(name.encode()) > MAX_NAME_BYTES:
            raise RemoteViolation(f"field {name!r:.80} has no readable dtype and shape")
        if any(type(size) is not int or not 1 <= size < 1 << 32 for size in shape) or math.prod(shape) > 1 << 40:
            raise RemoteViolation(f"field {name!r:.80} has the impossible shape {shape!r:.60}")
        fields[name] = TensorSpec(dtype, tuple(shape))
    return fields


def _file(raw: Any, counted: bool) -> DataFile:
    keys = {"name", "content", "size_bytes"} | ({"count"} if counted else set())
    if not isinstance(raw, dict) or set(raw) != keys:
        raise RemoteViolation(f"a file of the data set needs exactly {sorted(keys)}, found {raw!r:.200}")
    name, content, size, count = raw["name"], raw["content"], raw["size_bytes"], raw.get("count", 0)
    if not isinstance(name, str) or len(name.encode()) > MAX_NAME_BYTES:
        raise RemoteViolation("a file name is a string of at most 512 bytes")
    if not isinstance(content, str) or len(content) != 64 or content.strip("0123456789abcdef"):
        raise RemoteViolation(f"file {name!r:.80}: {content!r:.80} is no content id")
    whole = type(size) is int and type(count) is int
    if not whole or not 0 < size <= 1 << 40 or not int(counted) <= count <= 1 << 40:
        raise RemoteViolation(f"file {name!r:.80}: impossible size {size!r:.20} or count {count!r:.20}")
    return DataFile(name=name, content=ContentId(bytes.fromhex(content)), size_bytes=size, count=count)


def content_id_of_file(path: Path) -> ContentId:
    """The content id of a file on disk, read a chunk at a time."""

    def chunks() -> Any:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    return manifest_of(chunks()).content_id


def verify_files(manifest: DataManifest, paths: Sequence[Path]) -> None:
    """Checks each file's size and content id.

    Raises:
        RemoteViolation: a file is another than the manifest names; says both ids.
        StorageError: a file cannot be read.
    """
    if len(paths) != len(manifest.files):
        raise RemoteViolation(f"the manifest names {len(manifest.files)} files, {len(paths)} were given")
    for item, path in zip(manifest.files, paths, strict=True):
        try:
            size = path.stat().st_size
            found = content_id_of_file(path) if size == item.size_bytes else None
        except OSError as error:
            raise StorageError(f"cannot read data file {path}: {error.strerror}") from error
        if found != item.content:
            what = f"content {found.hex()}" if found else f"{size} bytes"
            wanted = f"{item.content.hex()}, {item.size_bytes} bytes"
            raise RemoteViolation(f"{item.name}: found {what}, the manifest says {wanted}")


class Dataset:
    """A verified data set, ready to give batches.

    Args:
        manifest: what it must be.
        paths: one file per entry of the manifest, in its order.
        batch: the program's batch tensors.
        seed: the job's seed, which fixes the order.
    """

    def __init__(
        self, manifest: DataManifest, paths: Sequence[Path], batch: Mapping[str, TensorSpec], seed: int
    ) -> None:
        verify_files(manifest, paths)
        self._batch = dict(batch)
        self._seed = seed
        self._order = numpy.empty(0, dtype=numpy.int64)
        self._order_start = -1
        self.batch_size = next(iter(batch.values())).shape[0]
        if manifest.kind == "tokens":
            self._open_tokens(manifest, paths)
        else:
            self._open_examples(manifest, paths)

    def batch(self, step: int, micro_batch: int, micro_batches: int) -> dict[str, torch.Tensor]:
        """The batch tensors of one micro-batch, on the CPU."""
        first = (step * micro_batches + micro_batch) * self.batch_size
        rows = numpy.array([self.example_at(first + place) for place in range(self.batch_size)])
        if self._context:
            windows = self._tokens[rows[:, None] * self._context + numpy.arange(self._context + 1)[None, :]]
            both = torch.from_numpy(windows.astype(numpy.int64))
            return {"x": both[:, :-1].contiguous(), "y": both[:, 1:].contiguous()}
        index = torch.from_numpy(rows)
        return {name: self._examples[name].index_select(0, index) for name in self._batch}

    def example_at(self, position: int) -> int:
        """Which example stands at a global position."""
        block = position // ORDER_BLOCK * ORDER_BLOCK
        if block != self._order_start:
            self._order, self._order_start = self._order_of(block), block
        return int(self._order[position - block])

    def _order_of(self, start: int) -> numpy.ndarray:
        epochs, positions = numpy.divmod(numpy.arange(start, start + ORDER_BLOCK), self.count)
        return random.permutation(self._seed, epoch=epochs, positions=positions, count=self.count)

    def _open_tokens(self, manifest: DataManifest, paths: Sequence[Path]) -> None:
        if set(self._batch) != {"x", "y"} or self._batch["x"] != self._batch["y"]:
            raise RemoteViolation("a data set of tokens gives x and y of one shape, the program wants others")
        spec = self._batch["x"]
        if spec.dtype != "int64" or len(spec.shape) != 2 or spec.shape[1] < 1:
            raise RemoteViolation(f"a data set of tokens gives int64 [batch, context], the program wants {spec}")
        dtype = numpy.dtype(TOKEN_DTYPES[manifest.dtype])
        if any(item.size_bytes % dtype.itemsize for item in manifest.files):
            raise RemoteViolation(f"a file of {manifest.dtype} tokens is no multiple of {dtype.itemsize} bytes long")
        parts = [numpy.frombuffer(_mapped(path), dtype=dtype) for path in paths]
        self._tokens = parts[0] if len(parts) == 1 else numpy.concatenate(parts)
        self._context = spec.shape[1]
        self.count = (len(self._tokens) - 1) // self._context
        if self.count < 1:
            raise RemoteViolation(f"{len(self._tokens)} tokens do not fill one context of {self._context}")

    def _open_examples(self, manifest: DataManifest, paths: Sequence[Path]) -> None:
        for name, spec in self._batch.items():
            if name not in manifest.fields or TensorSpec(spec.dtype, spec.shape[1:]) != manifest.fields[name]:
                given = manifest.fields.get(name, "nothing")
                one = TensorSpec(spec.dtype, spec.shape[1:])
                raise RemoteViolation(f"batch tensor {name!r} wants examples of {one}, got {given}")
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in manifest.fields}
        for item, path in zip(manifest.files, paths, strict=True):
            wanted = {name: TensorSpec(s.dtype, (item.count, *s.shape)) for name, s in manifest.fields.items()}
            for name, tensor in state.read_tensors(path, wanted)[0].items():
                parts[name].append(tensor)
        self._examples = {name: torch.cat(items) for name, items in parts.items()}
        self._context = 0
        self.count = sum(item.count for item in manifest.files)


def _mapped(path: Path) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot map data file {path}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltData:
    """A data set made by its author: the manifest and each file's bytes, in the manifest's order."""

    manifest: DataManifest
    files: tuple[bytes, ...]


def build_tokens(raw: bytes, *, name: str = "tokens.bin", dtype: str = "uint8") -> BuiltData:
    """A data set of tokens from bytes: each byte a token (uint8) or each two, little-endian (uint16)."""
    if dtype not in TOKEN_DTYPES or not raw or len(raw) % numpy.dtype(TOKEN_DTYPES[dtype]).itemsize:
        raise SpecInvalid(f"{len(raw)} bytes are no list of {dtype} tokens")
    file = DataFile(name=name, content=content_id_of_bytes(raw), size_bytes=len(raw))
    return BuiltData(manifest=DataManifest(kind="tokens", dtype=dtype, files=(file,)), files=(raw,))


def build_examples(fields: Mapping[str, Any], *, name: str = "examples.safetensors") -> BuiltData:
    """A data set of examples from arrays or tensors [count, …], all with the same count.

    Raises:
        SpecInvalid: counts differ, no examples, or an element type that has no place in a program.
    """
    tensors = {key: torch.as_tensor(value).contiguous() for key, value in fields.items()}
    counts = {len(tensor) if tensor.dim() else 0 for tensor in tensors.values()}
    if len(counts) != 1 or 0 in counts:
        raise SpecInvalid(f"all fields need the same number of examples, at least one; found {sorted(counts)}")
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPE_NAMES:
            raise SpecInvalid(f"field {key!r} has element type {tensor.dtype}, allowed are {', '.join(DTYPES)}")
    specs = {key: spec_of(tensor) for key, tensor in tensors.items()}
    raw = state.encode_tensors(tensors)
    file = DataFile(name=name, content=content_id_of_bytes(raw), size_bytes=len(raw), count=counts.pop())
    one = {key: TensorSpec(spec.dtype, spec.shape[1:]) for key, spec in specs.items()}
    return BuiltData(manifest=DataManifest(kind="examples", fields=one, files=(file,)), files=(raw,))
