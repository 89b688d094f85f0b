"""Whole days of verifiers on a real chain with real contracts; only the training is of paper (worlds.py)."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio

from tolsey.protocol.lifecycle import State, Verdict, Vote
from tolsey.testing.chain import DOLLAR, PaperJob
from tolsey.testing.dishonest_verifiers import DISHONEST
from tolsey.verifier.records import CLOSED, MISSED, REVEALED, SEALED, WATCHED

from .worlds import PaperBench, PaperMarket, Running, paper_spec

FEE = 2 * DOLLAR


def kind_of(market: PaperMarket, job: PaperJob, name: str, window: int = 0) -> int:
    """The verdict's kind on chain, 0 before it is revealed."""
    return market.world.gateway.verdict(job.job_id, window, market.world.account(name)).kind


def is_sealed(market: PaperMarket, job: PaperJob, name: str, window: int = 0) -> bool:
    view = market.world.gateway.verdict(job.job_id, window, market.world.account(name))
    return any(view.seal) or view.kind > 0


def state_of(market: PaperMarket, job: PaperJob) -> State:
    return market.world.job(job).state


async def to_reveal(market: PaperMarket, job: PaperJob, *names: str) -> None:
    """Waits for the seals of `names`, then lets the sealing period pass."""
    await market.until(lambda: all(is_sealed(market, job, name) for name in names))
    market.world.pass_until(market.world.job(job).drawn_at + job.offer.verdict_window_s)


async def stage_of(running: Running) -> list[str]:
    return [record.stage for record in await running.records.newest_duties()]


async def test_honest_day_every_drawn_verifier_says_match_and_is_paid(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera, market.verifier("viktor"):
        job = market.job(verifier_count=2)
        before = {name: market.worth(name) for name in ("vera", "viktor")}
        market.commit_and_draw(job)
        await to_reveal(market, job, "vera", "viktor")
        await market.until(lambda: market.world.job(job).verdicts_paid == 2)
        for name in before:
            assert kind_of(market, job, name) == Verdict.MATCH
            assert market.worth(name) - before[name] == FEE
        assert sorted(vera.bench.runs) == [0, 1, 2, 3]
        market.world.settle(job)
        assert state_of(market, job) is State.COMPLETED


async def test_two_windows_the_second_is_checked_against_the_end_of_the_first(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(windows=2, verifier_count=1)
        for window in (0, 1):
            market.commit_and_draw(job)
            await to_reveal_window(market, job, "vera", window)
            market.world.settle(job)
        assert state_of(market, job) is State.COMPLETED
        assert sorted(vera.bench.runs) == list(range(8))


async def to_reveal_window(market: PaperMarket, job: PaperJob, name: str, window: int) -> None:
    await market.until(lambda: is_sealed(market, job, name, window))
    market.world.pass_until(market.world.job(job).drawn_at + job.offer.verdict_window_s)
    await market.until(lambda: kind_of(market, job, name, window) == Verdict.MATCH)


async def test_wrong_segment_is_challenged_and_the_worker_slashed_by_a_panel(market: PaperMarket) -> None:
    names = ("vera", "viktor", "vasco", "valid")
    async with AsyncExitStack() as stack:
        running = {name: await stack.enter_async_context(market.verifier(name)) for name in names}
        job = market.job(wrong=2, verifier_count=1)
        before = {name: market.worth(name) for name in (*names, "carol", "wim")}
        market.commit_and_draw(job)
        await market.until(lambda: bool(market.challenges(job)))
        await market.until(lambda: state_of(market, job) is State.SLASHED, pass_s=1)
        (finder,) = [name for name in names if await accused(running[name])]
        assert running[finder].bench.runs.count(2) == 2, "never accused on the strength of one run"
        assert market.worth("wim") == before["wim"] - job.offer.bond
        assert market.worth("carol") >= before["carol"], "the client is made whole"
        assert market.worth(finder) > before[finder] + job.offer.bond // 4
        votes = [vote.vote for r in running.values() for vote in await r.records.all_votes()]
        assert votes == [Vote.CHALLENGER] * 3
        await market.until_async(lambda: all_closed(running[finder]))
        (item,) = await running[finder].records.all_evidence()
        assert (item.charge, item.segment, item.stage) == ("mismatch", 2, CLOSED)
        assert "slashed" in item.message


async def accused(running: Running) -> bool:
    return bool(await running.records.all_evidence())


async def all_closed(running: Running) -> bool:
    return all(item.stage == CLOSED for item in await running.records.all_evidence())


async def test_machine_that_does_not_agree_with_itself_abstains_and_accuses_nobody(market: PaperMarket) -> None:
    async with market.verifier("vera", bench=PaperBench(market.truth, restless=True)) as vera:
        job = market.job(verifier_count=1)
        market.commit_and_draw(job)
        await to_reveal(market, job, "vera")
        await market.until(lambda: kind_of(market, job, "vera") == Verdict.ABSTAIN)
        assert state_of(market, job) is State.DRAWN
        assert not await accused(vera)
        assert vera.bench.runs[0] == vera.bench.runs[1], "the segment was run twice"


async def test_slow_machine_abstains_in_time_and_challenges_the_lie_that_it_finds_later(market: PaperMarket) -> None:
    gate = trio.Event()
    async with market.verifier("vera", bench=PaperBench(market.truth, delay=gate.wait)) as vera:
        job = market.job(wrong=2, verifier_count=1)
        market.commit_and_draw(job)
        await market.until(lambda: is_sealed(market, job, "vera"), pass_s=1)
        assert not await accused(vera)
        gate.set()
        await market.until(lambda: bool(market.challenges(job)))
        assert vera.bench.runs.count(2) == 2, "never accused on the strength of one run"


async def test_withheld_trace_is_demanded_and_silence_on_it_slashed(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1)
        market.traces.clear()
        market.commit_and_draw(job)
        await market.until(lambda: state_of(market, job) is State.DEMANDED, pass_s=1)
        await market.until(lambda: state_of(market, job) is State.SLASHED, pass_s=3)
        assert kind_of(market, job, "vera") in (0, Verdict.UNAVAILABLE)
        (item,) = await vera.records.all_evidence()
        assert (item.charge, item.opening) == ("withheld", None)


@pytest.mark.slow
async def test_withheld_checkpoint_is_challenged_with_root_zero_and_the_panel_cannot_fetch_it_either(
    market: PaperMarket,
) -> None:
    names = ("vera", "viktor", "vasco", "valid")
    async with AsyncExitStack() as stack:
        running = {name: await stack.enter_async_context(market.verifier(name)) for name in names}
        job = market.job(verifier_count=1)
        market.withhold(job, after_segment=1)  # where segment 2 starts
        market.commit_and_draw(job)
        await market.until(lambda: bool(market.challenges(job)), pass_s=1)
        assert market.challenges(job)[-1].segment == 2
        await market.until(lambda: state_of(market, job) is State.SLASHED, pass_s=1)
        votes = [vote.vote for r in running.values() for vote in await r.records.all_votes()]
        assert votes == [Vote.UNAVAILABLE] * 3


async def test_segment_that_does_not_follow_the_one_before_is_proven_without_a_panel(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1, broken=2)
        market.commit_and_draw(job)
        await market.until(lambda: state_of(market, job) is State.SLASHED)
        (item,) = await vera.records.all_evidence()
        assert (item.charge, item.segment) == ("discontinuity", 2)
        assert vera.bench.runs == []


async def test_window_that_does_not_follow_the_one_before_is_proven_too(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(windows=2, verifier_count=1, broken=4)
        market.commit_and_draw(job)
        await to_reveal_window(market, job, "vera", 0)
        market.world.settle(job)
        market.commit_and_draw(job)
        await market.until(lambda: state_of(market, job) is State.SLASHED)
        (item,) = await vera.records.all_evidence()
        assert (item.charge, item.segment) == ("discontinuity", 4)


async def test_verifier_cut_off_from_everybody_abstains(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        vera.peers.online = False
        job = market.job(verifier_count=1)
        market.traces.clear()
        market.commit_and_draw(job)
        await market.until(lambda: is_sealed(market, job, "vera"), pass_s=1)
        market.world.pass_until(market.world.job(job).drawn_at + job.offer.verdict_window_s)
        await market.until(lambda: kind_of(market, job, "vera") == Verdict.ABSTAIN)
        assert not await accused(vera)


async def test_lying_source_is_got_around(market: PaperMarket) -> None:
    """The worker serves another window's trace; a fellow verifier has the right one and the files."""
    async with market.verifier("vera") as vera, market.verifier("viktor"):
        job, other = market.job(verifier_count=1), market.job(verifier_count=1)
        worker = market.peer("wim")
        market.serve(job, paper_spec(), peer=market.peer("vera"))
        market.serve(job, paper_spec(), peer=market.peer("viktor"))
        market.traces[worker, job.job_id, 0] = market.traces[worker, other.job_id, 0]
        market.commit_and_draw(job)
        drawn = market.world.gateway.drawn_verifiers(job.offer)
        (name,) = [n for n in ("vera", "viktor") if market.world.account(n) in drawn]
        await to_reveal(market, job, name)
        await market.until(lambda: kind_of(market, job, name) == Verdict.MATCH)
        if name == "vera":
            assert worker in vera.peers.punished


@pytest.mark.slow
async def test_watcher_that_was_not_drawn_finds_the_fault_and_earns(market: PaperMarket) -> None:
    """verifierCount 0: nobody is drawn, whoever watches still finds it."""
    async with AsyncExitStack() as stack:
        vera = await stack.enter_async_context(market.verifier("vera", watch_all=True))
        for name in ("viktor", "vasco", "valid"):
            await stack.enter_async_context(market.verifier(name))
        job = market.job(
            wrong=0, verifier_count=0, segments_per_window=1, segment_count=1, spec=paper_spec(segments=1, per_window=1)
        )
        before = market.worth("vera")
        market.commit_and_draw(job)
        await market.until(lambda: state_of(market, job) is State.SLASHED, pass_s=1)
        assert market.worth("vera") > before
        assert await stage_of(vera) == [WATCHED]


async def test_verifier_killed_after_judging_seals_the_same_finding(market: PaperMarket) -> None:
    """Killed between the recorded finding and the seal: the next process does not judge again."""
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1)
        hold = trio.Event()
        vera.bench.delay = hold.wait
        market.commit_and_draw(job)
        await market.until(lambda: bool(vera.peers.asked))
    # Killed while replaying; the second process is killed right after its seal.
    async with market.verifier("vera") as second:
        await market.until(lambda: is_sealed(market, job, "vera"))
        assert sorted(second.bench.runs) == [0, 1, 2, 3]
    nonce = market.world.gateway.rpc.number("eth_getTransactionCount", market.world.account("vera"), "latest")
    async with market.verifier("vera") as third:
        market.world.pass_until(market.world.job(job).drawn_at + job.offer.verdict_window_s)
        await market.until(lambda: kind_of(market, job, "vera") == Verdict.MATCH)
        assert third.bench.runs == [], "what was sealed is not judged again"
        await market.until_async(lambda: is_stage(third, REVEALED))
    again = market.world.gateway.rpc.number("eth_getTransactionCount", market.world.account("vera"), "latest")
    assert again == nonce + 1, "one transaction, the revelation, was sent"
    async with market.verifier("vera") as fourth:
        await trio.sleep(0.2)
        assert await stage_of(fourth) == [REVEALED]
    assert market.world.gateway.rpc.number("eth_getTransactionCount", market.world.account("vera"), "latest") == again


async def is_stage(running: Running, stage: str) -> bool:
    return stage in await stage_of(running)


@pytest.mark.slow
async def test_challenge_goes_on_after_a_kill(market: PaperMarket) -> None:
    async with AsyncExitStack() as stack:
        async with market.verifier("vera") as vera:
            job = market.job(wrong=1, verifier_count=1)
            market.commit_and_draw(job)
            await market.until(lambda: bool(market.challenges(job)))
            assert await accused(vera)
        for name in ("viktor", "vasco", "valid"):
            await stack.enter_async_context(market.verifier(name))
        vera = await stack.enter_async_context(market.verifier("vera"))
        # Whoever came after the dispute began sits on no panel of its first round.
        await market.until(lambda: state_of(market, job) not in (State.CHALLENGED,), pass_s=2)
        await market.until_async(lambda: all_closed(vera))


async def test_reorg_that_undoes_the_draw_ends_the_old_duty_and_starts_the_new(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1)
        market.world.commit(job)
        before_draw = market.world.snapshot()
        market.world.draw(job)
        await market.until_async(lambda: is_stage(vera, SEALED))
        await market.until(lambda: vera.tools.chain.follower.told == market.world.gateway.block_number())
        market.world.revert(before_draw)
        market.world.pass_time(3)
        market.world.draw(job)
        market.world.mine(3)
        await market.until(lambda: is_sealed(market, job, "vera"))
        market.world.pass_until(market.world.job(job).drawn_at + job.offer.verdict_window_s)
        await market.until(lambda: kind_of(market, job, "vera") == Verdict.MATCH)
        assert len(await stage_of(vera)) == 2


# dishonest verifiers


@pytest.mark.slow
async def test_lazy_verifier_loses_its_bond_when_the_segment_is_refuted(market: PaperMarket) -> None:
    names = ("vera", "viktor", "vasco")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(market.verifier("lazy", parts=DISHONEST["lazy"]))
        for name in names:
            await stack.enter_async_context(market.verifier(name))
        job = market.job(wrong=2, verifier_count=4)
        bond = market.world.gateway.verifier(job.offer.class_id, market.world.account("lazy")).bond
        before = market.worth("lazy")
        market.commit_and_draw(job)
        await market.until(lambda: is_sealed(market, job, "lazy"))
        market.world.pass_until(market.world.job(job).drawn_at + job.offer.verdict_window_s)
        await market.until(lambda: kind_of(market, job, "lazy") == Verdict.MATCH)
        await market.until(lambda: state_of(market, job) is State.SLASHED, pass_s=1)
        registered = lambda: market.world.gateway.verifier(job.offer.class_id, market.world.account("lazy"))
        await market.until(lambda: registered().bond == 0)
        assert market.worth("lazy") < before - bond // 2


async def test_copycat_cannot_reveal_what_it_copied_and_is_fined_for_silence(market: PaperMarket) -> None:
    async with (
        market.verifier("vera"),
        market.verifier("copycat", parts=DISHONEST["copycat"]) as copycat,
    ):
        job = market.job(verifier_count=2)
        before = market.worth("copycat")
        market.commit_and_draw(job)
        await to_reveal(market, job, "vera", "copycat")
        await market.until(lambda: kind_of(market, job, "vera") == Verdict.MATCH)
        await market.until_async(lambda: is_stage(copycat, MISSED))
        market.world.pass_until(market.world.job(job).drawn_at + 2 * job.offer.verdict_window_s)
        await market.until(lambda: market.worth("copycat") == before - 2 * FEE)


async def test_silent_verifier_is_fined_and_the_penalty_pays_its_caller(market: PaperMarket) -> None:
    async with market.verifier("vera"), market.verifier("silent", parts=DISHONEST["silent"]):
        job = market.job(verifier_count=2)
        before = {name: market.worth(name) for name in ("vera", "silent")}
        market.commit_and_draw(job)
        await to_reveal(market, job, "vera")
        await market.until(lambda: kind_of(market, job, "vera") == Verdict.MATCH)
        market.world.pass_until(market.world.job(job).drawn_at + 2 * job.offer.verdict_window_s)
        await market.until(lambda: market.worth("silent") == before["silent"] - 2 * FEE)
        assert market.worth("vera") == before["vera"] + FEE + FEE


@pytest.mark.slow
async def test_false_accuser_loses_its_challenge_bond_and_the_worker_is_paid(market: PaperMarket) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(market.verifier("liar", parts=DISHONEST["false-accuser"]))
        running = [await stack.enter_async_context(market.verifier(name)) for name in ("vera", "viktor", "vasco")]
        job = market.job(verifier_count=4)
        bond = market.world.gateway.params().challenge_bond
        before = {name: market.worth(name) for name in ("liar", "wim")}
        market.commit_and_draw(job)
        await market.until(lambda: bool(market.challenges(job)))
        await market.until(lambda: state_of(market, job) is State.DRAWN, pass_s=1)
        assert market.worth("liar") <= before["liar"] - bond + FEE
        assert market.worth("wim") > before["wim"], "a share of the lost bond is the worker's"
        assert [v.vote for r in running for v in await r.records.all_votes()] == [Vote.WORKER] * 3
