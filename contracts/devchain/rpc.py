"""The JSON-RPC methods: parameters in, engine's answers out.

Every parameter is bounded and typed before the engine sees it; a method that is not here is refused by name. The cheat
methods are anvil's names, so that one test drives both engines. Next: server.py, the HTTP around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eth_utils.address import to_checksum_address

from tolsey.contracts.devchain import shapes
from tolsey.contracts.devchain.calls import Call, Refused
from tolsey.contracts.devchain.engine import Engine
from tolsey.contracts.devchain.genesis import CHAIN_ID
from tolsey.contracts.devchain.store import MAX_LOGS, Json

PRIORITY_FEE_WEI = 10**9
MAX_MINE = 10_000
MAX_FEE_HISTORY = 1024
MAX_FILTER_TERMS = 1_000
_NEWEST = ("latest", "safe", "finalized")


class Rpc:
    """One engine's methods by their JSON-RPC names."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.methods: dict[str, Callable[..., Any]] = {
            "eth_chainId": lambda: hex(CHAIN_ID),
            "net_version": lambda: str(CHAIN_ID),
            "net_listening": lambda: True,
            "web3_clientVersion": lambda: "tolsey-devchain/1 (py-evm, cancun)",
            "eth_syncing": lambda: False,
            "eth_accounts": lambda: [to_checksum_address(address) for address in engine.keys],
            "eth_blockNumber": lambda: hex(engine.store.head_number() or 0),
            "eth_gasPrice": lambda: hex(engine.pending_header().base_fee_per_gas + PRIORITY_FEE_WEI),
            "eth_maxPriorityFeePerGas": lambda: hex(PRIORITY_FEE_WEI),
            "eth_feeHistory": self.fee_history,
            "eth_getBalance": lambda who, at="latest": hex(self._state(at).get_balance(_address(who))),
            "eth_getCode": lambda who, at="latest": shapes.data(self._state(at).get_code(_address(who))),
            "eth_getStorageAt": self.storage_at,
            "eth_getTransactionCount": self.transaction_count,
            "eth_call": lambda call, at="latest": shapes.data(engine.call(_call(call), self._number(at))),
            "eth_estimateGas": lambda call, at="latest": hex(engine.estimate_gas(_call(call), self._number(at))),
            "eth_sendRawTransaction": lambda raw: shapes.data(engine.send(_bytes(raw))),
            "eth_sendTransaction": self.send_transaction,
            "eth_getBlockByNumber": self.block_by_number,
            "eth_getBlockByHash": lambda block_hash, full=False: self._fill(
                engine.store.block(block_hash=_bytes(block_hash, 32)), full
            ),
            "eth_getBlockReceipts": self.block_receipts,
            "eth_getTransactionByHash": self.transaction_by_hash,
            "eth_getTransactionReceipt": lambda tx_hash: engine.store.receipt_of(_bytes(tx_hash, 32)),
            "eth_getLogs": self.logs,
            "evm_snapshot": lambda: hex(engine.snapshot()),
            "evm_revert": lambda snapshot: engine.revert(_quantity(snapshot)),
            "evm_increaseTime": lambda seconds: engine.shift_time(_quantity(seconds)),
            "evm_setNextBlockTimestamp": lambda timestamp: engine.set_next_timestamp(_quantity(timestamp)),
            "evm_setAutomine": self.set_automine,
            "evm_mine": self.evm_mine,
            "anvil_mine": self.anvil_mine,
            "anvil_setBalance": lambda who, wei: self._alter(who, "set_balance", _quantity(wei)),
            "anvil_setNonce": lambda who, nonce: self._alter(who, "set_nonce", _quantity(nonce)),
            "anvil_setCode": lambda who, code: self._alter(who, "set_code", _bytes(code)),
            "anvil_setStorageAt": self.set_storage_at,
        }
        for name in ("increaseTime", "setNextBlockTimestamp", "setAutomine", "snapshot", "revert"):
            self.methods[f"anvil_{name}"] = self.methods[f"evm_{name}"]

    def answer(self, method: str, params: Sequence[Any]) -> Any:
        """The result of one method.

        Raises:
            Refused: unknown method, wrong parameters, or the chain's own refusal.
        """
        found = self.methods.get(method)
        if found is None:
            raise Refused(f"the method {method} does not exist on the embedded chain", code=-32601)
        try:
            return found(*params)
        except (TypeError, ValueError, OverflowError, KeyError, AttributeError) as cause:
            raise Refused(f"invalid params for {method}: {cause}", code=-32602) from cause

    # reading

    def fee_history(self, count: Any, newest: Any, percentiles: Sequence[Any] = ()) -> Json:
        """Base fees and fullness of the last `count` blocks; tips are the constant that the chain suggests."""
        last = self._mined(newest)
        first = max(0, last - min(_quantity(count), MAX_FEE_HISTORY) + 1)
        headers = [self.engine.header(number) for number in range(first, last + 1)]
        following = self.engine.header(None if last == self.engine.store.head_number() else last + 1)
        answer: Json = {
            "oldestBlock": hex(first),
            "baseFeePerGas": [hex(header.base_fee_per_gas) for header in (*headers, following)],
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in headers],
        }
        if percentiles:
            answer["reward"] = [[hex(PRIORITY_FEE_WEI)] * min(len(percentiles), 100) for _ in headers]
        return answer

    def storage_at(self, who: Any, slot: Any, at: Any = "latest") -> str:
        return f"0x{self._state(at).get_storage(_address(who), _quantity(slot)):064x}"

    def transaction_count(self, who: Any, at: Any = "latest") -> str:
        if at == "pending":
            return hex(self.engine.pending_nonce(_address(who)))
        return hex(self._state(at).get_nonce(_address(who)))

    def block_by_number(self, at: Any, full: Any = False) -> Json | None:
        if at == "pending":
            return shapes.block_json(self.engine.pending_header(), [], pending=True)
        return self._fill(self.engine.store.block(number=self._mined(at)), full)

    def block_receipts(self, at: Any) -> list[Json] | None:
        number = self._mined(at)
        return None if self.engine.store.block(number=number) is None else self.engine.store.receipts_of(number)

    def transaction_by_hash(self, tx_hash: Any) -> Json | None:
        raw = _bytes(tx_hash, 32)
        mined = self.engine.store.transaction_of(raw)
        if mined is not None:
            return mined
        waiting = self.engine.pool.find(raw)
        return None if waiting is None else shapes.transaction_json(waiting, None)

    def logs(self, wanted: Json) -> list[Json]:
        """Logs by block range or block hash, addresses and topics; at most MAX_LOGS."""
        if "blockHash" in wanted:
            first = last = self._number_of_hash(wanted["blockHash"])
        else:
            first, last = self._mined(wanted.get("fromBlock", "latest")), self._mined(wanted.get("toBlock", "latest"))
        if first > last:
            raise Refused(f"invalid block range: from {first} is after to {last}", code=-32602)
        found = self.engine.store.logs(
            first,
            last,
            [_address(each) for each in _any_of(wanted.get("address"))],
            [[_bytes(each, 32) for each in _any_of(term)] for term in _any_of(wanted.get("topics"))[:4]],
        )
        if len(found) > MAX_LOGS:
            raise Refused(f"query returned more than {MAX_LOGS} logs, narrow the block range", code=-32005)
        return found

    # changing

    def send_transaction(self, form: Json) -> str:
        call = _call(form)
        nonce = _quantity(form["nonce"]) if "nonce" in form else self.engine.pending_nonce(call.sender)
        return shapes.data(self.engine.send(self.engine.sign(call, nonce)))

    def set_automine(self, on: Any) -> None:
        if not isinstance(on, bool):
            raise TypeError(f"{on!r} is not true or false")
        self.engine.automine = on

    def evm_mine(self, options: Any = None) -> str:
        timestamp = options.get("timestamp") if isinstance(options, dict) else options
        self.engine.mine(timestamp=None if timestamp is None else _quantity(timestamp))
        return "0x0"

    def anvil_mine(self, count: Any = 1, interval_s: Any = None) -> None:
        blocks = _quantity(count)
        if blocks > MAX_MINE:
            raise Refused(f"{blocks} blocks at once, allowed are {MAX_MINE}", code=-32602)
        step_s = None if interval_s is None else _quantity(interval_s)
        for index in range(blocks):
            later = None if step_s is None or index == 0 else self.engine.head.timestamp + max(1, step_s)
            self.engine.mine(timestamp=later)

    def set_storage_at(self, who: Any, slot: Any, value: Any) -> bool:
        place, word = _quantity(slot), int.from_bytes(_bytes(value, 32), "big")
        self.engine.alter(lambda state: state.set_storage(_address(who), place, word))
        return True

    def _alter(self, who: Any, method: str, value: int | bytes) -> None:
        address = _address(who)
        self.engine.alter(lambda state: getattr(state, method)(address, value))

    # block tags

    def _number(self, at: Any) -> int | None:
        """Which block a call runs on: a mined number, or None for the next block (every tag but `earliest`)."""
        if at is None or at == "pending" or at in _NEWEST:
            return None
        return self._mined(at)

    def _mined(self, at: Any) -> int:
        if isinstance(at, dict):
            return self._number_of_hash(at["blockHash"]) if "blockHash" in at else self._mined(at["blockNumber"])
        if at == "earliest":
            return 0
        head = self.engine.store.head_number() or 0
        return head if at is None or at == "pending" or at in _NEWEST else _quantity(at)

    def _number_of_hash(self, block_hash: Any) -> int:
        block = self.engine.store.block(block_hash=_bytes(block_hash, 32))
        if block is None:
            raise Refused(f"block {block_hash} not found")
        return int(block["number"], 16)

    def _state(self, at: Any) -> Any:
        return self.engine.state(self._number(at))

    def _fill(self, block: Json | None, full: Any) -> Json | None:
        if block is not None and full:
            block["transactions"] = self.engine.store.transactions_of(int(block["number"], 16))
        return block


def _quantity(value: Any) -> int:
    """A number given as hex or plain, 0 to 2^256 - 1."""
    number = int(value, 16 if value.startswith("0x") else 10) if isinstance(value, str) and len(value) < 80 else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**256:
        raise ValueError(f"{str(value)[:80]!r} is not a quantity")
    return number


def _bytes(value: Any, size: int | None = None) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError(f"{str(value)[:80]!r} is not 0x-prefixed data")
    raw = bytes.fromhex(value[2:])
    if size is not None and len(raw) != size:
        raise ValueError(f"data of {len(raw)} bytes, expected {size}")
    return raw


def _address(value: Any) -> bytes:
    return _bytes(value, 20)


def _any_of(value: Any) -> list[Any]:
    terms = [] if value is None else value if isinstance(value, list) else [value]
    if len(terms) > MAX_FILTER_TERMS:
        raise ValueError(f"filter of {len(terms)} terms, allowed are {MAX_FILTER_TERMS}")
    return terms


def _call(form: Any) -> Call:
    if not isinstance(form, dict):
        raise ValueError("a call is an object")
    payload = form.get("input", form.get("data"))
    return Call(
        sender=_address(form["from"]) if form.get("from") else bytes(20),
        to=_address(form["to"]) if form.get("to") else b"",
        value_wei=_quantity(form.get("value") or 0),
        data=_bytes(payload) if payload else b"",
        gas=_quantity(form["gas"]) if form.get("gas") is not None else None,
    )
