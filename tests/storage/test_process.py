"""One process per home, found by its lock and stopped in order; sizes as people write them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tolsey.errors import ConfigError
from tolsey.storage import process
from tolsey.storage.lock import FolderLock
from tolsey.storage.process import end, pid_file, running_pid
from tolsey.storage.sizes import parse_size


def test_running_pid_left_over_file_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "worker.pid").write_text(f"{os.getpid()}\n")
    assert running_pid(tmp_path, "worker") is None
    (tmp_path / "worker.sqlite.lock").touch()
    assert running_pid(tmp_path, "worker") is None


def test_running_pid_is_the_one_that_holds_the_lock(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, "worker.sqlite.lock")
    with pid_file(tmp_path / "worker.pid"):
        assert running_pid(tmp_path, "worker") == os.getpid()
        assert running_pid(tmp_path, "verifier") is None
    assert running_pid(tmp_path, "worker") is None
    lock.release()


def child(code: str) -> subprocess.Popen[str]:
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    return started


def test_end_waits_until_it_is_gone() -> None:
    running = child("import signal; print('ready', flush=True); signal.pause()")
    end(running.pid)
    assert running.wait(0) == -15
    running.communicate()
    end(running.pid)  # nobody has this pid any more


def test_end_of_one_that_does_not_listen_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_S", 0.1)
    deaf = child("import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()")
    with pytest.raises(ConfigError) as refusal:
        end(deaf.pid)
    assert refusal.value.fix == f"kill -9 {deaf.pid}"
    deaf.kill()
    deaf.communicate()


@pytest.mark.parametrize(("text", "size"), [("1000", 1000), ("4GiB", 4 << 30), ("512 MiB", 512 << 20), ("0.5KiB", 512)])
def test_parse_size_gives_bytes(text: str, size: int) -> None:
    assert parse_size("--memory", text) == size


@pytest.mark.parametrize("text", ["", "4GB", "-1", "four", "1e9"])
def test_parse_size_nonsense_names_the_flag(text: str) -> None:
    with pytest.raises(ConfigError, match="--memory"):
        parse_size("--memory", text)


SERVICE = """
import sys, trio
from tolsey.storage.process import serve_until_told

async def serve(stop, *, task_status):
    print("begins", flush=True)
    if sys.argv[1] == "hangs":
        await trio.sleep_forever()
    task_status.started("ready")
    await stop.wait()
    print("ends in order", flush=True)

trio.run(serve_until_told, serve, lambda ready: print(ready, flush=True))
"""


@pytest.mark.parametrize(("how", "said"), [("hangs", ""), ("starts", "ready\nends in order\n")])
def test_serve_until_told_ends_at_the_first_signal_even_while_it_starts(how: str, said: str) -> None:
    service = subprocess.Popen([sys.executable, "-c", SERVICE, how], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    assert service.stdout.readline() == "begins\n"
    if said:
        assert service.stdout.readline() == "ready\n"
        said = said.removeprefix("ready\n")
    service.terminate()
    assert service.wait(30) == 0
    assert service.stdout.read() == said
    service.stdout.close()
