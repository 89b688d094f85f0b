"""Processes that outlive the command that started them, known by pid and start tick: no other is ever signalled.

A follower (`tolsey follow`, detached by `run --detach`) is written down in its buyer's home, so that whoever takes the
market down can end it too. Next in the flow: local_market.py, market.py.
"""

from __future__ import annotations

import json
import os
import select
import signal
from contextlib import suppress
from pathlib import Path

FOLDER = "followers"


def is_alive(pid: int, started: int) -> bool:
    """Whether the process that was started at that tick still runs (a pid alone may belong to another by now)."""
    return started > 0 and started_tick(pid) == started


def started_tick(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 for none (Linux /proc/PID/stat, field 22)."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] == "Z" else int(fields[19])
    return 0


def end(pid: int, with_signal: int, patience_s: float) -> bool:
    """Signals a process and waits until it has ended, without asking again and again (a pidfd is readable then)."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, with_signal)
        return bool(select.select([handle], [], [], patience_s)[0])
    finally:
        os.close(handle)


def note_follower(home: Path, name: str, pid: int) -> None:
    """Writes down which process follows a job of this home, so that it can be ended with the market."""
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for note in folder.iterdir():  # those that have ended are of no use to anybody
        if not any(is_alive(*process) for process in _follower(note)):
            note.unlink(missing_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"pid": pid, "started": started_tick(pid)}))


def followers(home: Path) -> list[tuple[int, int]]:
    """Process ids and start ticks of the followers that were detached from this home."""
    folder = home / FOLDER
    return [process for note in folder.iterdir() for process in _follower(note)] if folder.is_dir() else []


def _follower(note: Path) -> list[tuple[int, int]]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(note.read_text())
        return [(int(said["pid"]), int(said["started"]))]
    return []
