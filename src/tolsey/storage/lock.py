"""One process per folder: an advisory lock that the kernel lets go when its holder dies, however it dies.

The file also says who holds it, for the message only: a left-over file without a lock on it is never obeyed, so there
is no stale lock to clean up. Not for network file systems. Next: engine.py, which opens a database under it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path

from tolsey.errors import StorageError


class FolderLock:
    """Holds `folder/name` exclusively from construction to `release` or the end of the process.

    A child that inherits `fd` (subprocess pass_fds) shares the lock: it is free once all of them are gone.

    Raises:
        StorageError: somebody else holds it; the message names the process.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / name
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            holder = self._note()
            os.close(self.fd)
            raise StorageError(
                f"{folder} is in use by process {holder.get('pid', 'unknown')}"
                + (f" at {holder['url']}" if "url" in holder else ""),
                fix="stop that process, or choose another folder",
            ) from cause
        self.write_note(pid=os.getpid())

    def write_note(self, **note: object) -> None:
        """Says who holds the lock: `pid`, and `url` where it serves one."""
        raw = json.dumps(note).encode()
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, raw, 0)

    def release(self) -> None:
        """Gives the lock up; safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _note(self) -> dict[str, object]:
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(os.pread(self.fd, 4096, 0))
            if isinstance(note, dict):
                return note
        return {}
