"""Sends each action exactly once, however often this process is stopped on the way.

The states are the outbox's (storage/outbox.py). The rule: signed bytes are on disk before they are on the wire, and
all copies of an action carry one nonce. So after a crash there are three cases and each is safe:

- nothing stored: nothing was sent; the caller asks again;
- signed bytes stored: the very same bytes are sent again, which a chain takes once;
- mined: a repeated `action_id` gets the old receipt.

One account has one owner of its nonces: this object, in one process (the database is locked by it). An action that the
contract would refuse is never stored, so the caller may try the same id again when its time has come.

Concurrency: `send` may run in many tasks. Signing and sending happen under one lock, in a thread that finishes even if
the task is cancelled; waiting is cancellable and leaves the transaction to `recover`. Once signed, an endpoint that
does not answer is waited for. Next in the flow: follower.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio
from eth_utils.address import to_checksum_address

from tolsey.contracts.actions import Action
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.sending import MAX_COPIES, STUCK_S, pauses, send_and_wait
from tolsey.contracts.transactions import NonceTaken, Signed, TxReceipt, Underpriced, gas_and_fees
from tolsey.errors import ChainError, ChainUnavailable, LocalViolation, Reverted
from tolsey.protocol.units import Account
from tolsey.storage import outbox
from tolsey.storage.engine import Database, Session

T = TypeVar("T")
log = logging.getLogger(__name__)
rpc_limiter = trio.CapacityLimiter(4)
"""Threads that read the chain in a process without a Chain (chain.py has its own)."""


class Sender:
    """Sends for one wallet.

    Args:
        db: where actions survive; None remembers nothing (one-shot commands, tests).
        stuck_s: unmined for so long, a transaction gets a dearer copy.
    """

    def __init__(self, gateway: Gateway, db: Database | None, *, stuck_s: float = STUCK_S) -> None:
        self._gateway = gateway
        self._transactions = gateway.transactions
        self._db = db
        self._stuck_s = stuck_s
        self._chain_id = gateway.network.chain_id
        self._turn = threading.RLock()
        # One thread signs and sends, others look: a slow endpoint must not stop both.
        self._writers, self._lookers = trio.CapacityLimiter(1), trio.CapacityLimiter(2)

    async def send(self, action: Action, *, action_id: str) -> TxReceipt:
        """The receipt once the action is mined and has its confirmations; at once where it was sent before.

        Args:
            action_id: unique for ever and for this content, such as "commit:<job>:<window>"; at most 200 characters.

        Raises:
            Reverted: refused before sending (nothing is kept), or in the block (kept: the same id raises it again).
            InsufficientFunds: no ETH for the fees; nothing is kept.
            ChainUnavailable: the endpoint is down and nothing was signed yet; ask again.
        """
        if self._db is None:
            return await trio.to_thread.run_sync(self.send_now, action, limiter=self._writers)
        await trio.to_thread.run_sync(self._launch, action, action_id, limiter=self._writers)
        return await self._await_mined(action, action_id)

    def send_now(self, action: Action) -> TxReceipt:
        """Sends without a memory and blocks until mined: for the command line and tests.

        Raises:
            Reverted, InsufficientFunds, ChainUnavailable: as `send`.
        """
        confirmations = self._gateway.network.confirmations
        with self._turn:
            return send_and_wait(self._transactions, action, confirmations=confirmations, stuck_s=self._stuck_s)

    async def recover(self) -> None:
        """Brings everything that the outbox holds to its end: at start, and after a reorganisation.

        What was meant but never signed, and would be refused by now, is marked so; nothing is raised for it. What
        reverts in its block is marked too.
        """
        if self._db is None:
            return
        for stored in await self._db.read(outbox.in_flight, self._chain_id, 1_000):
            await self._finish(stored)
        while (stored_next := await self._db.read(outbox.next_unsent, self._chain_id)) is not None:
            await self._finish(stored_next)

    async def _finish(self, stored: outbox.Action) -> None:
        try:
            await self.send(_action_of(stored), action_id=stored.action_id)
        except Reverted as refusal:
            log.warning("%s", refusal.message)
            await self._outbox.write(_refuse, stored.action_id, refusal.message)

    # signing and handing over

    def _launch(self, action: Action, action_id: str) -> None:
        """Signs and stores what was not, and hands it to the node."""
        with self._turn:
            stored = self._outbox.read_now(outbox.find, action_id)
            if stored is not None and stored.is_final:
                return
            if stored is None or not stored.attempts:
                self._hand_over_older()
                stored = self._outbox.write_now(self._store, action, action_id, self._sign_first(action))
            try:
                self._hand_over(action, stored)
            except ChainUnavailable as error:
                log.warning("%s is signed and waits: %s", action_id, error.message)

    def _sign_first(self, action: Action) -> Signed:
        gas = self._transactions.estimate(action)
        chain_nonce = self._transactions.next_nonce()
        nonce = self._outbox.read_now(outbox.next_nonce, self._chain_id, self._sender, chain_nonce)
        if nonce > chain_nonce:
            self._send_lost(chain_nonce)
        return self._transactions.sign(action, nonce=nonce, gas=gas, fees=self._transactions.fees())

    def _store(self, session: Session, action: Action, action_id: str, signed: Signed) -> outbox.Action:
        if action.to is None:
            raise LocalViolation("the outbox sends calls, no contract creations")
        to = bytes.fromhex(action.to[2:])
        outbox.put(session, action_id, chain_id=self._chain_id, to=to, data=action.data)
        outbox.mark_signed(
            session, action_id, sender=self._sender, nonce=signed.nonce, tx_hash=signed.tx_hash, raw=signed.raw
        )
        found = outbox.find(session, action_id)
        assert found is not None, "just put"
        return found

    def _hand_over(self, action: Action, stored: outbox.Action) -> None:
        """Sends the newest stored bytes; where they pay too little, a dearer copy is stored for the next look."""
        newest = stored.attempts[-1]
        try:
            self._transactions.broadcast(newest.raw)
        except NonceTaken:
            return  # by a copy of ours, whose receipt is there, or by a stranger's (see _check_nonce)
        except Underpriced:
            self._copy(action, stored)
            return
        self._outbox.write_now(outbox.mark_sent, newest.tx_hash)

    def _hand_over_older(self) -> None:
        """Sends what is signed and not sent: a later nonce would wait for it."""
        for stored in self._outbox.read_now(outbox.in_flight, self._chain_id, 1_000):
            if stored.state == "signed":
                self._hand_over(_action_of(stored), stored)

    def _send_lost(self, chain_nonce: int) -> None:
        """Sends again what the chain has forgotten, be it that a block is gone or a pool: a later nonce would wait."""
        self._outbox.write_now(outbox.unmine_from, self._chain_id, self._sender, chain_nonce)
        for stored in self._outbox.read_now(outbox.in_flight, self._chain_id, 1_000):
            if stored.nonce is not None and stored.nonce >= chain_nonce:
                self._hand_over(_action_of(stored), stored)

    def _copy(self, action: Action, stored: outbox.Action) -> outbox.Action:
        """A dearer copy with the same nonce, stored; none where the limit is reached."""
        if stored.nonce is None or len(stored.attempts) >= MAX_COPIES:
            return stored
        gas, paid = gas_and_fees(stored.attempts[-1].raw)
        fees = paid.bumped(self._transactions.fees())
        signed = self._transactions.sign(action, nonce=stored.nonce, gas=gas, fees=fees)
        return self._outbox.write_now(self._store, action, stored.action_id, signed)

    # waiting

    async def _await_mined(self, action: Action, action_id: str) -> TxReceipt:
        quiet_since = trio.current_time()
        for pause_s in pauses():
            try:
                receipt = await self._looking(partial(self._look, action, action_id))
                if receipt is not None:
                    return receipt
                if trio.current_time() - quiet_since > self._stuck_s:
                    quiet_since = trio.current_time()
                    await self._looking(partial(self._unstick, action, action_id))
            except ChainUnavailable as error:
                log.warning("%s waits for the endpoint: %s", action_id, error.message)
            await trio.sleep(pause_s)
        raise AssertionError("pauses never end")

    def _look(self, action: Action, action_id: str) -> TxReceipt | None:
        """The receipt where the action is done, or None where it is under way.

        Raises:
            Reverted: it was mined and refused.
        """
        stored = self._find(action_id)
        for attempt in reversed(stored.attempts):
            receipt = self._transactions.receipt(attempt.tx_hash)
            if receipt is None:
                continue
            depth = self._transactions.depth(receipt)
            return self._settle(action, stored, receipt) if depth >= self._gateway.network.confirmations else None
        if stored.state == "refused":
            raise _again(stored)
        if stored.block_hash is not None:  # mined once, and that block is gone
            self._outbox.write_now(outbox.unmine, self._chain_id, stored.block_hash)
            self._launch(action, action_id)
        else:
            self._go_on(action, action_id)
        return None

    def _go_on(self, action: Action, action_id: str) -> None:
        """Hands over what was not, and starts over where the nonce is lost to a stranger's transaction."""
        with self._turn:
            stored = self._find(action_id)
            if stored.state == "signed":
                self._hand_over(action, stored)
            self._check_nonce(action, self._find(action_id))

    def _settle(self, action: Action, stored: outbox.Action, receipt: TxReceipt) -> TxReceipt:
        """Writes down what became of the action."""
        if stored.is_final and stored.block_hash == receipt.block_hash:
            if stored.state == "reverted":
                raise _again(stored)
            return receipt
        if stored.block_hash is not None:  # mined again, in another block
            self._outbox.write_now(outbox.unmine, self._chain_id, stored.block_hash)
        why = None if receipt.succeeded else self._transactions.why_failed(action, receipt)
        self._outbox.write_now(
            outbox.mark_mined,
            receipt.tx_hash,
            block_number=receipt.block_number,
            block_hash=receipt.block_hash,
            ok=receipt.succeeded,
            reason=None if why is None else f"{why.name if isinstance(why, Reverted) else ''}|{why.message}",
        )
        if why is not None:
            raise why
        return receipt

    def _check_nonce(self, action: Action, stored: outbox.Action) -> None:
        """Starts over where a transaction that is none of ours used up the nonce, deep enough to be final."""
        confirmations = self._gateway.network.confirmations
        if stored.is_final or stored.nonce is None or self._transactions.mined_nonce(confirmations) <= stored.nonce:
            return
        # Asked again, because our own copy may have been mined between the two questions.
        if any(self._transactions.receipt(attempt.tx_hash) is not None for attempt in stored.attempts):
            return
        log.warning("nonce %d of %s was used by another transaction", stored.nonce, stored.action_id)
        self._outbox.write_now(outbox.release, stored.action_id)
        self._launch(action, stored.action_id)

    def _unstick(self, action: Action, action_id: str) -> None:
        """Sends a dearer copy, or the last one again where the node has lost it or enough was offered."""
        with self._turn:
            stored = self._find(action_id)
            if stored.is_final or not stored.attempts:
                return
            if self._transactions.is_known(stored.attempts[-1].tx_hash):
                stored = self._copy(action, stored)
            self._hand_over(action, stored)

    # inside

    async def _looking(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._lookers)

    def _find(self, action_id: str) -> outbox.Action:
        stored = self._outbox.read_now(outbox.find, action_id)
        if stored is None:
            raise ChainError(f"action {action_id} has left the outbox")
        return stored

    @property
    def _outbox(self) -> Database:
        assert self._db is not None, "send() goes another way without a database"
        return self._db

    @property
    def _sender(self) -> bytes:
        return bytes.fromhex(self._transactions.wallet.account[2:])


def _action_of(stored: outbox.Action) -> Action:
    to = Account(str(to_checksum_address(stored.to)))
    return Action(to=to, data=stored.data, description=f"finish {stored.action_id}")


def _refuse(session: Session, action_id: str, reason: str) -> None:
    found = outbox.find(session, action_id)
    if found is not None and found.state == "meant":
        outbox.mark_refused(session, action_id, f"|{reason}")


def _again(stored: outbox.Action) -> Reverted:
    name, _, message = (stored.reason or "").partition("|")
    return Reverted(message or f"action {stored.action_id} was refused", name=name)
