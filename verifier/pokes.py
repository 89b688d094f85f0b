"""Calls that are open to anyone and that somebody must make: overdue jobs, panels, penalties.

`pokes` is a rule: facts and time in, calls out. Each call has a grace after the moment from which it is allowed, so
that the party who gains most goes first and not everybody pays gas for the same call: the worker for its settlement,
then whoever sits in the class. Penalties pay their caller and come without grace. A refused call was somebody else's,
or too early: it is tried again a little later, a few times, never in parallel with itself.

It refuses to poke jobs of classes this verifier does not sit in, unless it is a party of their dispute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from tolsey.contracts.chain import Chain
from tolsey.contracts.events import Fault
from tolsey.contracts.gateway import Action
from tolsey.errors import ChainError, Reverted
from tolsey.protocol.lifecycle import State, Verdict
from tolsey.protocol.sampling import dispute_id, verifier_salt, verifier_sample
from tolsey.verifier.clock import Clock
from tolsey.verifier.watcher import Dispute, Draw, Job, Watcher

GRACE_S = {State.COMMITTED: 2, State.CHALLENGED: 1, State.DEMANDED: 1, State.DRAWN: 20, State.ACCEPTED: 60}
"""Block seconds past a deadline: others go first where they gain more (settling pays the worker)."""
SEAT_STEP_S = 1
"""Seconds between the tries of two verifiers by their place in the pool, up to MAX_STEPS places."""
MAX_STEPS = 8
MAX_TRIES = 4
RETRY_S = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poke:
    """One call: its name in gateway.action, its arguments, and an id under which it is sent once."""

    id: str
    call: str
    args: tuple[object, ...]


def pokes(watcher: Watcher, now_ts: int, block_number: int) -> Iterator[Poke]:
    """Every call that is due."""
    for job in watcher.jobs.values():
        seat = watcher.my_seat(job.offer.class_id)
        dispute = _dispute_of(watcher, job)
        is_party = dispute is not None and watcher.account in (dispute.claim.challenger, *dispute.panel)
        if seat is None and not is_party:
            continue
        stagger = 0 if seat is None or is_party else SEAT_STEP_S * (seat.id % MAX_STEPS)
        if dispute is not None and job.state is State.CHALLENGED:
            yield from _panel(dispute, job, now_ts - stagger, block_number)
        yield from _overdue(job, now_ts - stagger)
        yield from _penalties(watcher, job, now_ts)


def _overdue(job: Job, now_ts: int) -> Iterator[Poke]:
    """The call that moves a job on whose parties sleep."""
    if job.state not in GRACE_S or now_ts <= job.deadline + GRACE_S[job.state]:
        return
    call = {State.ACCEPTED: "expire", State.COMMITTED: "draw", State.DRAWN: "settle"}.get(job.state, "resolve")
    args = (job.offer, bytes(32)) if call == "draw" else (job.offer,)
    yield Poke(id=f"{call}:{job.job_id.hex()}:{job.window}:{job.deadline}", call=call, args=args)


def _panel(dispute: Dispute, job: Job, now_ts: int, block_number: int) -> Iterator[Poke]:
    """The call that moves a dispute on."""
    subject, round_ = dispute.claim.dispute_id, dispute.round
    name = f"{subject.hex()}:{round_}"
    if dispute.phase == "drawing" and block_number >= dispute.since_block:
        if now_ts <= dispute.draw_until:
            yield Poke(id=f"draw-panel:{name}", call="draw_panel", args=(subject,))
        else:
            yield Poke(id=f"close:{name}:undrawn", call="close_panel", args=(subject,))
    elif dispute.phase == "voting":
        if now_ts > dispute.reveal_until or (
            now_ts > dispute.seal_until and len(dispute.revealed) == len(dispute.panel)
        ):
            yield Poke(id=f"close:{name}", call="close_panel", args=(subject,))
    elif dispute.phase == "closed":
        yield Poke(id=f"resolve:{job.job_id.hex()}:{subject.hex()}", call="resolve", args=(job.offer,))


def _penalties(watcher: Watcher, job: Job, now_ts: int) -> Iterator[Poke]:
    draw = job.draw
    if draw is not None and watcher.my_seat(job.offer.class_id) is not None:
        yield from _silent(watcher, job, draw, now_ts)
    if job.state is State.SLASHED and job.slashed_segment is not None and _is_refuted(watcher, job):
        yield from _false_matches(watcher, job, job.slashed_segment)
    yield from _false_salts(watcher, job)


def _silent(watcher: Watcher, job: Job, draw: Draw, now_ts: int) -> Iterator[Poke]:
    """Drawn verifiers that revealed nothing in time; allowed until the next window is committed."""
    if now_ts <= draw.drawn_at + 2 * job.offer.verdict_window_s or draw.window + 1 in job.roots:
        return
    for seat in watcher.drawn(job, draw):
        if seat.account == watcher.account or (seat.leaving_since or draw.drawn_at) < draw.drawn_at:
            continue
        key = (draw.window, seat.account)
        if key not in job.verdicts and (Fault.SILENCE, seat.account) not in job.penalized:
            name = f"{job.job_id.hex()}:{draw.window}:{seat.account}"
            yield Poke(id=f"silence:{name}", call="penalize_silence", args=(job.offer, seat.account))


def _false_matches(watcher: Watcher, job: Job, segment: int) -> Iterator[Poke]:
    """Verifiers that said match although the refuted segment is in their sample."""
    window = segment // job.offer.segments_per_window
    draw = job.draws.get(window)
    if draw is None:
        return
    indices = job.offer.window_segments(window)
    for (of_window, account), verdict in job.verdicts.items():
        if of_window != window or verdict.kind != Verdict.MATCH or account == watcher.account:
            continue
        places = verifier_sample(draw.seed, verdict.salt, len(indices), job.offer.sample_count)
        if segment - indices.start in places and (Fault.FALSE_MATCH, account) not in job.penalized:
            name = f"{job.job_id.hex()}:{account}"
            yield Poke(id=f"false-match:{name}", call="penalize_false_match", args=(job.offer, account))


def _false_salts(watcher: Watcher, job: Job) -> Iterator[Poke]:
    """Verifiers whose public secret does not give a salt they revealed."""
    for (window, account), verdict in job.verdicts.items():
        seat = watcher.seats.get(job.offer.class_id, {}).get(account)
        if seat is None or seat.secret is None or account == watcher.account:
            continue
        if (Fault.FALSE_SALT, account) in job.penalized:
            continue
        if verdict.salt != verifier_salt(seat.secret, job.job_id, window):
            name = f"{job.job_id.hex()}:{window}:{account}"
            yield Poke(id=f"false-salt:{name}", call="penalize_false_salt", args=(job.offer, window, account))


def _dispute_of(watcher: Watcher, job: Job) -> Dispute | None:
    """The job's newest dispute before the judge."""
    found = [d for d in watcher.disputes.values() if d.claim.job_id == job.job_id]
    return max(found, key=lambda d: d.since_block, default=None)


def _is_refuted(watcher: Watcher, job: Job) -> bool:
    """Whether the judge found the slashed segment's output wrong (not merely missing)."""
    dispute = watcher.disputes.get(dispute_id(job.job_id, job.slashed_segment or 0))
    return dispute is not None and dispute.is_refuted


class Poker:
    """Makes the calls, one after another, at every block."""

    def __init__(self, chain: Chain, clock: Clock, watcher: Callable[[], Watcher]) -> None:
        self._chain = chain
        self._clock = clock
        self._watcher = watcher
        self._tries: dict[str, int] = {}
        self._again_at: dict[str, int] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pokes until cancelled."""
        task_status.started()
        while True:
            await self._chain.follower.wait_block()
            try:
                number = await self._chain.run(self._chain.gateway.block_number)
                for poke in list(pokes(self._watcher(), self._clock.now_ts, number)):
                    await self._try(poke)
            except ChainError as error:
                _log.warning("pokes wait: %s", error.message)

    async def _try(self, poke: Poke) -> None:
        tries = self._tries.get(poke.id, 0)
        if tries >= MAX_TRIES or self._clock.now_ts < self._again_at.get(poke.id, 0):
            return
        action: Action = getattr(self._chain.gateway.action, poke.call)(*poke.args)
        self._tries[poke.id] = tries + 1
        self._again_at[poke.id] = self._clock.now_ts + RETRY_S * (tries + 1)
        try:
            # A dry run costs nothing; a refused one is not worth a row in the outbox.
            await self._chain.run(self._chain.gateway.simulate, action)
            await self._chain.sender.send(action, action_id=f"{poke.id}:{tries}")
        except Reverted as error:
            _log.debug("%s: %s", action.description, error.message)
        else:
            self._tries[poke.id] = MAX_TRIES
            _log.info("did %s", action.description)
