"""The state machine of one job against a real chain: its turns, its ends, and kill -9 at every durable step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tolsey.contracts.events import SegmentAnswered, WindowCommitted
from tolsey.node.jobs import KEPT_RESULTS_S
from tolsey.node.records import Records
from tolsey.protocol.lifecycle import State
from tolsey.storage.blobs import BlobStore
from tolsey.storage.engine import Database
from tolsey.testing.chain import MarketWorld, PaperJob

from .paper_worker import FailingExecutor, diligent_client, live, live_and_die, remember


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MarketWorld]:
    with MarketWorld.open(tmp_path_factory.mktemp("market")) as opened:
        for name in ("carol", "dora", "wim"):
            opened.as_(name)
        yield opened


def accepted(world: MarketWorld, home: Path, **terms: int) -> PaperJob:
    """A job that wim has offered and carol accepted; wim does not know of the latter yet."""
    paper = world.paper_job(**{"windows": 2, "segments_per_window": 2} | terms)
    remember(home, paper)
    world.accept(paper)
    return paper


def sent(world: MarketWorld, name: str) -> int:
    return int(world.rpc("eth_getTransactionCount", world.account(name), "latest"), 16)


async def test_job_is_trained_committed_answered_settled_and_paid(world: MarketWorld, tmp_path: Path) -> None:
    paper = await trio.to_thread.run_sync(accepted, world, tmp_path)
    free, locked = world.gateway.account(paper.offer.worker)
    job = await live(world, tmp_path, paper, client=diligent_client)
    assert (job.state, job.phase, job.window) == (State.COMPLETED, "done", 2)
    after = world.gateway.account(paper.offer.worker)
    answer_reward = world.gateway.params().challenge_bond // 10
    assert (after[0] - free, locked - after[1]) == (
        paper.offer.price + paper.offer.bond + answer_reward,
        paper.offer.bond,
    )
    assert [world.gateway.window_root(paper.job_id, w) for w in (0, 1)] == [paper.root(0), paper.root(1)]


async def test_closed_job_keeps_only_the_last_paid_checkpoint_pinned(world: MarketWorld, tmp_path: Path) -> None:
    paper = await trio.to_thread.run_sync(accepted, world, tmp_path)
    await live(world, tmp_path, paper, client=diligent_client)
    pinned, segments = await _pinned(tmp_path, paper)
    assert pinned == [segments[-1]]


async def test_result_of_a_job_closed_long_ago_is_let_go(world: MarketWorld, tmp_path: Path) -> None:
    paper = await trio.to_thread.run_sync(lambda: accepted(world, tmp_path, windows=1))
    await live(world, tmp_path, paper, client=diligent_client)
    later = await trio.to_thread.run_sync(lambda: accepted(world, tmp_path, windows=1))
    await trio.to_thread.run_sync(world.pass_time, KEPT_RESULTS_S + 1)
    await live(world, tmp_path, later)
    assert (await _pinned(tmp_path, paper))[0] == []


async def test_silent_client_worker_draws_itself_when_overdue(world: MarketWorld, tmp_path: Path) -> None:
    paper = await trio.to_thread.run_sync(lambda: accepted(world, tmp_path, windows=1))

    async def absent(world: MarketWorld, paper: PaperJob) -> None:
        while True:
            view = await trio.to_thread.run_sync(world.job, paper)
            if view.state in (State.COMMITTED, State.DRAWN):
                await trio.to_thread.run_sync(world.pass_until, view.deadline)
            await trio.sleep(0.02)

    job = await live(world, tmp_path, paper, client=absent)
    assert job.state is State.COMPLETED


async def test_job_that_cannot_be_trained_is_resigned_from_at_once(world: MarketWorld, tmp_path: Path) -> None:
    paper = await trio.to_thread.run_sync(accepted, world, tmp_path)
    free, _ = world.gateway.account(paper.offer.worker)
    job = await live(world, tmp_path, paper, executor=FailingExecutor)
    assert (job.state, job.phase) == (State.CANCELLED, "failed")
    assert job.message == "the contents give another initial root"
    assert world.gateway.account(paper.offer.worker)[0] - free == paper.offer.bond - paper.offer.forfeit


async def test_job_cancelled_by_the_client_is_closed(world: MarketWorld, tmp_path: Path) -> None:
    paper = await trio.to_thread.run_sync(accepted, world, tmp_path)
    await trio.to_thread.run_sync(world.send, "carol", world.gateway.action.cancel(paper.offer))
    job = await live(world, tmp_path, paper)
    assert job.state is State.CANCELLED


async def test_job_whose_deadline_passed_while_we_slept_is_expired_by_us(world: MarketWorld, tmp_path: Path) -> None:
    paper = await trio.to_thread.run_sync(accepted, world, tmp_path)
    await trio.to_thread.run_sync(lambda: world.pass_until(world.job(paper).deadline))
    job = await live(world, tmp_path, paper)
    assert job.state is State.EXPIRED


async def test_offer_accepted_while_running_begins_at_once(world: MarketWorld, tmp_path: Path) -> None:
    paper = world.paper_job(windows=1, segments_per_window=2)
    await trio.to_thread.run_sync(remember, tmp_path, paper)

    async def late(world: MarketWorld, paper: PaperJob) -> None:
        await trio.to_thread.run_sync(world.accept, paper)
        await diligent_client(world, paper)

    assert (await live(world, tmp_path, paper, client=late)).state is State.COMPLETED


async def test_reorganised_acceptance_is_started_again(world: MarketWorld, tmp_path: Path) -> None:
    paper = world.paper_job(windows=1, segments_per_window=2)
    await trio.to_thread.run_sync(remember, tmp_path, paper)

    async def undo_once(world: MarketWorld, paper: PaperJob) -> None:
        snapshot = await trio.to_thread.run_sync(world.snapshot)
        await trio.to_thread.run_sync(world.accept, paper)
        await trio.to_thread.run_sync(_until_committed, world, paper)
        await trio.to_thread.run_sync(world.revert, snapshot)
        await trio.to_thread.run_sync(world.mine, 3)
        await trio.to_thread.run_sync(world.accept, paper)
        await diligent_client(world, paper)

    assert (await live(world, tmp_path, paper, client=undo_once)).state is State.COMPLETED


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_kill_at_every_durable_step_loses_nothing_and_repeats_nothing(
    world: MarketWorld, tmp_path: Path, after: bool
) -> None:
    at, steps = 0, None
    while steps is None or at < steps:
        at += 1
        home = tmp_path / str(at)
        paper = accepted(world, home, windows=1)
        nonce, first_block = sent(world, "wim"), world.gateway.block_number()
        if live_and_die(world, home, paper, at=at, after=after) is None:
            lived = live_and_die(world, home, paper, at=-1, after=False)
            assert lived is not None
        else:
            steps = at
        check_once(world, paper, nonce, first_block)
    assert at > 10, f"only {at} durable steps were met"


def check_once(world: MarketWorld, paper: PaperJob, nonce: int, first_block: int) -> None:
    """One commitment, one answer, one settlement: three transactions, all of them good."""
    assert world.job(paper).state is State.COMPLETED
    events = world.gateway.logs(first_block, world.gateway.block_number())
    ours = [event for event in events if getattr(event, "job_id", None) == paper.job_id]
    assert sum(isinstance(event, WindowCommitted) for event in ours) == 1
    assert sum(isinstance(event, SegmentAnswered) for event in ours) == 1
    assert sent(world, "wim") - nonce == 3


def _until_committed(world: MarketWorld, paper: PaperJob) -> None:
    while world.job(paper).state is not State.COMMITTED:
        time.sleep(0.02)


async def _pinned(home: Path, paper: PaperJob) -> tuple[list[bytes], list[bytes]]:
    database, blobs = Database.open(home / "worker.sqlite"), BlobStore(home / "blobs", 1 << 30)
    try:
        segments = [record.checkpoint for record in await Records(database).segments(paper.job_id)]
        return [cid for cid in segments if blobs.owners(cid)], list(segments)
    finally:
        blobs.close()
        database.close()
