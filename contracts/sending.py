"""Sends one transaction and waits for it, without a memory: for the command line, deployments and tests.

What must survive a crash goes through sender.py. Waiting is asking for the receipt, first often, then every second;
a transaction that nobody mines is replaced by a dearer copy with the same nonce. Next in the flow: sender.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from tolsey.contracts.actions import Action
from tolsey.contracts.transactions import NonceTaken, Signed, Transactions, TxReceipt, Underpriced
from tolsey.errors import ChainUnavailable

STUCK_S = 45.0
"""Unmined for so long, a transaction gets a dearer copy: nearly four blocks of Ethereum's 12 s."""
MAX_COPIES = 8
"""Eight rises of 25 % are sixfold; what that cannot buy is not bought by more."""
FIRST_POLL_S, SLOWEST_POLL_S = 0.01, 1.0


def send_and_wait(
    transactions: Transactions,
    action: Action,
    *,
    confirmations: int = 0,
    timeout_s: float = 600,
    stuck_s: float = STUCK_S,
) -> TxReceipt:
    """The receipt once the action is mined and has its confirmations; blocks.

    Raises:
        Reverted: refused, before sending or in the block. InsufficientFunds: no ETH for the fees.
        ChainUnavailable: not mined within `timeout_s`; it may be mined later.
    """
    gas = transactions.estimate(action)
    signed = transactions.sign(action, nonce=transactions.next_nonce(), gas=gas, fees=transactions.fees())
    copies = [signed]
    transactions.broadcast(signed.raw)
    started = copied = time.monotonic()
    for pause_s in pauses():
        receipt = find_receipt(transactions, [copy.tx_hash for copy in copies])
        if receipt is not None and transactions.depth(receipt) >= confirmations:
            if not receipt.succeeded:
                raise transactions.why_failed(action, receipt)
            return receipt
        now = time.monotonic()
        if now - started > timeout_s:
            raise ChainUnavailable(
                f"transaction 0x{signed.tx_hash.hex()} is not mined after {timeout_s:.0f} s; it may be later",
                fix="look at it in a block explorer before doing it again",
            )
        if receipt is None and now - copied > stuck_s and len(copies) < MAX_COPIES:
            copies.append(dearer(transactions, action, copies[-1]))
            copied = now
            try:
                transactions.broadcast(copies[-1].raw)
            except (NonceTaken, Underpriced):
                pass  # the first is being mined, or the pool wants still more; both show at the next look
        time.sleep(pause_s)
    raise AssertionError("pauses never end")


def pauses() -> Iterator[float]:
    """Seconds between looks: a local chain answers at once, a public one takes seconds."""
    pause_s = FIRST_POLL_S
    while True:
        yield pause_s
        pause_s = min(SLOWEST_POLL_S, pause_s * 1.5)


def find_receipt(transactions: Transactions, hashes: list[bytes]) -> TxReceipt | None:
    """The receipt of whichever copy was mined."""
    for tx_hash in reversed(hashes):
        receipt = transactions.receipt(tx_hash)
        if receipt is not None:
            return receipt
    return None


def dearer(transactions: Transactions, action: Action, last: Signed) -> Signed:
    """A copy with the same nonce that pays enough to replace the last one."""
    fees = last.fees.bumped(transactions.fees())
    return transactions.sign(action, nonce=last.nonce, gas=last.gas, fees=fees)
