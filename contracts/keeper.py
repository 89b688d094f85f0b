"""The process that keeps a local chain: started in the background, found again, and ended.

A keeper is known by the lock it holds (storage/lock.py): a pid in a file is believed only while somebody holds that
lock, so that nobody else's process is ever signalled. Next in the flow: command.py.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from tolsey.errors import ConfigError, StorageError
from tolsey.storage.lock import FolderLock

READY_S = 120.0
KEEPER_LOCK, CHAIN_LOCK = "keeper.lock", "chain.lock"


def start_detached(folder: Path, engine: str, port: int, block_time_s: float) -> dict[str, Any]:
    """Starts a keeper process and gives what it says once it serves."""
    command = [
        sys.executable, "-m", "tolsey.contracts.command", "up", "--json", "--engine", engine, "--port", str(port),
        "--data", str(folder), "--block-time", str(block_time_s),
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "keeper.log").open("ab") as log_file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log_file, start_new_session=True
        )
    assert process.stdout is not None
    with process.stdout:
        ready = select.select([process.stdout], [], [], READY_S)[0]
        line = process.stdout.readline() if ready else b""
    if not line:
        process.kill()
        process.wait()
        words = (folder / "keeper.log").read_text(errors="replace").strip().splitlines()[-3:]
        raise ConfigError(f"the chain did not start: {' / '.join(words)}", fix="tolsey chain up shows more")
    found: dict[str, Any] = json.loads(line)
    return found


def holder(folder: Path, name: str) -> dict[str, Any] | None:
    """The note of whoever holds a lock, or None where nobody does."""
    if not (folder / name).exists():
        return None
    try:
        FolderLock(folder, name).release()
    except StorageError:
        with contextlib.suppress(OSError, ValueError):
            note = json.loads((folder / name).read_text())
            if isinstance(note, dict) and "pid" in note:
                return note
    return None
