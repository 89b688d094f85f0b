"""kill -9 at many points: what was acknowledged is there, and no action happens twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tolsey.protocol.content import content_id_of_bytes
from tolsey.storage import outbox
from tolsey.storage.blobs import BlobStore
from tolsey.storage.engine import Database

from .writers import CHAIN, blob_of

WRITERS = Path(__file__).with_name("writers.py")
STRACE = shutil.which("strace")


def killed_after(folder: Path, work: str, lines: int, delay_s: float) -> list[list[str]]:
    """What the program had said when it was killed `delay_s` after its line number `lines`."""
    writer = subprocess.Popen([sys.executable, str(WRITERS), work, str(folder)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    said = [writer.stdout.readline() for _ in range(lines)]
    try:
        writer.wait(delay_s)
    except subprocess.TimeoutExpired:
        writer.send_signal(signal.SIGKILL)
    said += writer.stdout.readlines()
    writer.wait()
    assert writer.returncode == -signal.SIGKILL
    return [line.decode().split() for line in said if line.endswith(b"\n")]


def killed_at_syscall(folder: Path, work: str, call: str, when: int) -> list[list[str]]:
    """What the program had said when it was killed at its `when`-th system call of one kind."""
    assert STRACE is not None
    inject = ["-f", "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"]
    command = [STRACE, *inject, sys.executable, str(WRITERS), work, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode != 0, f"{call} number {when} never came"
    return [line.decode().split() for line in done.stdout.splitlines(keepends=True) if line.endswith(b"\n")]


def check_outbox(folder: Path, acknowledged: list[list[str]]) -> None:
    database = Database.open(folder / "node.sqlite")
    taken: dict[str, str] = {}
    for raw in (folder / "chain").read_text().splitlines() if (folder / "chain").exists() else ():
        if ":" in raw:  # the last line may be cut: a node that never got all bytes
            nonce, number = raw.split(":")
            assert taken.setdefault(nonce, number) == number, f"nonce {nonce} for {number} and {taken[nonce]}"
    assert len(set(taken.values())) == len(taken), "an action was sent under two nonces"
    for verb, number, *_ in acknowledged:
        action = database.read_now(outbox.find, f"act:{number}")
        assert action is not None, f"{verb} {number} was forgotten"
        assert {"meant": 0, "signed": 1, "sent": 2}[verb] <= {"meant": 0, "signed": 1, "sent": 2}[action.state]
        assert action.chain_id == CHAIN
        if verb == "sent":
            assert number in taken.values()
    database.close()


def check_blobs(folder: Path, acknowledged: list[list[str]]) -> None:
    store = BlobStore(folder / "blobs", 1 << 30)
    dropped = {number for verb, number in acknowledged if verb == "deleted"}
    for verb, number in acknowledged:
        content_id = content_id_of_bytes(blob_of(int(number)))
        if verb == "put" and int(number) % 3:
            assert store.read_chunk(content_id, 0) == blob_of(int(number)) and store.owners(content_id) == ["job"]
        if number in dropped:
            assert not store.has(content_id)
    for content_id in store.ids():  # whatever is listed is whole
        assert store.read_chunk(content_id, 0)
    store.close()


CHECKS = {"outbox": check_outbox, "blobs": check_blobs}


@pytest.mark.parametrize("work", ["outbox", "blobs"])
def test_kill_at_random_moments_loses_nothing_acknowledged(tmp_path: Path, work: str) -> None:
    rng = random.Random(f"crash {work}")
    acknowledged: list[list[str]] = []
    for _ in range(4):
        acknowledged += killed_after(tmp_path, work, rng.randrange(1, 12), rng.uniform(0, 0.02))
        CHECKS[work](tmp_path, acknowledged)
    assert len(acknowledged) > 4


@pytest.mark.slow
@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("work", "call"),
    [("outbox", "pwrite64"), ("outbox", "fdatasync"), ("outbox", "write"), ("blobs", "fsync"), ("blobs", "rename"),
     ("blobs", "unlink"), ("blobs", "openat")],
)  # fmt: skip
def test_kill_at_each_system_call_loses_nothing_acknowledged(tmp_path: Path, work: str, call: str) -> None:
    acknowledged: list[list[str]] = []
    opened = 600 if call == "openat" else 0  # the interpreter's own start
    for when in [opened + n for n in (1, 2, 5, 13, 34)]:
        try:
            acknowledged += killed_at_syscall(tmp_path, work, call, when)
        except PermissionError:
            pytest.skip("strace may not trace here")
        CHECKS[work](tmp_path, acknowledged)
