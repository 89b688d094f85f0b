"""The network file: which contracts on which chain make up one market, so that every command needs one name only.

TOML, written by `tolsey chain up` and `tolsey chain deploy`, read by everybody. A test compares the addresses with the
chain (gateway.check_chain does so at each start). Refused are unknown and missing keys: a typo must not become a
default. Next in the flow: gateway.py.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_utils.address import is_checksum_address, to_checksum_address

from tolsey.errors import ConfigError
from tolsey.protocol.offer import LOCAL_CLOCKS, Clocks, Domain
from tolsey.protocol.units import Account, Seconds

MAX_FILE_BYTES = 65_536
_ACCOUNTS = ("market", "judge", "token", "beacon")
_CLOCKS = ("commit_window_s", "reveal_window_s", "verdict_window_s", "challenge_window_s")
_REQUIRED = {"name", "chain_id", "rpc_url", "deployed_block", "confirmations", *_ACCOUNTS, "clocks"}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFile:
    """One market deployment.

    Attributes:
        name: for people and folder names; lower-case letters, digits and dashes, at most 32.
        rpc_url: http(s) JSON-RPC endpoint.
        market, judge, token, beacon: contract addresses.
        deployed_block: the first block that can hold a log of ours.
        confirmations: blocks on top before a fact counts as final for us; 0 on a local chain.
        bootstrap: multiaddrs of peers to start from.
        clocks: what clients of this network ask for unless told otherwise, seconds.
    """

    name: str
    chain_id: int
    rpc_url: str
    market: Account
    judge: Account
    token: Account
    beacon: Account
    deployed_block: int
    confirmations: int
    bootstrap: tuple[str, ...] = ()
    clocks: Clocks = LOCAL_CLOCKS

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of its market."""
        return Domain(chain_id=self.chain_id, market=self.market)

    def to_toml(self) -> str:
        """The file's text; `parse` gives the same value back."""
        lines = [
            "# A Tolsey market: what to talk to, and where the contracts are.",
            f"name = {_quote(self.name)}",
            f"chain_id = {self.chain_id}",
            f"rpc_url = {_quote(self.rpc_url)}",
            *(f"{key} = {_quote(getattr(self, key))}" for key in _ACCOUNTS),
            f"deployed_block = {self.deployed_block}",
            f"confirmations = {self.confirmations}",
            f"bootstrap = [{', '.join(_quote(address) for address in self.bootstrap)}]",
            "",
            "[clocks]  # seconds of block time",
            *(f"{key} = {getattr(self.clocks, key)}" for key in _CLOCKS),
        ]
        return "\n".join(lines) + "\n"

    def save(self, path: Path) -> None:
        """Writes the file whole; an old one is replaced."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(self.to_toml())
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> NetworkFile:
        """The market described in `path`.

        Raises:
            ConfigError: unreadable, or a line says what cannot be; the message quotes that line.
        """
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
            text = raw.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"network file {path} cannot be read: {error}", fix="tolsey chain up, or --network FILE"
            ) from error
        if len(raw) > MAX_FILE_BYTES:
            raise ConfigError(f"network file {path} has more than {MAX_FILE_BYTES} bytes")
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str) -> NetworkFile:
        """The market described by TOML text; `source` is named in errors."""
        try:
            value = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            number = re.search(r"at line (\d+)", str(error))
            line = text.splitlines()[int(number[1]) - 1].strip() if number else ""
            raise ConfigError(f"{source}: {error}" + (f", in `{line}`" if line else "")) from error
        return _Parser(text, source).network(value)


class _Parser:
    """Checks parsed TOML key by key; each complaint quotes the line it is about."""

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source

    def network(self, value: dict[str, Any]) -> NetworkFile:
        self._keys(value, _REQUIRED, _REQUIRED | {"bootstrap"}, "the file")
        clocks = value["clocks"]
        if not isinstance(clocks, dict):
            raise self._wrong("clocks", "a table [clocks] is due")
        self._keys(clocks, set(_CLOCKS), set(_CLOCKS), "[clocks]")
        name, url = self._text(value, "name"), self._text(value, "rpc_url")
        if not _NAME.fullmatch(name):
            raise self._wrong("name", "a name has lower-case letters, digits and dashes, at most 32")
        if not re.fullmatch(r"https?://[^\s/]+\S*", url):
            raise self._wrong("rpc_url", "an http:// or https:// address is due")
        bootstrap = value.get("bootstrap", [])
        if not isinstance(bootstrap, list) or not all(isinstance(a, str) and a.startswith("/") for a in bootstrap):
            raise self._wrong("bootstrap", "a list of multiaddrs such as /ip4/…/tcp/…/p2p/… is due")
        seconds = {key: Seconds(self._count(clocks, key, 1, (1 << 32) - 1)) for key in _CLOCKS}
        return NetworkFile(
            name=name,
            rpc_url=url,
            chain_id=self._count(value, "chain_id", 1, (1 << 63) - 1),
            deployed_block=self._count(value, "deployed_block", 0, (1 << 63) - 1),
            confirmations=self._count(value, "confirmations", 0, 1_000),
            bootstrap=tuple(bootstrap),
            clocks=Clocks(**seconds),
            **{key: self._account(value, key) for key in _ACCOUNTS},
        )

    def _keys(self, value: dict[str, Any], required: set[str], allowed: set[str], where: str) -> None:
        for key in value:
            if key not in allowed:
                raise self._wrong(key, f"{where} knows no such key")
        for key in sorted(required - set(value)):
            raise ConfigError(f"{self.source}: {where} lacks `{key}`")

    def _text(self, value: dict[str, Any], key: str) -> str:
        item = value[key]
        if not isinstance(item, str) or not item:
            raise self._wrong(key, "a string is due")
        return item

    def _count(self, value: dict[str, Any], key: str, least: int, most: int) -> int:
        item = value[key]
        if type(item) is not int or not least <= item <= most:
            raise self._wrong(key, f"a whole number from {least} to {most} is due")
        return item

    def _account(self, value: dict[str, Any], key: str) -> Account:
        item = self._text(value, key)
        if not re.fullmatch(r"0x[0-9a-fA-F]{40}", item):
            raise self._wrong(key, "an address is 0x and 40 hex digits")
        if item.lower() != item and not is_checksum_address(item):
            raise self._wrong(key, f"its checksum does not fit; meant was perhaps {to_checksum_address(item)}")
        return Account(str(to_checksum_address(item)))

    def _wrong(self, key: str, why: str) -> ConfigError:
        for number, line in enumerate(self.text.splitlines(), 1):
            if re.match(rf'\s*\[?"?{re.escape(key)}\b', line):
                return ConfigError(f"{self.source} line {number}, `{line.strip()}`: {why}")
        return ConfigError(f"{self.source}: {key}: {why}")


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if any(ord(c) < 32 or ord(c) == 127 for c in escaped):
        raise ConfigError(f"{text!r} cannot stand in a network file")
    return f'"{escaped}"'


def network_path(network: str) -> Path:
    """The network file for a path or the name of a market on this machine.

    Raises:
        ConfigError: neither is there.
    """
    path = Path(network)
    if path.is_file():
        return path.resolve()
    data = os.environ.get("XDG_DATA_HOME")
    named = (Path(data) if data else Path.home() / ".local" / "share") / "tolsey" / network / "network.toml"
    if named.is_file():
        return named.resolve()
    raise ConfigError(f"no network file at {path} or {named}", fix="tolsey up, or --network FILE")
