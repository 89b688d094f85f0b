"""The header of a checkpoint file: what stands where, believed only after every claim fits the file.

A checkpoint, a file of initial tensors and a data file of examples are safetensors files:

    u64le(header size) ‖ header, JSON ‖ data
    header = {"__metadata__": {text: text}, name: {"dtype": …, "shape": […], "data_offsets": [first, last]}, …}

We write it in one fixed way (names sorted by their UTF-8 bytes, tensors without gaps in that order, header padded with
spaces to 8 bytes), so that equal states are equal files. A file from a stranger may be laid out in any valid way, but:

    header at most 1 MiB, nested no deeper than a shape, no key twice, no unknown key;
    every range as long as its dtype and shape need, ranges without gap or overlap, the data filled to its last byte.

Step and cursor of a checkpoint stand in the metadata as decimal numbers. It refuses to read files and to know which
tensors a program wants: runtime/state.py does both for the worker, client/fetch.py reads for the buyer, without torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tolsey.errors import RemoteViolation
from tolsey.protocol.checkpoint import DTYPE_BYTES, MAX_HEADER_BYTES
from tolsey.protocol.encoding import is_deeper

LENGTH_BYTES: Final = 8
MAX_HEADER_DEPTH: Final = 4
"""header > tensor > shape is three levels; deeper JSON is an attack on the parser."""
MAX_NAME_BYTES: Final = 512
MAX_METADATA: Final = 16
MAX_DIMENSION: Final = 1 << 48
MAX_STEP: Final = 1 << 48
DTYPE_IN_FILE: Final = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Element types as the header names them."""
_DTYPE_FROM_FILE: Final = {short: name for name, short in DTYPE_IN_FILE.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTensor:
    """One tensor of a file.

    Attributes:
        dtype: a key of DTYPE_BYTES.
        shape: dimensions, outermost first.
        first, last: its bytes are first .. last - 1 of the file's data; as many as dtype and shape need.
    """

    dtype: str
    shape: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A header whose claims fit the file.

    Attributes:
        tensors: by name, in the order of their bytes; together they are the data, each byte once.
        metadata: at most 16 strings.
    """

    tensors: Mapping[str, FileTensor]
    metadata: Mapping[str, str]


def header_bytes(first: bytes, file_bytes: int) -> int:
    """How many bytes the header of a file has; they stand after the first eight, which are given.

    Raises:
        RemoteViolation: the file is shorter, or the header longer than MAX_HEADER_BYTES.
    """
    length = int.from_bytes(first, "little")
    if len(first) < LENGTH_BYTES or length > min(MAX_HEADER_BYTES, file_bytes - LENGTH_BYTES):
        raise RemoteViolation(f"header of {length} bytes in a file of {file_bytes}, allowed are {MAX_HEADER_BYTES}")
    return length


def parse_header(text: bytes, data_bytes: int) -> Header:
    """The header in `text`, of a file with `data_bytes` of data.

    Raises:
        RemoteViolation: the first rule of the file's docstring that it breaks.
    """
    if is_deeper(text, MAX_HEADER_DEPTH):
        raise RemoteViolation(f"header nests deeper than {MAX_HEADER_DEPTH} levels", evidence=text[:4096])
    try:
        header = json.loads(text, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise RemoteViolation(f"header is not readable JSON: {error!s:.100}", evidence=text[:4096]) from error
    if not isinstance(header, dict):
        raise RemoteViolation("header is no JSON object", evidence=text[:4096])
    metadata = _metadata(header.pop("__metadata__", {}))
    tensors = {name: _tensor(name, entry, data_bytes) for name, entry in header.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].first, item[1].last)))
    end = 0
    for tensor in ordered.values():
        if tensor.first != end:
            raise RemoteViolation(f"tensor ranges leave a gap or overlap at byte {end}")
        end = tensor.last
    if end != data_bytes:
        raise RemoteViolation(f"file has {data_bytes} bytes of data, its header describes {end}")
    return Header(tensors=ordered, metadata=metadata)


def encode_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Length and header of a file in our one layout.

    Args:
        tensors: dtype and shape by name.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name in sorted(tensors, key=str.encode):
        dtype, shape = tensors[name]
        stop = start + math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": DTYPE_IN_FILE[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def step_and_cursor(metadata: Mapping[str, str]) -> tuple[int, int]:
    """The two counters of a checkpoint; `encode_counters` wrote them.

    Raises:
        RemoteViolation: one is missing or no plain whole number, or there is something beside them.
    """
    if set(metadata) != {"step", "cursor"}:
        raise RemoteViolation(f"checkpoint has metadata {sorted(metadata)[:5]!r:.200}, expected step and cursor")
    return _counter(metadata, "step"), _counter(metadata, "cursor")


def encode_counters(step: int, cursor: int) -> dict[str, str]:
    """The metadata of a checkpoint."""
    return {"step": str(step), "cursor": str(cursor)}


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _metadata(raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict) or len(raw) > MAX_METADATA or any(not isinstance(item, str) for item in raw.values()):
        raise RemoteViolation(f"file metadata is no object of at most {MAX_METADATA} strings")
    return raw


def _tensor(name: str, entry: Any, data_bytes: int) -> FileTensor:
    _check_name(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise RemoteViolation(f"header of {name!r:.80} has not exactly dtype, shape and data_offsets")
    dtype = _DTYPE_FROM_FILE.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise RemoteViolation(
            f"{name!r:.80} has element type {entry['dtype']!r:.20}, known are {', '.join(DTYPE_BYTES)}"
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_whole(shape) or any(not 0 <= size < MAX_DIMENSION for size in shape):
        raise RemoteViolation(f"{name!r:.80} has the impossible shape {shape!r:.60}")
    if not _are_whole(offsets) or len(offsets) != 2:
        raise RemoteViolation(f"{name!r:.80} has no readable range")
    first, last = offsets
    size = math.prod(shape) * DTYPE_BYTES[dtype]
    if not 0 <= first <= last <= data_bytes or last - first != size:
        raise RemoteViolation(f"{name!r:.80} claims bytes {first} to {last} of {data_bytes}, it needs {size}")
    return FileTensor(dtype=dtype, shape=tuple(shape), first=first, last=last)


def _check_name(name: str) -> None:
    """JSON can write half of a surrogate pair, which no UTF-8 bytes stand for and so no root can hash."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise RemoteViolation(f"a tensor is called {name!r:.80}, which is no text") from error
    if size > MAX_NAME_BYTES:
        raise RemoteViolation(f"a tensor's name has {size} bytes, allowed are {MAX_NAME_BYTES}: {name!r:.80}")


def _are_whole(raw: Any) -> bool:
    return isinstance(raw, list) and all(type(item) is int for item in raw)


def _counter(metadata: Mapping[str, str], key: str) -> int:
    text = metadata[key]
    if not (text.isascii() and text.isdigit() and len(text) <= 15) or str(int(text)) != text or int(text) > MAX_STEP:
        raise RemoteViolation(f"checkpoint has {key} {text!r:.40}, not a whole number up to {MAX_STEP}")
    return int(text)
