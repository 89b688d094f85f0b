"""A person at a terminal: a child process whose terminal is ours, so that Ctrl-C is a key like any other."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

PATIENCE_S = 180
CONTROLLED = (
    "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs are started deaf to it
)


class Typist:
    """Reads what stands on the screen and types."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self._process, self._screen = process, screen
        self.seen = ""

    async def until(self, words: str) -> None:
        """Waits until `words` have been printed."""
        while words not in self.seen:
            assert await self._read(), self.seen

    async def type(self, keys: bytes) -> None:
        await trio.to_thread.run_sync(os.write, self._screen, keys)

    async def end(self) -> int:
        """Waits until the process ends; its exit code."""
        while await self._read():
            pass
        return await trio.to_thread.run_sync(self._process.wait, PATIENCE_S)

    async def _read(self) -> bool:
        try:
            await trio.lowlevel.wait_readable(self._screen)
            piece = os.read(self._screen, 65_536)
        except OSError:  # EIO: nobody holds the other side any more
            return False
        self.seen += piece.decode(errors="replace")
        return bool(piece)


@contextmanager
def at_terminal(code: str) -> Iterator[Typist]:
    """Runs Python `code` beside this folder's modules, on a terminal of its own."""
    screen, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROLLED + code], stdin=side, stdout=side, stderr=side, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(side)
    try:
        yield Typist(process, screen)
    finally:
        process.kill()
        process.wait()
        os.close(screen)
