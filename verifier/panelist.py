"""A seat on a dispute's panel: fetch, replay the one segment, seal the vote, reveal it.

The panel's word moves money, so a member votes on what its own machine computed and abstains where it cannot say. The
salt comes from the verifier's secret; the vote is durable before its seal is sent. Drawing, closing and resolving are
open to anyone and done by pokes.py, so that no dispute is stuck. Silence costs two panel fees.
"""

from __future__ import annotations

import logging

from tolsey.contracts.gateway import Action
from tolsey.errors import ChainUnavailable, Reverted
from tolsey.protocol.encoding import keccak256, tag, word
from tolsey.protocol.lifecycle import Vote
from tolsey.protocol.sampling import vote_seal
from tolsey.verifier.duty import Tools
from tolsey.verifier.records import DUE, JUDGED, MISSED, REVEALED, SEALED
from tolsey.verifier.watcher import PanelDuty

VOTE_SALT = b"tolsey/verifier/vote"
_log = logging.getLogger(__name__)


def vote_salt(secret: bytes, dispute_id: bytes, round_: int) -> bytes:
    """The salt of a vote, from the verifier's secret."""
    return keccak256(tag(VOTE_SALT), secret, dispute_id, word(round_))


class Panelist:
    """One vote from the drawn panel to its revelation."""

    def __init__(self, duty: PanelDuty, tools: Tools) -> None:
        self._duty = duty
        self._tools = tools
        self._dispute = duty.claim.dispute_id
        self._salt = vote_salt(tools.secret, self._dispute, duty.round)
        self._name = f"{self._dispute.hex()}:{duty.round}"
        self._tag = f"panel on job {duty.claim.job_id.hex()[:12]} segment {duty.claim.segment}"

    async def run(self) -> None:
        """Votes; goes on where an earlier process stopped."""
        duty, records = self._duty, self._tools.records
        record = await records.begin_vote(self._dispute, duty.round, duty.claim.job_id, duty.claim.segment)
        stage, vote = record.stage, record.vote
        if stage == DUE:
            async with self._tools.turns.votes:
                vote, reason = await self._tools.judge.panel(duty)
            _log.info("%s: %s: %s", self._tag, vote.name, reason)
            stage = await self._note(JUDGED, vote, reason)
        assert vote is not None, "a judged vote is on record"
        action = self._tools.chain.gateway.action
        if stage == JUDGED:
            seal = vote_seal(self._dispute, duty.round, self._tools.account, vote, self._salt)
            stage = await self._send(SEALED, vote, action.seal_vote(self._dispute, seal), "seal-vote", duty.seal_by)
        if stage == SEALED:
            await self._tools.clock.after(duty.seal_by)
            reveal = action.reveal_vote(self._dispute, vote, self._salt)
            await self._send(REVEALED, vote, reveal, "reveal-vote", duty.reveal_by)

    async def _send(self, stage: str, vote: Vote, action: Action, what: str, until: int) -> str:
        try:
            await self._tools.clock.send(action, f"{what}:{self._name}", until=until)
        except (Reverted, ChainUnavailable) as error:
            _log.error("%s: vote not %s: %s", self._tag, stage, error.message)
            return await self._note(MISSED, vote, f"not {stage}: {error.message}")
        return await self._note(stage, vote, "")

    async def _note(self, stage: str, vote: Vote, message: str) -> str:
        await self._tools.records.set_vote(self._dispute, self._duty.round, stage, vote, message)
        return stage
