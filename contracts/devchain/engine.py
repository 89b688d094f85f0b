"""Blocks, calls and time: the devchain itself, without any wire format around it.

A transaction that can run is mined at once in its own block, as anvil does; one with a nonce gap waits in the pool.
The next block's time is max(parent + 1, wall clock + offset), and calls see that time too, so that a deadline can be
seen to pass although nobody mines. `prevrandao` is drawn when a block is begun: the block's transactions and its header
hold the same value, and a call before it sees another one, so nobody can look ahead.

py-evm runs the code; its own notion of a canonical chain is not used, because ours must go back to snapshots. Not safe
for threads: server.py holds a lock around it. Next: rpc.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import rlp  # type: ignore[import-untyped]  # ships no types
from eth.chains.base import MiningChain
from eth.consensus.applier import ConsensusApplier
from eth.consensus.noproof import NoProofConsensus
from eth.constants import POST_MERGE_DIFFICULTY, POST_MERGE_NONCE
from eth.db.atomic import AtomicDB
from eth.vm.forks.cancun import CancunVM
from eth.vm.forks.cancun.blocks import CancunBlockHeader
from eth_keys.datatypes import PrivateKey

from tolsey.contracts.devchain import shapes
from tolsey.contracts.devchain.calls import Call, Refused, least_gas, output_of, unsigned
from tolsey.contracts.devchain.genesis import CHAIN_ID, DEV_BALANCE_WEI, GAS_LIMIT, dev_keys
from tolsey.contracts.devchain.pool import Pool
from tolsey.contracts.devchain.store import ChainStore


def _chain_class() -> type[MiningChain]:
    vms = ConsensusApplier(NoProofConsensus).amend_vm_configuration(((0, CancunVM),))
    return MiningChain.configure(__name__="DevChain", vm_configuration=vms, chain_id=CHAIN_ID)


class Engine:
    """One chain over one store; writes genesis where the store is empty."""

    def __init__(self, store: ChainStore, *, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.pool = Pool(store)
        self.automine = True
        self._clock = clock
        self._next_timestamp: int | None = None
        self.keys = {key.public_key.to_canonical_address(): key for key in map(PrivateKey, dev_keys())}
        database = AtomicDB(store)
        if store.head_number() is None:
            with store.transaction():
                self._chain = self._write_genesis(database)
        else:
            self._chain = _chain_class()(database, header=self._newest_header(database))

    # reading

    @property
    def head(self) -> Any:
        """Header of the newest block."""
        return self._header_of_number(self.store.head_number() or 0)

    @property
    def offset_s(self) -> int:
        """Seconds by which the chain's clock is ahead of the machine's."""
        return int(self.store.meta("offset_s", "0"))

    def pending_header(self) -> Any:
        """The header that the next block would begin with, were it begun now."""
        return self._begin_header()

    def header(self, number: int | None) -> Any:
        """The header whose state and environment a question is about; None for the next block's."""
        return self.pending_header() if number is None else self._header_of_number(number)

    def state(self, number: int | None) -> Any:
        """py-evm's state after block `number`, or the newest; to read from, never kept."""
        return self._chain.get_vm(self.header(number)).state

    def pending_nonce(self, sender: bytes) -> int:
        """The nonce after all transactions of `sender` that are mined or can be mined next."""
        return self.pool.next_nonce(sender, self.state(None).get_nonce(sender))

    # running without mining

    def call(self, call: Call, number: int | None) -> bytes:
        """What the call returns on block `number`, or on the next one; nothing is kept."""
        return output_of(call, lambda: self._free_state(number))

    def estimate_gas(self, call: Call, number: int | None) -> int:
        """The smallest gas limit with which the call succeeds there."""
        return least_gas(call, lambda: self._free_state(number))

    # changing

    def send(self, raw: bytes) -> bytes:
        """Takes a signed transaction, mines what can be mined, and gives its hash."""
        state = self.state(None)
        transaction = self.pool.check(raw, state, self.pending_header().base_fee_per_gas)
        with self.store.transaction():
            self.pool.put(transaction, raw)
            if self.automine and transaction.nonce == state.get_nonce(transaction.sender):
                self._mine()
        return bytes(transaction.hash)

    def sign(self, call: Call, nonce: int) -> bytes:
        """`call` as a raw transaction signed by one of the dev accounts."""
        key = self.keys.get(call.sender)
        if key is None:
            raise Refused(f"0x{call.sender.hex()} is not an account of this chain; sign it and send it raw")
        gas = call.gas or self.estimate_gas(call, None)
        fee = 2 * self.pending_header().base_fee_per_gas + 10**9
        return bytes(unsigned(call, nonce, gas, fee).as_signed_transaction(key).encode())

    def mine(self, *, timestamp: int | None = None) -> None:
        """Mines one block of whatever can run, at `timestamp` where given."""
        with self.store.transaction():
            self._mine(timestamp=timestamp)

    def mine_if_due(self) -> None:
        """Mines where the clock is past the newest block's time.

        Each transaction's block is a second after its parent's at least, so a busy chain runs ahead of the clock; it
        must wait for the clock then, or its deadlines would come too early by all that it ever gained.
        """
        is_ahead = int(self._clock()) + self.offset_s <= self.head.timestamp
        if not (is_ahead and self.automine and self._next_timestamp is None):
            self.mine()

    def alter(self, change: Callable[[Any], None]) -> None:
        """Applies `change` to the state in an otherwise empty block (anvil_setBalance and its like)."""
        with self.store.transaction():
            self._mine(change=change, take_pool=False)

    def shift_time(self, seconds: int) -> int:
        """Moves the chain's clock by `seconds`; gives the whole offset."""
        self._set_offset(self.offset_s + seconds)
        return self.offset_s

    def set_next_timestamp(self, timestamp: int) -> None:
        """The next block has exactly this time, and the clock goes on from there."""
        if timestamp <= self.head.timestamp:
            raise Refused(f"timestamp {timestamp} is not after the newest block's {self.head.timestamp}")
        self._next_timestamp = timestamp

    def snapshot(self) -> int:
        """Remembers the newest block; gives an id for `revert`."""
        with self.store.transaction():
            row = (self.store.head_number(), self.offset_s)
            cursor = self.store.sql.execute("INSERT INTO snapshot (number, offset_s) VALUES (?, ?)", row)
        return int(cursor.lastrowid or 0)

    def revert(self, snapshot_id: int) -> bool:
        """Forgets everything after a snapshot, the snapshot itself included; False where it does not exist."""
        found = self.store.sql.execute("SELECT number, offset_s FROM snapshot WHERE id = ?", (snapshot_id,)).fetchone()
        if found is None:
            return False
        with self.store.transaction():
            self.store.drop_blocks_above(found[0])
            self.store.sql.execute("DELETE FROM snapshot WHERE id >= ?", (snapshot_id,))
            self.pool.clear()
            self.store.set_meta("offset_s", str(found[1]))
        self._next_timestamp = None
        return True

    # inside

    def _write_genesis(self, database: AtomicDB) -> MiningChain:
        state = {address: {"balance": DEV_BALANCE_WEI, "nonce": 0, "code": b"", "storage": {}} for address in self.keys}
        params = {
            "difficulty": POST_MERGE_DIFFICULTY,
            "nonce": POST_MERGE_NONCE,
            "gas_limit": GAS_LIMIT,
            "timestamp": int(self._clock()),
        }
        chain = _chain_class().from_genesis(database, params, state)  # type: ignore[arg-type]  # NewTypes of py-evm
        genesis = chain.get_canonical_head()
        self.store.add_block(shapes.block_json(genesis, []), [], [])
        assert isinstance(chain, MiningChain)
        return chain

    def _newest_header(self, database: AtomicDB) -> Any:
        return _read_header(database, self._hash_of_number(self.store.head_number() or 0))

    def _header_of_number(self, number: int) -> Any:
        return _read_header(self._chain.chaindb.db, self._hash_of_number(number))

    def _hash_of_number(self, number: int) -> bytes:
        row = self.store.sql.execute("SELECT hash FROM block WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise Refused(f"block {number} not found, the newest is {self.store.head_number()}")
        return bytes(row[0])

    def _free_state(self, number: int | None) -> Any:
        return self._chain.get_vm(self.header(number).copy(base_fee_per_gas=0)).state

    def _begin_header(self, timestamp: int | None = None) -> Any:
        parent = self.head
        if timestamp is None:
            timestamp = self._next_timestamp
        if timestamp is None:
            timestamp = max(parent.timestamp + 1, int(self._clock()) + self.offset_s)
        elif timestamp <= parent.timestamp:
            raise Refused(f"timestamp {timestamp} is not after the newest block's {parent.timestamp}")
        return self._chain.create_header_from_parent(
            parent, timestamp=timestamp, mix_hash=os.urandom(32), gas_limit=parent.gas_limit
        )

    def _set_offset(self, offset_s: int) -> None:
        if not 0 <= int(self._clock()) + offset_s < 2**40:
            raise Refused(f"a clock offset of {offset_s} s leaves the years 1970 to 36812")
        with self.store.transaction():
            self.store.set_meta("offset_s", str(offset_s))

    def _mine(
        self, *, timestamp: int | None = None, change: Callable[[Any], None] | None = None, take_pool: bool = True
    ) -> None:
        """One block, inside the caller's store transaction."""
        header = self._begin_header(timestamp)
        vm = self._chain.get_vm(header)
        if change is not None:
            change(vm.state)
        transactions: list[Any] = []
        receipts: list[Any] = []
        for transaction in self.pool.runnable(vm) if take_pool else ():
            if header.gas_used + transaction.gas > header.gas_limit:
                continue
            receipt, _ = vm.apply_transaction(header, transaction)
            header = vm.add_receipt_to_header(header, receipt)
            transactions.append(transaction)
            receipts.append(receipt)
        filled = vm.set_block_transactions_and_withdrawals(vm.get_block(), header, transactions, receipts)
        mined = vm.mine_block(filled).block.header
        self.store[mined.hash] = rlp.encode(mined)
        self.store.add_block(
            shapes.block_json(mined, [transaction.hash for transaction in transactions]),
            [shapes.transaction_json(transaction, mined, place) for place, transaction in enumerate(transactions)],
            shapes.receipts_json(mined, transactions, receipts),
        )
        self.pool.drop([transaction.hash for transaction in transactions])
        if timestamp is not None or self._next_timestamp is not None:
            self.store.set_meta("offset_s", str(mined.timestamp - int(self._clock())))
            self._next_timestamp = None


def _read_header(database: Any, block_hash: bytes) -> Any:
    return rlp.decode(database[block_hash], sedes=CancunBlockHeader)
