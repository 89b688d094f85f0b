"""One database per process: short transactions in worker threads, on SQLite or PostgreSQL.

A unit of work is a plain function whose first argument is an open `Session`. `write` runs it in one transaction that
is durable when it returns; `read` runs it on a consistent view and cannot change anything. No chain call, network call
or long computation belongs inside.

What callers must know:
- The function runs in a thread that cannot be cancelled: **a cancelled task's transaction still commits**. So a unit of
  work is idempotent: running it again changes nothing.
- On PostgreSQL it may be run again after a serialisation failure, so it must not touch anything but the session.
- Return plain values, not rows bound to the session.

SQLite: WAL with synchronous=FULL (745 transactions/s were measured), BEGIN IMMEDIATE for writers, so a read that is
followed by a write never fails with "database is locked". No network file systems. Next: tables.py, outbox.py.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
import trio
from sqlalchemy.orm import Session

from tolsey.errors import ConfigError, StorageError
from tolsey.storage.lock import FolderLock
from tolsey.storage.migrating import HISTORY, migrate
from tolsey.storage.tables import metadata

__all__ = ["Database", "Session", "metadata"]

P = ParamSpec("P")
T = TypeVar("T")
READERS = 4
POSTGRES_WRITERS = 4
BUSY_MS = 30_000
SERIALIZATION_RETRIES = 12
"""With the pauses between them 8 s at the most (a guess); six threads that write one row get through."""
_RETRY_STATES = ("40001", "40P01")  # serialization_failure, deadlock_detected


class Database:
    """An open database; made by `open`, ended by `close`."""

    def __init__(self, engine: sa.Engine, lock: FolderLock | None) -> None:
        self._lock = lock
        self._engine = engine
        is_sqlite = engine.dialect.name == "sqlite"
        if is_sqlite:
            self._write_engine = engine.execution_options(tolsey_begin="BEGIN IMMEDIATE")
            self._read_engine = engine.execution_options(tolsey_begin="BEGIN")
        else:
            self._write_engine = engine.execution_options(isolation_level="SERIALIZABLE")
            self._read_engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writers = trio.CapacityLimiter(1 if is_sqlite else POSTGRES_WRITERS)
        self._readers = trio.CapacityLimiter(READERS)
        # Threads outside trio take turns here instead of polling SQLite's lock.
        self._turn = threading.Semaphore(1 if is_sqlite else POSTGRES_WRITERS)

    @classmethod
    def open(cls, url_or_path: str | Path, *, migrations: Path = HISTORY) -> Database:
        """Opens, locks and migrates; blocks.

        Args:
            url_or_path: a file, made where missing with its folder, or `postgresql+psycopg://user@host/name`.
            migrations: the history to follow; another one only in tests.

        Raises:
            StorageError: in use by another process, of a newer schema, or the disk or server refuses.
            ConfigError: a URL of another kind, or psycopg is missing.
        """
        if isinstance(url_or_path, str) and "://" in url_or_path:
            return cls._opened(_postgres(url_or_path), None, migrations)
        path = Path(url_or_path).resolve()
        try:
            lock = FolderLock(path.parent, f"{path.name}.lock")
        except OSError as cause:
            raise StorageError(f"cannot open {path}: {cause.strerror}") from cause
        try:
            return cls._opened(_sqlite(path), lock, migrations)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _opened(cls, engine: sa.Engine, lock: FolderLock | None, migrations: Path) -> Database:
        try:
            migrate(engine, migrations)
        except sa.exc.DBAPIError as cause:
            engine.dispose()
            raise _storage_error(engine, cause) from cause
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, lock)

    def close(self) -> None:
        """Closes connections and gives the lock up; work still running in threads must have ended."""
        self._engine.dispose()
        if self._lock is not None:
            self._lock.release()

    async def write(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`write_now` in a worker thread. A cancellation before the thread starts runs nothing, later is ignored."""
        return await trio.to_thread.run_sync(partial(self.write_now, work, *args, **kwargs), limiter=self._writers)

    async def read(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`read_now` in a worker thread."""
        return await trio.to_thread.run_sync(partial(self.read_now, work, *args, **kwargs), limiter=self._readers)

    def write_now(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns, once all it wrote is durable; nothing is kept if it raises.

        Raises:
            StorageError: the disk is full, the file damaged, the server gone.
            sqlalchemy.exc.IntegrityError: `work` broke a constraint; for `work`'s author to expect or to fix.
        """
        with self._turn:
            for attempt in range(SERIALIZATION_RETRIES):
                try:
                    return self._run(self._write_engine, work, *args, **kwargs)
                except sa.exc.OperationalError as cause:
                    if getattr(cause.orig, "sqlstate", None) not in _RETRY_STATES:
                        raise _storage_error(self._engine, cause) from cause
                time.sleep(random.uniform(0, 0.002 * 2**attempt))
            raise StorageError(f"a transaction was undone {SERIALIZATION_RETRIES} times by others on the same rows")

    def read_now(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns on one consistent view.

        Raises:
            StorageError: as for `write_now`, and where `work` tries to write.
        """
        try:
            return self._run(self._read_engine, work, *args, **kwargs)
        except (sa.exc.OperationalError, sa.exc.InternalError) as cause:
            raise _storage_error(self._engine, cause) from cause

    @staticmethod
    def _run(engine: sa.Engine, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            return work(session, *args, **kwargs)


def _sqlite(path: Path) -> sa.Engine:
    url = sa.URL.create("sqlite+pysqlite", database=str(path))
    engine = sa.create_engine(url, pool_size=READERS + 2, max_overflow=0, pool_timeout=BUSY_MS / 1000)

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: object, _: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # we say BEGIN ourselves
        for pragma in (
            "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}", "trusted_schema=OFF",
        ):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        begin = connection.get_execution_options().get("tolsey_begin", "BEGIN IMMEDIATE")
        if begin is not None:
            connection.exec_driver_sql(f"PRAGMA query_only={int(begin == 'BEGIN')}")
            connection.exec_driver_sql(begin)

    return engine


def _postgres(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        if parsed.drivername != "postgresql+psycopg":
            raise ConfigError(f"database URL of {parsed.drivername}, supported are a file and postgresql+psycopg://…")
        return sa.create_engine(
            parsed, pool_size=READERS + POSTGRES_WRITERS, max_overflow=0, pool_pre_ping=True,
            connect_args={"connect_timeout": 10, "options": "-c synchronous_commit=on -c lock_timeout=30000"},
        )  # fmt: skip
    except (sa.exc.ArgumentError, ValueError) as cause:
        fix = "postgresql+psycopg://user:password@host/name"
        raise ConfigError("the database URL cannot be read", fix=fix) from cause
    except ModuleNotFoundError as cause:
        raise ConfigError(f"{cause.name} is not installed", fix="pip install 'tolsey[postgres]'") from cause


def _storage_error(engine: sa.Engine, cause: sa.exc.DBAPIError) -> StorageError:
    where = engine.url.render_as_string(hide_password=True)
    words = str(cause.orig)
    fix = "make room on the disk" if "full" in words or "No space" in words else None
    return StorageError(f"database {where}: {words}", fix=fix)
