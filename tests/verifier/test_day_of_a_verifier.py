"""Verifiers as they ship (service, libp2p, training child) against a worker as it ships; the client is scripted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.node.scripted_client import open_client, tiny_job

from tolsey.node import service as worker_service
from tolsey.node.config import WorkerConfig
from tolsey.protocol.job import EXACT_CLASSES, EXACT_FP32, PINNED
from tolsey.protocol.lifecycle import State, Verdict
from tolsey.protocol.offer import Clocks
from tolsey.protocol.units import Seconds
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


def verifier_config(folder: Path, name: str, worker: worker_service.Ready, profile: str = EXACT_FP32) -> VerifierConfig:
    return VerifierConfig(
        network=str(folder / "network.toml"), home=folder / name, bootstrap=worker.addrs, profile=profile
    )


def worker_config(folder: Path) -> WorkerConfig:
    return WorkerConfig(network=str(folder / "network.toml"), home=folder / "worker", disk_spare_bytes=0)


async def test_verifier_replays_real_segments_and_is_paid(world: MarketWorld, tmp_path: Path) -> None:
    with trio.fail_after(240):
        async with (
            running(worker_service.run, worker_config(tmp_path)) as worker,
            running(service.run, verifier_config(tmp_path, "vera", worker)) as vera,
            open_client(world, tmp_path) as client,
        ):
            assert (vera.profile, vera.class_id) == (EXACT_FP32, EXACT_CLASSES[EXACT_FP32])
            free, locked = world.gateway.account(vera.account)
            reply = await client.ask(worker.addrs[0], client.request(CLOCKS))
            offer, job_id = await client.accept(reply)
            assert await client.judged_until_final(offer, job_id) is State.COMPLETED
            for window in range(offer.window_count):
                assert world.gateway.verdict(job_id, window, vera.account).kind == Verdict.MATCH
            earned = offer.window_count * offer.verdict_fee
            assert world.gateway.account(vera.account) == (free + earned, locked)


async def test_pinned_job_is_judged_by_a_verifier_of_its_class(world: MarketWorld, tmp_path: Path) -> None:
    with trio.fail_after(240):
        async with running(worker_service.run, worker_config(tmp_path)) as worker:
            job = tiny_job(steps=4, profile=PINNED)
            async with (
                running(service.run, verifier_config(tmp_path, "vera", worker, PINNED)) as vera,
                open_client(world, tmp_path, job, pinned_to=worker.machine.class_id) as client,
            ):
                assert (vera.profile, vera.class_id) == (PINNED, worker.machine.class_id)
                offer, job_id = await client.accept(await client.ask(worker.addrs[0], client.request(CLOCKS)))
                assert await client.judged_until_final(offer, job_id) is State.COMPLETED
                assert world.gateway.verdict(job_id, 0, vera.account).kind == Verdict.MATCH


@pytest.mark.parametrize("mode", ["forge", "reorder"])
async def test_forged_segment_is_found_judged_and_slashed(world: MarketWorld, tmp_path: Path, mode: str) -> None:
    with trio.fail_after(300):
        async with AsyncExitStack() as stack:
            worker = await stack.enter_async_context(running(worker_service.run, worker_config(tmp_path), MODES[mode]))
            accounts = [
                (await stack.enter_async_context(running(service.run, verifier_config(tmp_path, name, worker)))).account
                for name in ("vera", "viktor")
            ]
            before = {account: sum(world.gateway.account(account)) for account in accounts}
            client = await stack.enter_async_context(open_client(world, tmp_path))
            reply = await client.ask(worker.addrs[0], client.request(CLOCKS))
            offer, job_id = await client.accept(reply)
            assert await client.judged_until_final(offer, job_id) is State.SLASHED
            finder = world.gateway.dispute(job_id).challenger
            assert finder in accounts
            assert sum(world.gateway.account(finder)) > before[finder]
