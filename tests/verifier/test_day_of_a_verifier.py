"""Verifiers as they ship (service, libp2p, training child) against a worker as it ships; the client is scripted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.node.scripted_client import ScriptedClient, open_client

from tolsey.contracts.gateway import Phase
from tolsey.node import service as worker_service
from tolsey.node.config import WorkerConfig
from tolsey.protocol.lifecycle import FINAL, State, Verdict
from tolsey.protocol.offer import Clocks, Offer
from tolsey.protocol.sampling import dispute_id
from tolsey.protocol.units import JobId, Seconds
from tolsey.testing.chain import FAST_TERMS, MarketWorld
from tolsey.testing.dishonest import MODES
from tolsey.verifier import service
from tolsey.verifier.config import VerifierConfig

pytestmark = pytest.mark.slow

CLOCKS = Clocks(
    commit_window_s=Seconds(300),
    reveal_window_s=Seconds(5),
    verdict_window_s=Seconds(60),
    challenge_window_s=Seconds(150),
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[MarketWorld]:
    terms = replace(FAST_TERMS, panel_window_s=Seconds(60))
    with MarketWorld.open(tmp_path, block_time_s=0.5, terms=terms) as opened:
        opened.network.save(tmp_path / "network.toml")
        yield opened


@asynccontextmanager
async def running(run: Callable[..., Any], config: Any, parts: Any = None) -> AsyncIterator[Any]:
    """A worker or verifier that serves inside the block and stops in order after it."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
            await run(config, "open sesame", stop=stop, parts=parts, task_status=task_status)

        yield await nursery.start(serve)
        stop.set()


def verifier_config(folder: Path, name: str, worker: worker_service.Ready) -> VerifierConfig:
    return VerifierConfig(
        network=str(folder / "network.toml"), home=folder / name, bootstrap=worker.addrs, watch_all=False
    )


def worker_config(folder: Path) -> WorkerConfig:
    return WorkerConfig(network=str(folder / "network.toml"), home=folder / "worker", disk_spare_bytes=0)


def jump_over_votes(world: MarketWorld, job_id: JobId) -> None:
    """Lets the sealing, then the revealing of a panel's votes pass once all members are done with it."""
    subject = dispute_id(job_id, world.gateway.dispute(job_id).segment)
    case = world.gateway.case(subject)
    votes = [world.gateway.vote(subject, case.round, account) for account in world.gateway.panel(subject)]
    if case.phase is Phase.VOTING and all(any(seal) for seal, _ in votes) and not all(vote for _, vote in votes):
        world.pass_until(case.phase_since + 60)


async def run_job(
    world: MarketWorld, client: ScriptedClient, worker: worker_service.Ready, offer: Offer, job_id: JobId
) -> State:
    """The client's part; jumps over waiting once the drawn verifiers have sealed and revealed."""
    while True:
        view = await trio.to_thread.run_sync(world.gateway.job, job_id)
        if view.state in FINAL:
            return view.state
        if view.state is State.COMMITTED:
            action = world.as_("carol").action.draw(offer, client.secrets[view.window])
            await trio.to_thread.run_sync(world.send, "carol", action)
        if view.state is State.CHALLENGED:
            await trio.to_thread.run_sync(jump_over_votes, world, job_id)
        if view.state is State.DRAWN:
            drawn = world.gateway.drawn_verifiers(offer)
            verdicts = [world.gateway.verdict(job_id, view.window, account) for account in drawn]
            if all(verdict.kind for verdict in verdicts):
                world.pass_until(view.deadline)
            elif all(any(verdict.seal) or verdict.kind for verdict in verdicts):
                world.pass_until(view.drawn_at + offer.verdict_window_s)
        await trio.sleep(0.2)


async def test_verifier_replays_real_segments_and_is_paid(world: MarketWorld, tmp_path: Path) -> None:
    with trio.fail_after(240):
        async with (
            running(worker_service.run, worker_config(tmp_path)) as worker,
            running(service.run, verifier_config(tmp_path, "vera", worker)) as vera,
            open_client(world, tmp_path, worker.machine.class_id) as client,
        ):
            assert vera.class_id == worker.machine.class_id
            free, locked = world.gateway.account(vera.account)
            reply = await client.ask(worker.addrs[0], client.request(CLOCKS))
            offer, job_id = await client.accept(reply)
            assert await run_job(world, client, worker, offer, job_id) is State.COMPLETED
            for window in range(offer.window_count):
                assert world.gateway.verdict(job_id, window, vera.account).kind == Verdict.MATCH
            earned = offer.window_count * offer.verdict_fee
            assert world.gateway.account(vera.account) == (free + earned, locked)


async def test_forged_segment_is_found_judged_and_slashed(world: MarketWorld, tmp_path: Path) -> None:
    with trio.fail_after(300):
        async with AsyncExitStack() as stack:
            worker = await stack.enter_async_context(
                running(worker_service.run, worker_config(tmp_path), MODES["forge"])
            )
            accounts = [
                (await stack.enter_async_context(running(service.run, verifier_config(tmp_path, name, worker)))).account
                for name in ("vera", "viktor")
            ]
            before = {account: sum(world.gateway.account(account)) for account in accounts}
            client = await stack.enter_async_context(open_client(world, tmp_path, worker.machine.class_id))
            reply = await client.ask(worker.addrs[0], client.request(CLOCKS))
            offer, job_id = await client.accept(reply)
            assert await run_job(world, client, worker, offer, job_id) is State.SLASHED
            finder = world.gateway.dispute(job_id).challenger
            assert finder in accounts
            assert sum(world.gateway.account(finder)) > before[finder]
