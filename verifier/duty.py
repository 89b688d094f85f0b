"""One drawn window from the draw to the revealed verdict.

    1  begin    the duty is on record; what an earlier process found stands
    2  judge    fetch and replay the sample (judging.py), until shortly before the seal is due
    3  record   kind and segment are durable before anybody hears of them: the seal binds to both
    4  accuse   evidence on disk, then the challenger starts; it does not wait for the verdict
    5  seal     one transaction, by drawnAt + verdictWindowS
    6  reveal   one transaction, in the verdictWindowS after that; this is what is paid

Where step 2 could not look at all of the sample, because time was too short or something was not to be had, the judging
goes on beside steps 5 and 6 for as long as the window can be challenged.

Every step can be run again after kill -9: the stage says where to go on, the outbox that nothing is sent twice, and the
salt is computed from the verifier's secret. A window that is only watched ends after step 4.
Next in the flow: challenger.py.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from tolsey.contracts.chain import Chain
from tolsey.errors import ChainUnavailable, Reverted
from tolsey.protocol.lifecycle import Verdict
from tolsey.protocol.sampling import verdict_seal, verifier_salt, verifier_sample
from tolsey.protocol.units import Account, JobId
from tolsey.verifier.clock import Clock
from tolsey.verifier.judging import Judge
from tolsey.verifier.records import (
    DUE,
    JUDGED,
    MISSED,
    REVEALED,
    SEALED,
    WATCHED,
    DutyRecord,
    Evidence,
    Records,
)
from tolsey.verifier.watcher import Duty, Job

_log = logging.getLogger(__name__)


class Turns:
    """How much is judged side by side. Each kind waits for its own: who hides many windows keeps nobody from a panel,
    and who is looked at late nobody from a verdict that is due."""

    def __init__(self, most: int) -> None:
        self.ahead, self.duties, self.late, self.votes = (trio.Semaphore(most) for _ in range(4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every duty, vote and challenge of this verifier works with.

    Attributes:
        secret: 32 bytes; salts come from it, its hash is registered.
        accuse: takes evidence that is on record and starts the challenger.
        job: what the log says of a job.
        watch_samples: segments replayed of a window that is only watched.
    """

    chain: Chain
    clock: Clock
    records: Records
    judge: Judge
    account: Account
    secret: bytes
    accuse: Callable[[Evidence], Awaitable[None]]
    job: Callable[[JobId], Job | None]
    turns: Turns = field(default_factory=lambda: Turns(16))
    watch_samples: int = 1


class DutyRun:
    """Runs one duty to its end."""

    def __init__(self, duty: Duty, tools: Tools) -> None:
        self.duty = duty
        self.tools = tools
        self.salt = verifier_salt(tools.secret, duty.job_id, duty.draw.window)
        # A draw that a reorganisation undid and another brought back is another duty, with other transactions.
        self.name = f"{duty.job_id.hex()}:{duty.draw.window}:{duty.draw.seed:x}:{duty.draw.drawn_at}"
        self._tag = f"job {duty.job_id.hex()[:12]} window {duty.draw.window}"
        self._is_final = False

    async def run(self) -> None:
        """See the steps at the top."""
        # 1 begin
        record = await self.tools.records.begin(self.duty)
        if record.stage == DUE:
            async with self.tools.turns.duties:
                record = await self._judge()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._go_on, record)
            if record.stage == JUDGED and not self.duty.is_drawn:
                await self.tools.records.set_stage(self.duty, WATCHED)
            elif record.stage == JUDGED:
                record = await self.seal(record)
            if record.stage == SEALED:
                await self.reveal(record)

    async def _go_on(self, record: DutyRecord) -> None:
        """Steps 2 to 4 for what is found after the verdict was due."""
        if self._is_final or record.kind not in (Verdict.ABSTAIN, Verdict.UNAVAILABLE):
            return
        async with self.tools.turns.late:
            while (found := await self._late()) is not None:
                _log.info("%s: found late: %s: %s", self._tag, found.charge, found.message)
                await self.tools.records.keep_evidence(found)
                await self.tools.accuse(found)
                if found.charge in ("mismatch", "discontinuity"):
                    return

    async def _late(self) -> Evidence | None:
        said = await self.tools.records.charges(self.duty)
        return await self.tools.judge.late(self.duty, self.sample(), said=said)

    def sample(self) -> list[int]:
        """Segments of the job that this verifier replays."""
        offer, draw = self.duty.offer, self.duty.draw
        indices = offer.window_segments(draw.window)
        count = offer.sample_count if self.duty.is_drawn else self.tools.watch_samples
        return [indices.start + place for place in verifier_sample(draw.seed, self.salt, len(indices), count)]

    async def _judge(self) -> DutyRecord:
        segments = self.sample()
        _log.info("%s: drawn for segments %s, verdict due at %d", self._tag, segments, self.duty.seal_by)
        # 2 judge
        judgement = await self.tools.judge.window(self.duty, segments)
        finding, self._is_final = judgement.finding, judgement.is_final
        _log.info("%s: %s: %s", self._tag, finding.kind.name, finding.reason)
        # 3 record
        if judgement.evidence is not None:
            await self.tools.records.keep_evidence(judgement.evidence)
        record = await self.tools.records.judged(self.duty, finding)
        # 4 accuse
        if judgement.evidence is not None:
            await self.tools.accuse(judgement.evidence)
        return record

    async def seal(self, record: DutyRecord) -> DutyRecord:
        """Step 5."""
        seal = self.seal_of(record)
        action = self.tools.chain.gateway.action.seal_verdict(self.duty.offer, seal)
        return await self._send(record, SEALED, action, f"seal:{self.name}", self.duty.seal_by)

    def seal_of(self, record: DutyRecord) -> bytes:
        """The seal of the recorded finding."""
        assert record.kind is not None, "a judged duty has a kind"
        return verdict_seal(
            self.duty.job_id, self.duty.draw.window, self.tools.account, record.kind, record.segment, self.salt
        )

    async def reveal(self, record: DutyRecord) -> DutyRecord:
        """Step 6."""
        assert record.kind is not None, "a sealed duty has a kind"
        await self.tools.clock.after(self.duty.seal_by)
        action = self.tools.chain.gateway.action.reveal_verdict(self.duty.offer, record.kind, record.segment, self.salt)
        revealed = await self._send(record, REVEALED, action, f"reveal:{self.name}", self.duty.reveal_by)
        if revealed.stage == REVEALED:
            fee = 0 if record.kind is Verdict.ABSTAIN else self.duty.offer.verdict_fee
            _log.info("%s: verdict %s revealed, paid %d token units", self._tag, record.kind.name, fee)
        return revealed

    async def _send(self, record: DutyRecord, stage: str, action: object, action_id: str, until: int) -> DutyRecord:
        try:
            await self.tools.clock.send(action, action_id, until=until)  # type: ignore[arg-type]  # an Action
        except (Reverted, ChainUnavailable) as error:
            _log.error("%s: not %s: %s", self._tag, stage, error.message)
            stage, message = MISSED, f"not {stage}: {error.message}"
        else:
            message = record.message
        await self.tools.records.set_stage(self.duty, stage, message)
        return DutyRecord(duty=self.duty, stage=stage, kind=record.kind, segment=record.segment, message=message)
