"""What `tolsey worker status` says, and how the running worker tells it.

A running worker has its database locked and writes a status file every few seconds; without one, the tables are opened
here. Money is asked of the chain in either case. Next in the flow: command.py prints it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from tolsey.contracts.purse import money_of
from tolsey.node.records import JobRecord, Records, all_jobs
from tolsey.storage.engine import Database

STATUS_S = 5.0
"""How often a running worker writes its status file."""
STATUS_NAME, DATABASE_NAME = "status.json", "worker.sqlite"


async def tell(home: Path, facts: dict[str, Any], live: Any, records: Records) -> None:
    """Keeps the status file fresh until cancelled.

    Args:
        facts: what does not change. live: async, gives what does.
    """
    while True:
        write_status(home, facts | await live() | {"jobs": describe(await records.jobs())})
        await trio.sleep(STATUS_S)


def write_status(home: Path, status: dict[str, Any]) -> None:
    """Replaces the status file whole."""
    part = home / f".{STATUS_NAME}.part"
    part.write_text(json.dumps({"pid": os.getpid()} | status, indent=1) + "\n")
    part.replace(home / STATUS_NAME)


def describe(jobs: Sequence[JobRecord]) -> list[dict[str, Any]]:
    """Jobs as plain values, open ones first; amounts in token units."""
    return [
        {
            "job_id": job.job_id.hex(),
            "name": job.spec.name,
            "client": job.offer.client,
            "state": job.state.name,
            "phase": job.phase,
            "window": job.window,
            "windows": job.offer.window_count,
            "price": job.offer.price,
            "bond": job.offer.bond,
            "earned": job.offer.price * job.window // job.offer.window_count,
            "message": job.message,
        }
        for job in sorted(jobs, key=lambda job: (job.closed_at is not None, -(job.closed_at or 0)))
    ]


def report(network: Path, home: Path, *, pid: int | None) -> dict[str, Any]:
    """The worker in `home` as plain values; `money` is None where the chain cannot be asked.

    Args:
        pid: of the running worker, None where none runs.
    """
    status = _told(home)
    if pid is None and (home / DATABASE_NAME).exists():
        database = Database.open(home / DATABASE_NAME)
        try:
            status["jobs"] = describe(database.read_now(all_jobs))
        finally:
            database.close()
    account = status.get("account")
    return status | {
        "running": pid is not None,
        "pid": pid,
        "account": account,
        "earned": sum(job["earned"] for job in status["jobs"]),
        "money": money_of(network, account),
    }


def _told(home: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((home / STATUS_NAME).read_text()))
    except (OSError, ValueError):
        return {"account": None, "peers": [], "addrs": [], "jobs": []}
