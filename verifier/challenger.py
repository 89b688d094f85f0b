"""Takes evidence to the chain and sees the dispute to its end.

    charge         what is sent                                               what it rests on
    discontinuity  proveDiscontinuity                                         two openings; decided at once
    mismatch       sealChallenge, a block later challenge with our root       two equal replays of our own
    unavailable    sealChallenge, a block later challenge with root 0         the opening; nobody serves the checkpoint
    withheld       demand                                                     nobody serves even the trace

The seal goes a block ahead so that a copied challenge comes too late. The bond is taken from free units, else from the
wallet's tokens; where there is neither, the evidence is kept and nothing is sent. After kill -9 the evidence on record
says which disputes to take up again, and the outbox that nothing is sent twice.

It refuses to challenge what is being disputed already or was judged before: one game per segment, whoever plays it.
Next in the flow: pokes.py moves panels and jobs on.
"""

from __future__ import annotations

import logging

from tolsey.contracts.gateway import Action
from tolsey.errors import ChainUnavailable, InsufficientFunds, Reverted
from tolsey.protocol.encoding import keccak256, tag
from tolsey.protocol.lifecycle import State
from tolsey.protocol.sampling import challenge_seal, dispute_id
from tolsey.protocol.units import JobId, TokenUnits
from tolsey.verifier.compare import NOBODY_SERVES
from tolsey.verifier.duty import Tools
from tolsey.verifier.records import CLOSED, OPEN, Evidence

CHALLENGE_SALT = b"tolsey/verifier/challenge"
_log = logging.getLogger(__name__)


def challenge_salt(secret: bytes, job_id: JobId, segment: int) -> bytes:
    """The salt of a challenge, from the verifier's secret, so that none has to be stored."""
    return keccak256(tag(CHALLENGE_SALT), secret, dispute_id(job_id, segment))


class Challenger:
    """Carries one piece of evidence."""

    def __init__(self, evidence: Evidence, tools: Tools) -> None:
        self._item = evidence
        self._tools = tools
        self._name = f"{evidence.job_id.hex()}:{evidence.segment}"
        self._tag = f"job {evidence.job_id.hex()[:12]} segment {evidence.segment}"

    async def run(self) -> None:
        """Opens the dispute and waits until it has ended."""
        try:
            if self._item.charge == "discontinuity":
                await self._prove()
            elif self._item.charge == "withheld":
                await self._demand()
            else:
                await self._challenge()
            end = await self._end()
        except (Reverted, ChainUnavailable, InsufficientFunds) as error:
            end = f"{self._item.charge}: not taken up: {error.message}"
            _log.warning("%s: %s", self._tag, end)
        await self._tools.records.set_evidence_stage(self._item, CLOSED, end)

    async def _prove(self) -> None:
        item = self._item
        if item.opening is None or (item.before is None and item.segment > 0):
            raise InsufficientFunds(f"{self._tag}: the opening of the segment before is missing")
        action = self._tools.chain.gateway.action.prove_discontinuity(item.offer, item.before, item.opening)
        await self._send(action, f"discontinuity:{self._name}")
        _log.info("%s: discontinuity proven", self._tag)

    async def _demand(self) -> None:
        await self._fund("demand")
        action = self._tools.chain.gateway.action.demand(self._item.offer, self._item.segment)
        await self._send(action, f"demand:{self._name}")
        await self._opened("demanded")

    async def _challenge(self) -> None:
        item, tools = self._item, self._tools
        assert item.opening is not None, "such a charge comes with its opening"
        await self._fund("challenge")
        salt = challenge_salt(tools.secret, item.job_id, item.segment)
        claimed = item.replayed_root if item.charge == "mismatch" else NOBODY_SERVES
        seal = challenge_seal(tools.account, item.job_id, item.segment, claimed, salt)
        try:
            await self._send(tools.chain.gateway.action.seal_challenge(seal), f"challenge-seal:{self._name}")
        except Reverted as error:
            if error.name != "JobMarket_ChallengeAlreadySealed":
                raise
        action = tools.chain.gateway.action.challenge(item.offer, item.opening, claimed, salt)
        while True:
            try:
                await self._send(action, f"challenge:{self._name}")
                break
            except Reverted as error:
                # Tried on the block of the seal itself: nothing was sent, any later block will do.
                if error.name != "JobMarket_SameBlock":
                    raise
            await tools.chain.follower.wait_block()
        await self._opened("challenged")

    async def _opened(self, what: str) -> None:
        _log.info("%s: %s: %s", self._tag, what, self._item.message)
        await self._tools.records.set_evidence_stage(self._item, OPEN, self._item.message)

    async def _fund(self, what: str) -> None:
        """Sees to it that the bond is free, or raises InsufficientFunds."""
        chain, account = self._tools.chain, self._tools.account
        bond = (await chain.run(chain.gateway.params)).challenge_bond
        free, _locked = await chain.run(chain.gateway.account, account)
        if free >= bond:
            return
        held = await chain.run(chain.gateway.token_balance, account)
        missing = TokenUnits(bond - free)
        if held < missing:
            raise InsufficientFunds(
                f"to {what} needs a bond of {bond} token units; {free} are free and the wallet holds {held}",
                fix=f"send {missing - held} units of token {chain.gateway.network.token} to {account}",
            )
        action = await chain.run(chain.gateway.action.deposit, missing)
        await self._send(action, f"deposit:{what}:{self._name}")

    async def _end(self) -> str:
        """Waits until the job is no longer in dispute over this segment; one sentence on how it ended."""
        chain = self._tools.chain
        while True:
            view = await chain.run(chain.gateway.job, self._item.job_id)
            if view.state not in (State.CHALLENGED, State.DEMANDED):
                break
            await chain.follower.wait_block()
        if view.state is State.SLASHED:
            return f"{self._item.charge}: the worker was slashed"
        return f"{self._item.charge}: the job is {view.state.name}"

    async def _send(self, action: Action, action_id: str) -> None:
        until = self._item.offer.challenge_window_s + self._tools.clock.now_ts
        await self._tools.clock.send(action, action_id, until=until)
