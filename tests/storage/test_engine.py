"""The database: durable when it says so, one writer at a time without errors, one line of history."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from sqlalchemy.orm import Session

from tolsey.errors import ConfigError, LocalViolation, StorageError
from tolsey.storage.engine import Database
from tolsey.storage.migrating import HISTORY
from tolsey.storage.tables import metadata, settings


def add_one(session: Session, key: str = "n") -> int:
    """Reads, then writes: the pattern that locks up a careless SQLite."""
    value = session.execute(sa.select(settings.c.value).where(settings.c.key == key)).scalar_one_or_none() or 0
    session.execute(sa.delete(settings).where(settings.c.key == key))
    session.execute(sa.insert(settings).values(key=key, value=value + 1))
    return int(value) + 1


def get(session: Session, key: str = "n") -> Any:
    return session.execute(sa.select(settings.c.value).where(settings.c.key == key)).scalar_one_or_none()


def test_write_raises_nothing_kept(database: Database) -> None:
    def fails(session: Session) -> None:
        add_one(session)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        database.write_now(fails)
    assert database.read_now(get) is None


def test_read_that_writes_is_refused(database: Database) -> None:
    with pytest.raises(StorageError):
        database.read_now(add_one)
    assert database.write_now(add_one) == 1


def test_read_then_write_under_contention_loses_no_update(database: Database) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                database.write_now(add_one)
                database.read_now(get)
        except BaseException as failure:  # noqa: BLE001  # shown by the assertion
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and database.read_now(get) == 60


def test_read_sees_one_moment(database: Database) -> None:
    database.write_now(add_one)

    def both(session: Session) -> tuple[Any, Any]:
        before = get(session)
        database.write_now(add_one)
        return before, get(session)

    assert database.read_now(both) == (1, 1)
    assert database.read_now(get) == 2


async def test_write_cancelled_while_running_still_commits(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "node.sqlite")
    begun, go_on = threading.Event(), threading.Event()

    def slow(session: Session) -> None:
        add_one(session)
        begun.set()
        assert go_on.wait(20)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, slow)
            await trio.to_thread.run_sync(begun.wait)
            scope.cancel()
            go_on.set()
    assert await database.read(get) == 1
    database.close()


async def test_write_cancelled_before_its_turn_runs_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "node.sqlite")
    begun, go_on = threading.Event(), threading.Event()

    def slow(session: Session) -> None:
        begun.set()
        assert go_on.wait(20)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, slow)
        await trio.to_thread.run_sync(begun.wait)
        with trio.move_on_after(0.05):
            await database.write(add_one)
        go_on.set()
    assert await database.read(get) is None
    database.close()


async def test_reads_go_on_while_a_write_is_open(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "node.sqlite")
    begun, go_on = threading.Event(), threading.Event()

    def slow(session: Session) -> None:
        add_one(session)
        begun.set()
        assert go_on.wait(20)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, slow)
        await trio.to_thread.run_sync(begun.wait)
        with trio.fail_after(10):
            assert await database.read(get) is None
        go_on.set()
    database.close()


def test_settings_of_sqlite_are_the_durable_ones(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "node.sqlite")

    def pragmas(session: Session) -> list[Any]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [session.execute(sa.text(f"PRAGMA {name}")).scalar_one() for name in names]

    assert database.read_now(pragmas) == ["wal", 2, 1]
    assert database.write_now(pragmas) == ["wal", 2, 1]
    database.close()


def test_open_twice_names_the_holder(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "node.sqlite")
    with pytest.raises(StorageError, match=f"process {os.getpid()}"):
        Database.open(tmp_path / "node.sqlite")
    database.close()
    Database.open(tmp_path / "node.sqlite").close()


def test_open_after_holder_was_killed_needs_no_cleaning(tmp_path: Path) -> None:
    code = "import sys; from tolsey.storage.engine import Database; Database.open(sys.argv[1])"
    code += "; print(1, flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "node.sqlite")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
    with pytest.raises(StorageError, match=f"process {holder.pid}"):
        Database.open(tmp_path / "node.sqlite")
    holder.kill()
    holder.communicate()
    Database.open(tmp_path / "node.sqlite").close()


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite:///x", "postgresql://x/y", "postgresql+psycopg://x:notaport/y"])
def test_open_other_url_is_the_users_to_fix(url: str) -> None:
    with pytest.raises(ConfigError):
        Database.open(url)


def test_open_damaged_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "node.sqlite").write_bytes(b"this is no database, but it is long enough" * 100)
    with pytest.raises(StorageError, match="not a database"):
        Database.open(tmp_path / "node.sqlite")


# migrations


def test_migrations_from_empty_make_the_tables_that_the_code_uses(database: Database) -> None:
    def shape(session: Session) -> dict[str, set[str]]:
        inspector = sa.inspect(session.connection())
        names = inspector.get_table_names()
        return {name: {column["name"] for column in inspector.get_columns(name)} for name in names}

    shared = ("chain_cursor", "seen_block", "chain_event", "outbox", "outbox_attempt", "setting")
    made = database.read_now(shape)
    for name in shared:
        assert made[name] == {column.name for column in metadata.tables[name].columns}


def test_open_again_migrates_nothing_and_copies_nothing(tmp_path: Path) -> None:
    Database.open(tmp_path / "node.sqlite").close()
    Database.open(tmp_path / "node.sqlite").close()
    assert list(tmp_path.glob("*.before-*")) == []


def test_open_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    database = Database.open(path)
    newer = sa.text("UPDATE alembic_version SET version_num = '9999'")
    database.write_now(lambda session: session.execute(newer) and None)
    database.close()
    with pytest.raises(StorageError, match="9999") as caught:
        Database.open(path)
    assert caught.value.fix is not None


def _history(folder: Path, *steps: tuple[str, str | None, str]) -> Path:
    """A copy of the history with further steps: (revision, predecessor, body of upgrade)."""
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text((HISTORY / "env.py").read_text())
    (folder / "versions" / "0001_shared.py").write_text((HISTORY / "versions" / "0001_shared.py").read_text())
    for revision, before, body in steps:
        (folder / "versions" / f"{revision}_x.py").write_text(
            f"from alembic import op\nimport sqlalchemy as sa\nrevision = {revision!r}\ndown_revision = {before!r}\n"
            f"def upgrade():\n    {body}\n"
        )
    return folder


def test_upgrade_copies_the_file_first(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    database = Database.open(path, migrations=_history(tmp_path / "one"))
    database.write_now(add_one)
    database.close()
    step = ("0002", "0001", "op.add_column('setting', sa.Column('note', sa.Text))")
    database = Database.open(path, migrations=_history(tmp_path / "two", step))
    assert database.read_now(get) == 1
    database.close()
    copy = Database.open(tmp_path / "node.sqlite.before-0002", migrations=tmp_path / "one")
    assert copy.read_now(get) == 1
    copy.close()


def test_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    Database.open(path, migrations=_history(tmp_path / "one")).close()
    step = ("0002", "0001", "op.add_column('setting', sa.Column('note', sa.Text)); op.execute('SELECT nonsense')")
    with pytest.raises(StorageError, match="nonsense"):
        Database.open(path, migrations=_history(tmp_path / "two", step))
    database = Database.open(path, migrations=tmp_path / "one")
    columns = database.read_now(lambda session: sa.inspect(session.connection()).get_columns("setting"))
    assert [column["name"] for column in columns] == ["key", "value"]
    database.close()


def test_history_that_branches_is_refused(tmp_path: Path) -> None:
    branches = _history(tmp_path / "two", ("0002", "0001", "pass"), ("000b", "0001", "pass"))
    with pytest.raises(LocalViolation, match="one line"):
        Database.open(tmp_path / "node.sqlite", migrations=branches)
