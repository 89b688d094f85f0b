"""A worker and a verifier whose machines would never agree under stock PyTorch settle a job of the exact profile.

Both are processes of their own, as typed by a person, on the builds of two instruction sets, with one thread and with
two: the chain, the streams, the training and the replay are real. Only the buyer is scripted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.node.scripted_client import open_client

from tolsey.numerics import build, library
from tolsey.protocol.lifecycle import State, Verdict
from tolsey.protocol.offer import Clocks
from tolsey.protocol.units import Account, Seconds
from tolsey.runtime.environment import child_environment
from tolsey.testing.chain import MarketWorld

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "tolsey.client.cli")
CLOCKS = Clocks(
    commit_window_s=Seconds(300),
    reveal_window_s=Seconds(5),
    verdict_window_s=Seconds(60),
    challenge_window_s=Seconds(150),
)


@contextmanager
def started(folder: Path, role: str, isa: str, threads: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker or verifier that computes with one build on so many threads."""
    machine = {library.ISA_VARIABLE: isa, library.THREADS_VARIABLE: str(threads)}
    process = subprocess.Popen(
        [*COMMAND, role, "start", "--json", "--network", str(folder / "network.toml"), "--home", str(folder / role),
         *options],
        env=os.environ | machine | {"TOLSEY_PASSPHRASE": "open sesame"}, stdout=subprocess.PIPE,
        stderr=(folder / f"{role}.log").open("w"),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def ready_line(folder: Path, role: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (folder / f"{role}.log").read_text()[-2000:]
    return dict(json.loads(line))


async def test_worker_on_one_build_is_verified_on_another_and_paid(tmp_path: Path) -> None:
    if len(build.runnable()) < 2:
        pytest.skip("this CPU runs one build only")
    faster, slower = build.runnable()[:2]
    forced = {library.ISA_VARIABLE: slower, library.THREADS_VARIABLE: "1"}
    assert child_environment(forced).items() >= forced.items(), "training processes inherit what is forced here"
    with trio.fail_after(240), ExitStack() as stack:
        world = stack.enter_context(MarketWorld.open(tmp_path, block_time_s=0.5))
        world.network.save(tmp_path / "network.toml")
        worker_process = stack.enter_context(started(tmp_path, "worker", slower, 1))
        worker = await trio.to_thread.run_sync(ready_line, tmp_path, "worker", worker_process)
        peers = [word for addr in worker["addrs"] for word in ("--bootstrap", addr)]
        verifier_process = stack.enter_context(started(tmp_path, "verifier", faster, 2, *peers))
        verifier = await trio.to_thread.run_sync(ready_line, tmp_path, "verifier", verifier_process)
        async with open_client(world, tmp_path) as client:
            assert (verifier["profile"], verifier["class_id"]) == (client.spec.profile, client.spec.class_id.hex())
            offer, job_id = await client.accept(await client.ask(worker["addrs"][0], client.request(CLOCKS)))
            before = sum(world.gateway.account(offer.worker))
            assert await client.judged_until_final(offer, job_id) is State.COMPLETED
        for window in range(offer.window_count):
            verdict = world.gateway.verdict(job_id, window, Account(verifier["account"]))
            assert verdict.kind == Verdict.MATCH, (tmp_path / "verifier.log").read_text()[-2000:]
        assert sum(world.gateway.account(offer.worker)) - before == offer.price
