"""`tolsey worker`: start, stop and watch a worker, and move its money.

`start` runs in the foreground until SIGTERM or Ctrl-C and prints one line once it truly serves (JSON with --json), so
that a script or supervisor can wait for it. The other commands read the home folder and the chain; they need no
running worker. Next in the flow: config.py, service.py.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, Final

import trio
import typer

from tolsey import log
from tolsey.contracts.amounts import dollars, parse_dollars
from tolsey.contracts.network_file import network_path
from tolsey.contracts.role_command import (
    ANNOUNCE,
    BOOTSTRAP,
    FAUCET,
    JSON,
    LISTEN,
    NETWORK,
    PASSPHRASE_FILE,
    RPC_URL,
    VERBOSE,
    add_leave,
    add_stop,
    add_withdraw,
    home_of,
    home_option,
    open_purse,
    say,
)
from tolsey.node.config import WorkerConfig
from tolsey.storage.process import running_pid, serve_until_told
from tolsey.storage.sizes import parse_size

app = typer.Typer(
    name="worker",
    help="Sell training: start, stop and watch a worker.",
    no_args_is_help=True,
    add_completion=False,
)

ROLE: Final = "worker"
HOME = home_option(ROLE)


@app.command()
def start(
    ctx: typer.Context,
    network: str = NETWORK,
    home: Path | None = HOME,
    listen: str = LISTEN,
    announce: list[str] = ANNOUNCE,
    bootstrap: list[str] = BOOTSTRAP,
    price_per_petaflop: str = typer.Option("1.0", help="Test dollars per 10^15 floating-point operations."),
    min_price: str = typer.Option("0.5", help="Test dollars per job, at least."),
    bond_bps: int = typer.Option(5_000, help="Bond per job, in 1/100 % of its price."),
    capacity: int = typer.Option(1, help="Jobs at a time."),
    memory: str = typer.Option("4GiB", help="Memory for one job."),
    device: str = typer.Option("cpu", help="cpu, cuda or cuda:N."),
    disk_quota: str = typer.Option("64GiB", help="Disk for contents and checkpoints."),
    faucet: bool = FAUCET,
    rpc_url: str | None = RPC_URL,
    passphrase_file: Path | None = PASSPHRASE_FILE,
    json_output: bool = JSON,
    json_logs: bool = typer.Option(False, help="One JSON object per log line."),
    verbose: bool = VERBOSE,
) -> None:
    """Run a worker until it is told to stop."""
    path = network_path(network)
    config = WorkerConfig(
        network=str(path),
        home=home_of(ROLE, path, home),
        listen=listen,
        announce=tuple(announce),
        bootstrap=tuple(bootstrap),
        price_per_petaflop=parse_dollars("--price-per-petaflop", price_per_petaflop),
        min_price=parse_dollars("--min-price", min_price),
        bond_bps=bond_bps,
        capacity=capacity,
        memory_bytes=parse_size("--memory", memory),
        device=device,
        disk_quota_bytes=parse_size("--disk-quota", disk_quota),
        faucet=faucet,
        rpc_url=rpc_url,
    )
    run_worker(
        config,
        parts=ctx.obj,  # None but in tolsey.testing
        passphrase_file=passphrase_file,
        json_output=json_output,
        json_logs=json_logs,
        verbose=verbose,
    )


def run_worker(
    config: WorkerConfig,
    *,
    parts: Any = None,
    passphrase_file: Path | None = None,
    json_output: bool = False,
    json_logs: bool = False,
    verbose: bool = False,
) -> None:
    """Runs a worker in the foreground; `parts` as in service.run."""
    # Late: libp2p and web3 take seconds to import, and `--help` needs neither.
    from tolsey.contracts.wallet import Keystore, read_passphrase  # noqa: PLC0415
    from tolsey.node import service  # noqa: PLC0415

    log.set_up(verbose=verbose)
    if json_logs:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_JsonLines())
    passphrase = read_passphrase(passphrase_file, confirm=not Keystore.exists(config.home / "keys"))

    async def serve(stop: trio.Event, *, task_status: trio.TaskStatus[service.Ready]) -> None:
        await service.run(config, passphrase, stop=stop, parts=parts, task_status=task_status)

    trio.run(serve_until_told, serve, lambda ready: _say_ready(ready, json_output))


class _JsonLines(logging.Formatter):
    """One JSON object per record, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"ts": record.created, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _say_ready(ready: Any, json_output: bool) -> None:
    if json_output:
        line = {
            "event": "ready",
            "role": ROLE,
            "pid": os.getpid(),
            "account": ready.account,
            "peer_id": ready.peer_id,
            "addrs": list(ready.addrs),
            "class_id": ready.machine.class_id.hex(),
            "profiles": list(ready.machine.profiles),
            "flops_per_s": ready.machine.flops_per_s,
        }
        print(json.dumps(line), flush=True)
    else:
        machine = ready.machine
        print(
            f"worker {ready.account} serves on {ready.addrs[0]} "
            f"({machine.class_name}, {', '.join(machine.profiles)}, {machine.flops_per_s / 1e9:.1f} Gflop/s)"
        )
        sys.stdout.flush()


add_stop(app, ROLE)


@app.command()
def status(network: str = NETWORK, home: Path | None = HOME, json_output: bool = JSON) -> None:
    """Show a worker: is it running, what it sells, its jobs and money."""
    from tolsey.node.report import report  # noqa: PLC0415  # loads web3

    path = network_path(network)
    folder = home_of(ROLE, path, home)
    found = report(path, folder, pid=running_pid(folder, ROLE))
    if json_output:
        typer.echo(json.dumps(found, indent=1))
        return
    state = f"running (pid {found['pid']})" if found["running"] else "not running"
    typer.echo(f"worker {found['account']}: {state}")
    if found["money"]:
        money = found["money"]
        typer.echo(
            f"  free {dollars(money['free'])}, locked {dollars(money['locked'])}, earned {dollars(found['earned'])}"
        )
    if found["running"]:
        typer.echo(
            f"  sells {', '.join(found['profiles'])} on {found['class']} "
            f"at {dollars(found['price_per_petaflop'])} a petaflop, "
            f"{found['busy']} of {found['capacity']} places taken, {len(found['peers'])} peers"
        )
    for job in found["jobs"]:
        typer.echo(
            f"  job {job['job_id'][:12]}  {job['state']:<10} window {job['window']}/{job['windows']}  "
            f"{job['phase']:<10} {dollars(job['price'])}"
        )


@app.command()
def deposit(
    amount: str = typer.Argument(help="Test dollars from the worker's account into the market."),
    network: str = NETWORK,
    home: Path | None = HOME,
    passphrase_file: Path | None = PASSPHRASE_FILE,
    json_output: bool = JSON,
) -> None:
    """Put money at the worker's disposal for bonds."""
    units = parse_dollars("AMOUNT", amount)
    say(open_purse(ROLE, network, home, passphrase_file).deposit(units), json_output)


add_withdraw(app, ROLE)
add_leave(app, ROLE, "ask for the registration bond")
