"""The book rebuilt from logs against the chain that wrote them: a script with every event, then random markets."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tolsey.contracts import events as ev
from tolsey.contracts.actions import Action
from tolsey.contracts.audit import differences, read_book
from tolsey.contracts.book import _FOLDS, Book
from tolsey.contracts.views import BURN
from tolsey.errors import Reverted
from tolsey.protocol.lifecycle import LIVE, State, Verdict, Vote
from tolsey.protocol.sampling import (
    challenge_seal,
    dispute_id,
    verdict_seal,
    verifier_salt,
    verifier_sample,
    vote_seal,
)
from tolsey.protocol.units import BasisPoints, StateRoot, TokenUnits
from tolsey.testing.chain import CALM_TERMS, CLASS_ID, MarketWorld, PaperJob

SALT = b"\x05" * 32
WRONG = StateRoot(b"\xee" * 32)
TREASURY = MarketWorld.wallet(None, "treasury").account  # type: ignore[arg-type]  # needs no world
TERMS = replace(CALM_TERMS, fee_bps=BasisPoints(150), treasury=TREASURY)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[MarketWorld]:
    with MarketWorld.open(tmp_path, terms=TERMS) as opened:
        yield opened


class Crowd:
    """People who do things to jobs; each method is one move and may be refused."""

    def __init__(self, world: MarketWorld, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.jobs: list[PaperJob] = []
        self.votes: dict[tuple[bytes, str], int] = {}
        self.done = 0
        self.refused: Counter[str] = Counter()

    def act(self, name: str, action: Action) -> bool:
        try:
            self.world.send(name, action)
        except Reverted as error:
            self.refused[error.name] += 1
            return False
        self.done += 1
        return True

    def name(self, account: str) -> str:
        return self.world.name_of(account)  # type: ignore[arg-type]

    # moves of a window

    def verdicts(self, job: PaperJob, kinds: Callable[[str], int], *, lie: bool = False) -> None:
        """Drawn verifiers seal and, once it is time, reveal."""
        world, view = self.world, self.world.job(job)
        sealed = []
        for account in world.gateway.drawn_verifiers(job.offer):
            name = self.name(account)
            salt = verifier_salt(world.verifier_secret(name), job.job_id, view.window) ^ int(lie)
            kind = kinds(name)
            seal = verdict_seal(job.job_id, view.window, account, kind, 0, salt)
            if kind and self.act(name, world.as_(name).action.seal_verdict(job.offer, seal)):
                sealed.append((name, kind, salt))
        world.pass_until(view.drawn_at + job.offer.verdict_window_s)
        for name, kind, salt in sealed:
            self.act(name, world.as_(name).action.reveal_verdict(job.offer, kind, 0, salt))

    def challenge(self, job: PaperJob, name: str, segment: int) -> bool:
        account, action = self.world.account(name), self.world.as_(name).action
        self.act(name, action.seal_challenge(challenge_seal(account, job.job_id, segment, WRONG, SALT)))
        return self.act(name, action.challenge(job.offer, job.opening(segment), WRONG, SALT))

    def panel_round(self, job: PaperJob, segment: int, votes: Callable[[str], int]) -> None:
        """Draws a panel, lets it vote (0: silent), and closes the round."""
        world, dispute = self.world, dispute_id(job.job_id, segment)
        passer = "pat"
        self.act(passer, world.as_(passer).action.draw_panel(dispute))
        case = world.gateway.case(dispute)
        members = [self.name(account) for account in world.gateway.panel(dispute)]
        cast = {name: votes(name) for name in members}
        for name, vote in cast.items():
            seal = vote_seal(dispute, case.round, world.account(name), vote, SALT)
            if vote:
                self.act(name, world.as_(name).action.seal_vote(dispute, seal))
        window_s = world.gateway.params().panel_window_s
        world.pass_until(case.phase_since + window_s)
        for name, vote in cast.items():
            if vote:
                self.act(name, world.as_(name).action.reveal_vote(dispute, vote, SALT))
        world.pass_until(case.phase_since + 2 * window_s)
        self.act(passer, world.as_(passer).action.close_panel(dispute))

    def resolve(self, job: PaperJob) -> bool:
        return self.act("pat", self.world.as_("pat").action.resolve(job.offer))


def assert_book_agrees(world: MarketWorld) -> Book:
    block = world.gateway.block_number()
    book = read_book(world.gateway, block)
    assert differences(book, world.gateway, block) == []
    assert book.held == world.gateway.token_balance(world.network.market)
    live = [job for job in book.jobs.values() if job.state in LIVE]
    bonds = sum(job.terms.bond + job.escrow_left for job in live)
    bonds += sum(job.challenge_bond for job in live if job.state in (State.DEMANDED, State.CHALLENGED))
    bonds += sum(one.bond for one in (*book.workers.values(), *book.verifiers.values()))
    assert sum(balance.locked for balance in book.accounts.values()) == bonds
    return book


def test_book_after_every_event_equals_the_chain(world: MarketWorld) -> None:
    crowd = Crowd(world, random.Random(0))
    for name in ("vera", "vito", "vlad", "vic"):
        world.register_verifier(name)
    pat = world.as_("pat").action

    paid = world.paper_job(windows=2, price=TokenUnits(100_000_003))
    world.accept(paid)
    world.commit(paid)
    world.draw(paid)
    crowd.verdicts(paid, lambda name: Verdict.ABSTAIN if name in ("vera", "vito") else Verdict.MATCH)
    world.settle(paid)
    world.complete(paid)

    demanded = world.paper_job()
    world.accept(demanded)
    world.commit(demanded)
    world.draw(demanded)
    assert crowd.act("pat", pat.demand(demanded.offer, 1))
    assert crowd.act("wim", world.as_("wim").action.answer(demanded.offer, demanded.opening(1)))
    assert crowd.act("pat", pat.demand(demanded.offer, 2))
    world.pass_until(world.job(demanded).deadline)
    assert crowd.resolve(demanded)

    won = world.paper_job(windows=2)
    world.accept(won)
    world.commit(won)
    world.draw(won)
    assert crowd.challenge(won, "pat", 3)
    crowd.panel_round(won, 3, lambda name: Vote.WORKER)
    assert crowd.resolve(won) and world.job(won).state is State.DRAWN
    world.settle(won)
    assert crowd.act("carol", world.as_("carol").action.cancel(won.offer))

    lost = world.paper_job(verifier_count=4, sample_count=4)
    world.accept(lost)
    world.commit(lost)
    world.draw(lost)
    crowd.verdicts(lost, lambda name: Verdict.MATCH if name != "vlad" else 0)
    assert crowd.challenge(lost, "pat", 0)
    silent = iter([0, Vote.CHALLENGER, Vote.CHALLENGER])
    crowd.panel_round(lost, 0, lambda name: next(silent))
    assert crowd.resolve(lost) and world.job(lost).state is State.SLASHED
    drawn = world.gateway.drawn_verifiers(lost.offer)
    assert crowd.act("pat", pat.penalize_silence(lost.offer, world.account("vlad")))
    assert any([crowd.act("pat", pat.penalize_false_match(lost.offer, who)) for who in drawn])

    void = world.paper_job()
    world.accept(void)
    world.commit(void)
    world.draw(void)
    assert crowd.challenge(void, "pat", 2)
    world.pass_until(world.job(void).deadline)
    assert crowd.resolve(void) and world.job(void).state is State.VOIDED

    broken = world.paper_job(broken=frozenset({2}))
    world.accept(broken)
    world.commit(broken)
    assert crowd.act("pat", pat.prove_discontinuity(broken.offer, broken.opening(1), broken.opening(2)))

    late, gone, unwanted = world.paper_job(), world.paper_job(), world.paper_job()
    world.accept(late)
    world.accept(gone)
    assert crowd.act("wim", world.as_("wim").action.revoke_offer(unwanted.offer))
    assert crowd.act("wim", world.as_("wim").action.resign(gone.offer))
    world.pass_until(world.job(late).deadline)
    assert crowd.act("pat", pat.expire(late.offer))

    assert crowd.act("wim", world.as_("wim").action.request_worker_exit())
    secret = world.verifier_secret("vic")
    assert crowd.act("vic", world.as_("vic").action.request_verifier_exit(CLASS_ID, secret))
    world.pass_time(world.gateway.params().unbonding_s + 1)
    assert crowd.act("wim", world.as_("wim").action.withdraw_worker_bond())
    assert crowd.act("vic", world.as_("vic").action.withdraw_verifier_bond(CLASS_ID))
    assert crowd.act("vic", world.as_("vic").action.withdraw(TokenUnits(77)))

    book = assert_book_agrees(world)
    met = {type(event) for event in world.gateway.logs(0, world.gateway.block_number())}
    assert set(_FOLDS) - met == set()
    assert book.account(TREASURY)[0] > 0 and book.account(BURN)[0] == book.burned > 0
    assert book.jobs[paid.job_id].windows[0].verdicts and book.disputes[dispute_id(won.job_id, 3)].closed is not None


@pytest.mark.parametrize(
    ("seed", "moves"), [(1, 60), (2, 60), *(pytest.param(n, 300, marks=pytest.mark.slow) for n in range(3, 6))]
)
def test_book_after_random_actions_equals_the_chain(world: MarketWorld, seed: int, moves: int) -> None:
    rng = random.Random(seed)
    crowd = Crowd(world, rng)
    people = ["wim", "carol", "pat", "vera", "vito", "vlad"]
    for name in people:
        world.as_(name)
    for name in people[3:]:
        world.register_verifier(name)
    for _ in range(moves):
        _random_move(crowd, people)
    book = assert_book_agrees(world)
    assert crowd.done > moves // 2 and len(book.jobs) >= 5, crowd.refused


def _random_move(crowd: Crowd, people: list[str]) -> None:
    """One move: mostly what the state of some job asks for, sometimes what it forbids."""
    rng, world = crowd.rng, crowd.world
    live = [job for job in crowd.jobs if world.job(job).state in LIVE]
    if len(live) < 4:
        windows = rng.randint(1, 3)
        broken = frozenset({rng.randrange(4 * windows)}) if rng.random() < 0.3 else frozenset()
        job = world.paper_job(
            client=rng.choice(people), worker=rng.choice(people[:2]), windows=windows, broken=broken,
            price=TokenUnits(rng.choice([7, 1_000_003, 99_999_999])), forfeit=TokenUnits(rng.randint(0, 7)),
            verdict_fee=TokenUnits(rng.choice([0, 1, 1_000_001])), verifier_count=rng.randint(0, 3),
            sample_count=rng.randint(0, 5), bond=TokenUnits(rng.choice([10_000_000, 10_000_001])),
        )  # fmt: skip
        crowd.jobs.append(job)
        crowd.act(crowd.name(job.offer.client), world.as_("carol").action.accept(job.offer, job.signature))
        return
    job = rng.choice(live)
    state = rng.choice(list(LIVE)) if rng.random() < 0.1 else world.job(job).state
    _MOVES[state](crowd, job, rng.choice(people))
    if rng.random() < 0.2:
        _leave_or_pay(crowd, rng.choice(people))


def _accepted(crowd: Crowd, job: PaperJob, someone: str) -> None:
    world, action, draw = crowd.world, crowd.world.as_(someone).action, crowd.rng.random()
    worker, client = crowd.name(job.offer.worker), crowd.name(job.offer.client)
    if draw < 0.8:
        crowd.act(worker, action.commit(job.offer, job.root(world.job(job).window)))
    elif draw < 0.87:
        crowd.act(client, action.cancel(job.offer))
    elif draw < 0.94:
        crowd.act(worker, action.resign(job.offer))
    else:
        world.pass_until(world.job(job).deadline)
        crowd.act(someone, action.expire(job.offer))


def _committed(crowd: Crowd, job: PaperJob, someone: str) -> None:
    world, action, view = crowd.world, crowd.world.as_(someone).action, crowd.world.job(job)
    segment = min(job.broken, default=1)
    if crowd.rng.random() < 0.2 and segment:
        if segment in job.offer.window_segments(view.window):
            before = job.opening(segment - 1)
            crowd.act(someone, action.prove_discontinuity(job.offer, before, job.opening(segment)))
        return
    secret = job.secrets[min(view.window, len(job.secrets) - 1)]
    if crowd.rng.random() < 0.3:
        world.pass_until(view.deadline)
        secret = bytes(32)
    crowd.act(someone, action.draw(job.offer, secret))


def _drawn(crowd: Crowd, job: PaperJob, someone: str) -> None:
    world, action, rng, view = crowd.world, crowd.world.as_(someone).action, crowd.rng, crowd.world.job(job)
    segment = rng.choice(list(job.offer.window_segments(min(view.window, job.offer.window_count - 1))))
    draw = rng.random()
    if draw < 0.35:
        crowd.verdicts(job, lambda name: rng.choice([0, 1, 1, 2, 3, 4]), lie=rng.random() < 0.3)
    elif draw < 0.5:
        crowd.act(someone, action.demand(job.offer, segment))
    elif draw < 0.65:
        crowd.challenge(job, someone, segment)
    else:
        world.pass_until(view.deadline)
        if rng.random() < 0.5:
            for account in world.gateway.drawn_verifiers(job.offer):
                crowd.act(someone, action.penalize_silence(job.offer, account))
        crowd.act(someone, action.settle(job.offer))


def _demanded(crowd: Crowd, job: PaperJob, someone: str) -> None:
    world, action = crowd.world, crowd.world.as_(someone).action
    dispute = world.gateway.dispute(job.job_id)
    if dispute is not None and crowd.rng.random() < 0.6:
        crowd.act(someone, action.answer(job.offer, job.opening(dispute.segment)))
    else:
        world.pass_until(world.job(job).deadline)
        crowd.resolve(job)


def _challenged(crowd: Crowd, job: PaperJob, someone: str) -> None:
    world, rng = crowd.world, crowd.rng
    dispute = world.gateway.dispute(job.job_id)
    if dispute is None:
        return
    if rng.random() < 0.8:
        choice = rng.choice([[1], [2], [3, 2], [0, 1, 2], [5]])
        crowd.panel_round(job, dispute.segment, lambda name: rng.choice(choice))
    else:
        world.pass_until(world.job(job).deadline)
    crowd.resolve(job)
    for account in world.gateway.drawn_verifiers(job.offer):
        action = world.as_(someone).action
        crowd.act(someone, action.penalize_false_match(job.offer, account))
        crowd.act(someone, action.penalize_silence(job.offer, account))


_MOVES = {
    State.ACCEPTED: _accepted,
    State.COMMITTED: _committed,
    State.DRAWN: _drawn,
    State.DEMANDED: _demanded,
    State.CHALLENGED: _challenged,
}


def _leave_or_pay(crowd: Crowd, name: str) -> None:
    world, rng, action = crowd.world, crowd.rng, crowd.world.as_(name).action
    draw = rng.random()
    if draw < 0.3:
        crowd.act(name, action.withdraw(TokenUnits(rng.randint(0, 10**7))))
    elif draw < 0.5:
        crowd.act(name, action.mint(TokenUnits(12_345)))
        crowd.act(name, action.deposit(TokenUnits(12_345)))
    elif draw < 0.7:
        if crowd.act(name, action.request_verifier_exit(CLASS_ID, world.verifier_secret(name))):
            for job in crowd.jobs:
                for window in range(job.offer.window_count):
                    crowd.act("pat", action.penalize_false_salt(job.offer, window, world.account(name)))
    elif draw < 0.8:
        world.pass_time(world.gateway.params().unbonding_s + 1)
        if crowd.act(name, action.withdraw_verifier_bond(CLASS_ID)):
            world.register_verifier(name)


def test_sample_on_chain_equals_the_protocols(world: MarketWorld) -> None:
    for name in ("vera", "vito"):
        world.register_verifier(name)
    job = world.paper_job(segments_per_window=13, segment_count=13, sample_count=5)
    world.accept(job)
    world.commit(job)
    world.draw(job)
    crowd, seed = Crowd(world, random.Random(0)), world.job(job).seed
    crowd.verdicts(job, lambda name: Verdict.MATCH)
    for name in ("vera", "vito"):
        salt = verifier_salt(world.verifier_secret(name), job.job_id, 0)
        assert world.gateway.sample(job.offer, 0, world.account(name)) == verifier_sample(seed, salt, 13, 5)


# Books that should not agree.


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> list[ev.Event]:
    """The logs of one job of two windows with verdicts."""
    with MarketWorld.open(tmp_path_factory.mktemp("story")) as world:
        world.register_verifier("vera")
        job = world.paper_job(windows=2)
        world.accept(job)
        world.commit(job)
        world.draw(job)
        Crowd(world, random.Random(0)).verdicts(job, lambda name: Verdict.MATCH)
        world.settle(job)
        world.complete(job)
        return world.gateway.logs(0, world.gateway.block_number())


def test_book_of_honest_logs_has_no_faults(story: list[ev.Event]) -> None:
    assert Book.of(story).faults == []


def test_book_same_event_twice_counts_once(story: list[ev.Event]) -> None:
    book = Book.of(story)
    before = {who: (b.free, b.locked) for who, b in book.accounts.items()}
    for event in story:
        book.apply(event)
    assert {who: (b.free, b.locked) for who, b in book.accounts.items()} == before


def test_book_rewound_and_told_again_is_the_same(story: list[ev.Event]) -> None:
    book, whole = Book.of(story), Book.of(story)
    middle = story[len(story) // 2].block_number
    book.rewind(middle)
    assert book.block_number < middle
    for event in story:
        book.apply(event)
    assert (book.accounts, book.jobs, book.faults) == (whole.accounts, whole.jobs, [])


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (ev.WindowSettled, {"paid": TokenUnits(1)}, "the rules give"),
        (ev.WindowSettled, {"escrow_returned": TokenUnits(1)}, "the rules give"),
        (ev.WindowDrawn, {"seed": 5}, "the seed is 5"),
        (ev.WindowDrawn, {"secret": b"\x01" * 32}, "the seed is"),
        (ev.VerdictRevealed, {"kind": 2}, "revealed"),
        (ev.VerdictRevealed, {"paid": TokenUnits(3)}, "its fee is"),
        (ev.WindowCommitted, {"before": State.DRAWN}, "its next log says DRAWN"),
        (ev.Deposited, {"amount": TokenUnits(1)}, "free"),
        (ev.JobAccepted, {"before": State.COMMITTED}, "begins as COMMITTED"),
    ],
)
def test_book_of_a_touched_log_has_a_fault(
    story: list[ev.Event], kind: type[ev.Event], change: dict[str, object], words: str
) -> None:
    at = next(i for i, event in enumerate(story) if isinstance(event, kind))
    touched = [*story[:at], replace(story[at], **change), *story[at + 1 :]]
    assert any(words in fault for fault in Book.of(touched).faults)


def test_book_with_a_log_left_out_has_a_fault(story: list[ev.Event]) -> None:
    for at, event in enumerate(story):
        if isinstance(event, ev.JobEvent | ev.VerdictSealed | ev.Deposited) and at < len(story) - 1:
            assert Book.of([*story[:at], *story[at + 1 :]]).faults, f"{type(event).__name__} was not missed"


def test_differences_name_what_the_chain_says_otherwise(world: MarketWorld) -> None:
    job = world.paper_job()
    world.accept(job)
    block = world.gateway.block_number()
    book = read_book(world.gateway, block)
    world.commit(job)
    assert differences(book, world.gateway, block) == []
    later = differences(book, world.gateway, world.gateway.block_number())
    assert any("the logs give state ACCEPTED, the market says COMMITTED" in line for line in later)
