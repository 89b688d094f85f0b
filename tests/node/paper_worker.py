"""A worker without torch and network: real tables, real outbox, real chain, invented checkpoints.

`live` runs it until its job is closed; `live_and_die` does so in a process of its own that kills itself with SIGKILL at
the n-th durable step (database write, broadcast, blob), before or after it. The process is forked, so that a crash
costs no imports.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from tolsey.contracts.chain import Chain
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.transactions import Transactions
from tolsey.node.clock import ChainClock
from tolsey.node.committer import Committer
from tolsey.node.config import WorkerConfig
from tolsey.node.executor import Executor, Keep, pin_of
from tolsey.node.jobs import Jobs
from tolsey.node.records import JobRecord, OfferRecord, Records, SegmentRecord
from tolsey.node.worker import Tools, Worker
from tolsey.protocol.lifecycle import FINAL, State
from tolsey.storage.blobs import BlobStore
from tolsey.storage.engine import Database
from tolsey.testing.chain import MarketWorld, PaperJob

from . import worlds

LIFE_S = 60


class PaperExecutor(Executor):
    """Gives the roots that the paper job was made with; `trained` counts the segments it was asked for."""

    paper: PaperJob

    async def prepare(self, job: JobRecord) -> None:
        await trio.lowlevel.checkpoint()

    async def train(self, job: JobRecord, segments: range, keep: Keep) -> None:
        for index in segments:
            path = self.folder(job) / "checkpoint"
            path.write_bytes(b"checkpoint %d of " % index + job.job_id)
            checkpoint = await self.store(path, pin_of(job.job_id))
            roots = self.paper.roots
            await keep(
                SegmentRecord(index=index, input_root=roots[index], output_root=roots[index + 1], checkpoint=checkpoint)
            )

    async def forget(self, job: JobRecord) -> None:
        await trio.lowlevel.checkpoint()


class FailingExecutor(PaperExecutor):
    """Cannot train: the contents turn out to be something else."""

    async def prepare(self, job: JobRecord) -> None:
        from tolsey.errors import RemoteViolation  # noqa: PLC0415

        raise RemoteViolation("the contents give another initial root")


async def live(
    world: MarketWorld,
    home: Path,
    paper: PaperJob,
    *,
    worker: str = "wim",
    executor: type[PaperExecutor] = PaperExecutor,
    make: Callable[[JobRecord, Tools], Worker] = Worker,
    client: Callable[[MarketWorld, PaperJob], Any] | None = None,
) -> JobRecord:
    """Runs a worker until its one job is closed; `client` acts for everybody else meanwhile."""
    database = Database.open(home / "worker.sqlite")
    blobs = BlobStore(home / "blobs", 1 << 30)
    try:
        chain = Chain(Gateway(world.network, world.wallet(worker)), database, poll_s=0.05)
        records = Records(database)
        config = WorkerConfig(network="", home=home)
        hands = executor(config, blobs, records)
        hands.paper = paper
        tools = Tools(
            chain=chain,
            clock=ChainClock(chain),
            records=records,
            blobs=blobs,
            executor=hands,
            committer=Committer(chain, records, blobs),
            lookahead_windows=1,
        )
        changed = trio.Event()

        def on_change() -> None:
            nonlocal changed
            changed.set()
            changed = trio.Event()

        jobs = Jobs(chain, records, tools, paper.offer.worker, on_change=on_change, make=make)
        with trio.fail_after(LIFE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(jobs.run)
                nursery.start_soon(chain.serve)
                if client is not None:
                    nursery.start_soon(client, world, paper)
                while True:
                    event = changed
                    job = await records.job(paper.job_id)
                    if job is not None and job.closed_at is not None:
                        nursery.cancel_scope.cancel()
                        return job
                    await event.wait()
        raise AssertionError("unreachable: fail_after raises")
    finally:
        blobs.close()
        database.close()


async def diligent_client(world: MarketWorld, paper: PaperJob) -> None:
    """Draws with the right secrets, demands a segment of window 0, and lets time pass where all wait for it."""
    while True:
        await trio.to_thread.run_sync(_one_turn, world, paper)
        await trio.sleep(0.02)


def _one_turn(world: MarketWorld, paper: PaperJob) -> None:
    view = world.job(paper)
    if view.state is State.COMMITTED:
        world.draw(paper)
    elif view.state is State.DRAWN and view.window == 0 and world.gateway.dispute(paper.job_id) is None:
        world.as_("dora")
        world.send("dora", world.gateway.action.demand(paper.offer, 1))
    elif view.state is State.DRAWN:
        world.pass_until(view.deadline)
    elif view.state in FINAL:
        world.mine()


def remember(home: Path, paper: PaperJob) -> None:
    """Puts the paper job's offer into the worker's tables, as the bidder would have."""
    database = Database.open(home / "worker.sqlite")
    try:
        offer = paper.offer
        spec = worlds.spec(
            steps=offer.segment_count, steps_per_segment=1, segments_per_window=offer.segments_per_window
        )
        record = OfferRecord(
            job_id=paper.job_id,
            request_hash=bytes(32),
            offer=offer,
            signature=paper.signature,
            spec=spec,
            client_peer_id=worlds.GOOD_PEER,
        )
        trio.run(Records(database).keep_offer, record)
    finally:
        database.close()


def live_and_die(world: MarketWorld, home: Path, paper: PaperJob, *, at: int, after: bool) -> int | None:
    """Runs the worker in a forked process that dies at its `at`-th durable step.

    Returns:
        None where it was killed; the number of durable steps it made where it lived to the end.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            count = _arm(at, after)
            trio.run(_life, world, home, paper)
            os.write(writer, str(count[0]).encode())
            status = 0
        except BaseException:  # noqa: BLE001  # told, then the process ends
            # pytest would see nothing but the exit status.
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reader) as told:
        words = told.read()
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.WEXITSTATUS(status) == 0, "the worker failed on its own"
    return int(words)


async def _life(world: MarketWorld, home: Path, paper: PaperJob) -> None:
    await live(world, home, paper, client=diligent_client)


def _arm(at: int, after: bool) -> list[int]:
    """Wraps every durable step of this process; returns the cell that counts them."""
    count = [0]

    def armed(kind: Any, name: str, is_step: Callable[..., bool] = lambda *_: True) -> None:
        real = getattr(kind, name)

        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_step(*args):
                return real(self, *args, **kwargs)
            count[0] += 1
            mine = count[0]
            if mine == at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(self, *args, **kwargs)
            if mine == at and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(kind, name, step)

    # The follower writes its cursor at every block; how often depends on the clock, so it does not count.
    armed(Database, "write_now", lambda work, *_: "_write_cursor" not in getattr(work, "__qualname__", ""))
    armed(BlobStore, "put_file")
    armed(BlobStore, "unpin")
    armed(Transactions, "broadcast", lambda *_: True)
    return count
