"""`tolsey audit`: re-run a job's segments, or rebuild the whole market from its logs."""

from __future__ import annotations

from pathlib import Path

import typer

from tolsey.client import render
from tolsey.client.commands import shared
from tolsey.errors import ConfigError, ReplayMismatch

app = typer.Typer()


@app.command("audit")
def audit(
    job: str | None = typer.Argument(None, help="A job's id or its beginning; none with --all."),
    segment: int | None = typer.Option(None, "--segment", help="Re-run this segment."),
    sample: int | None = typer.Option(None, "--sample", help="Re-run so many segments, drawn at random."),
    full: bool = typer.Option(False, "--full", help="Re-run every committed segment."),
    everything: bool = typer.Option(False, "--all", help="Rebuild balances, states and verdicts from logs alone."),
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
) -> None:
    """Re-run segments of a job, or rebuild the whole market from its logs."""
    market = shared.open_market(network, home)
    if everything == (job is not None):
        raise ConfigError("audit takes a job, or --all", fix="tolsey audit JOB --sample 2, or tolsey audit --all")
    if everything:
        ledger = market.audit_all()
        shared.show(ledger, json_output, render.ledger(ledger, market.access.money))
        if ledger.differences:
            raise typer.Exit(8)
        return
    assert job is not None
    if sum((segment is not None, sample is not None, full)) > 1:
        raise ConfigError("--segment, --sample and --full exclude each other")
    tell = (lambda line: None) if json_output else (lambda line: render.err.print(line))
    found = market.audit(job, segment=segment, sample=sample, full=full, tell=tell)
    shared.show(found, json_output, render.audit(found))
    if not found.equal:
        wrong = next(one for one in found.segments if not one.equal)
        raise ReplayMismatch(
            f"segment {wrong.segment} gives {wrong.replayed[:16]} here, committed is {wrong.committed[:16]}",
            fix="tolsey verifier start challenges what it finds; the window is open until its deadline (tolsey show)",
        )
