"""Canonical bytes and the hashes over them: every object that is signed or hashed passes here.

Two encodings only:

- **canonical JSON** for what people read (job spec, graph, dataset manifest, listing): keys sorted, no white space,
  UTF-8, integers, strings, booleans, null, lists and objects; *no floats*, because their text differs between
  writers (a learning rate is the string "0.001"). Parsing refuses anything that does not encode back to itself.
- **words** for what contracts hash too: a domain tag and 32-byte words, concatenated (Solidity `abi.encode` of
  static values gives the same bytes).

A domain tag is ASCII, padded with zeros to 32 bytes: Solidity's `bytes32("tolsey/leaf/1")`. It keeps one kind of
object from being passed off as another (second preimage), since no two kinds share a tag.

Next in the flow: merkle.py, then the objects (content.py, checkpoint.py, job.py, offer.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from Crypto.Hash import keccak

from tolsey.errors import RemoteViolation

Json = dict[str, "Json"] | list["Json"] | str | int | bool | None

TAG_CHUNK = b"tolsey/chunk/1"
TAG_NODE = b"tolsey/node/1"
TAG_TENSOR = b"tolsey/tensor/1"
TAG_STATE = b"tolsey/state/1"
TAG_CONTENT = b"tolsey/content/1"
TAG_SPEC = b"tolsey/spec/1"
TAG_LEAF = b"tolsey/leaf/1"
TAG_SEED = b"tolsey/seed/1"
TAG_DRAW = b"tolsey/draw/1"
TAG_SEAL = b"tolsey/seal/1"
TAG_STEPS = b"tolsey/steps/1"
TAG_CLASS = b"tolsey/class/1"
TAG_LISTING = b"tolsey/listing/1"
TAG_BINDING = b"tolsey/binding/1"


MAX_JSON_DEPTH = 64
"""Objects inside objects of a message. Python's parser recurses: deeper text from a stranger can end the process where
a library has raised the recursion limit, so depth is counted first."""

_ACCOUNT = re.compile(r"0x[0-9a-fA-F]{40}")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def tag(name: bytes) -> bytes:
    """The 32-byte domain tag for `name` (at most 31 ASCII bytes)."""
    if len(name) > 31:
        raise ValueError(f"a tag has at most 31 bytes so that it fits 32 with its padding, {name!r} has {len(name)}")
    return name.ljust(32, b"\0")


def keccak256(*parts: bytes) -> bytes:
    """Keccak-256 (Ethereum's, not NIST SHA3-256) of the parts' concatenation; 32 bytes."""
    return keccak.new(digest_bits=256, data=b"".join(parts)).digest()


def sha256(*parts: bytes | memoryview) -> bytes:
    """SHA-256 of the parts' concatenation; 32 bytes. Used for bulk bytes: a precompile opens it on chain."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def word(value: int) -> bytes:
    """An unsigned integer as a 32-byte big-endian word (Solidity uint256)."""
    return value.to_bytes(32, "big")


def address_word(account: str) -> bytes:
    """A 0x-prefixed 20-byte account, left-padded to a word.

    Raises:
        ValueError: not 0x and 40 hex digits.
    """
    if not isinstance(account, str) or not _ACCOUNT.fullmatch(account):
        raise ValueError(f"an account is 0x and 40 hex digits, not {account!r}")
    return bytes.fromhex(account[2:]).rjust(32, b"\0")


def canonical_json(value: Any) -> bytes:
    """The one byte string for `value`.

    Raises:
        TypeError: a float or another type without one canonical text stands in it.
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_canonical_json(raw: bytes, *, max_bytes: int) -> Any:
    """The value of canonical bytes.

    Raises:
        RemoteViolation: longer than `max_bytes`, nested deeper than MAX_JSON_DEPTH, not JSON, or not the canonical
            form of what it says.
    """
    if len(raw) > max_bytes:
        raise RemoteViolation(f"object of {len(raw)} bytes where at most {max_bytes} are allowed")
    if is_deeper(raw, MAX_JSON_DEPTH):
        raise RemoteViolation(f"JSON nested deeper than {MAX_JSON_DEPTH} levels", evidence=raw[:4096])
    try:
        value = json.loads(raw)
        again = canonical_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise RemoteViolation(f"not canonical JSON: {error}", evidence=raw[:4096]) from error
    if again != raw:
        raise RemoteViolation("JSON is not in canonical form (sorted keys, no spaces)", evidence=raw[:4096])
    return value


def is_deeper(raw: bytes, most: int) -> bool:
    """Whether brackets outside of strings open more than `most` levels; linear in the length, whatever the bytes.

    To be asked before json.loads sees a stranger's bytes: it recurses in C, and some libraries lift the limit that
    would turn an overflow into an error.
    """
    level = 0
    for bracket in _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS):
        level += 1 if bracket in b"[{" else -1
        if level > most:
            return True
    return False


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError(f"no floats in canonical JSON: write {value!r} as a decimal string")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"object keys are strings, not {key!r}")
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)
    elif not isinstance(value, str | int | bool | None):
        raise TypeError(f"{type(value).__name__} has no canonical JSON")
