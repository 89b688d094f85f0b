"""A market of paper for the verifier's tests: real chain and contracts, invented training.

A checkpoint file is `state ‖ root`, and a `PaperBench` replays by looking the true root up, so that a whole dispute
takes a second. Workers serve from memory through `MemoryPeers`. Everything between (watching, judging, sealing,
challenging, voting, poking, records, outbox) is the shipped code.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing

from tolsey.contracts import events as ev
from tolsey.contracts.chain import Chain
from tolsey.contracts.gateway import Gateway
from tolsey.errors import CheckpointUnavailable, PeerUnreachable, StorageError
from tolsey.network.pulling import TooLarge
from tolsey.protocol import merkle
from tolsey.protocol.checkpoint import segment_leaf
from tolsey.protocol.content import ContentId, content_id_of_bytes
from tolsey.protocol.encoding import canonical_json, keccak256, word
from tolsey.protocol.job import PROFILES, JobSpec, profile_of_class
from tolsey.protocol.offer import Clocks, Domain, Offer
from tolsey.protocol.units import Account, ClassId, JobId, Seconds, StateRoot, WindowRoot
from tolsey.protocol.wire import Trace, TraceEntry
from tolsey.storage.blobs import BlobStore
from tolsey.storage.engine import Database
from tolsey.testing.chain import CLASS_ID, FAST_TERMS, MarketWorld, PaperJob
from tolsey.verifier.clock import Clock
from tolsey.verifier.duty import Tools, Turns
from tolsey.verifier.fetch import Fetcher
from tolsey.verifier.pokes import Poker
from tolsey.verifier.post import Post
from tolsey.verifier.records import Evidence, Records
from tolsey.verifier.replay import Inputs, Replayed, ReplayFailed
from tolsey.verifier.service import Parts
from tolsey.verifier.serving import Traces

E = TypeVar("E", bound=ev.JobEvent)
CLOCKS = Clocks(
    commit_window_s=Seconds(600),
    reveal_window_s=Seconds(5),
    verdict_window_s=Seconds(60),
    challenge_window_s=Seconds(150),
)
"""Wide, because the tests move time themselves; nothing here waits for a real clock."""
TERMS = replace(FAST_TERMS, panel_window_s=Seconds(30))
OWN_CLASS_ID = ClassId(b"\x77" * 32)
"""Of the machine that a paper bench stands for."""
PROGRAM, DATA = b"a program", b"some data"
DATASET = canonical_json({"files": [{"content": content_id_of_bytes(DATA).hex(), "size_bytes": len(DATA)}]})


def checkpoint_bytes(root: bytes) -> bytes:
    """The file of the state with this root."""
    return b"state " + root


def checkpoint_id(root: bytes) -> ContentId:
    return content_id_of_bytes(checkpoint_bytes(root))


def paper_spec(*, segments: int = 4, per_window: int = 4, class_id: ClassId = CLASS_ID, seed: int = 7) -> JobSpec:
    """A spec of one step a segment."""
    return JobSpec(
        name="paper", program=content_id_of_bytes(PROGRAM), dataset=content_id_of_bytes(DATASET), initial_tensors=None,
        profile=profile_of_class(class_id), class_id=class_id, seed=seed, steps=segments, steps_per_segment=1,
        segments_per_window=per_window, batch_size=1, micro_batches=1, memory_bytes=1, work_flops=1,
    )  # fmt: skip


@dataclass(frozen=True)
class PaperWindow:
    """One committed window without a chain: for rules that need none."""

    offer: Offer
    domain: Domain
    job_id: JobId
    index: int
    trace: Trace
    root: WindowRoot


def paper_offer(spec: JobSpec, **changes: Any) -> Offer:
    """An offer for a spec, of nobody in particular."""
    fields: dict[str, Any] = {
        "spec_hash": spec.spec_hash, "class_id": spec.class_id, "initial_root": paper_root(0),
        "client_seal": b"\x5e" * 32, "client": "0x" + "c1" * 20, "worker": "0x" + "a0" * 20, "price": 100,
        "bond": 50, "forfeit": 5, "verdict_fee": 2, "segment_count": spec.segment_count,
        "segments_per_window": spec.segments_per_window, "verifier_count": 2, "sample_count": 2,
        "commit_window_s": 600, "reveal_window_s": 5, "verdict_window_s": 60, "challenge_window_s": 150, "nonce": 1,
        "expires_at": 2_000_000_000,
    }  # fmt: skip
    return Offer(**(fields | changes))


def paper_root(index: int) -> StateRoot:
    """The state root before segment `index`."""
    return StateRoot(keccak256(b"paper state", word(index)))


def paper_window(*, index: int = 0, broken: int | None = None, spec: JobSpec | None = None) -> PaperWindow:
    """Window `index` of a job of 8 segments in windows of 4; segment `broken` starts from nowhere."""
    spec = spec or paper_spec(segments=8)
    offer, domain = paper_offer(spec), Domain(chain_id=31_337, market=Account("0x" + "3e" * 20))
    job_id = offer.job_id(domain)
    entries = tuple(
        TraceEntry(
            index=i,
            input_root=StateRoot(keccak256(b"nowhere")) if i == broken else paper_root(i),
            output_root=paper_root(i + 1),
            checkpoint=checkpoint_id(paper_root(i + 1)),
        )
        for i in offer.window_segments(index)
    )
    start = checkpoint_id(paper_root(entries[0].index)) if index else None
    leaves = [
        segment_leaf(
            chain_id=domain.chain_id, market=domain.market, job_id=job_id, worker=offer.worker, index=entry.index,
            input_root=entry.input_root, output_root=entry.output_root,
        )
        for entry in entries
    ]  # fmt: skip
    trace = Trace(spec=spec.encode(), window_start=start, entries=entries)
    return PaperWindow(offer, domain, job_id, index, trace, WindowRoot(merkle.root(leaves)))


@dataclass
class PaperBench:
    """Replays by looking up: `truth[root before] = root after`.

    Attributes:
        class_id: of a machine like no other. profiles: what it can run.
        restless: a machine that gives another root each time. delay: awaited before each replay.
    """

    truth: dict[bytes, bytes] = field(default_factory=dict)
    class_id: ClassId = OWN_CLASS_ID
    profiles: tuple[str, ...] = PROFILES
    fingerprint: bytes = b'{"paper":true}'
    memory_bytes: int = 1 << 30
    restless: bool = False
    fails: bool = False
    runs: list[int] = field(default_factory=list)
    delay: Callable[[], Any] | None = None

    async def replay(self, inputs: Inputs, segment: int, start: Path | None, input_root: StateRoot) -> Replayed:
        files = [await trio.Path(path).read_bytes() for path in (inputs.program, inputs.dataset, *inputs.files)]
        assert files == [PROGRAM, DATASET, DATA]
        if self.delay is not None:
            await self.delay()
        if start is not None and await trio.Path(start).read_bytes() != checkpoint_bytes(input_root):
            raise CheckpointUnavailable("the file is another state")
        if self.fails:
            raise ReplayFailed("the child died")
        self.runs.append(segment)
        root = keccak256(b"noise", bytes([len(self.runs)])) if self.restless else self.truth[input_root]
        return Replayed(root=StateRoot(root), checkpoint=checkpoint_id(root))


@dataclass
class MemoryPeers:
    """What everybody serves: traces by (peer, job, window), contents by peer."""

    blobs: BlobStore
    traces: dict[tuple[str, JobId, int], bytes]
    contents: dict[str, dict[ContentId, bytes]]
    punished: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    online: bool = True
    full: bool = False
    """Whether this machine's disk refuses every file."""

    async def trace(self, peer_id: str, job_id: JobId, window: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked.append(peer_id)
        try:
            return self.traces[peer_id, job_id, window]
        except KeyError:
            raise PeerUnreachable(f"{peer_id} does not answer") from None

    async def content(self, content_id: ContentId, peer_ids: Sequence[str], owner: str, max_bytes: int) -> None:
        await trio.lowlevel.checkpoint()
        if self.full:
            raise StorageError("the disk is full")
        for peer_id in peer_ids:
            if (raw := self.contents.get(peer_id, {}).get(content_id)) is not None:
                if len(raw) > max_bytes:
                    raise TooLarge(f"{len(raw)} bytes, allowed are {max_bytes}")
                self.blobs.put_bytes(raw, pin=owner)
                return
        raise PeerUnreachable(f"nobody has {content_id.hex()[:8]}")

    def punish(self, peer_id: str, reason: str) -> None:
        self.punished.append(peer_id)

    def is_connected(self) -> bool:
        return self.online


class PaperMarket:
    """A world with one worker whose traces and files everybody can fetch.

    Attributes:
        truth: the right root after each root, for the benches.
        chains: of the verifiers that run.
    """

    def __init__(self, world: MarketWorld, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.truth: dict[bytes, bytes] = {}
        self.traces: dict[tuple[str, JobId, int], bytes] = {}
        self.contents: dict[str, dict[ContentId, bytes]] = {}
        self.chains: list[Chain] = []

    def job(
        self,
        *,
        windows: int = 1,
        wrong: int | None = None,
        broken: int | None = None,
        spec: JobSpec | None = None,
        **terms: Any,
    ) -> PaperJob:
        """An accepted job of 4 segments a window.

        Args:
            wrong: segment committed with a root that replay does not give.
            broken: segment that starts from another state than the one before it ended in.
        """
        spec = spec or paper_spec(segments=4 * windows)
        usual = {
            "spec_hash": spec.spec_hash, "class_id": spec.class_id, "segment_count": spec.segment_count,
            "segments_per_window": spec.segments_per_window, "verifier_count": 3, "sample_count": 4,
            "commit_window_s": CLOCKS.commit_window_s, "reveal_window_s": CLOCKS.reveal_window_s,
            "verdict_window_s": CLOCKS.verdict_window_s, "challenge_window_s": CLOCKS.challenge_window_s,
        }  # fmt: skip
        job = self.world.paper_job(
            windows=windows, broken=frozenset() if broken is None else frozenset({broken}), **(usual | terms)
        )
        self.world.accept(job)
        for before, after in zip(job.roots, job.roots[1:], strict=False):
            self.truth[before] = after
        if wrong is not None:
            self.truth[job.roots[wrong]] = keccak256(b"the right root", job.roots[wrong])
        self.serve(job, spec)
        return job

    def serve(self, job: PaperJob, spec: JobSpec, *, peer: str | None = None) -> None:
        """Lets a peer (the worker, unless said otherwise) serve the job's traces and files."""
        peer_id = peer or self.world.identity("wim").peer_id
        files = self.contents.setdefault(peer_id, {})
        for raw in (PROGRAM, DATASET, DATA, *map(checkpoint_bytes, job.roots[1:])):
            files[content_id_of_bytes(raw)] = raw
        for window in range(job.offer.window_count):
            self.traces[peer_id, job.job_id, window] = self.trace(job, spec, window).encode()

    def trace(self, job: PaperJob, spec: JobSpec, window: int) -> Trace:
        indices = job.offer.window_segments(window)
        entries = tuple(
            TraceEntry(
                index=i,
                input_root=job.input_root(i),
                output_root=job.roots[i + 1],
                checkpoint=checkpoint_id(job.roots[i + 1]),
            )
            for i in indices
        )
        start = checkpoint_id(job.roots[indices.start]) if indices.start else None
        return Trace(spec=spec.encode(), window_start=start, entries=entries)

    def commit_and_draw(self, job: PaperJob) -> None:
        self.world.commit(job)
        self.world.draw(job)

    @asynccontextmanager
    async def verifier(
        self,
        name: str,
        *,
        parts: Parts | None = None,
        bench: PaperBench | None = None,
        watch_all: bool = False,
        side_by_side: int = 8,
    ) -> AsyncIterator[Running]:
        """A running verifier; registered at first use, stopped (as by a kill) when the block is left."""
        gateway = self.world.as_(name)
        if self.world.gateway.verifier(CLASS_ID, gateway.wallet.account) is None:
            self.world.register_verifier(name)
        async with run_verifier(
            self, name, gateway, parts or Parts(), bench, watch_all, Turns(side_by_side)
        ) as running:
            yield running

    async def until(self, condition: Callable[[], bool], *, pass_s: int = 0, within_s: float = 60) -> None:
        """Returns once `condition` holds; lets `pass_s` of block time go by each time that everybody waits."""
        await self.until_async(partial(trio.to_thread.run_sync, condition), pass_s=pass_s, within_s=within_s)

    async def until_async(
        self, condition: Callable[[], Awaitable[bool]], *, pass_s: int = 0, within_s: float = 60
    ) -> None:
        """As `until`, for a condition that asks a database."""
        with trio.fail_after(within_s):
            while not await condition():
                if pass_s and await self.is_settled():
                    await trio.to_thread.run_sync(self.world.pass_time, pass_s)
                await trio.sleep(0.03)

    async def is_settled(self) -> bool:
        """Whether all have heard of the newest block and wait: for a block, for this test, or out a pause.

        Block time that went by earlier would make of each deadline a question of how busy this machine is.
        """
        await trio.testing.wait_all_tasks_blocked()
        head = self.world.gateway.block_number()
        return trio.testing.active_thread_count() == 0 and all(chain.follower.told == head for chain in self.chains)

    def challenges(self, job: PaperJob) -> list[ev.SegmentChallenged]:
        """Every challenge of the job so far; the dispute may be over when a test comes to look for it."""
        return self.events(job, ev.SegmentChallenged)

    def events(self, job: PaperJob, kind: type[E]) -> list[E]:
        """The job's events of a kind, from the log."""
        logs = self.world.gateway.logs(0, self.world.gateway.block_number())
        return [log for log in logs if isinstance(log, kind) and log.job_id == job.job_id]

    def peer(self, name: str) -> str:
        """The actor's peer id."""
        return self.world.identity(name).peer_id

    def withhold(self, job: PaperJob, *, after_segment: int) -> None:
        """Takes the checkpoint after a segment out of everybody's hands."""
        for files in self.contents.values():
            files.pop(checkpoint_id(job.roots[after_segment + 1]), None)

    def worth(self, name: str) -> int:
        """Free and locked token units of an actor."""
        return sum(self.world.gateway.account(self.world.account(name)))


@dataclass
class Running:
    """A verifier in a test."""

    post: Post
    records: Records
    tools: Tools
    peers: MemoryPeers
    bench: PaperBench
    traces: Traces


@asynccontextmanager
async def run_verifier(
    market: PaperMarket,
    name: str,
    gateway: Gateway,
    parts: Parts,
    bench: PaperBench | None,
    watch_all: bool,
    turns: Turns,
) -> AsyncIterator[Running]:
    folder = market.folder / name
    database = Database.open(folder / "verifier.sqlite")
    blobs = BlobStore(folder / "blobs", quota_bytes=1 << 24)
    chain = Chain(gateway, database, poll_s=0.02)
    market.chains.append(chain)
    try:
        account = gateway.wallet.account
        post = Post(chain, account, watch_all=watch_all)
        clock, records, traces = Clock(chain, gateway.now_ts()), Records(database), Traces()
        peers = MemoryPeers(blobs, market.traces, market.contents)
        bench = bench or PaperBench(market.truth)
        fetcher = Fetcher(peers, blobs, gateway.domain, sources=post.sources, keep=traces.keep)
        async with trio.open_nursery() as nursery:

            async def accuse(item: Evidence) -> None:
                post.accuse(item, tools, parts.makers, nursery)

            tools = Tools(
                chain=chain, clock=clock, records=records, judge=parts.judge(bench, fetcher, clock, post.job),
                account=account, secret=market.world.verifier_secret(name), accuse=accuse, job=post.job, turns=turns,
            )  # fmt: skip
            await nursery.start(post.run, tools, parts.makers)
            await nursery.start(chain.serve)
            await nursery.start(Poker(chain, clock, lambda: post.watcher).run)
            yield Running(post, records, tools, peers, bench, traces)
            nursery.cancel_scope.cancel()
    finally:
        market.chains.remove(chain)
        blobs.close()
        database.close()
