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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import rlp  # type: ignore[import-untyped]  # ships no types
from eth.chains.base import MiningChain
from eth.consensus.applier import ConsensusApplier
from eth.consensus.noproof import NoProofConsensus
from eth.constants import POST_MERGE_DIFFICULTY, POST_MERGE_NONCE
from eth.db.atomic import AtomicDB
from eth.exceptions import Revert, VMError
from eth.vm.forks.cancun import CancunVM
from eth.vm.forks.cancun.blocks import CancunBlockHeader
from eth.vm.spoof import SpoofTransaction
from eth_keys.datatypes import PrivateKey
from eth_utils.exceptions import ValidationError

from tolsey.contracts.devchain import shapes
from tolsey.contracts.devchain.genesis import CHAIN_ID, DEV_BALANCE_WEI, GAS_LIMIT, dev_keys
from tolsey.contracts.devchain.store import ChainStore

POOL_LIMIT = 1024
SIGNED_RAW_LIMIT_BYTES = 256 * 1024
"""Largest signed transaction; geth's pool allows 128 KiB, contract creations need less."""
PRICE_BUMP = 1.1
"""A replacement must offer this much more per gas (geth's default)."""


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


def _chain_class() -> type[MiningChain]:
    vms = ConsensusApplier(NoProofConsensus).amend_vm_configuration(((0, CancunVM),))
    return MiningChain.configure(__name__="DevChain", vm_configuration=vms, chain_id=CHAIN_ID)


class Engine:
    """One chain over one store; writes genesis where the store is empty."""

    def __init__(self, store: ChainStore, *, clock: Callable[[], float] = time.time) -> None:
        self.store = store
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
        nonce: int = self.state(None).get_nonce(sender)
        rows = self.store.sql.execute("SELECT nonce FROM pool WHERE sender = ? ORDER BY nonce", (sender,))
        for (waiting,) in rows.fetchall():
            if waiting == nonce:
                nonce += 1
        return nonce

    def pooled(self, tx_hash: bytes) -> Any | None:
        """A waiting transaction by hash."""
        row = self.store.sql.execute("SELECT raw FROM pool WHERE hash = ?", (tx_hash,)).fetchone()
        return None if row is None else self._decode(row[0])

    # running without mining

    def call(self, call: Call, number: int | None) -> bytes:
        """What the call returns; nothing is kept.

        Raises:
            Refused: it reverted (with its data), ran out of gas, or the sender lacks the value.
        """
        _, computation = self._run(call, number, call.gas or GAS_LIMIT)
        _raise_failure(computation)
        return bytes(computation.output)

    def estimate_gas(self, call: Call, number: int | None) -> int:
        """The smallest gas limit with which the call succeeds.

        The gas a run uses before refunds is a lower bound, and nearly always enough; where code asks how much gas is
        left (63/64 rule), the answer is found by halving.
        """
        most = call.gas or GAS_LIMIT
        used, computation = self._run(call, number, most)
        _raise_failure(computation)
        low, high = used - 1, most
        for guess in (used, min(most, (used + 2300) * 64 // 63 + 1)):
            if self._succeeds(call, number, guess):
                high = guess
                break
            low = guess
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._succeeds(call, number, middle) else (middle, high)
        return high

    # changing

    def send(self, raw: bytes) -> bytes:
        """Takes a signed transaction, mines what can be mined, and gives its hash."""
        if len(raw) > SIGNED_RAW_LIMIT_BYTES:
            raise Refused(f"transaction of {len(raw)} bytes, allowed are {SIGNED_RAW_LIMIT_BYTES}")
        try:
            transaction = self._decode(raw)
            transaction.validate()
            sender = bytes(transaction.sender)
        except Exception as cause:  # rlp, eth-keys and py-evm raise a dozen kinds for garbage
            raise Refused(f"malformed transaction: {cause}") from cause
        self._admit(transaction, sender)
        with self.store.transaction():
            self.store.sql.execute("DELETE FROM pool WHERE sender = ? AND nonce = ?", (sender, transaction.nonce))
            self.store.sql.execute(
                "INSERT INTO pool (sender, nonce, hash, raw) VALUES (?, ?, ?, ?)",
                (sender, transaction.nonce, transaction.hash, raw),
            )
            if self.automine and transaction.nonce == self.state(None).get_nonce(sender):
                self._mine()
        return bytes(transaction.hash)

    def sign(self, call: Call, nonce: int) -> bytes:
        """`call` as a raw transaction signed by one of the dev accounts."""
        key = self.keys.get(call.sender)
        if key is None:
            raise Refused(f"0x{call.sender.hex()} is not an account of this chain; sign it and send it raw")
        gas = call.gas or self.estimate_gas(call, None)
        fee = 2 * self.pending_header().base_fee_per_gas + 10**9
        return bytes(self._unsigned(call, nonce, gas, fee).as_signed_transaction(key).encode())

    def mine(self, *, timestamp: int | None = None) -> None:
        """Mines one block of whatever can run, at `timestamp` where given."""
        with self.store.transaction():
            self._mine(timestamp=timestamp)

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
            self.store.sql.execute("DELETE FROM pool")
            self.store.set_meta("offset_s", str(found[1]))
        self._next_timestamp = None
        return True

    # inside

    def _write_genesis(self, database: AtomicDB) -> MiningChain:
        state = {
            address: {"balance": DEV_BALANCE_WEI, "nonce": 0, "code": b"", "storage": {}} for address in self.keys
        }
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

    def _decode(self, raw: bytes) -> Any:
        return CancunVM.get_transaction_builder().decode(raw)

    def _admit(self, transaction: Any, sender: bytes) -> None:
        """The checks of a node's pool, in geth's order and words."""
        if shapes.type_of(transaction) > 2:
            raise Refused(f"transaction type {shapes.type_of(transaction)} not supported, types 0 to 2 are")
        if transaction.chain_id != CHAIN_ID:
            raise Refused(f"invalid chain id for signer: have {transaction.chain_id} want {CHAIN_ID}")
        if transaction.gas > GAS_LIMIT:
            raise Refused(f"exceeds block gas limit: {transaction.gas} > {GAS_LIMIT}")
        if transaction.gas < transaction.intrinsic_gas:
            raise Refused(f"intrinsic gas too low: gas {transaction.gas}, minimum needed {transaction.intrinsic_gas}")
        state = self.state(None)
        if transaction.nonce < state.get_nonce(sender):
            raise Refused(f"nonce too low: next nonce {state.get_nonce(sender)}, tx nonce {transaction.nonce}")
        cost = transaction.gas * transaction.max_fee_per_gas + transaction.value
        if state.get_balance(sender) < cost:
            balance = state.get_balance(sender)
            raise Refused(f"insufficient funds for gas * price + value: balance {balance}, tx cost {cost}")
        base_fee = self.pending_header().base_fee_per_gas
        if transaction.max_fee_per_gas < base_fee:
            raise Refused(
                f"max fee per gas less than block base fee: maxFeePerGas: {transaction.max_fee_per_gas}, "
                f"baseFee: {base_fee}"
            )
        rival = self.store.sql.execute(
            "SELECT raw FROM pool WHERE sender = ? AND nonce = ?", (sender, transaction.nonce)
        ).fetchone()
        if rival is None:
            if self.store.sql.execute("SELECT count(*) FROM pool").fetchone()[0] >= POOL_LIMIT:
                raise Refused(f"txpool is full: {POOL_LIMIT} transactions wait")
            return
        waiting = self._decode(rival[0])
        if waiting.hash == transaction.hash:
            raise Refused("already known")
        if transaction.max_fee_per_gas < waiting.max_fee_per_gas * PRICE_BUMP:
            raise Refused("replacement transaction underpriced")

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
        for transaction in self._runnable(vm) if take_pool else ():
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
        self.store.sql.executemany("DELETE FROM pool WHERE hash = ?", [(each.hash,) for each in transactions])
        if timestamp is not None or self._next_timestamp is not None:
            self.store.set_meta("offset_s", str(mined.timestamp - int(self._clock())))
            self._next_timestamp = None

    def _runnable(self, vm: Any) -> Iterator[Any]:
        """Waiting transactions by arrival, each once its nonce is due; those that cannot run any more are dropped."""
        waiting = self.store.sql.execute("SELECT hash, raw FROM pool ORDER BY arrival").fetchall()
        progress = True
        while progress:
            progress, still = False, []
            for tx_hash, raw in waiting:
                transaction = self._decode(raw)
                due = vm.state.get_nonce(transaction.sender)
                if transaction.nonce > due:
                    still.append((tx_hash, raw))
                    continue
                try:
                    vm.state.validate_transaction(transaction)
                except ValidationError:
                    self.store.sql.execute("DELETE FROM pool WHERE hash = ?", (tx_hash,))
                    continue
                yield transaction
                progress = True
            waiting = still

    def _unsigned(self, call: Call, nonce: int, gas: int, fee_wei: int) -> Any:
        return CancunVM.get_transaction_builder().new_unsigned_dynamic_fee_transaction(  # type: ignore[attr-defined]
            chain_id=CHAIN_ID, nonce=nonce, max_priority_fee_per_gas=min(fee_wei, 10**9), max_fee_per_gas=fee_wei,
            gas=gas, to=call.to, value=call.value_wei, data=call.data, access_list=(),
        )

    def _run(self, call: Call, number: int | None, gas: int) -> tuple[int, Any]:
        """Gas used before refunds, and py-evm's computation; free of charge, as eth_call is everywhere."""
        if gas > GAS_LIMIT:
            raise Refused(f"gas {gas} is above the block's {GAS_LIMIT}")
        state: Any = self._chain.get_vm(self.header(number).copy(base_fee_per_gas=0)).state
        nonce = state.get_nonce(call.sender)
        spoofed = SpoofTransaction(self._unsigned(call, nonce, gas, 0), from_=call.sender)
        if gas < spoofed.intrinsic_gas:
            raise Refused(f"intrinsic gas too low: gas {gas}, minimum needed {spoofed.intrinsic_gas}")
        balance = state.get_balance(call.sender)
        if balance < call.value_wei:
            raise Refused(f"insufficient funds for transfer: balance {balance}, value {call.value_wei}")
        computation = state.apply_transaction(spoofed)
        return gas - computation.get_gas_remaining(), computation

    def _succeeds(self, call: Call, number: int | None, gas: int) -> bool:
        try:
            return not self._run(call, number, gas)[1].is_error
        except Refused:
            return False


def _read_header(database: Any, block_hash: bytes) -> Any:
    return rlp.decode(database[block_hash], sedes=CancunBlockHeader)


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
