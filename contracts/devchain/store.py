"""The devchain's file: py-evm's key-value store, and beside it the index that JSON-RPC asks for.

One request that changes anything is one SQLite transaction with synchronous=FULL: a block is either whole on the disk
before its answer leaves, or it never was. `kv` only grows (state is content-addressed), so going back to a snapshot
is deleting index rows above a block.

A second process on the same file is refused: SQLite's exclusive locking mode is held for life and ends with the
process, however it ends. Next: shapes.py.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eth.db.backends.base import BaseDB

from tolsey.errors import ConfigError

Json = dict[str, Any]
MAX_LOGS = 10_000
"""Logs in one answer; beyond it the caller must narrow the range (a guess: about 5 MB of JSON)."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (k TEXT PRIMARY KEY, v TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS block (number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, json TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tx (hash BLOB PRIMARY KEY, number INTEGER NOT NULL, position INTEGER NOT NULL,
                               json TEXT NOT NULL, receipt TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tx_number ON tx (number, position);
CREATE TABLE IF NOT EXISTS log (number INTEGER, position INTEGER, address BLOB NOT NULL, topic0 BLOB, topic1 BLOB,
                                topic2 BLOB, topic3 BLOB, json TEXT NOT NULL, PRIMARY KEY (number, position))
                                WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS log_address ON log (address, number);
CREATE TABLE IF NOT EXISTS pool (arrival INTEGER PRIMARY KEY, sender BLOB NOT NULL, nonce INTEGER NOT NULL,
                                 hash BLOB NOT NULL UNIQUE, raw BLOB NOT NULL, UNIQUE (sender, nonce));
CREATE TABLE IF NOT EXISTS snapshot (id INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL,
                                     offset_s INTEGER NOT NULL);
"""


class ChainStore(BaseDB):
    """py-evm's database interface over one SQLite file, plus the index tables.

    Raises:
        ConfigError: another process serves this file.
    """

    def __init__(self, path: Path) -> None:
        self.sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.5)
        try:
            self.sql.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.sql.execute("PRAGMA journal_mode=WAL")
            self.sql.execute("PRAGMA synchronous=FULL")
            self.sql.execute("BEGIN EXCLUSIVE")
            self.sql.execute("COMMIT")
            self.sql.executescript(_SCHEMA)
        except sqlite3.OperationalError as cause:
            self.sql.close()
            if "locked" not in str(cause):
                raise
            raise ConfigError(
                f"{path} is served by another process", fix="stop the chain that runs there, or choose another --data"
            ) from cause

    def close(self) -> None:
        self.sql.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside are on the disk when this returns, or none are."""
        self.sql.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.sql.execute("ROLLBACK")
            raise
        self.sql.execute("COMMIT")

    # py-evm's half

    def __getitem__(self, key: bytes) -> bytes:
        row = self.sql.execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return bytes(row[0])

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.sql.execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key, bytes(value)))

    def __delitem__(self, key: bytes) -> None:
        if self.sql.execute("DELETE FROM kv WHERE k = ?", (key,)).rowcount == 0:
            raise KeyError(key)

    def _exists(self, key: bytes) -> bool:
        return self.sql.execute("SELECT 1 FROM kv WHERE k = ?", (key,)).fetchone() is not None

    # blocks, transactions, logs

    def add_block(self, block: Json, transactions: Sequence[Json], receipts: Sequence[Json]) -> None:
        """Indexes one mined block given in its JSON-RPC forms."""
        number = int(block["number"], 16)
        self.sql.execute("INSERT INTO block VALUES (?, ?, ?)", (number, _blob(block["hash"]), json.dumps(block)))
        for position, (transaction, receipt) in enumerate(zip(transactions, receipts, strict=True)):
            row = (_blob(transaction["hash"]), number, position, json.dumps(transaction), json.dumps(receipt))
            self.sql.execute("INSERT OR REPLACE INTO tx VALUES (?, ?, ?, ?, ?)", row)
            for log in receipt["logs"]:
                topics = [_blob(topic) for topic in log["topics"]] + [None] * (4 - len(log["topics"]))
                place = (number, int(log["logIndex"], 16), _blob(log["address"]), *topics, json.dumps(log))
                self.sql.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)", place)

    def drop_blocks_above(self, number: int) -> None:
        """Forgets the index of all blocks after `number`."""
        for table in ("block", "tx", "log"):
            self.sql.execute(f"DELETE FROM {table} WHERE number > ?", (number,))

    def head_number(self) -> int | None:
        """Number of the newest block; None before genesis is written."""
        number: int | None = self.sql.execute("SELECT max(number) FROM block").fetchone()[0]
        return number

    def block(self, *, number: int | None = None, block_hash: bytes | None = None) -> Json | None:
        """The block's JSON-RPC form (transactions as hashes) by number or by hash."""
        if number is not None:
            return self._one("SELECT json FROM block WHERE number = ?", number)
        return self._one("SELECT json FROM block WHERE hash = ?", block_hash)

    def transactions_of(self, number: int) -> list[Json]:
        """The transactions of block `number` in order."""
        return self._all("SELECT json FROM tx WHERE number = ? ORDER BY position", number)

    def receipts_of(self, number: int) -> list[Json]:
        """The receipts of block `number` in order."""
        return self._all("SELECT receipt FROM tx WHERE number = ? ORDER BY position", number)

    def transaction_of(self, tx_hash: bytes) -> Json | None:
        """A mined transaction."""
        return self._one("SELECT json FROM tx WHERE hash = ?", tx_hash)

    def receipt_of(self, tx_hash: bytes) -> Json | None:
        """A mined transaction's receipt."""
        return self._one("SELECT receipt FROM tx WHERE hash = ?", tx_hash)

    def logs(self, first: int, last: int, addresses: Sequence[bytes], topics: Sequence[Sequence[bytes]]) -> list[Json]:
        """Logs of blocks first..last in chain order, at most MAX_LOGS + 1.

        Args:
            addresses: any of these; empty for all.
            topics: per position any of these; an empty entry stands for anything.
        """
        where, values = ["number BETWEEN ? AND ?"], [first, last]
        for column, wanted in [("address", addresses), *((f"topic{i}", any_of) for i, any_of in enumerate(topics))]:
            if wanted:
                where.append(f"{column} IN ({', '.join('?' * len(wanted))})")
                values.extend(wanted)  # type: ignore[arg-type]  # sqlite takes ints and blobs alike
        query = f"SELECT json FROM log WHERE {' AND '.join(where)} ORDER BY number, position LIMIT {MAX_LOGS + 1}"
        return self._all(query, *values)

    # small things

    def meta(self, key: str, default: str) -> str:
        """A setting of this chain."""
        row = self.sql.execute("SELECT v FROM meta WHERE k = ?", (key,)).fetchone()
        return default if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        self.sql.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _one(self, query: str, value: object) -> Json | None:
        row = self.sql.execute(query, (value,)).fetchone()
        return None if row is None else json.loads(row[0])

    def _all(self, query: str, *values: object) -> list[Json]:
        return [json.loads(row[0]) for row in self.sql.execute(query, values)]


def _blob(hexed: str) -> bytes:
    return bytes.fromhex(hexed[2:])
