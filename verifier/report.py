"""What `tolsey verifier status` says, and how the running verifier tells it.

A running verifier has its database locked and writes a status file every few seconds; without one, that file's last
words and the chain are shown. Amounts are token units. Next in the flow: command.py prints it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import trio

from tolsey.contracts.purse import money_of
from tolsey.network.host import Host
from tolsey.verifier.config import VerifierConfig
from tolsey.verifier.post import Post
from tolsey.verifier.records import DutyRecord, Evidence, Records, VoteRecord

STATUS_S = 3.0
"""How often a running verifier writes its status file."""


async def tell(config: VerifierConfig, facts: dict[str, Any], records: Records, post: Post, host: Host) -> None:
    """Keeps the status file fresh until cancelled; `facts` are what does not change."""
    while True:
        status = {
            "pid": os.getpid(),
            **facts,
            "peers": host.peers(),
            "earned": dict(post.watcher.earned),
            "duties": [describe_duty(record) for record in await records.newest_duties()],
            "disputes": [describe_evidence(item) for item in await records.all_evidence()],
            "votes": [describe_vote(record) for record in await records.all_votes()],
        }
        part = config.status_file.with_suffix(".part")
        part.write_text(json.dumps(status, indent=1) + "\n")
        part.replace(config.status_file)
        await trio.sleep(STATUS_S)


def describe_duty(record: DutyRecord) -> dict[str, Any]:
    """A duty as plain values."""
    duty = record.duty
    return {
        "job_id": duty.job_id.hex(),
        "window": duty.draw.window,
        "is_drawn": duty.is_drawn,
        "stage": record.stage,
        "verdict": None if record.kind is None else record.kind.name,
        "segment": record.segment,
        "seal_by": duty.seal_by,
        "reveal_by": duty.reveal_by,
        "fee": duty.offer.verdict_fee,
        "message": record.message,
    }


def describe_evidence(item: Evidence) -> dict[str, Any]:
    """An accusation as plain values; with the evidence that a stranger needs to repeat it."""
    return {
        "job_id": item.job_id.hex(),
        "segment": item.segment,
        "charge": item.charge,
        "stage": item.stage,
        "worker": item.offer.worker,
        "committed_root": None if item.opening is None else item.opening.output_root.hex(),
        "replayed_root": item.replayed_root.hex(),
        "start_checkpoint": None if item.start_checkpoint is None else item.start_checkpoint.hex(),
        "message": item.message,
    }


def describe_vote(record: VoteRecord) -> dict[str, Any]:
    """A panel vote as plain values."""
    return {
        "dispute_id": record.dispute_id.hex(),
        "round": record.round,
        "job_id": record.job_id.hex(),
        "segment": record.segment,
        "stage": record.stage,
        "vote": None if record.vote is None else record.vote.name,
        "message": record.message,
    }


def report(network: Path, status_file: Path, *, pid: int | None) -> dict[str, Any]:
    """The verifier's last words as plain values; `money` is None where the chain cannot be asked.

    Args:
        pid: of the running verifier, None where none runs.
    """
    nothing: dict[str, Any] = {
        "account": None,
        "peers": [],
        "addrs": [],
        "earned": {},
        "duties": [],
        "disputes": [],
        "votes": [],
    }
    try:
        status = nothing | json.loads(status_file.read_text())
    except (OSError, ValueError):
        status = nothing
    status |= {"running": pid is not None, "pid": pid, "money": money_of(network, status["account"])}
    return dict(status)
