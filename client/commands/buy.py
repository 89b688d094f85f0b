"""`tolsey run`, `plan`, `offers` and `follow`: from a job file to a job that is followed to its end."""

from __future__ import annotations

from pathlib import Path

import typer

from tolsey.client import present, render, views
from tolsey.client.commands import shared
from tolsey.client.money import Money
from tolsey.client.plan import Plan
from tolsey.client.views import RunView
from tolsey.client.watching import Screen
from tolsey.errors import ConfigError

app = typer.Typer()

SPEC = typer.Argument(..., help="A job file: SPEC.toml, or a Python file that defines `job`.")
DATA = typer.Option(None, "--data", help="A text file in place of the job's data.")
MAX_COST = typer.Option(None, "--max-cost", help="The most that the whole escrow may be, such as 5.00.")
ON = typer.Option(None, "--on", help="Only these workers: accounts or beginnings, separated by commas.")
SAMPLES = typer.Option(None, "--samples", help="Segments that each verifier replays per window.")
OUT = typer.Option(None, "--out", help="Download the final checkpoint there.")
VERIFIERS = typer.Option(None, "--verifiers", help="Verifiers drawn per window, 0 to 7.")


@app.command("run")
def run(
    spec: Path = SPEC,
    data: Path | None = DATA,
    max_cost: str | None = MAX_COST,
    on: str | None = ON,
    samples: int | None = SAMPLES,
    verifiers: int | None = VERIFIERS,
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask before signing."),
    detach: bool = typer.Option(False, "--detach", "-d", help="Return once it is accepted; a process follows it."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the plan and stop."),
    out: Path | None = OUT,
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
    passphrase_file: Path | None = shared.PASSPHRASE_FILE,
) -> None:
    """Buy a training job: offers, plan, escrow, progress, result."""
    market = shared.open_market(network, home, passphrase_file)
    wishes = {"data": data, "max_cost": max_cost, "on": on, "samples": samples, "verifiers": verifiers}
    if not (yes or dry_run or shared.is_interactive()):
        raise ConfigError("there is nobody to ask before money is locked", fix="add --yes, or --dry-run for the plan")
    money = market.access.money
    if dry_run:
        _show_plan(market.plan(spec, **wishes), money, json_output)
        return
    with Screen(money, quiet=json_output) as screen:
        result = market.run(
            spec,
            decide=lambda plan: _agreed(plan, money, yes=yes, json_output=json_output),
            watch=screen.update,
            tell=screen.tell,
            detach=detach,
            out=out,
            **wishes,
        )
    if result is None:
        render.err.print("not bought; nothing was signed")
        raise typer.Exit(1)
    _finish(result, json_output)


@app.command("plan")
def plan(
    spec: Path = SPEC,
    data: Path | None = DATA,
    max_cost: str | None = MAX_COST,
    on: str | None = ON,
    samples: int | None = SAMPLES,
    verifiers: int | None = VERIFIERS,
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
) -> None:
    """Show what a job would cost, without buying it."""
    market = shared.open_market(network, home)
    found = market.plan(spec, data=data, max_cost=max_cost, on=on, samples=samples, verifiers=verifiers)
    _show_plan(found, market.access.money, json_output)


@app.command("offers")
def offers(
    json_output: bool = shared.JSON, network: Path | None = shared.NETWORK, home: Path | None = shared.HOME
) -> None:
    """List what workers sell now."""
    market = shared.open_market(network, home)
    found = market.offers()
    shared.show(found, json_output, render.offers(found, market.access.money))


@app.command("follow")
def follow(
    job: str = shared.JOB,
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
    passphrase_file: Path | None = shared.PASSPHRASE_FILE,
) -> None:
    """Serve a job's inputs and reveal its secrets until it is final."""
    market = shared.open_market(network, home, passphrase_file)
    with Screen(market.access.money, job=job, quiet=json_output) as screen:
        result = market.follow(job, watch=screen.update)
    _finish(result, json_output)


def _agreed(plan: Plan, money: Money, *, yes: bool, json_output: bool) -> bool:
    """Shows the plan and asks; with --yes only shows."""
    view = present.plan(plan)
    if not json_output:
        render.err.print(render.plan(view, money))
    return yes or shared.agreed("Lock the escrow and buy?")


def _show_plan(view: views.PlanView, money: Money, json_output: bool) -> None:
    shared.show(view, json_output, render.plan(view, money))


def _finish(result: RunView, json_output: bool) -> None:
    shared.show(result, json_output, render.result(result))
    raise typer.Exit(result.exit_code)
