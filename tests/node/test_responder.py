"""What strangers get from a worker, and what they are told where there is nothing to get."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from tolsey.contracts.listing_book import ListingBook
from tolsey.errors import ChainUnavailable, RemoteViolation
from tolsey.network.rpc import RpcRefused
from tolsey.node.records import JobRecord, OfferRecord, Records, SegmentRecord
from tolsey.node.responder import Responder, guarded, thinned
from tolsey.protocol.content import ContentId
from tolsey.protocol.lifecycle import State
from tolsey.protocol.units import Account, JobId, StateRoot
from tolsey.protocol.wire import Progress, Trace, WindowRequest, decode_step_roots
from tolsey.storage.engine import Database

from . import worlds


class World:
    """A responder over real tables; replays take until `go` is set and are counted."""

    def __init__(self, database: Database) -> None:
        self.records = Records(database)
        self.replays = 0
        self.live: dict[JobId, list[tuple[int, str]]] = {}
        self.go = trio.Event()
        self.go.set()
        book = ListingBook(worlds.DOMAIN, is_registered=self._yes, now_ts=lambda: worlds.NOW)
        nothing = cast(Any, None)
        self.responder = Responder(self.records, nothing, cast(Any, self), book, nothing)

    async def _yes(self, account: Account, peer_id: str) -> bool:
        return True

    async def step_roots(self, job: JobRecord, index: int) -> list[StateRoot]:
        self.replays += 1
        await self.go.wait()
        return [StateRoot(bytes([index, step]) * 16) for step in range(2)]

    async def job(self, segments: int) -> JobId:
        """A job with that many finished segments."""
        offer = worlds.offer()
        record = OfferRecord(
            job_id=worlds.job_id(offer),
            request_hash=bytes(32),
            offer=offer,
            signature=bytes(65),
            spec=worlds.spec(),
            client_peer_id=worlds.GOOD_PEER,
        )
        await self.records.keep_offer(record)
        await self.records.begin_job(record.job_id)
        for index in range(segments):
            made = SegmentRecord(
                index=index,
                input_root=StateRoot(bytes([index]) * 32),
                output_root=StateRoot(bytes([index + 1]) * 32),
                checkpoint=ContentId(bytes([index + 100]) * 32),
                losses=((2 * index, "1.5"), (2 * index + 1, "1.25")),
                step_us=2_500,
            )
            await self.records.add_segment(record.job_id, made)
        return record.job_id


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = Database.open(tmp_path / "worker.sqlite")
    yield World(database)
    database.close()


def about(job_id: JobId, index: int = 0) -> bytes:
    return WindowRequest(job_id=job_id, index=index).encode()


async def test_progress_counts_steps_and_shows_losses(world: World) -> None:
    job_id = await world.job(3)
    progress = Progress.decode(await world.responder.progress("peer", about(job_id)))
    assert (progress.step, progress.steps, progress.phase, progress.step_s) == (6, 12, "fetching", "0.002500")
    assert progress.losses == tuple((step, "1.25" if step % 2 else "1.5") for step in range(6))


async def test_progress_shows_the_steps_of_the_unfinished_segment(world: World) -> None:
    job_id = await world.job(3)
    world.live[job_id] = [(5, "1.25"), (6, "1.0"), (7, "0.5")]  # step 5 is kept already
    progress = Progress.decode(await world.responder.progress("peer", about(job_id)))
    assert (progress.step, progress.losses[-2:]) == (8, ((6, "1.0"), (7, "0.5")))
    assert [step for step, _ in progress.losses] == list(range(8))


async def test_progress_unknown_job_says_so(world: World) -> None:
    with pytest.raises(RpcRefused) as refused:
        await world.responder.progress("peer", about(JobId(bytes(32))))
    assert refused.value.code == "unknown"


async def test_trace_of_window_names_its_start(world: World) -> None:
    job_id = await world.job(4)
    first = Trace.decode(await world.responder.trace("peer", about(job_id, 0)))
    second = Trace.decode(await world.responder.trace("peer", about(job_id, 1)))
    assert (first.window_start, [entry.index for entry in first.entries]) == (None, [0, 1])
    assert (second.window_start, [entry.index for entry in second.entries]) == (bytes([101]) * 32, [2, 3])
    assert second.spec == worlds.spec().encode()


async def test_trace_unfinished_window_is_not_yet(world: World) -> None:
    job_id = await world.job(3)
    with pytest.raises(RpcRefused) as refused:
        await world.responder.trace("peer", about(job_id, 1))
    assert refused.value.code == "not-yet" and "1 of 2 segments" in refused.value.message


async def test_trace_window_beyond_the_job_is_a_violation(world: World) -> None:
    job_id = await world.job(1)
    with pytest.raises(RemoteViolation, match="window 3 of 3"):
        await world.responder.trace("peer", about(job_id, 3))


async def test_steps_are_replayed_once_and_remembered(world: World) -> None:
    job_id = await world.job(1)
    for _ in range(3):
        roots = decode_step_roots(await world.responder.steps("peer", about(job_id, 0)), 2)
    assert roots == await world.step_roots(cast(Any, None), 0)
    assert world.replays == 2  # one for three peers, one by this test


async def test_steps_second_replay_at_a_time_is_refused(world: World) -> None:
    job_id = await world.job(2)
    world.go = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.responder.steps, "peer", about(job_id, 0))
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(RpcRefused) as refused:
            await world.responder.steps("other", about(job_id, 1))
        world.go.set()
    assert refused.value.code == "not-now"


async def test_steps_of_unmade_segment_or_closed_job_are_refused(world: World) -> None:
    job_id = await world.job(1)
    with pytest.raises(RpcRefused) as refused:
        await world.responder.steps("peer", about(job_id, 1))
    assert refused.value.code == "not-yet"
    await world.records.note(job_id, state=State.COMPLETED)
    with pytest.raises(RpcRefused) as refused:
        await world.responder.steps("peer", about(job_id, 0))
    assert refused.value.code == "not-now" and world.replays == 0


async def test_guarded_chain_trouble_is_unavailable(world: World) -> None:
    async def broken(_peer: str, _raw: bytes) -> bytes:
        raise ChainUnavailable("no answer")

    with pytest.raises(RpcRefused) as refused:
        await guarded(broken)("peer", b"")
    assert refused.value.code == "unavailable"


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 4097])
def test_thinned_keeps_both_ends_and_the_bound(count: int) -> None:
    points = [(step, "1") for step in range(count)]
    kept = thinned(points, 10)
    assert len(kept) == min(count, 10)
    assert kept[:1] == points[:1] and kept[-1:] == points[-1:]
