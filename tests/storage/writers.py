"""Programs that test_crash.py kills: each prints a line only after the thing it names is promised to be durable."""

from __future__ import annotations

import sys
from pathlib import Path

from tolsey.storage import outbox
from tolsey.storage.blobs import BlobStore
from tolsey.storage.engine import Database

CHAIN = 31337
SENDER = b"\x11" * 20


def blob_of(number: int) -> bytes:
    return number.to_bytes(4, "big") * 3000


def tx_hash_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def say(*words: object) -> None:
    print(*words, flush=True)


def work_outbox(folder: Path) -> None:
    """Means, signs and sends action after action; the `chain` file stands for a node that takes each raw once."""
    database = Database.open(folder / "node.sqlite")
    chain = folder / "chain"
    for number in range(1000):
        # What a restarted sender does first: the very same bytes again.
        while (action := database.read_now(outbox.next_unsent, CHAIN)) is not None:
            if action.state == "meant":
                nonce = database.read_now(outbox.next_nonce, CHAIN, SENDER, 0)
                wanted = int(action.action_id.split(":")[1])
                database.write_now(
                    outbox.mark_signed, action.action_id, sender=SENDER, nonce=nonce, tx_hash=tx_hash_of(wanted),
                    raw=f"{nonce}:{wanted}".encode(),
                )  # fmt: skip
                say("signed", wanted, nonce)
                continue
            raw = action.attempts[-1].raw.decode()
            with chain.open("a") as node:
                node.write(raw + "\n")
            database.write_now(outbox.mark_sent, action.attempts[-1].tx_hash)
            say("sent", raw.split(":")[1])
        if database.read_now(outbox.find, f"act:{number}") is None:
            database.write_now(outbox.put, f"act:{number}", chain_id=CHAIN, to=b"\x22" * 20, data=b"")
            say("meant", number)


def work_blobs(folder: Path) -> None:
    """Stores, pins and now and then drops contents."""
    store = BlobStore(folder / "blobs", 1 << 30)
    start = len(list(folder.glob("round.*")))
    (folder / f"round.{start}").touch()
    for number in range(start * 1000, start * 1000 + 1000):
        content_id = store.put_bytes(blob_of(number), pin="job")
        say("put", number)
        if number % 3 == 0:
            store.unpin(content_id, "job")
            store.delete(content_id)
            say("deleted", number)


if __name__ == "__main__":
    {"outbox": work_outbox, "blobs": work_blobs}[sys.argv[1]](Path(sys.argv[2]))
