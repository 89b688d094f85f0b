"""A client that does what a buyer must and nothing else: builds, serves, asks, accepts, reveals its secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy
import trio
from torch import nn

from tolsey.contracts.gateway import JobView, Phase
from tolsey.contracts.wallet import recover
from tolsey.network.host import Host, open_host
from tolsey.network.transfer import fetch, serve_content
from tolsey.node.responder import rpc_of
from tolsey.protocol.content import ContentId
from tolsey.protocol.job import EXACT_FP32, JobSpec, class_of_profile
from tolsey.protocol.lifecycle import FINAL, State
from tolsey.protocol.offer import Clocks, Offer, seal_chain
from tolsey.protocol.sampling import dispute_id
from tolsey.protocol.units import Account, ClassId, JobId, Seconds, StateRoot, TokenUnits
from tolsey.protocol.wire import OFFER, PROGRESS, TRACE, OfferReply, OfferRequest, Progress, Trace, WindowRequest
from tolsey.runtime import author
from tolsey.storage.blobs import BlobStore
from tolsey.testing.chain import MarketWorld

QUICK = Clocks(
    commit_window_s=Seconds(120),
    reveal_window_s=Seconds(5),
    verdict_window_s=Seconds(10),
    challenge_window_s=Seconds(21),
)


def tiny_job(
    *, steps: int = 8, steps_per_segment: int = 2, segments_per_window: int = 2, profile: str = EXACT_FP32
) -> author.Job:
    """A two-layer net on made-up points; a step takes well under a millisecond."""
    points = numpy.random.default_rng(1).standard_normal((64, 8), dtype=numpy.float32)
    return author.Job(
        name="tiny",
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)),
        data=author.arrays(x=points, y=numpy.arange(64) % 4),
        lr="1e-2",
        batch_size=8,
        steps=steps,
        steps_per_segment=steps_per_segment,
        segments_per_window=segments_per_window,
        seed=3,
        profile=profile,
    )


def spec_of(built: author.BuiltJob, pinned_to: ClassId | None = None) -> JobSpec:
    """The spec that names what was built; a job of profile `pinned` needs the class that it is for."""
    job = built.job
    class_id = class_of_profile(job.profile) or pinned_to
    assert class_id is not None, "which machines is it pinned to?"
    return JobSpec(
        name=job.name,
        program=built.program_id,
        dataset=built.dataset_id,
        initial_tensors=built.initial_id,
        profile=job.profile,
        class_id=class_id,
        seed=job.seed,
        steps=job.steps,
        steps_per_segment=job.steps_per_segment,
        segments_per_window=job.segments_per_window,
        batch_size=job.batch_size,
        micro_batches=job.micro_batches,
        memory_bytes=built.memory_bytes,
        work_flops=built.work_flops,
    )


class ScriptedClient:
    """See the file's docstring. Made by `open_client`."""

    def __init__(self, world: MarketWorld, host: Host, blobs: BlobStore, built: author.BuiltJob, spec: JobSpec) -> None:
        self.world, self.host, self.blobs, self.built, self.spec = world, host, blobs, built, spec
        self.secrets = seal_chain(b"\x42" * 32, spec.window_count)
        world.as_("carol")

    def request(self, clocks: Clocks = QUICK) -> OfferRequest:
        """What we want; a quote comes back, until it is signed for a worker (`claim`)."""
        return OfferRequest(
            spec=self.spec,
            initial_root=StateRoot(self.built.initial_root),
            client=Account(self.world.account("carol")),
            client_seal=self.secrets[-1],
            verifier_count=1,
            sample_count=1,
            verdict_fee=TokenUnits(1_000_000),
            clocks=clocks,
        )

    async def ask(self, worker_addr: str, request: OfferRequest | None = None, *, buyer: str = "carol") -> OfferReply:
        """The worker's offer for our request, or its refusal: first its quote, then, signed to it by name, its word.

        Args:
            buyer: the actor that the request names as its client.
        """
        peer_id = await self.host.connect(worker_addr)
        request = request or self.request()
        reply = OfferReply.decode(await rpc_of(OFFER).call(self.host, peer_id, request.encode()))
        if reply.offer is None:
            return reply
        digest = request.claim_digest(self.world.network.domain, reply.offer.worker)
        claim = replace(request, client_signature=self.world.wallet(buyer).sign_digest(digest))
        return OfferReply.decode(await rpc_of(OFFER).call(self.host, peer_id, claim.encode()))

    async def accept(self, reply: OfferReply) -> tuple[Offer, JobId]:
        """Puts the offer on chain."""
        assert reply.offer is not None, reply.refusal
        job_id = reply.offer.job_id(self.world.network.domain)
        assert recover(job_id, reply.signature) == reply.offer.worker
        action = self.world.as_("carol").action.accept(reply.offer, reply.signature)
        await trio.to_thread.run_sync(self.world.send, "carol", action)
        return reply.offer, job_id

    async def reveal_until_final(self, offer: Offer, job_id: JobId) -> State:
        """Draws each committed window; jumps over the waiting times of a chain whose clock obeys."""
        while (view := await self._look_and_draw(offer, job_id)).state not in FINAL:
            if view.state is State.DRAWN:
                await trio.to_thread.run_sync(self.world.pass_until, view.deadline)
            await trio.sleep(0.1)
        return view.state

    async def judged_until_final(self, offer: Offer, job_id: JobId) -> State:
        """Draws each committed window; jumps over waiting once the drawn verifiers, or a panel, have done theirs."""
        while (view := await self._look_and_draw(offer, job_id)).state not in FINAL:
            if view.state is State.CHALLENGED:
                await trio.to_thread.run_sync(self._jump_over_votes, job_id)
            if view.state is State.DRAWN:
                await trio.to_thread.run_sync(self._jump_over_verdicts, offer, job_id, view)
            await trio.sleep(0.2)
        return view.state

    async def _look_and_draw(self, offer: Offer, job_id: JobId) -> JobView:
        """How the job stands; a window that is committed is drawn after the look."""
        view = await trio.to_thread.run_sync(self.world.gateway.job, job_id)
        if view.state is State.COMMITTED:
            action = self.world.as_("carol").action.draw(offer, self.secrets[view.window])
            await trio.to_thread.run_sync(self.world.send, "carol", action)
        return view

    def _jump_over_verdicts(self, offer: Offer, job_id: JobId, view: JobView) -> None:
        gateway = self.world.gateway
        verdicts = [gateway.verdict(job_id, view.window, account) for account in gateway.drawn_verifiers(offer)]
        if all(verdict.kind for verdict in verdicts):
            self.world.pass_until(view.deadline)
        elif all(any(verdict.seal) or verdict.kind for verdict in verdicts):
            self.world.pass_until(view.drawn_at + offer.verdict_window_s)

    def _jump_over_votes(self, job_id: JobId) -> None:
        """Lets the sealing, then the revealing of a panel's votes pass once all members are done with it."""
        gateway = self.world.gateway
        subject = dispute_id(job_id, gateway.dispute(job_id).segment)
        case = gateway.case(subject)
        votes = [gateway.vote(subject, case.round, account) for account in gateway.panel(subject)]
        if case.phase is Phase.VOTING and all(any(seal) for seal, _ in votes) and not all(vote for _, vote in votes):
            self.world.pass_until(case.phase_since + gateway.params().panel_window_s)

    async def progress(self, worker: str, job_id: JobId) -> Progress:
        raw = WindowRequest(job_id=job_id, index=0).encode()
        return Progress.decode(await rpc_of(PROGRESS).call(self.host, worker, raw))

    async def trace(self, worker: str, job_id: JobId, window: int) -> Trace:
        raw = WindowRequest(job_id=job_id, index=window).encode()
        return Trace.decode(await rpc_of(TRACE).call(self.host, worker, raw))

    async def download(self, worker: str, content_id: ContentId, into: Path) -> None:
        await fetch(self.host, content_id, [(worker, self.host.addrs_of(worker))], into, max_bytes=1 << 30)


@asynccontextmanager
async def open_client(
    world: MarketWorld, folder: Path, job: author.Job | None = None, *, pinned_to: ClassId | None = None
) -> AsyncIterator[ScriptedClient]:
    """A client that serves what it built.

    Args:
        pinned_to: machines that a job of profile `pinned` is for.
    """
    built = await trio.to_thread.run_sync(author.build, job or tiny_job(), folder / "built")
    blobs = BlobStore(folder / "client-blobs", 1 << 30)
    try:
        paths = [built.program_path, built.dataset_path, *built.data_paths]
        for path in [*paths, *([built.initial_path] if built.initial_path else [])]:
            blobs.put_file(path)
        async with open_host(world.identity("carol")) as host:
            serve_content(host, blobs)
            yield ScriptedClient(world, host, blobs, built, spec_of(built, pinned_to))
    finally:
        blobs.close()
