"""Whole days of verifiers on a real chain with real contracts; only the training is of paper (worlds.py)."""

from __future__ import annotations


from tolsey.protocol.lifecycle import State, Verdict
from tolsey.testing.chain import DOLLAR

from .worlds import PaperMarket

FEE = 2 * DOLLAR


def verdict_kind(market: PaperMarket, job: object, name: str) -> int:
    return market.world.gateway.verdict(job.job_id, 0, market.world.account(name)).kind  # type: ignore[attr-defined]


async def test_honest_day_every_drawn_verifier_says_match_and_is_paid(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera, market.verifier("viktor"):
        job = market.job(verifier_count=2)
        before = {name: market.free(name) for name in ("vera", "viktor")}
        market.commit_and_draw(job)
        sealed = lambda: all(  # noqa: E731
            any(market.world.gateway.verdict(job.job_id, 0, market.world.account(n)).seal) for n in ("vera", "viktor")
        )
        await market.until(sealed)
        market.world.pass_until(market.world.job(job).drawn_at + job.offer.verdict_window_s)
        await market.until(lambda: market.world.job(job).verdicts_paid == 2)
        for name in before:
            assert verdict_kind(market, job, name) == Verdict.MATCH
            assert market.free(name) - before[name] == FEE
        assert sorted(vera.bench.runs) == [0, 1, 2, 3]
        market.world.settle(job)
        assert market.world.job(job).state is State.COMPLETED
