"""Transactions that wait: for a missing nonce before them, or for a block while mining is off.

The pool is a table, so a waiting transaction survives kill -9 too; it is bounded, and its refusals are worded as
geth's, which web3 libraries know. Next: engine.py, which mines from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eth.vm.forks.cancun import CancunVM
from eth_utils.exceptions import ValidationError

from tolsey.contracts.devchain import shapes
from tolsey.contracts.devchain.calls import Refused
from tolsey.contracts.devchain.genesis import CHAIN_ID, GAS_LIMIT
from tolsey.contracts.devchain.store import ChainStore

POOL_LIMIT = 1024
SIGNED_RAW_LIMIT_BYTES = 256 * 1024
"""Largest signed transaction; geth's pool allows 128 KiB, contract creations need less."""
PRICE_BUMP = 1.1
"""A replacement must offer this much more per gas (geth's default)."""


class Pool:
    """The waiting transactions of one store; writes happen in the caller's store transaction."""

    def __init__(self, store: ChainStore) -> None:
        self._sql = store.sql

    def find(self, tx_hash: bytes) -> Any | None:
        """A waiting transaction by hash."""
        row = self._sql.execute("SELECT raw FROM pool WHERE hash = ?", (tx_hash,)).fetchone()
        return None if row is None else _decode(row[0])

    def next_nonce(self, sender: bytes, nonce: int) -> int:
        """The first nonce from `nonce` on that no waiting transaction of `sender` has."""
        query = "SELECT nonce FROM pool WHERE sender = ? AND nonce >= ? ORDER BY nonce"
        for (waiting,) in self._sql.execute(query, (sender, nonce)).fetchall():
            if waiting != nonce:
                break
            nonce += 1
        return nonce

    def check(self, raw: bytes, state: Any, base_fee_wei: int) -> Any:
        """The transaction in `raw`, fit to wait.

        Raises:
            Refused: malformed, for another chain, unpayable, or worse than one that waits.
        """
        if len(raw) > SIGNED_RAW_LIMIT_BYTES:
            raise Refused(f"transaction of {len(raw)} bytes, allowed are {SIGNED_RAW_LIMIT_BYTES}")
        try:
            transaction = _decode(raw)
            transaction.validate()
            sender = bytes(transaction.sender)
        except Exception as cause:  # rlp, eth-keys and py-evm raise a dozen kinds for garbage
            raise Refused(f"malformed transaction: {cause}") from cause
        if shapes.type_of(transaction) > 2:
            raise Refused(f"transaction type {shapes.type_of(transaction)} not supported, types 0 to 2 are")
        if transaction.chain_id != CHAIN_ID:
            raise Refused(f"invalid chain id for signer: have {transaction.chain_id} want {CHAIN_ID}")
        if transaction.gas > GAS_LIMIT:
            raise Refused(f"exceeds block gas limit: {transaction.gas} > {GAS_LIMIT}")
        if transaction.gas < transaction.intrinsic_gas:
            raise Refused(f"intrinsic gas too low: gas {transaction.gas}, minimum needed {transaction.intrinsic_gas}")
        self._check_sender(transaction, sender, state, base_fee_wei)
        self._check_rival(transaction, sender)
        return transaction

    def put(self, transaction: Any, raw: bytes) -> None:
        """Lets a checked transaction wait, in place of one with its nonce."""
        sender = bytes(transaction.sender)
        self._sql.execute("DELETE FROM pool WHERE sender = ? AND nonce = ?", (sender, transaction.nonce))
        row = (sender, transaction.nonce, transaction.hash, raw)
        self._sql.execute("INSERT INTO pool (sender, nonce, hash, raw) VALUES (?, ?, ?, ?)", row)

    def drop(self, hashes: list[bytes]) -> None:
        """Takes mined transactions out."""
        self._sql.executemany("DELETE FROM pool WHERE hash = ?", [(tx_hash,) for tx_hash in hashes])

    def clear(self) -> None:
        """Takes everything out."""
        self._sql.execute("DELETE FROM pool")

    def runnable(self, vm: Any) -> Iterator[Any]:
        """Waiting transactions by arrival, each once its nonce is due; those that cannot run any more are dropped.

        The caller runs each before it asks for the next.
        """
        waiting = self._sql.execute("SELECT raw FROM pool ORDER BY arrival").fetchall()
        remaining = [_decode(raw) for (raw,) in waiting]
        progress = True
        while progress:
            progress, later = False, []
            for transaction in remaining:
                if transaction.nonce > vm.state.get_nonce(transaction.sender):
                    later.append(transaction)
                    continue
                try:
                    vm.state.validate_transaction(transaction)
                except ValidationError:
                    self.drop([transaction.hash])
                    continue
                yield transaction
                progress = True
            remaining = later

    def _check_sender(self, transaction: Any, sender: bytes, state: Any, base_fee_wei: int) -> None:
        nonce, balance = state.get_nonce(sender), state.get_balance(sender)
        if transaction.nonce < nonce:
            raise Refused(f"nonce too low: next nonce {nonce}, tx nonce {transaction.nonce}")
        cost = transaction.gas * transaction.max_fee_per_gas + transaction.value
        if balance < cost:
            raise Refused(f"insufficient funds for gas * price + value: balance {balance}, tx cost {cost}")
        if transaction.max_fee_per_gas < base_fee_wei:
            raise Refused(
                f"max fee per gas less than block base fee: maxFeePerGas: {transaction.max_fee_per_gas}, "
                f"baseFee: {base_fee_wei}"
            )

    def _check_rival(self, transaction: Any, sender: bytes) -> None:
        query = "SELECT raw FROM pool WHERE sender = ? AND nonce = ?"
        rival = self._sql.execute(query, (sender, transaction.nonce)).fetchone()
        if rival is None:
            if self._sql.execute("SELECT count(*) FROM pool").fetchone()[0] >= POOL_LIMIT:
                raise Refused(f"txpool is full: {POOL_LIMIT} transactions wait")
            return
        waiting = _decode(rival[0])
        if waiting.hash == transaction.hash:
            raise Refused("already known")
        if transaction.max_fee_per_gas < waiting.max_fee_per_gas * PRICE_BUMP:
            raise Refused("replacement transaction underpriced")


def _decode(raw: bytes) -> Any:
    return CancunVM.get_transaction_builder().decode(raw)
