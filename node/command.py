"""`tolsey worker`: start, stop and watch a worker, and move its money.

`start` runs in the foreground until SIGTERM or Ctrl-C and prints one line once it truly serves (JSON with --json), so
that a script or supervisor can wait for it. The other commands read the home folder and the chain; they need no
running worker. Next in the flow: config.py, service.py.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import trio
import typer

from tolsey import log
from tolsey.contracts.amounts import dollars, parse_dollars
from tolsey.contracts.network_file import network_path
from tolsey.node.config import WorkerConfig, default_home
from tolsey.storage.process import end, running_pid, stop_on_signal
from tolsey.storage.sizes import parse_size

app = typer.Typer(
    name="worker",
    help="Sell training: start, stop and watch a worker.",
    no_args_is_help=True,
    add_completion=False,
)

NETWORK = typer.Option("local", "--network", envvar="TOLSEY_NETWORK", help="Network file, or the name of a market.")
HOME = typer.Option(None, "--home", help="Folder of this worker; one running worker each.")
PASSPHRASE_FILE = typer.Option(None, "--passphrase-file", help="Its first line opens the keys.")
ANNOUNCE = typer.Option([], help="Multiaddr to tell others instead (repeatable).")
BOOTSTRAP = typer.Option([], help="Peer to meet first (repeatable); else the network file's.")
JSON = typer.Option(False, "--json", help="Machine-readable output.")


@app.command()
def start(
    ctx: typer.Context,
    network: str = NETWORK,
    home: Path | None = HOME,
    listen: str = typer.Option("/ip4/127.0.0.1/tcp/0", help="Multiaddr to accept peers on."),
    announce: list[str] = ANNOUNCE,
    bootstrap: list[str] = BOOTSTRAP,
    price_per_petaflop: str = typer.Option("1.0", help="Test dollars per 10^15 floating-point operations."),
    min_price: str = typer.Option("0.5", help="Test dollars per job, at least."),
    bond_bps: int = typer.Option(5_000, help="Bond per job, in 1/100 % of its price."),
    capacity: int = typer.Option(1, help="Jobs at a time."),
    memory: str = typer.Option("4GiB", help="Memory for one job."),
    device: str = typer.Option("cpu", help="cpu, cuda or cuda:N."),
    disk_quota: str = typer.Option("64GiB", help="Disk for contents and checkpoints."),
    faucet: bool = typer.Option(False, help="Take test dollars and gas from a test chain."),
    rpc_url: str | None = typer.Option(None, help="Chain endpoint in place of the network file's."),
    passphrase_file: Path | None = PASSPHRASE_FILE,
    json_output: bool = JSON,
    json_logs: bool = typer.Option(False, help="One JSON object per log line."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Debug records."),
) -> None:
    """Run a worker until it is told to stop."""
    path = network_path(network)
    config = WorkerConfig(
        network=str(path),
        home=home_of(path, home),
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

    async def main() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(stop_on_signal, stop)
            with trio.CancelScope() as starting:
                nursery.start_soon(_cancel_after, stop, starting)

                async def serve(*, task_status: trio.TaskStatus[service.Ready]) -> None:
                    await service.run(config, passphrase, stop=stop, parts=parts, task_status=task_status)
                    nursery.cancel_scope.cancel()

                _say_ready(await nursery.start(serve), json_output)
            if starting.cancelled_caught:
                nursery.cancel_scope.cancel()

    trio.run(main)


async def _cancel_after(stop: trio.Event, scope: trio.CancelScope) -> None:
    """Ends a start that hangs, such as one that waits for a chain."""
    await stop.wait()
    scope.cancel()


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
            "role": "worker",
            "pid": os.getpid(),
            "account": ready.account,
            "peer_id": ready.peer_id,
            "addrs": list(ready.addrs),
            "class_id": ready.machine.class_id.hex(),
            "flops_per_s": ready.machine.flops_per_s,
        }
        print(json.dumps(line), flush=True)
    else:
        speed = ready.machine.flops_per_s / 1e9
        print(f"worker {ready.account} serves on {ready.addrs[0]} ({ready.machine.class_name}, {speed:.1f} Gflop/s)")
        sys.stdout.flush()


@app.command()
def stop(network: str = NETWORK, home: Path | None = HOME, json_output: bool = JSON) -> None:
    """Stop a running worker in order and wait until it is gone."""
    folder = home_of(network_path(network), home)
    pid = running_pid(folder, "worker")
    if pid is None:
        _say_stopped(folder, None, json_output)
        return
    end(pid)
    _say_stopped(folder, pid, json_output)


def _say_stopped(home: Path, pid: int | None, json_output: bool) -> None:
    if json_output:
        typer.echo(json.dumps({"stopped": pid is not None, "pid": pid, "home": str(home)}))
    else:
        typer.echo(f"no worker runs in {home}" if pid is None else f"worker {pid} stopped")


@app.command()
def status(network: str = NETWORK, home: Path | None = HOME, json_output: bool = JSON) -> None:
    """Show a worker: is it running, what it sells, its jobs and money."""
    from tolsey.node.report import report  # noqa: PLC0415  # loads web3

    path = network_path(network)
    folder = home_of(path, home)
    found = report(path, folder, pid=running_pid(folder, "worker"))
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
            f"  sells {found['class']} at {dollars(found['price_per_petaflop'])} a petaflop, "
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
    from tolsey.contracts.purse import Purse  # noqa: PLC0415  # loads web3

    path = network_path(network)
    purse = Purse(path, home_of(path, home), passphrase_file, "worker")
    _say(purse.deposit(parse_dollars("AMOUNT", amount)), json_output)


@app.command()
def withdraw(
    amount: str = typer.Argument(help="Test dollars out of the market."),
    to: str | None = typer.Option(None, "--to", help="Account to send them to; else the worker's own."),
    network: str = NETWORK,
    home: Path | None = HOME,
    passphrase_file: Path | None = PASSPHRASE_FILE,
    json_output: bool = JSON,
) -> None:
    """Take earnings out of the market."""
    from tolsey.contracts.purse import Purse  # noqa: PLC0415  # loads web3

    path = network_path(network)
    purse = Purse(path, home_of(path, home), passphrase_file, "worker")
    _say(purse.withdraw(parse_dollars("AMOUNT", amount), to), json_output)


@app.command()
def leave(
    network: str = NETWORK,
    home: Path | None = HOME,
    passphrase_file: Path | None = PASSPHRASE_FILE,
    json_output: bool = JSON,
) -> None:
    """Leave the market: ask for the registration bond, or take it once its time has passed."""
    from tolsey.contracts.purse import Purse  # noqa: PLC0415  # loads web3

    path = network_path(network)
    _say(Purse(path, home_of(path, home), passphrase_file, "worker").leave(), json_output)


def _say(outcome: Any, json_output: bool) -> None:
    """Prints a purse.Outcome."""
    typer.echo(json.dumps(dataclasses.asdict(outcome), indent=1) if json_output else outcome.message)


def home_of(network: Path, home: Path | None) -> Path:
    """The worker's folder: as given, else $TOLSEY_HOME, else beside the network file."""
    folder = (home or default_home(network)).resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
