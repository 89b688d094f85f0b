"""The one process of a home folder: it says who it is, hears when it is told to stop, and others find and stop it.

The folder's lock (lock.py) keeps a second process out; the pid file only says whom to signal. A file that a killed
process left behind is never obeyed, because nobody holds the lock beside it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from tolsey.errors import ConfigError

Ready = TypeVar("Ready", covariant=True)
STOP_S = 30.0
"""How long `end` waits; a training or replaying child is killed at once, the rest is quick."""


@contextmanager
def pid_file(path: Path) -> Iterator[None]:
    """Says which process runs here."""
    path.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_pid(home: Path, role: str) -> int | None:
    """The process that runs in this home now, or None. Its lock is asked too: the pid may be another program's by now.

    Args:
        role: the stem of its files, `<role>.pid` and `<role>.sqlite.lock`.
    """
    try:
        pid = int((home / f"{role}.pid").read_text())
        os.kill(pid, 0)
        with open(home / f"{role}.sqlite.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid
    except (OSError, ValueError):
        return None
    return None


def end(pid: int) -> None:
    """SIGTERM, and waits until the process is gone.

    Raises:
        ConfigError: it is still there after STOP_S.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
        # A pidfd is readable once its process has ended: no polling.
        if not select.select([handle], [], [], STOP_S)[0]:
            raise ConfigError(f"process {pid} has not ended within {STOP_S:.0f} s", fix=f"kill -9 {pid}")
    finally:
        os.close(handle)


async def stop_on_signal(stop: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Sets `stop` at the first SIGTERM or SIGINT; a second one ends the process the hard way."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            if stop.is_set():
                os._exit(130)
            stop.set()


class Serve(Protocol[Ready]):
    """A service that runs until the event is set; started once it truly serves."""

    async def __call__(self, stop: trio.Event, *, task_status: trio.TaskStatus[Ready]) -> None: ...


async def serve_until_told(serve: Serve[Ready], on_ready: Callable[[Ready], None]) -> None:
    """Runs a service until the first SIGTERM or SIGINT, also one that comes while it still starts.

    Raises:
        Whatever the service does.
    """
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal, stop)
        with trio.CancelScope() as starting:
            nursery.start_soon(_cancel_after, stop, starting)

            async def run(*, task_status: trio.TaskStatus[Ready]) -> None:
                await serve(stop, task_status=task_status)
                nursery.cancel_scope.cancel()

            on_ready(await nursery.start(run))
        if starting.cancelled_caught:
            nursery.cancel_scope.cancel()


async def _cancel_after(stop: trio.Event, scope: trio.CancelScope) -> None:
    """Ends a start that hangs, such as one that waits for a chain."""
    await stop.wait()
    scope.cancel()
