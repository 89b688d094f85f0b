"""Takes evidence to the chain and sees the dispute to its end.

    charge         what is sent                                               what it rests on
    discontinuity  proveDiscontinuity                                         two openings; decided at once
    mismatch       sealChallenge, a block later challenge with our root       two equal replays of our own
    unavailable    sealChallenge, a block later challenge with root 0         the opening; nobody serves the checkpoint
    withheld       demand                                                     nobody serves even the trace

The seal goes a block ahead so that a copied challenge comes too late. The bond is taken from free units, else from the
wallet's tokens. Where there is neither, or where somebody else's dispute stops the job, the evidence stays on record
and is tried again with each block until the window can no longer be challenged: money becomes free when another
dispute ends, and a worker must not save a bad segment by a demand or challenge of its own. What was missing and had to
wait is looked for again first. After kill -9 the evidence on record says which disputes to take up again, and the
outbox that nothing is sent twice.

It refuses to challenge what was judged before (one game per segment, whoever plays it), and to demand an opening where
one is on chain already. Next in the flow: pokes.py moves panels and jobs on.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter

from tolsey.contracts.gateway import Action
from tolsey.contracts.views import JobView
from tolsey.errors import ChainUnavailable, InsufficientFunds, Reorged, Reverted
from tolsey.protocol.encoding import keccak256, tag
from tolsey.protocol.lifecycle import FINAL, State, Vote
from tolsey.protocol.sampling import challenge_seal, dispute_id
from tolsey.protocol.units import JobId, TokenUnits
from tolsey.verifier.compare import NOBODY_SERVES
from tolsey.verifier.duty import Tools
from tolsey.verifier.records import CLOSED, OPEN, QUEUED, UNFUNDED, Evidence

CHALLENGE_SALT = b"tolsey/verifier/challenge"
FOR_EVER = frozenset(
    {
        "PanelJudge_AlreadyOpened",
        "JobMarket_AlreadyAnswered",
        "JobMarket_Continuous",
        "JobMarket_NothingDisputed",
        "JobMarket_WrongOpening",
        "JobMarket_WrongSegment",
    }
)
"""Refusals that no later block takes back. Others were somebody else's doing, or a block too early."""
_log = logging.getLogger(__name__)


def challenge_salt(secret: bytes, job_id: JobId, segment: int) -> bytes:
    """The salt of a challenge, from the verifier's secret, so that none has to be stored."""
    return keccak256(tag(CHALLENGE_SALT), secret, dispute_id(job_id, segment))


class Dropped(Exception):
    """The charge cannot be brought any more; the text says why."""


class Challenger:
    """Carries one piece of evidence."""

    def __init__(self, evidence: Evidence, tools: Tools) -> None:
        self._item = evidence
        self._tools = tools
        self._window = evidence.segment // evidence.offer.segments_per_window
        self._name = f"{evidence.job_id.hex()}:{evidence.segment}"
        self._tag = f"job {evidence.job_id.hex()[:12]} segment {evidence.segment}"
        self._refused: Counter[str] = Counter()
        self._stage = evidence.stage
        self._is_stale = evidence.stage in (QUEUED, UNFUNDED)

    async def run(self) -> None:
        """Opens the dispute as soon as it may and waits until it has ended."""
        try:
            if self._item.stage != OPEN:
                await self._bring()
            end = await self._end()
        except Dropped as why:
            end = f"{self._item.charge}: not taken up: {why}"
            _log.warning("%s: %s", self._tag, end)
        await self._tools.records.set_evidence_stage(self._item, CLOSED, end)

    async def _bring(self) -> None:
        """Brings the charge, again and again until it stands or nobody could bring it any more.

        Raises:
            Dropped: too late, judged before, or no longer needed.
        """
        charges = {"discontinuity": self._prove, "withheld": self._demand}
        charge = charges.get(self._item.charge, self._challenge)
        while not await self._is_open():
            try:
                await charge()
                break
            except InsufficientFunds as error:
                await self._note(UNFUNDED, error.message)
            except Reverted as error:
                if error.name in FOR_EVER:
                    raise Dropped(error.message) from error
                _log.info("%s: %s; again in the next block", self._tag, error.message)
            except (ChainUnavailable, Reorged) as error:
                _log.warning("%s: %s; again in the next block", self._tag, error.message)
            await self._tools.clock.block()
        _log.info("%s: %s: %s", self._tag, self._item.charge, self._item.message)
        await self._tools.records.set_evidence_stage(self._item, OPEN, self._item.message)

    async def _is_open(self) -> bool:
        """Waits for this charge's turn; True where it stands on chain already.

        Raises:
            Dropped: the job has moved on.
        """
        while True:
            view = await self._view()
            if view.state in FINAL or view.window != self._window:
                raise Dropped(f"the job is {view.state.name} in window {view.window}")
            if view.state is State.DRAWN:
                if self._tools.clock.now_ts > view.deadline:
                    raise Dropped(f"its window could be challenged until {view.deadline}")
                if self._item.charge != "withheld" or self._is_told(view):
                    return False
                await self._tools.clock.block()
                continue
            if view.state is State.COMMITTED and self._item.charge == "discontinuity":
                return False
            if view.state in (State.DEMANDED, State.CHALLENGED) and await self._is_ours():
                return True
            await self._note(QUEUED, f"the job is {view.state.name}")
            await self._tools.clock.block()

    def _is_told(self, view: JobView) -> bool:
        """Whether the log was followed up to where the job stands: an answer in between makes a demand vain."""
        job = self._tools.job(self._item.job_id)
        return job is not None and (job.state, job.deadline) == (view.state, view.deadline)

    async def _is_ours(self) -> bool:
        dispute = await self._tools.chain.run(self._tools.chain.gateway.dispute, self._item.job_id)
        return dispute is not None and (dispute.challenger, dispute.segment) == (
            self._tools.account,
            self._item.segment,
        )

    async def _prove(self) -> None:
        item = self._item
        if item.opening is None or (item.before is None and item.segment > 0):
            raise Dropped("the opening of the segment before is missing")
        action = self._tools.chain.gateway.action.prove_discontinuity(item.offer, item.before, item.opening)
        await self._send(action, f"discontinuity:{self._name}")

    async def _demand(self) -> None:
        job = self._tools.job(self._item.job_id)
        if job is not None and (opened := job.opening()) is not None:
            raise Dropped(f"segment {opened.segment} was opened on chain meanwhile")
        await self._fund("demand")
        if self._is_stale and await self._tools.judge.finds_trace(self._item):
            raise Dropped("its trace is served now")
        self._is_stale = False
        action = self._tools.chain.gateway.action.demand(self._item.offer, self._item.segment)
        await self._send(action, f"demand:{self._name}")

    async def _challenge(self) -> None:
        item, tools = self._item, self._tools
        assert item.opening is not None, "such a charge comes with its opening"
        await self._fund("challenge")
        if item.charge == "unavailable" and self._is_stale:
            vote, why = await tools.judge.again(item, (await self._view()).deadline)
            if vote in (Vote.WORKER, Vote.ABSTAIN):
                raise Dropped(f"looked at again: {why}")
        self._is_stale = False
        salt = challenge_salt(tools.secret, item.job_id, item.segment)
        claimed = item.replayed_root if item.charge == "mismatch" else NOBODY_SERVES
        seal = challenge_seal(tools.account, item.job_id, item.segment, claimed, salt)
        try:
            await self._send(tools.chain.gateway.action.seal_challenge(seal), f"challenge-seal:{self._name}")
        except Reverted as error:
            if error.name != "JobMarket_ChallengeAlreadySealed":
                raise
        action = tools.chain.gateway.action.challenge(item.offer, item.opening, claimed, salt)
        await self._send(action, f"challenge:{self._name}")

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
        # Its permit holds the token's nonce: two charges that miss the same money send one transaction.
        await self._send(action, f"deposit:{hashlib.sha256(action.data).hexdigest()}")

    async def _end(self) -> str:
        """Waits until the job is no longer in dispute over this segment; one sentence on how it ended."""
        while (view := await self._view()).state in (State.CHALLENGED, State.DEMANDED):
            await self._tools.clock.block()
        if view.state is State.SLASHED:
            return f"{self._item.charge}: the worker was slashed"
        return f"{self._item.charge}: the job is {view.state.name}"

    async def _view(self) -> JobView:
        """Where the job stands, once the endpoint says so."""
        while True:
            try:
                return await self._tools.chain.run(self._tools.chain.gateway.job, self._item.job_id)
            except (ChainUnavailable, Reorged) as error:
                _log.warning("%s: %s", self._tag, error.message)
            await self._tools.clock.block()

    async def _note(self, stage: str, why: str) -> None:
        """Tells the owner, once, what the charge waits for; what it rests on may change meanwhile."""
        self._is_stale = True
        if stage != self._stage:
            self._stage = stage
            _log.warning("%s: %s is %s: %s", self._tag, self._item.charge, stage, why)
            await self._tools.records.set_evidence_stage(self._item, stage, self._item.message)

    async def _send(self, action: Action, base: str) -> None:
        """Sends once, and once more for each refusal.

        Raises:
            Reverted, InsufficientFunds: look at the chain again. ChainUnavailable: time is up.
        """
        until = self._item.offer.challenge_window_s + self._tools.clock.now_ts
        try:
            await self._tools.clock.send(action, f"{base}:{self._refused[base]}", until=until)
        except Reverted:
            self._refused[base] += 1
            raise
