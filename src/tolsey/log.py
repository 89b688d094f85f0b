"""One logger set-up for every process; job id and peer id travel on the record, not in the message."""

from __future__ import annotations

import logging
import sys

NOISY = ("libp2p", "multiaddr", "web3", "urllib3", "async_service", "eth", "alembic")


def set_up(*, verbose: bool = False, stream: object | None = None) -> None:
    """Sends records of `tolsey.*` to standard error and quiets libraries that warn on normal events."""
    handler = logging.StreamHandler(stream or sys.stderr)  # type: ignore[arg-type]  # any writable text stream
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("tolsey").setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "libp2p" else logging.ERROR)
