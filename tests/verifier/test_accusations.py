"""What becomes of an accusation that cannot be brought at once, and of a worker that hides what it committed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from tolsey.contracts import events as ev
from tolsey.protocol.lifecycle import State, Vote
from tolsey.protocol.units import TokenUnits
from tolsey.testing.chain import PaperJob
from tolsey.verifier.compare import NOBODY_SERVES
from tolsey.verifier.records import CLOSED, OPEN, QUEUED, UNFUNDED

from .worlds import PaperMarket, Running, paper_spec

PANEL = ("viktor", "vasco", "valid")


def state_of(market: PaperMarket, job: PaperJob) -> State:
    return market.world.job(job).state


def hide(market: PaperMarket) -> None:
    """Nobody serves a trace any more."""
    market.traces.clear()


def answer(market: PaperMarket, job: PaperJob) -> None:
    """The worker opens on chain what is demanded, if anything is."""
    dispute = market.world.gateway.dispute(job.job_id)
    if dispute is not None and state_of(market, job) is State.DEMANDED:
        market.world.send("wim", market.world.as_("wim").action.answer(job.offer, job.opening(dispute.segment)))


async def demanded_and_answered(market: PaperMarket, job: PaperJob) -> None:
    await market.until(lambda: state_of(market, job) is State.DEMANDED, pass_s=1)
    answer(market, job)


async def challenged_although_answered(market: PaperMarket, job: PaperJob) -> ev.SegmentChallenged:
    """Lets time go by, with every demand answered at once, until the job is challenged."""

    def is_challenged() -> bool:
        answer(market, job)
        return bool(market.challenges(job))

    await market.until(is_challenged, pass_s=1)
    (challenge,) = market.challenges(job)
    return challenge


async def stages(running: Running) -> dict[str, str]:
    return {item.charge: item.stage for item in await running.records.all_evidence()}


async def is_in(running: Running, charge: str, stage: str) -> bool:
    return (await stages(running)).get(charge) == stage


@asynccontextmanager
async def panel(market: PaperMarket) -> AsyncIterator[list[Running]]:
    """Three verifiers that are drawn for nothing else: they came later."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(market.verifier(name)) for name in PANEL]


# a worker that hides its trace and answers


async def test_trace_hidden_from_everybody_and_opened_on_demand_is_challenged_as_unavailable(
    market: PaperMarket,
) -> None:
    async with market.verifier("vera") as vera, panel(market) as others:
        job = market.job(verifier_count=4)
        hide(market)
        before = {name: market.worth(name) for name in ("carol", "wim")}
        market.commit_and_draw(job)
        challenge = await challenged_although_answered(market, job)
        assert challenge.claimed_root == NOBODY_SERVES
        await market.until(lambda: state_of(market, job) is State.SLASHED, pass_s=1)
        votes = [vote.vote for running in (vera, *others) for vote in await running.records.all_votes()]
        assert votes == [Vote.UNAVAILABLE] * 3
        tenths = len(market.events(job, ev.SegmentAnswered)) * market.world.gateway.params().challenge_bond // 10
        assert market.worth("wim") == before["wim"] + tenths - job.offer.bond
        assert market.worth("carol") >= before["carol"], "the client is made whole"


async def test_trace_served_after_the_demand_is_judged_and_nobody_accused_of_hiding_it(market: PaperMarket) -> None:
    """An honest worker that was away for the whole time of the verdict."""
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1)
        hide(market)
        market.commit_and_draw(job)
        await demanded_and_answered(market, job)
        market.serve(job, paper_spec())
        await market.until(lambda: sorted(vera.bench.runs) == [0, 1, 2, 3])
        market.world.settle(job)
        await market.until_async(lambda: is_in(vera, "withheld", CLOSED))
        assert state_of(market, job) is State.COMPLETED
        assert market.challenges(job) == []


async def test_lie_that_was_hidden_until_the_demand_is_found_after_it(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1, wrong=2)
        hide(market)
        market.commit_and_draw(job)
        await demanded_and_answered(market, job)
        market.serve(job, paper_spec())
        await market.until(lambda: bool(market.challenges(job)))
        assert market.challenges(job)[-1].segment == 2
        await market.until_async(lambda: is_in(vera, "mismatch", OPEN))


async def test_verifier_cut_off_after_the_demand_calls_nobody_unavailable(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1)
        hide(market)
        market.commit_and_draw(job)
        await demanded_and_answered(market, job)
        vera.peers.online = False
        await market.until_async(lambda: is_in(vera, "withheld", CLOSED))
        market.world.settle(job)
        assert state_of(market, job) is State.COMPLETED
        assert await stages(vera) == {"withheld": CLOSED}


async def test_second_step_is_taken_by_the_process_that_comes_after_a_kill(market: PaperMarket) -> None:
    async with market.verifier("vera"):
        job = market.job(verifier_count=1)
        hide(market)
        market.commit_and_draw(job)
        await market.until(lambda: state_of(market, job) is State.DEMANDED, pass_s=1)
    answer(market, job)
    # Its verdict can be revealed no more, but its window can still be challenged.
    market.world.pass_until(market.world.job(job).drawn_at + 2 * job.offer.verdict_window_s)
    assert state_of(market, job) is State.DRAWN
    async with market.verifier("vera"):
        await challenged_although_answered(market, job)


async def test_answer_to_anybody_elses_demand_serves_as_well(market: PaperMarket) -> None:
    """A friend of the worker demands first, so that nobody else can."""
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1)
        hide(market)
        market.commit_and_draw(job)
        await market.until(lambda: len(vera.peers.asked) > 2)  # it began to judge, and was refused
        market.world.pass_time(40)
        market.world.send("mallory", market.world.as_("mallory").action.demand(job.offer, 3))
        market.world.pass_time(15)  # the verdict is due
        await market.until_async(lambda: is_in(vera, "withheld", QUEUED))
        challenge = await challenged_although_answered(market, job)
        assert challenge.segment == 3
        assert len(market.events(job, ev.SegmentDemanded)) == 1, "what is open need not be paid for again"


@pytest.mark.slow
async def test_window_whose_worker_served_the_panel_alone_is_looked_at_again(market: PaperMarket) -> None:
    async with market.verifier("vera"):
        job = market.job(verifier_count=1)
        shown = dict(market.traces)
        hide(market)
        market.commit_and_draw(job)
        async with panel(market) as others:
            for other in others:
                other.peers.traces = shown
            challenge = await challenged_although_answered(market, job)
            wrong = (challenge.segment + 1) % 4
            market.truth[job.roots[wrong]] = b"\x77" * 32
            await market.until(lambda: bool(market.events(job, ev.ChallengeFailed)), pass_s=1)
            market.serve(job, paper_spec(), peer=market.peer("viktor"))
            await market.until(lambda: len(market.challenges(job)) == 2, pass_s=1)
            _, second = market.challenges(job)
            assert (second.segment, second.claimed_root) == (wrong, b"\x77" * 32)


# a challenge that must wait


async def test_dispute_of_somebody_else_does_not_save_a_wrong_segment(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        gate = trio.Event()
        vera.bench.delay = gate.wait
        job = market.job(verifier_count=1, wrong=2)
        market.commit_and_draw(job)
        market.world.send("mallory", market.world.as_("mallory").action.demand(job.offer, 0))
        gate.set()
        await market.until_async(lambda: is_in(vera, "mismatch", QUEUED))
        answer(market, job)
        await market.until(lambda: bool(market.challenges(job)))
        assert market.challenges(job)[-1].segment == 2


# a bond that is not free yet


def poor(market: PaperMarket, name: str, bonds: int) -> None:
    """An actor that, once registered, has so many challenge bonds free and nothing else."""
    params = market.world.gateway.params()
    market.world.as_(name, purse=TokenUnits(params.verifier_bond + bonds * params.challenge_bond))


async def test_second_accusation_waits_for_the_bond_of_the_first(market: PaperMarket) -> None:
    poor(market, "vera", bonds=1)
    async with market.verifier("vera", watch_all=True) as vera, panel(market):
        jobs = [market.job(verifier_count=0, segments_per_window=1, segment_count=1, wrong=0,
                           spec=paper_spec(segments=1, per_window=1)) for _ in range(2)]  # fmt: skip
        for job in jobs:
            market.commit_and_draw(job)
        disputed = lambda: [job for job in jobs if market.challenges(job)]
        await market.until(lambda: len(disputed()) == 1)
        (first,) = disputed()
        (second,) = (job for job in jobs if job is not first)
        await market.until_async(lambda: has_stage(vera, second, UNFUNDED))
        await market.until(lambda: state_of(market, first) is State.SLASHED, pass_s=1)
        await market.until(lambda: bool(market.challenges(second)))
        await market.until(lambda: state_of(market, second) is State.SLASHED, pass_s=1)


async def has_stage(running: Running, job: PaperJob, stage: str) -> bool:
    return stage in [item.stage for item in await running.records.all_evidence() if item.job_id == job.job_id]


async def test_accusation_without_a_bond_survives_a_kill_and_is_brought_once_there_is_money(
    market: PaperMarket,
) -> None:
    poor(market, "vera", bonds=0)
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1, wrong=2)
        market.commit_and_draw(job)
        await market.until_async(lambda: is_in(vera, "mismatch", UNFUNDED))
    async with market.verifier("vera") as vera:
        market.world.mine()
        bond = market.world.gateway.params().challenge_bond
        patron = market.world.as_("patron")
        market.world.send("patron", patron.action.mint(bond, market.world.account("vera")))
        await market.until(lambda: bool(market.challenges(job)))
        assert vera.bench.runs == [], "the evidence was on record"


async def test_accusation_without_a_bond_ends_with_the_window(market: PaperMarket) -> None:
    poor(market, "vera", bonds=0)
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1, wrong=2)
        market.commit_and_draw(job)
        await market.until_async(lambda: is_in(vera, "mismatch", UNFUNDED))
        market.world.pass_until(market.world.job(job).deadline)
        await market.until_async(lambda: is_in(vera, "mismatch", CLOSED))
        (item,) = await vera.records.all_evidence()
        assert "not taken up" in item.message
