"""One worker, one chain, one client: from an empty home to payment, with a real training child."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tolsey.node import service
from tolsey.node.config import WorkerConfig
from tolsey.protocol import merkle
from tolsey.protocol.checkpoint import segment_leaf
from tolsey.protocol.lifecycle import State
from tolsey.testing.chain import MarketWorld

from .scripted_client import open_client

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[MarketWorld]:
    with MarketWorld.open(tmp_path, block_time_s=0.5) as opened:
        opened.network.save(tmp_path / "network.toml")
        yield opened


def config_in(folder: Path) -> WorkerConfig:
    return WorkerConfig(network=str(folder / "network.toml"), home=folder / "worker", disk_spare_bytes=0)


@asynccontextmanager
async def running(config: WorkerConfig, parts: service.Parts | None = None) -> AsyncIterator[service.Ready]:
    """A worker that serves inside the block and stops in order after it."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[service.Ready] = trio.TASK_STATUS_IGNORED) -> None:
            await service.run(config, "open sesame", stop=stop, parts=parts, task_status=task_status)

        yield await nursery.start(serve)
        stop.set()


async def test_worker_trains_commits_and_is_paid(world: MarketWorld, tmp_path: Path) -> None:
    with trio.fail_after(120):
        async with running(config_in(tmp_path)) as ready, open_client(world, tmp_path) as client:
            assert await client.host.connect(ready.addrs[0]) == ready.peer_id
            reply = await client.ask(ready.addrs[0])
            offer, job_id = await client.accept(reply)
            before = world.gateway.account(offer.worker)
            refused = await client.ask(ready.addrs[0], dataclasses.replace(client.request(), client_seal=b"\x01" * 32))
            assert "of 1 jobs" in refused.refusal
            assert await client.reveal_until_final(offer, job_id) is State.COMPLETED
            free, locked = world.gateway.account(offer.worker)
            assert (free - before[0], locked - before[1]) == (offer.price + offer.bond, -offer.bond)
            trace = await client.trace(ready.peer_id, job_id, 1)
            leaves = [
                segment_leaf(
                    chain_id=world.network.chain_id,
                    market=world.network.market,
                    job_id=job_id,
                    worker=offer.worker,
                    index=entry.index,
                    input_root=entry.input_root,
                    output_root=entry.output_root,
                )
                for entry in trace.entries
            ]
            assert merkle.root(leaves) == world.gateway.window_root(job_id, 1)
            await client.download(ready.peer_id, trace.entries[-1].checkpoint, tmp_path / "final.safetensors")
            progress = await client.progress(ready.peer_id, job_id)
            assert (progress.step, progress.steps, len(progress.losses)) == (8, 8, 8)
