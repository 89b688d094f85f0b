"""A verifier among workers, buyers and fellows that mean it harm: it accuses whom it should, and nobody else."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from tolsey.errors import CheckpointUnavailable, RemoteViolation
from tolsey.protocol.content import ContentId, content_id_of_bytes
from tolsey.protocol.encoding import keccak256
from tolsey.protocol.lifecycle import State, Verdict, Vote
from tolsey.protocol.sampling import challenge_seal
from tolsey.protocol.wire import Trace
from tolsey.runtime import dataset, graph
from tolsey.storage.blobs import BlobStore
from tolsey.testing.chain import PaperJob
from tolsey.verifier import files
from tolsey.verifier.compare import NOBODY_SERVES
from tolsey.verifier.fetch import Fetcher
from tolsey.verifier.files import JobFiles, Wanted, state_bytes
from tolsey.verifier.records import QUEUED
from tolsey.verifier.watcher import Job

from .worlds import (
    MemoryPeers,
    PaperMarket,
    Running,
    paper_offer,
    paper_spec,
    paper_window,
)


def state_of(market: PaperMarket, job: PaperJob) -> State:
    return market.world.job(job).state


async def verdict_of(running: Running, job: PaperJob, window: int = 0) -> Verdict | None:
    """What the verifier recorded for a window."""
    found = [record.kind for record in await running.records.newest_duties()
             if (record.duty.job_id, record.duty.draw.window) == (job.job_id, window)]  # fmt: skip
    return found[0] if found else None


async def judged(market: PaperMarket, running: Running, job: PaperJob, window: int = 0) -> Verdict:
    """Lets time go by until the verifier has its finding."""

    async def has_found() -> bool:
        return await verdict_of(running, job, window) is not None

    await market.until_async(has_found, pass_s=1)
    kind = await verdict_of(running, job, window)
    assert kind is not None
    return kind


def served(market: PaperMarket, job: PaperJob, window: int = 0) -> Trace:
    """What the worker serves."""
    return Trace.decode(market.traces[market.peer("wim"), job.job_id, window])


def serve(market: PaperMarket, job: PaperJob, trace: Trace) -> None:
    market.traces[market.peer("wim"), job.job_id, 0] = trace.encode()


def naming(trace: Trace, checkpoint: Callable[[int], ContentId]) -> Trace:
    """The same roots with other files: the chain vouches for the roots alone."""
    entries = tuple(dataclasses.replace(entry, checkpoint=checkpoint(entry.index)) for entry in trace.entries)
    return dataclasses.replace(trace, entries=entries)


# what is served


async def test_hidden_window_before_keeps_nobody_from_this_one(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(windows=2, verifier_count=1, wrong=6)
        market.commit_and_draw(job)
        assert await judged(market, vera, job) is Verdict.MATCH
        market.world.settle(job)
        del market.traces[market.peer("wim"), job.job_id, 0]
        market.commit_and_draw(job)
        await market.until(lambda: bool(market.challenges(job)))
        assert market.world.gateway.dispute(job.job_id).segment == 6


async def test_hidden_window_before_is_said_where_all_the_rest_matches(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(windows=2, verifier_count=1)
        market.commit_and_draw(job)
        assert await judged(market, vera, job) is Verdict.MATCH
        market.world.settle(job)
        del market.traces[market.peer("wim"), job.job_id, 0]
        market.commit_and_draw(job)
        assert await judged(market, vera, job, window=1) is Verdict.UNAVAILABLE
        assert sorted(vera.bench.runs) == list(range(8)), "each segment was run, and only once"
        assert await vera.records.all_evidence() == [], "nothing of this window can be charged with it"


async def test_wrong_files_beside_right_roots_are_got_around(market: PaperMarket) -> None:
    """The worker names files that nobody has; a fellow verifier knows the right ones."""
    async with AsyncExitStack() as stack:
        running = {n: await stack.enter_async_context(market.verifier(n)) for n in ("vera", "viktor")}
        job = market.job(verifier_count=2)
        for name in running:
            market.serve(job, paper_spec(), peer=market.peer(name))
        serve(market, job, naming(served(market, job), lambda i: ContentId(keccak256(b"nothing", bytes([i])))))
        market.commit_and_draw(job)
        for verifier in running.values():
            assert await judged(market, verifier, job) is Verdict.MATCH


async def test_other_file_named_at_each_request_is_the_same_missing_checkpoint(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1)
        honest, count = served(market, job), 0

        class Changing(dict[object, bytes]):
            def __getitem__(self, key: object) -> bytes:
                nonlocal count
                count += 1
                return naming(honest, lambda i: ContentId(keccak256(b"lie", bytes([i, count % 256])))).encode()

        vera.peers.traces = Changing()  # type: ignore[assignment]
        market.commit_and_draw(job)
        await market.until(lambda: bool(market.challenges(job)), pass_s=1)
        assert count > 3
        (item,) = await vera.records.all_evidence()
        assert item.charge == "unavailable"


async def test_checkpoint_larger_than_the_job_can_be_is_none(market: PaperMarket) -> None:
    """A worker must not make every verifier's disk its excuse."""
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1)
        raw = bytes(state_bytes(paper_spec()) + 1)
        market.contents[market.peer("wim")][content_id_of_bytes(raw)] = raw
        serve(market, job, naming(served(market, job), lambda i: content_id_of_bytes(raw)))
        market.commit_and_draw(job)
        assert await judged(market, vera, job) is Verdict.UNAVAILABLE
        (item,) = await vera.records.all_evidence()
        assert (item.charge, item.segment > 0) == ("unavailable", True)


async def test_full_disk_of_its_own_accuses_nobody(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        vera.peers.full = True
        job = market.job(verifier_count=1)
        market.commit_and_draw(job)
        assert await judged(market, vera, job) is Verdict.ABSTAIN
        (record,) = await vera.records.newest_duties()
        assert "no room" in record.message
        assert await vera.records.all_evidence() == []


async def test_file_that_was_here_as_another_kind_is_not_taken_for_a_small_one(tmp_path: Path) -> None:
    """A data set's manifest is read into memory: its id must not be one of gigabytes that are pinned already."""
    blobs = BlobStore(tmp_path / "blobs", quota_bytes=1 << 24)
    large = blobs.put_bytes(bytes(files.MAX_MANIFEST_BYTES + 1), pin="another-job")

    class Here(MemoryPeers):
        async def content(self, content_id: ContentId, peer_ids: object, owner: str, max_bytes: int) -> None:
            self.blobs.pin(content_id, owner)

    window = paper_window()
    fetcher = Fetcher(Here(blobs, {}, {}), blobs, window.domain, sources=lambda job_id: [], keep=lambda *kept: None)
    job_files = JobFiles(fetcher, window.job_id, "duty-x", Wanted(lambda: 0.0))
    program = blobs.put_bytes(b"program")
    with pytest.raises(CheckpointUnavailable, match="allowed are"):
        await job_files.inputs(dataclasses.replace(paper_spec(), program=program, dataset=large))
    blobs.close()


# panels


async def disputed_by_a_liar(market: PaperMarket, job: PaperJob) -> None:
    """Mallory says of honest work that nobody serves it."""
    mallory, salt = market.world.as_("mallory"), b"\x01" * 32
    seal = challenge_seal(market.world.account("mallory"), job.job_id, 1, NOBODY_SERVES, salt)
    market.world.send("mallory", mallory.action.seal_challenge(seal))
    market.world.mine()
    market.world.send("mallory", mallory.action.challenge(job.offer, job.opening(1), NOBODY_SERVES, salt))


async def votes_of(running: list[Running]) -> list[Vote | None]:
    return [vote.vote for one in running for vote in await one.records.all_votes() if vote.vote is not None]


@pytest.mark.parametrize("trouble", ["cut off", "full"])
async def test_panel_member_in_trouble_of_its_own_abstains(market: PaperMarket, trouble: str) -> None:
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(market.verifier(n)) for n in ("vera", "viktor", "vasco")]
        job = market.job(verifier_count=0)
        market.commit_and_draw(job)
        for one in running:
            one.peers.online, one.peers.full = trouble != "cut off", trouble == "full"
        if trouble == "cut off":
            market.traces.clear()
        await disputed_by_a_liar(market, job)
        await market.until_async(partial(all_voted, running), pass_s=1)
        assert (await votes_of(running))[:3] == [Vote.ABSTAIN] * 3


async def test_panel_that_can_fetch_clears_whom_a_liar_called_unavailable(market: PaperMarket) -> None:
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(market.verifier(n)) for n in ("vera", "viktor", "vasco")]
        job = market.job(verifier_count=0)
        before = market.worth("wim")
        market.commit_and_draw(job)
        await disputed_by_a_liar(market, job)
        await market.until(lambda: state_of(market, job) is State.DRAWN, pass_s=1)
        assert await votes_of(running) == [Vote.WORKER] * 3
        assert market.worth("wim") > before


async def test_hidden_windows_keep_nobody_from_a_panel(market: PaperMarket) -> None:
    """One window at a time is looked at here, and that one is waited for in vain."""
    async with market.verifier("vera", side_by_side=1) as vera:
        hidden = market.job(verifier_count=1)
        market.traces.clear()
        market.commit_and_draw(hidden)
        await market.until(lambda: len(vera.peers.asked) > 2)
        job = market.job(verifier_count=0)
        market.commit_and_draw(job)
        await disputed_by_a_liar(market, job)
        await market.until_async(lambda: has_voted(vera))
        assert await verdict_of(vera, hidden) is None, "it still waits"


async def all_voted(running: list[Running]) -> bool:
    return len(await votes_of(running)) >= 3


async def has_voted(running: Running) -> bool:
    return await votes_of([running]) == [Vote.WORKER]


# what waited is looked at again


async def test_missing_checkpoint_that_came_while_its_charge_waited_is_charged_no_more(market: PaperMarket) -> None:
    async with market.verifier("vera") as vera:
        job = market.job(verifier_count=1)
        market.withhold(job, after_segment=1)
        market.commit_and_draw(job)
        await market.until(lambda: len(vera.peers.asked) > 2)
        market.world.pass_time(40)
        market.world.send("mallory", market.world.as_("mallory").action.demand(job.offer, 0))
        market.world.pass_time(15)  # the verdict is due
        await market.until_async(lambda: is_queued(vera))
        market.serve(job, paper_spec())
        market.world.send("wim", market.world.as_("wim").action.answer(job.offer, job.opening(0)))
        await market.until_async(lambda: is_dropped(vera, "looked at again"))
        market.world.settle(job)
        assert state_of(market, job) is State.COMPLETED


async def is_queued(running: Running) -> bool:
    return [(i.charge, i.stage) for i in await running.records.all_evidence()] == [("unavailable", QUEUED)]


async def is_dropped(running: Running, why: str) -> bool:
    return [why in item.message for item in await running.records.all_evidence()] == [True]


# parsing


async def test_node_goes_on_while_a_huge_trace_is_checked(tmp_path: Path) -> None:
    """A window of 65,536 segments takes seconds to check; this one is an eighth of it."""
    spec = paper_spec(segments=8_192, per_window=8_192)
    window = paper_window(spec=spec)
    blobs = BlobStore(tmp_path / "blobs", quota_bytes=1 << 24)
    peers = MemoryPeers(blobs, {("wim", window.job_id, 0): window.trace.encode()}, {})
    fetcher = Fetcher(peers, blobs, window.domain, sources=lambda job_id: ["wim"], keep=lambda *kept: None)
    job = Job(window.job_id, paper_offer(spec), State.DRAWN, 0, 0)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await trio.sleep(0.005)
            beats += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        await trio.sleep(0.02)
        before = beats
        trace = await fetcher.trace(job, 0, window.root)
        during = beats - before
        nursery.cancel_scope.cancel()
    assert len(trace.entries) == 8_192
    assert during > 5
    blobs.close()


@pytest.mark.parametrize("raw", [b"[" * 1_000_000, b'{"entries":' * 300_000, b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"])
def test_nested_trace_is_refused_under_a_lifted_recursion_limit(raw: bytes) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(RemoteViolation, match="nested"):
            Trace.decode(raw)
    finally:
        sys.setrecursionlimit(limit)


def test_bounds_of_files_are_the_runtimes() -> None:
    assert files.MAX_PROGRAM_BYTES == graph.MAX_PROGRAM_BYTES
    assert (files.MAX_MANIFEST_BYTES, files.MAX_DATA_FILES) == (dataset.MAX_MANIFEST_BYTES, dataset.MAX_FILES)


# patience


class Time:
    """Patience is measured by this."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_blame_needs_a_fair_chance() -> None:
    time = Time()
    wanted = Wanted(time)
    wanted.ask("the trace")
    time.now_s = 40
    assert wanted.blame() == "the trace did not come in 40 of 40 s"
    wanted.got()
    assert wanted.blame() is None
    wanted.ask("the checkpoint")
    time.now_s = 60
    assert wanted.blame() is None, "asked for in the last third only"
    time.now_s = 81
    assert wanted.blame() is not None


def test_blame_of_who_says_no_needs_less_but_not_nothing() -> None:
    time = Time()
    wanted = Wanted(time)
    time.now_s = 99
    wanted.ask("the checkpoint")
    wanted.refused("nobody serves it")
    assert wanted.blame() is None, "it may just be starting again"
    time.now_s = 111
    assert wanted.blame() == "nobody serves it"


def test_blame_of_a_silent_source_needs_seconds_however_short_the_time() -> None:
    time = Time()
    wanted = Wanted(time)
    wanted.ask("the trace")
    time.now_s = 4
    assert wanted.blame() is None


def test_what_is_wrong_each_time_anew_was_missing_all_along() -> None:
    """Files come and prove to be another state: between two of them nothing is missing, yet it never came."""
    time = Time()
    wanted = Wanted(time)
    for now_s in range(0, 100, 10):
        time.now_s = now_s
        wanted.ask("the checkpoint before segment 3")
        wanted.got()
        wanted.refused("not the committed state")
    assert wanted.blame() == "not the committed state"


def test_what_finds_no_room_here_is_nobodys_guilt_even_while_it_is_on_its_way_again() -> None:
    time = Time()
    wanted = Wanted(time)
    for now_s in range(0, 100, 10):
        time.now_s = now_s
        wanted.ask("content 73f0066a829ffc99")
        time.now_s += 1
        wanted.own_trouble()
    wanted.ask("content 73f0066a829ffc99")
    time.now_s += 1
    assert wanted.blame() is None
