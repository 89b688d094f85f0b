"""Whole days on the market: processes, streams, blocks and bits are real; nothing is replaced.

The honest sale and the caught liar are `tolsey demo`, which CI plays apart from these; here is what may go wrong around
an honest sale.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import Town

pytestmark = pytest.mark.slow


def test_worker_killed_in_mid_job_carries_on_and_is_paid_once(town: Town, job_file: Path) -> None:
    worker = town.member("worker-1")["account"]
    code, bought = town.type("run", str(job_file), "--yes", "--detach", "--on", worker)
    assert code == 0, bought
    job = bought["job_id"]

    # Kill it once a segment is behind it and it is in the middle of the next.
    next(step for step in town.lines("logs", job, "-f") if step["step"] >= 25)
    town.kill("worker-1")
    town.restart_worker("worker-1")

    code, ended = town.type("wait", job)
    assert (code, ended["state"]) == (0, "completed"), ended
    _, shown = town.type("show", job)
    assert [e["event"] for e in shown["timeline"]].count("WindowCommitted") == 2
    assert shown["paid_worker"] == shown["job"]["price"]


def test_final_checkpoint_is_fetched_and_checked_against_the_chain(town: Town, job_file: Path, tmp_path: Path) -> None:
    job = _completed(town, job_file)
    code, fetched = town.type(
        "get", job, "--out", str(tmp_path / "model.safetensors"), "--plot", str(tmp_path / "l.png")
    )
    assert code == 0, fetched
    assert (tmp_path / "model.safetensors").stat().st_size == fetched["size_bytes"]
    assert (tmp_path / "l.png").read_bytes().startswith(b"\x89PNG")
    _, shown = town.type("show", job)
    assert fetched["window_root"] == shown["roots"][-1]


def test_any_segment_is_run_again_by_an_auditor_with_equal_bits(town: Town, job_file: Path) -> None:
    code, found = town.type("audit", _completed(town, job_file), "--segment", "1")
    assert code == 0, found


def test_ledger_is_rebuilt_from_logs_after_every_local_database_is_gone(town: Town, job_file: Path) -> None:
    _completed(town, job_file)
    client = town.folder / "client"
    aside = town.folder / "client-aside"
    shutil.move(client, aside)
    try:
        code, found = town.type("audit", "--all")
    finally:
        shutil.rmtree(client, ignore_errors=True)
        shutil.move(aside, client)
    assert code == 0, found
    assert found["differences"] == []
    assert found["jobs"]["completed"] >= 1


def _completed(town: Town, job_file: Path) -> str:
    """Some completed job of this town; bought now if there is none yet."""
    _, jobs = town.type("ps")
    done = [job["job_id"] for job in jobs if job["state"] == "completed"]
    if done:
        return str(done[0])
    code, bought = town.type("run", str(job_file), "--yes", "--on", town.member("worker-2")["account"])
    assert (code, bought["state"]) == (0, "completed"), bought
    return str(bought["job_id"])
