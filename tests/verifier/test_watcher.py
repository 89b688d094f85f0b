"""The fold and the pokes rule, on events written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tolsey.contracts import events as ev
from tolsey.protocol.lifecycle import State
from tolsey.protocol.offer import Offer
from tolsey.protocol.sampling import dispute_id, verifier_salt, verifier_sample
from tolsey.protocol.units import JobId
from tolsey.verifier.pokes import GRACE_S, pokes
from tolsey.verifier.watcher import Duty, PanelDuty, Watcher

from .worlds import paper_offer, paper_spec

ME, OTHER, THIRD = "0x" + "11" * 20, "0x" + "22" * 20, "0x" + "33" * 20
JOB = JobId(b"\x10" * 32)
T0 = 1_000


class Log:
    """Writes events one after another and folds them."""

    def __init__(self, *, watch_all: bool = False, offer: Offer | None = None) -> None:
        self.offer = offer or paper_offer(paper_spec(segments=8), verifier_count=7)
        self.watcher = Watcher(ME, is_bound=lambda event: event.peer_signature == b"good", watch_all=watch_all)
        self.block = 0

    def add(self, event: type[ev.Event], /, **fields: Any) -> list[Duty | PanelDuty]:
        self.block += 1
        place = {"block_number": self.block, "block_hash": bytes([self.block]) * 32, "log_index": 0, "tx_hash": b""}
        return self.watcher.apply(event(**({"ts": T0 + self.block} | place | fields)))

    def step(self, kind: type[ev.Event], before: State, after: State, window: int = 0, **fields: Any) -> list[Any]:
        usual = {"job_id": JOB, "before": before, "after": after, "window": window, "deadline": T0 + 500}
        return self.add(kind, **(usual | fields))

    def register(self, account: str, id_: int, **fields: Any) -> None:
        usual: dict[str, Any] = {
            "class_id": self.offer.class_id, "account": account, "id": id_, "bond": 1, "secret_hash": b"",
            "peer_id": f"peer of {account[2:4]}", "peer_signature": b"good",
        }  # fmt: skip
        self.add(ev.VerifierRegistered, **(usual | fields))

    def accept(self) -> None:
        self.step(
            ev.JobAccepted, State.NONE, State.ACCEPTED, client=self.offer.client, worker=self.offer.worker,
            offer=self.offer,
        )  # fmt: skip

    def commit(self, window: int = 0) -> None:
        self.step(ev.WindowCommitted, State.ACCEPTED, State.COMMITTED, window, root=b"\x0a" * 32)

    def draw(self, window: int = 0, **fields: Any) -> list[Any]:
        usual = {"seed": 5, "pool_size": 2, "secret": bytes(32), "beacon": bytes(32), "ts": T0 + 100}
        return self.step(ev.WindowDrawn, State.COMMITTED, State.DRAWN, window, **(usual | fields))

    def challenge(self, challenger: str = OTHER) -> ev.Claim:
        claim = ev.Claim(
            dispute_id=b"\xd1" * 32, job_id=JOB, spec_hash=b"", class_id=self.offer.class_id, client=self.offer.client,
            worker=self.offer.worker, challenger=challenger, segment=2, input_root=b"", output_root=b"",
            claimed_root=b"",
        )  # fmt: skip
        self.add(ev.DisputeOpened, dispute_id=claim.dispute_id, job_id=JOB, claim=claim)
        self.add(ev.RoundOpened, dispute_id=claim.dispute_id, round=0, pool_size=3, draw_until=T0 + 300)
        self.step(
            ev.SegmentChallenged, State.DRAWN, State.CHALLENGED, challenger=challenger, dispute_id=claim.dispute_id,
            segment=2, input_root=b"", output_root=b"", claimed_root=b"", bond=1,
        )  # fmt: skip
        return claim

    def calls(self, now_ts: int) -> list[str]:
        return [poke.call for poke in pokes(self.watcher, now_ts, self.block)]


def drawn_log(**options: Any) -> tuple[Log, list[Any]]:
    log = Log(**options)
    log.register(ME, 0)
    log.register(OTHER, 1)
    log.accept()
    log.commit()
    return log, log.draw()


def test_drawn_verifier_owes_a_duty_with_its_deadlines() -> None:
    log, owed = drawn_log()
    (duty,) = owed
    assert isinstance(duty, Duty) and duty.is_drawn
    assert (duty.job_id, duty.offer, duty.draw.root) == (JOB, log.offer, b"\x0a" * 32)
    assert (duty.seal_by, duty.reveal_by) == (T0 + 160, T0 + 220)


def test_event_folded_twice_gives_no_second_duty() -> None:
    log, _ = drawn_log()
    log.block -= 1
    assert log.draw() == []


@pytest.mark.parametrize("case", ["stranger", "another class", "registered later", "leaving", "not drawn"])
def test_verifier_that_was_not_drawn_owes_nothing(case: str) -> None:
    offer = paper_offer(paper_spec(segments=8), verifier_count=0 if case == "not drawn" else 7)
    log = Log(offer=offer)
    if case != "stranger":
        log.register(
            ME, 0, **({"class_id": b"\x99" * 32} if case == "another class" else {}),
            **({"ts": T0 + 100} if case == "registered later" else {}),
        )  # fmt: skip
    if case == "leaving":
        log.add(ev.VerifierExitRequested, class_id=offer.class_id, account=ME, secret=b"", bond_free_at=9)
    log.accept()
    log.commit()
    assert log.draw() == []


def test_watch_all_gives_a_duty_that_is_not_drawn() -> None:
    log = Log(watch_all=True, offer=paper_offer(paper_spec(segments=8), verifier_count=0))
    log.register(ME, 0)
    log.accept()
    log.commit()
    (duty,) = log.draw()
    assert not duty.is_drawn


def test_peer_counts_only_with_its_own_signature() -> None:
    log = Log()
    log.register(OTHER, 1, peer_signature=b"forged")
    log.register(THIRD, 2)
    assert log.watcher.peers == {THIRD: "peer of 33"}


def test_panel_member_owes_a_vote_and_others_do_not() -> None:
    log, _ = drawn_log()
    claim = log.challenge()
    drawn = {
        "dispute_id": claim.dispute_id,
        "round": 0,
        "beacon": b"",
        "seal_until": T0 + 310,
        "reveal_until": T0 + 320,
    }
    assert log.add(ev.PanelDrawn, panel=(THIRD,), **drawn) == []
    (duty,) = log.add(ev.PanelDrawn, panel=(THIRD, ME), **drawn)
    assert isinstance(duty, PanelDuty)
    assert (duty.claim, duty.round, duty.seal_by, duty.reveal_by) == (claim, 0, T0 + 310, T0 + 320)


def test_earnings_are_counted_by_source() -> None:
    log, _ = drawn_log()
    log.add(ev.VerdictRevealed, job_id=JOB, verifier=ME, window=0, kind=1, segment=0, salt=1, paid=7)
    penalty = {"class_id": log.offer.class_id, "fault": ev.Fault.SILENCE, "subject": JOB, "to_caller": 3, "burned": 4}
    log.add(ev.Penalized, verifier=OTHER, caller=ME, **penalty)
    log.add(ev.Penalized, verifier=ME, caller=OTHER, **penalty)
    log.challenge(challenger=ME)
    money = {"to_client": 0, "escrow_returned": 0, "burned": 0, "challenge_bond_returned": 0}
    log.step(
        ev.JobSlashed, State.CHALLENGED, State.SLASHED, segment=2, finder=ME, challenger=ME, panel=(ME, OTHER),
        to_panel=10, to_finder=20, **money,
    )  # fmt: skip
    assert dict(log.watcher.earned) == {"verdicts": 7, "penalties": 3, "fined": -7, "finds": 20, "panels": 5}


@pytest.mark.parametrize(
    ("state", "call"),
    [(State.ACCEPTED, "expire"), (State.COMMITTED, "draw"), (State.DRAWN, "settle"), (State.DEMANDED, "resolve")],
)
def test_overdue_job_is_poked_after_its_grace_and_not_before(state: State, call: str) -> None:
    log = Log(offer=paper_offer(paper_spec(segments=8), verifier_count=0))
    log.register(ME, 0)
    log.accept()
    log.watcher.jobs[JOB].state = state
    deadline = T0 + 500 + GRACE_S[state]
    assert log.calls(deadline) == []
    assert log.calls(deadline + 1) == [call]


def test_job_of_a_class_without_a_seat_is_not_poked() -> None:
    log = Log()
    log.accept()
    assert log.calls(T0 + 10_000) == []


def test_dispute_is_drawn_closed_and_resolved_by_pokes() -> None:
    log, _ = drawn_log()
    claim = log.challenge(challenger=ME)
    log.watcher.jobs[JOB].deadline = T0 + 9_000
    silenced = {"penalize_silence"}
    assert set(log.calls(T0 + 200)) - silenced == {"draw_panel"}
    assert set(log.calls(T0 + 301)) - silenced == {"close_panel"}
    log.add(
        ev.PanelDrawn, dispute_id=claim.dispute_id, round=0, beacon=b"", panel=(OTHER,), seal_until=T0 + 310,
        reveal_until=T0 + 320,
    )  # fmt: skip
    assert set(log.calls(T0 + 315)) - silenced == set()
    log.add(ev.VoteRevealed, dispute_id=claim.dispute_id, voter=OTHER, round=0, vote=1)
    assert set(log.calls(T0 + 315)) - silenced == {"close_panel"}, "all have spoken"
    log.add(
        ev.DisputeClosed, dispute_id=claim.dispute_id, ruling=ev.Ruling.WORKER_WRONG, finder_earned=True,
        match_refuted=True, majority=(OTHER,),
    )  # fmt: skip
    assert set(log.calls(T0 + 315)) - silenced == {"resolve"}


def test_silent_verifier_is_penalized_once_after_the_time_to_reveal() -> None:
    log, _ = drawn_log()
    assert log.calls(T0 + 220) == []
    assert log.calls(T0 + 221) == ["penalize_silence"]
    log.add(
        ev.Penalized, class_id=log.offer.class_id, verifier=OTHER, fault=ev.Fault.SILENCE, subject=JOB, caller=ME,
        to_caller=1, burned=1,
    )  # fmt: skip
    assert log.calls(T0 + 221) == []


def test_verifier_that_revealed_is_not_penalized() -> None:
    log, _ = drawn_log()
    log.add(ev.VerdictRevealed, job_id=JOB, verifier=OTHER, window=0, kind=1, segment=0, salt=1, paid=7)
    assert log.calls(T0 + 221) == []


def test_salt_that_the_public_secret_does_not_give_is_penalized() -> None:
    log, _ = drawn_log()
    secret = b"\x5e" * 32
    log.add(ev.VerdictRevealed, job_id=JOB, verifier=OTHER, window=0, kind=1, segment=0, salt=1, paid=7)
    log.add(
        ev.VerdictRevealed, job_id=JOB, verifier=THIRD, window=0, kind=1, segment=0,
        salt=verifier_salt(secret, JOB, 0), paid=7,
    )  # fmt: skip
    log.register(THIRD, 2)
    for account in (OTHER, THIRD):
        log.add(ev.VerifierExitRequested, class_id=log.offer.class_id, account=account, secret=secret, bond_free_at=9)
    (poke,) = pokes(log.watcher, T0 + 150, log.block)
    assert (poke.call, poke.args[2]) == ("penalize_false_salt", OTHER)


def test_false_match_is_penalized_only_where_the_segment_was_in_the_sample() -> None:
    log, _ = drawn_log(offer=paper_offer(paper_spec(segments=8), verifier_count=7, sample_count=1))
    salts = {bool(verifier_sample(5, salt, 4, 1) == [2]): salt for salt in range(40)}
    log.add(ev.VerdictRevealed, job_id=JOB, verifier=OTHER, window=0, kind=1, segment=0, salt=salts[True], paid=7)
    log.add(ev.VerdictRevealed, job_id=JOB, verifier=THIRD, window=0, kind=1, segment=0, salt=salts[False], paid=7)
    job = log.watcher.jobs[JOB]
    job.state, job.slashed_segment = State.SLASHED, 2
    assert list(pokes(log.watcher, T0 + 150, log.block)) == []
    claim = log.challenge()
    job.state = State.SLASHED
    dispute = log.watcher.disputes.pop(claim.dispute_id)
    dispute.is_refuted, dispute.phase = True, "closed"
    from_judge = replace(claim, dispute_id=dispute_id(JOB, 2))
    dispute.claim = from_judge
    log.watcher.disputes[dispute_id(JOB, 2)] = dispute
    assert [poke.args[1] for poke in pokes(log.watcher, T0 + 150, log.block)] == [OTHER]
