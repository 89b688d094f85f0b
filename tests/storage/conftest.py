"""Databases for this room's tests: always SQLite, and PostgreSQL where TOLSEY_TEST_POSTGRES names an empty one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from tolsey.storage.engine import Database
from tolsey.storage.tables import attempts, outbox, settings

POSTGRES_URL = os.environ.get("TOLSEY_TEST_POSTGRES")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        opened = Database.open(tmp_path / "node.sqlite")
    elif POSTGRES_URL is None:
        pytest.skip("set TOLSEY_TEST_POSTGRES to the URL of an empty database")
    else:
        opened = Database.open(POSTGRES_URL)
        opened.write_now(_empty)
    yield opened
    opened.close()


def _empty(session: Session) -> None:
    for table in (attempts, outbox, settings):
        session.execute(sa.delete(table))
