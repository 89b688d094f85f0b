"""`python -m tolsey.contracts.devchain --data DIR --port N`: the chain as a process of its own.

Prints one line of JSON, {"url", "chain_id", "pid"}, once the port answers; ends on SIGTERM, SIGINT, or, with
--follow-stdin, when whoever started it is gone. `contracts/local_chain.py` starts it and reads that line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tolsey import log
from tolsey.contracts.devchain.engine import Engine
from tolsey.contracts.devchain.genesis import CHAIN_ID
from tolsey.contracts.devchain.server import DevChainServer
from tolsey.contracts.devchain.store import ChainStore
from tolsey.errors import ConfigError, TolseyError

STORE_NAME = "devchain.sqlite"


def main(argv: list[str] | None = None) -> int:
    """Serves until told to stop; returns the exit code."""
    options = _options(argv)
    log.set_up()
    try:
        _serve(options)
    except TolseyError as failure:
        print(failure.diagnostics(), file=sys.stderr)
        return failure.exit_code
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tolsey.contracts.devchain", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the chain; made where missing")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--block-time", type=float, default=0, help="also mine a block every so many seconds")
    parser.add_argument("--follow-stdin", action="store_true", help="end when standard input ends")
    return parser.parse_args(argv)


def _serve(options: argparse.Namespace) -> None:
    options.data.mkdir(parents=True, exist_ok=True)
    store = ChainStore(options.data / STORE_NAME)
    try:
        server = DevChainServer(Engine(store), options.port)
    except OSError as cause:
        raise ConfigError(
            f"port {options.port} of 127.0.0.1: {cause.strerror}", fix="--port 0 takes a free one"
        ) from cause
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        threading.Thread(target=server.shutdown, daemon=True).start()  # shutdown waits for the loop that runs us

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if options.follow_stdin:
        threading.Thread(target=_after_stdin, args=(end,), daemon=True).start()
    if options.block_time > 0:
        threading.Thread(target=server.mine_interval, args=(options.block_time, stop), daemon=True).start()
    print(json.dumps({"url": server.url, "chain_id": CHAIN_ID, "pid": os.getpid()}), flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    with server.lock:
        store.close()


def _after_stdin(end: Callable[[], None]) -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock, held at exit, aborts the interpreter
        pass
    end()


if __name__ == "__main__":
    sys.exit(main())
