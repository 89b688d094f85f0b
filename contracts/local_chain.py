"""Starts a chain on this machine and says when it truly serves: anvil where it is found, else the embedded one.

The chain is a child process. Its folder is locked for as long as the child lives (the child inherits the lock), so a
second start says who is there instead of spoiling the file, and a crash leaves nothing to clean up. Readiness is the
line that the child prints once it listens; nobody sleeps and hopes.

`tolsey chain up` calls `start_chain`; tests call `start_chain_now`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

import trio

from tolsey.contracts import anvil, devchain
from tolsey.errors import ChainUnavailable, ConfigError
from tolsey.storage.lock import FolderLock

Engine = Literal["auto", "anvil", "embedded"]
READY_S = 60.0
"""A cold start of the embedded chain took 1.5 s on a busy machine; more than this is a broken one."""
STOP_S = 15.0
_NOTE_NAME = "chain.json"
_LOCK_NAME = "chain.lock"
_LOG_NAME = "chain.log"


class LocalChain:
    """A running local chain.

    Attributes:
        url: where its JSON-RPC answers.
        chain_id: 31337.
        engine: "anvil" or "embedded".
        pid: of the chain's process.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str, engine: str, log_file: IO[bytes]) -> None:
        self.url = url
        self.chain_id = devchain.CHAIN_ID
        self.engine = engine
        self.pid = process.pid
        self._process = process
        # anvil writes to its output for ever, and would stop at a full pipe.
        self._drain = threading.Thread(target=_drain, args=(process.stdout, log_file), daemon=True)
        self._drain.start()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop_now(self) -> int:
        """Asks the chain to end, waits until it has written everything, and gives its exit code."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)  # the group: npm's anvil may stand behind a wrapper
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._drain.join(STOP_S)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    async def stop(self) -> int:
        """`stop_now` without blocking the loop; cancellation waits for it."""
        with trio.CancelScope(shield=True):
            code = await trio.to_thread.run_sync(self.stop_now)
        return code

    async def wait(self) -> int:
        """Sleeps until the chain ends by itself; gives its exit code. Cancellable; the chain then runs on."""
        return await trio.to_thread.run_sync(
            self._process.wait,
            abandon_on_cancel=True,
        )

    def __enter__(self) -> LocalChain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_now()


async def start_chain(data_dir: Path, port: int = 0, engine: Engine = "auto", *, block_time_s: float = 0) -> LocalChain:
    """Starts a chain, or goes on with the one whose state lies in `data_dir`; returns once it answers.

    Args:
        data_dir: made where missing; belongs to the engine that it was first started with.
        port: on loopback; 0 takes a free one.
        engine: "auto" takes what the folder was started with, else anvil where found, else the embedded chain.
        block_time_s: mine a block at least so often, so that deadlines pass without traffic; 0 for never.

    Raises:
        ConfigError: the port is taken, the engine is missing, or the folder belongs to the other one.
        StorageError: a chain runs on this folder already; the message says where.
        ChainUnavailable: the process ended or stayed silent; its last words are in the message.

    Concurrency: cancellation is seen after the start; the started chain is then stopped again.
    """
    chain = await trio.to_thread.run_sync(lambda: start_chain_now(data_dir, port, engine, block_time_s=block_time_s))
    try:
        await trio.lowlevel.checkpoint()
    except BaseException:
        await chain.stop()
        raise
    return chain


def start_chain_now(data_dir: Path, port: int = 0, engine: Engine = "auto", *, block_time_s: float = 0) -> LocalChain:
    """`start_chain` for code without a loop; also a context manager that stops the chain."""
    data_dir = data_dir.resolve()
    _require_free(port)
    lock = FolderLock(data_dir, _LOCK_NAME)
    try:
        chosen = _choose(data_dir, engine)
        command = _command(chosen, data_dir, port, block_time_s)
        with _started(command, lock.fd, data_dir / _LOG_NAME) as (process, log_file):
            url = _await_ready(process, chosen, log_file)
            lock.write_note(pid=process.pid, url=url)
            (data_dir / _NOTE_NAME).write_text(json.dumps({"engine": chosen, "chain_id": devchain.CHAIN_ID}) + "\n")
            return LocalChain(process, url, chosen, log_file)
    finally:
        lock.release()  # the child holds its own copy


def _require_free(port: int) -> None:
    """Turns the most common failure into its own message, before anything is started."""
    if port == 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as cause:
            raise ConfigError(
                f"port {port} on 127.0.0.1 cannot be taken: {cause.strerror}",
                fix="tolsey chain up --port 0 takes a free one",
            ) from cause


def _choose(data_dir: Path, engine: Engine) -> Literal["anvil", "embedded"]:
    note = data_dir / _NOTE_NAME
    before = json.loads(note.read_text())["engine"] if note.exists() else None
    if before is not None and engine not in ("auto", before):
        raise ConfigError(
            f"{data_dir} holds a chain of engine {before}, asked is {engine}",
            fix=f"--engine {before}, or another folder",
        )
    wanted = before or engine
    if wanted == "auto":
        return "anvil" if anvil.find_anvil() else "embedded"
    if wanted == "anvil" and anvil.find_anvil() is None:
        raise ConfigError(
            "anvil is neither in PATH nor in node_modules/.bin, and TOLSEY_ANVIL is not set",
            fix="npm install @foundry-rs/anvil, or --engine embedded",
        )
    return "anvil" if wanted == "anvil" else "embedded"


def _command(engine: str, data_dir: Path, port: int, block_time_s: float) -> list[str]:
    if engine == "anvil":
        found = anvil.find_anvil()
        assert found is not None, "_choose looked for it"
        return anvil.anvil_command(found, data_dir, port, block_time_s=block_time_s)
    if importlib.util.find_spec("eth") is None:  # py-evm
        raise ConfigError(
            "the embedded chain is not installed, and no anvil was found or asked for",
            fix="pip install 'tolsey[chain]', or npm install @foundry-rs/anvil",
        )
    command = [sys.executable, "-m", "tolsey.contracts.devchain", "--data", str(data_dir), "--port", str(port)]
    return [*command, "--follow-stdin", "--block-time", str(block_time_s)]


@contextlib.contextmanager
def _started(command: list[str], lock_fd: int, log_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The child with its error output in the log; killed again if the block fails."""
    if shutil.which(command[0]) is None:
        raise ConfigError(f"{command[0]} is no executable file")
    log_file = log_path.open("ab", buffering=0)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file, pass_fds=(lock_fd,),
        start_new_session=True,  # Ctrl-C goes to us, and we stop it in order
        env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
    )  # fmt: skip
    try:
        yield process, log_file
    except BaseException:
        process.kill()
        process.wait()
        log_file.close()
        raise


def _await_ready(process: subprocess.Popen[bytes], engine: str, log_file: IO[bytes]) -> str:
    """The url from the line that the child prints when it listens.

    Raises:
        ChainUnavailable: end of output, or READY_S without the line.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + READY_S
    words: deque[str] = deque(maxlen=20)
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            piece = os.read(process.stdout.fileno(), 65536)
            log_file.write(piece)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                words.append(line.decode(errors="replace").strip())
                url = _url_of(words[-1], engine)
                if url is not None:
                    return url
            if not piece:
                raise ChainUnavailable(
                    f"the {engine} chain ended with code {process.wait()} before it served: {_last_words(log_file)}"
                )
    raise ChainUnavailable(f"the {engine} chain did not serve within {READY_S:.0f} s: {_last_words(log_file)}")


def _url_of(line: str, engine: str) -> str | None:
    if engine == "anvil":
        return f"http://{line.removeprefix(anvil.READY_PREFIX)}" if line.startswith(anvil.READY_PREFIX) else None
    return str(json.loads(line)["url"]) if line.startswith('{"url"') else None


def _last_words(log_file: IO[bytes]) -> str:
    raw = Path(log_file.name).read_bytes()[-500:]
    return " / ".join(raw.decode(errors="replace").split("\n")[-6:]).strip(" /") or "it said nothing"


def _drain(source: IO[bytes] | None, log_file: IO[bytes]) -> None:
    assert source is not None
    with source, log_file:
        while piece := source.read1(65536):  # type: ignore[attr-defined]  # a pipe is a BufferedReader
            log_file.write(piece)
