"""Calls, logs and errors of one contract, turned from bytes to values and back by its own ABI.

Values are plain: integers, booleans, bytes, checksummed addresses, lists, and dicts for structs (keys as in Solidity).
Refused are bytes that do not fit the ABI, on both ways. No network here. Next in the flow: rpc.py, then gateway.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address

from tolsey.contracts.artifacts import artifact
from tolsey.errors import ChainUnavailable
from tolsey.protocol.encoding import keccak256

Component = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A function, event or error of an ABI.

    Attributes:
        selector: first four bytes of a call or an error, the whole topic (32 bytes) of an event.
    """

    name: str
    selector: bytes
    inputs: tuple[Component, ...]
    outputs: tuple[Component, ...]


class Interface:
    """A contract's ABI by name and by selector. Each name stands once: our contracts overload nothing.

    Attributes:
        functions: by name. events: by topic. errors: by selector.
    """

    def __init__(self, name: str, abi: Sequence[dict[str, Any]]) -> None:
        self.name = name
        self.functions = {e["name"]: _entry(e, 4) for e in abi if e["type"] == "function"}
        self.events = {(made := _entry(e, 32)).selector: made for e in abi if e["type"] == "event"}
        self.errors = {(made := _entry(e, 4)).selector: made for e in abi if e["type"] == "error"}
        self._constructor: tuple[Component, ...] = next(
            (tuple(e["inputs"]) for e in abi if e["type"] == "constructor"), ()
        )

    def call(self, function: str, *args: Any) -> bytes:
        """Calldata of a call.

        Raises:
            KeyError: the contract has no such function.
            EncodingError: a value does not fit its type (from eth_abi; a bug on our side).
        """
        entry = self.functions[function]
        return entry.selector + encode(entry.inputs, args)

    def creation(self, bytecode: bytes, *args: Any) -> bytes:
        """Creation code with the constructor's arguments."""
        return bytecode + encode(self._constructor, args)

    def result(self, function: str, raw: bytes) -> Any:
        """What the function returned: one value, or a tuple of several.

        Raises:
            ChainUnavailable: the bytes are not what this function returns: another contract stands there.
        """
        try:
            values = decode(self.functions[function].outputs, raw)
        except (DecodingError, ValueError) as error:
            raise ChainUnavailable(
                f"{self.name}.{function} answered {len(raw)} bytes that do not fit its ABI",
                fix="compare the network file's addresses with the chain it names",
            ) from error
        return values[0] if len(values) == 1 else tuple(values)

    def log(self, topics: Sequence[bytes], raw: bytes) -> tuple[str, dict[str, Any]] | None:
        """Name and values of a log, or None where the topic is not of this contract.

        Raises:
            DecodingError: the topic is known and the rest does not fit it.
        """
        entry = self.events.get(topics[0]) if topics else None
        if entry is None:
            return None
        indexed = [c for c in entry.inputs if c["indexed"]]
        plain = [c for c in entry.inputs if not c["indexed"]]
        if len(indexed) != len(topics) - 1:
            raise DecodingError(f"{entry.name} has {len(indexed)} indexed values, the log {len(topics) - 1}")
        values = dict(zip((c["name"] for c in plain), decode(plain, raw), strict=True))
        for component, topic in zip(indexed, topics[1:], strict=True):
            values[component["name"]] = decode([component], topic)[0]
        return entry.name, values


@functools.cache
def interface(name: str) -> Interface:
    """The interface of a shipped contract."""
    return Interface(name, artifact(name).abi)


def encode(components: Sequence[Component], values: Sequence[Any]) -> bytes:
    """ABI encoding of values (structs as tuples) for these components."""
    return abi_encode([type_text(c) for c in components], values)


def decode(components: Sequence[Component], raw: bytes) -> list[Any]:
    """The values in `raw`, structs as dicts.

    Raises:
        DecodingError: they do not fit.
    """
    values = abi_decode([type_text(c) for c in components], raw)
    return [_named(c, c["type"], v) for c, v in zip(components, values, strict=True)]


def type_text(component: Component) -> str:
    """The canonical type: structs as `(type,…)`."""
    kind = str(component["type"])
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(type_text(c) for c in component['components'])}){kind.removeprefix('tuple')}"


def _entry(entry: dict[str, Any], selector_bytes: int) -> Entry:
    inputs = tuple(entry["inputs"])
    text = f"{entry['name']}({','.join(type_text(c) for c in inputs)})"
    return Entry(entry["name"], keccak256(text.encode())[:selector_bytes], inputs, tuple(entry.get("outputs", ())))


def _named(component: Component, kind: str, value: Any) -> Any:
    if kind.endswith("]"):
        return [_named(component, kind[: kind.rindex("[")], item) for item in value]
    if kind == "tuple":
        parts = component["components"]
        return {c["name"]: _named(c, c["type"], v) for c, v in zip(parts, value, strict=True)}
    return str(to_checksum_address(value)) if kind == "address" else value
