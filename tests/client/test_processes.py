"""Processes left behind are found again by pid and start tick, and ended with the market; nobody else's is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from tolsey.client.local_market import open_local_market, stop_market
from tolsey.client.processes import end, followers, is_alive, note_follower, started_tick
from tolsey.errors import ConfigError
from tolsey.storage.lock import FolderLock

Process = subprocess.Popen[bytes]


@pytest.fixture
def waiting() -> Iterator[Callable[[], Process]]:
    """Starts processes that wait for ever."""
    started: list[Process] = []

    def start() -> Process:
        started.append(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def note_market(folder: Path, keeper: int, members: list[Process], *, keeper_started: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"name": "w", "pid": p.pid, "started": started_tick(p.pid)} for p in members]
    note = {"keeper": {"pid": keeper, "started": keeper_started}, "members": listed}
    (folder / "market.json").write_text(json.dumps(note))


def test_is_alive_ended_process_or_anothers_pid_is_not(waiting: Callable[[], Process]) -> None:
    process = waiting()
    tick = started_tick(process.pid)
    assert is_alive(process.pid, tick)
    assert not is_alive(process.pid, tick + 1)
    assert end(process.pid, signal.SIGKILL, 20)
    process.wait()
    assert not is_alive(process.pid, tick)
    assert not is_alive(process.pid, 0)


def test_followers_only_living_ones_stay_noted(tmp_path: Path, waiting: Callable[[], Process]) -> None:
    first, second = waiting(), waiting()
    note_follower(tmp_path, "a", first.pid)
    first.kill()
    first.wait()
    note_follower(tmp_path, "b", second.pid)
    assert followers(tmp_path) == [(second.pid, started_tick(second.pid))]


def test_followers_damaged_note_is_nobody(tmp_path: Path) -> None:
    (tmp_path / "followers").mkdir()
    (tmp_path / "followers" / "a.json").write_text("[1, 2")
    assert followers(tmp_path) == []


def test_stop_market_ends_what_a_killed_keeper_left_and_detached_followers(
    tmp_path: Path, waiting: Callable[[], Process]
) -> None:
    member, follower = waiting(), waiting()
    note_market(tmp_path, 2**22 - 1, [member])
    note_follower(tmp_path / "client", "a", follower.pid)
    assert stop_market(tmp_path)
    assert member.wait(20) == follower.wait(20) == -signal.SIGTERM
    assert not (tmp_path / "market.json").exists()
    assert not stop_market(tmp_path)


async def test_open_market_where_one_runs_refuses_and_leaves_it_its_note(
    tmp_path: Path, waiting: Callable[[], Process]
) -> None:
    member = waiting()
    note_market(tmp_path, os.getpid(), [member], keeper_started=started_tick(os.getpid()))
    lock = FolderLock(tmp_path, "market.lock")
    try:
        with pytest.raises(ConfigError, match="a market runs in") as refusal:
            async with open_local_market(tmp_path, []):
                await trio.lowlevel.checkpoint()
    finally:
        lock.release()
    assert "tolsey down" in refusal.value.diagnostics()
    assert (tmp_path / "market.json").exists() and member.poll() is None
