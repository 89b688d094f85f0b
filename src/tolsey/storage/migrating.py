"""Brings a database to this program's shape when it is opened, or says why not.

Runs in one transaction under the opener's lock. Before an existing SQLite file is changed it is copied beside itself
(`node.sqlite.before-0002`), so the way back from a bad upgrade is a rename. Next: engine.py calls this.
"""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from tolsey.errors import LocalViolation, StorageError

HISTORY = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x746F6C736579  # "tolsey": one migrator at a time on a PostgreSQL server


def migrate(engine: sa.Engine, history: Path = HISTORY) -> None:
    """Runs all steps that the database has not seen.

    Raises:
        StorageError: the database was written by a newer program.
        LocalViolation: the history branches.
    """
    config = Config()
    config.set_main_option("script_location", str(history).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    heads = script.get_heads()
    if len(heads) != 1:
        raise LocalViolation(f"migrations must form one line, but end in {', '.join(sorted(heads)) or 'nothing'}")
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    known = {step.revision for step in script.walk_revisions()}
    if current is not None and current not in known:
        raise StorageError(
            f"the database has schema {current}, this program knows up to {heads[0]}",
            fix="install the newer tolsey, or open the copy that it made before migrating",
        )
    if current == heads[0]:
        return
    if current is not None and engine.dialect.name == "sqlite":
        _copy_before(engine, heads[0])
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _copy_before(engine: sa.Engine, target: str) -> None:
    path = Path(engine.url.database or "")
    copy, unfinished = (path.with_name(f"{path.name}.before-{target}{end}") for end in ("", ".tmp"))
    unfinished.unlink(missing_ok=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT", tolsey_begin=None) as connection:
        connection.exec_driver_sql("VACUUM INTO ?", (str(unfinished),))
    with unfinished.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(unfinished, copy)
