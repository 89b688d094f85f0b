"""`tolsey ps`, `show`, `logs`, `wait`, `get` and `cancel`: what becomes of a job that was bought."""

from __future__ import annotations

import sys
from pathlib import Path

import trio
import typer

from tolsey.client import exit_codes, render, views
from tolsey.client.commands import shared
from tolsey.client.exit_codes import on_interrupt
from tolsey.client.views import ProgressView
from tolsey.client.watching import Screen, StepPage
from tolsey.errors import ConfigError

app = typer.Typer()

OUT = typer.Option(None, "--out", "-o", help="Where to; JOB.safetensors by default.")
PLOT = typer.Option(None, "--plot", help="Also draw the loss curve into this PNG.")


@app.command("ps")
def ps(
    everybody: bool = typer.Option(False, "--all", help="All jobs of the market, not only mine."),
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
) -> None:
    """List my jobs."""
    market = shared.open_market(network, home)
    found = market.ps(everybody=everybody)
    shared.show(found, json_output, render.jobs(found, market.access.money))


@app.command("show")
def show(
    job: str = shared.JOB,
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
) -> None:
    """Show one job's timeline: states, roots, draws, verdicts, money."""
    market = shared.open_market(network, home)
    found = market.show(job)
    shared.show(found, json_output, render.job(found, market.access.money))


@app.command("logs")
def logs(
    job: str = shared.JOB,
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on until the job is final."),
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
) -> None:
    """Print a job's loss, step by step."""
    market = shared.open_market(network, home)

    with StepPage(live=follow and not json_output) as page:

        def on_step(view: ProgressView) -> None:
            if json_output:
                print(views.dumps(view, indent=None), flush=True)
            else:
                page.add(view)

        market.logs(job, follow=follow, on_step=on_step)


@app.command("wait")
def wait(
    job: str = shared.JOB,
    timeout: float | None = typer.Option(None, "--timeout", help="Seconds after which to give up (exit code 124)."),
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
) -> None:
    """Wait until a job is final; the exit code says how it ended."""
    market = shared.open_market(network, home)
    money = market.access.money
    try:
        with Screen(money, job=job, quiet=json_output) as screen, on_interrupt(screen.left_behind):
            found = market.wait(job, timeout_s=timeout, watch=screen.update)
    except trio.TooSlowError:
        print(f"job {job} is not final after {timeout:g} s; it goes on", file=sys.stderr)
        raise typer.Exit(exit_codes.WAIT_TIMED_OUT) from None
    shared.show(found, json_output, render.result(found))
    raise typer.Exit(found.exit_code)


@app.command("get")
def get(
    job: str = shared.JOB,
    out: Path | None = OUT,
    plot: Path | None = PLOT,
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
) -> None:
    """Download the final checkpoint and check it against the chain."""
    market = shared.open_market(network, home)
    found = market.get(job, out=out, plot=plot)
    shared.show(found, json_output, render.fetched(found))


@app.command("cancel")
def cancel(
    job: str = shared.JOB,
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask before the forfeit is paid."),
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
    passphrase_file: Path | None = shared.PASSPHRASE_FILE,
) -> None:
    """Cancel a job before its worker commits; the forfeit goes to the worker."""
    market = shared.open_market(network, home, passphrase_file)
    if not (yes or shared.is_interactive()):
        raise ConfigError("there is nobody to ask before a forfeit is paid", fix="add --yes")
    with on_interrupt(lambda: "tolsey ps says whether it was cancelled"):
        money, view = market.access.money, market.show(job)
        question = (
            f"Cancel job {view.job.job_id[:12]}? At most {money.text(view.forfeit)} of its escrow go to the worker"
        )
        if not (yes or shared.agreed(question)):
            render.err.print("not cancelled; the job goes on")
            raise typer.Exit(1)
        found = market.cancel(view.job.job_id)
    shared.show(found, json_output, render.cancelled(found, money))
