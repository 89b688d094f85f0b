"""Alembic's entry: runs the steps on the connection that storage/engine.py holds, in its transaction."""

from __future__ import annotations

from alembic import context

from tolsey.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
context.run_migrations()
