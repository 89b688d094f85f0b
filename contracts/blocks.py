"""Headers and logs: what stands in which block.

Headers are cached by hash (a hash never changes its meaning); numbers are always asked for anew. Logs come in ranges
that are halved when the endpoint finds them too large. Next in the flow: gateway.py, follower.py.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tolsey.contracts.events import Event, EventDecoder
from tolsey.contracts.rpc import Rpc, RpcRefused
from tolsey.errors import ChainUnavailable, Reorged
from tolsey.protocol.units import Account

LOG_RANGE = 2_000
"""Blocks asked for at once; most public endpoints allow at least this many."""
MAX_HEADERS = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What we need of a block. `ts` in unix seconds; `base_fee_wei` None before EIP-1559."""

    number: int
    hash: bytes
    parent_hash: bytes
    ts: int
    base_fee_wei: int | None


class Blocks:
    """Reads blocks, and the logs of one market and its judge in them; safe for threads."""

    def __init__(self, rpc: Rpc, market: Account, judge: Account) -> None:
        self._rpc = rpc
        self._addresses = [market, judge]
        self._decoder = EventDecoder(market, judge)
        self._headers: OrderedDict[bytes, Header] = OrderedDict()
        self._lock = threading.Lock()

    def newest(self) -> Header:
        """The header at the tip."""
        found = self._fetch("eth_getBlockByNumber", "latest")
        if found is None:
            raise ChainUnavailable(f"{self._rpc.url} knows no newest block")
        return found

    def at(self, number: int) -> Header | None:
        """The header that stands at `number` now, or None above the tip."""
        return self._fetch("eth_getBlockByNumber", hex(number))

    def of(self, block_hash: bytes) -> Header | None:
        """The header of that hash, or None where the node has forgotten it (reorganised away)."""
        with self._lock:
            known = self._headers.get(block_hash)
        return known or self._fetch("eth_getBlockByHash", "0x" + block_hash.hex())

    def logs(self, first: int, last: int) -> list[Event]:
        """Our contracts' events in blocks `first` to `last`, in order.

        Raises:
            Reorged: a block of the answer is gone already; ask again.
        """
        events: list[Event] = []
        while first <= last:
            end = min(last, first + LOG_RANGE - 1)
            events += self.decode(self._raw_logs(first, end))
            first = end + 1
        return sorted(events, key=lambda event: event.position)

    def decode(self, logs: Iterable[Mapping[str, Any]]) -> list[Event]:
        """The events among raw JSON-RPC logs; those of other contracts are left out."""
        events = []
        for log in logs:
            if log.get("address", "").lower() not in {address.lower() for address in self._addresses}:
                continue
            event = self._decoder.decode(log, self._ts(log))
            if event is not None:
                events.append(event)
        return events

    def _raw_logs(self, first: int, last: int) -> list[Any]:
        wanted = {"fromBlock": hex(first), "toBlock": hex(last), "address": self._addresses}
        try:
            found = self._rpc.call("eth_getLogs", wanted)
        except RpcRefused as error:
            if first == last:
                raise ChainUnavailable(
                    f"{self._rpc.url} gives no logs of block {first}: {error.message}",
                    fix="another rpc_url in the network file",
                ) from error
            middle = (first + last) // 2
            return self._raw_logs(first, middle) + self._raw_logs(middle + 1, last)
        if not isinstance(found, list) or not all(isinstance(log, dict) for log in found):
            raise ChainUnavailable(f"{self._rpc.url} answered eth_getLogs with something that is no list of logs")
        return found

    def _ts(self, log: Mapping[str, Any]) -> int:
        block_hash = bytes.fromhex(str(log["blockHash"])[2:])
        header = self.of(block_hash)
        if header is None:
            raise Reorged(f"block {log['blockNumber']} ({block_hash.hex()[:16]}) is gone")
        return header.ts

    def _fetch(self, method: str, which: str) -> Header | None:
        try:
            block = self._rpc.call(method, which, False)
        except RpcRefused as error:  # anvil: "block not found" for a number above the tip
            if "not found" in error.message.lower():
                return None
            raise ChainUnavailable(f"{self._rpc.url} refuses {method}: {error.message}") from error
        if block is None:
            return None
        try:
            base_fee = block.get("baseFeePerGas")
            header = Header(
                number=int(block["number"], 16),
                hash=bytes.fromhex(block["hash"][2:]),
                parent_hash=bytes.fromhex(block["parentHash"][2:]),
                ts=int(block["timestamp"], 16),
                base_fee_wei=None if base_fee is None else int(base_fee, 16),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ChainUnavailable(f"{self._rpc.url} answered {method} with no block: {error!r}") from error
        with self._lock:
            self._headers[header.hash] = header
            while len(self._headers) > MAX_HEADERS:
                self._headers.popitem(last=False)
        return header
