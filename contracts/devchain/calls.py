"""Running code without mining it: eth_call and eth_estimateGas, free of charge as they are everywhere.

Each run gets a fresh state and throws it away. A revert keeps its bytes, because Tolsey's contracts speak in custom
errors and the caller decodes them. Next: pool.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eth.exceptions import Revert, VMError
from eth.vm.forks.cancun import CancunVM
from eth.vm.spoof import SpoofTransaction

from tolsey.contracts.devchain.genesis import CHAIN_ID, GAS_LIMIT

FreshState = Callable[[], Any]
"""Makes py-evm's state of one block, with a base fee of 0."""


class Refused(Exception):
    """A request that the chain answers with an error.

    Args:
        message: what a node would say (web3 libraries match on some of these words).
        code: JSON-RPC code; 3 stands for a revert.
        revert_data: the bytes the contract reverted with, None where nothing reverted.
    """

    def __init__(self, message: str, *, code: int = -32000, revert_data: bytes | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.revert_data = revert_data


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What eth_call and eth_estimateGas are asked to run; `gas` None for all that a block has."""

    sender: bytes
    to: bytes
    value_wei: int
    data: bytes
    gas: int | None = None


def output_of(call: Call, fresh_state: FreshState) -> bytes:
    """What the call returns.

    Raises:
        Refused: it reverted (with its data), ran out of gas, or the sender lacks the value.
    """
    _, computation = _run(call, fresh_state(), call.gas or GAS_LIMIT)
    _raise_failure(computation)
    return bytes(computation.output)


def least_gas(call: Call, fresh_state: FreshState) -> int:
    """The smallest gas limit with which the call succeeds.

    The gas a run uses before refunds is a lower bound, and nearly always enough; where code asks how much gas is left
    (63/64 rule), the answer is found by halving.

    Raises:
        Refused: it fails even with all gas.
    """
    most = call.gas or GAS_LIMIT
    used, computation = _run(call, fresh_state(), most)
    _raise_failure(computation)
    low, high = used - 1, most
    for guess in (used, min(most, (used + 2300) * 64 // 63 + 1)):
        if _succeeds(call, fresh_state(), guess):
            high = guess
            break
        low = guess
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _succeeds(call, fresh_state(), middle) else (middle, high)
    return high


def unsigned(call: Call, nonce: int, gas: int, fee_wei: int) -> Any:
    """The call as py-evm's dynamic-fee transaction that pays at most `fee_wei` per gas."""
    return CancunVM.get_transaction_builder().new_unsigned_dynamic_fee_transaction(  # type: ignore[attr-defined]
        chain_id=CHAIN_ID, nonce=nonce, max_priority_fee_per_gas=min(fee_wei, 10**9), max_fee_per_gas=fee_wei,
        gas=gas, to=call.to, value=call.value_wei, data=call.data, access_list=(),
    )  # fmt: skip


def _run(call: Call, state: Any, gas: int) -> tuple[int, Any]:
    """Gas used before refunds, and py-evm's computation."""
    if gas > GAS_LIMIT:
        raise Refused(f"gas {gas} is above the block's {GAS_LIMIT}")
    spoofed = SpoofTransaction(unsigned(call, state.get_nonce(call.sender), gas, 0), from_=call.sender)
    if gas < spoofed.intrinsic_gas:
        raise Refused(f"intrinsic gas too low: gas {gas}, minimum needed {spoofed.intrinsic_gas}")
    balance = state.get_balance(call.sender)
    if balance < call.value_wei:
        raise Refused(f"insufficient funds for transfer: balance {balance}, value {call.value_wei}")
    computation = state.apply_transaction(spoofed)
    return gas - computation.get_gas_remaining(), computation


def _succeeds(call: Call, state: Any, gas: int) -> bool:
    try:
        return not _run(call, state, gas)[1].is_error
    except Refused:
        return False


def _raise_failure(computation: Any) -> None:
    if not computation.is_error:
        return
    error: VMError = computation.error
    if isinstance(error, Revert):
        revert_data = bytes(computation.output)
        raise Refused(f"execution reverted{_reason(revert_data)}", code=3, revert_data=revert_data)
    raise Refused(f"execution failed: {type(error).__name__} {error}".rstrip())


def _reason(revert_data: bytes) -> str:
    """`: words` of a Solidity Error(string), as anvil puts it into the message."""
    if revert_data[:4] != b"\x08\xc3\x79\xa0":
        return ""
    length = int.from_bytes(revert_data[36:68], "big")
    return ": " + revert_data[68 : 68 + min(length, 1024)].decode(errors="replace")
