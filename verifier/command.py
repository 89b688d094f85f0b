"""`tolsey verifier`: start, stop and watch a verifier.

`start` runs in the foreground until SIGTERM or Ctrl-C and prints one line once it truly serves (JSON with --json), so
that a script or supervisor can wait for it. The other commands read the home folder and the chain; they need no
running verifier. Next in the flow: config.py, service.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import trio
import typer

from tolsey import log
from tolsey.contracts.amounts import dollars, parse_dollars
from tolsey.contracts.network_file import network_path
from tolsey.storage.process import end, running_pid, stop_on_signal
from tolsey.storage.sizes import parse_size
from tolsey.verifier.config import VerifierConfig, default_home

app = typer.Typer(
    name="verifier", help="Replay samples for pay: start, stop and watch a verifier.", no_args_is_help=True
)

NETWORK = typer.Option("local", "--network", envvar="TOLSEY_NETWORK", help="Network file, or the name of a market.")
HOME = typer.Option(None, "--home", help="Folder of this verifier; one running verifier each.")
PASSPHRASE_FILE = typer.Option(None, "--passphrase-file", help="Its first line opens the keys.")
ANNOUNCE = typer.Option([], help="Multiaddr to tell others instead (repeatable).")
BOOTSTRAP = typer.Option([], help="Peer to meet first (repeatable); else the network file's.")
JSON = typer.Option(False, "--json", help="Machine-readable output.")


@app.command()
def start(
    network: str = NETWORK,
    home: Path | None = HOME,
    listen: str = typer.Option("/ip4/127.0.0.1/tcp/0", help="Multiaddr to accept peers on."),
    announce: list[str] = ANNOUNCE,
    bootstrap: list[str] = BOOTSTRAP,
    device: str = typer.Option("cpu", help="cpu, cuda or cuda:N."),
    memory: str = typer.Option("4GiB", help="Memory for one replay."),
    watch_all: bool = typer.Option(False, "--watch-all", help="Also replay samples it was not drawn for."),
    watch_samples: int = typer.Option(1, help="Segments replayed in such a window."),
    max_segment: int = typer.Option(3_600, help="Seconds after which a replay is killed."),
    disk_quota: str = typer.Option("64GiB", help="Disk for fetched contents."),
    faucet: bool = typer.Option(False, help="Take test dollars and gas from a test chain."),
    rpc_url: str | None = typer.Option(None, help="Chain endpoint in place of the network file's."),
    passphrase_file: Path | None = PASSPHRASE_FILE,
    json_output: bool = JSON,
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Debug records."),
) -> None:
    """Run a verifier until it is told to stop."""
    path = network_path(network)
    config = VerifierConfig(
        network=str(path),
        home=home_of(path, home),
        listen=listen,
        announce=tuple(announce),
        bootstrap=tuple(bootstrap),
        device=device,
        memory_bytes=parse_size("--memory", memory),
        watch_all=watch_all,
        watch_samples=watch_samples,
        max_segment_s=max_segment,
        disk_quota_bytes=parse_size("--disk-quota", disk_quota),
        faucet=faucet,
        rpc_url=rpc_url,
    )
    run_verifier(config, passphrase_file=passphrase_file, json_output=json_output, verbose=verbose)


def run_verifier(
    config: VerifierConfig,
    *,
    parts: Any = None,
    passphrase_file: Path | None = None,
    json_output: bool = False,
    verbose: bool = False,
) -> None:
    """Runs a verifier in the foreground; `parts` as in service.run."""
    # Late: libp2p and web3 take seconds to import, and `--help` needs neither.
    from tolsey.contracts.wallet import Keystore, read_passphrase  # noqa: PLC0415
    from tolsey.verifier import service  # noqa: PLC0415

    log.set_up(verbose=verbose)
    passphrase = read_passphrase(passphrase_file, confirm=not Keystore.exists(config.home / "keys"))

    async def main() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(stop_on_signal, stop)

            async def serve(*, task_status: trio.TaskStatus[service.Ready] = trio.TASK_STATUS_IGNORED) -> None:
                await service.run(config, passphrase, stop=stop, parts=parts, task_status=task_status)
                nursery.cancel_scope.cancel()

            _say_ready(await nursery.start(serve), json_output)

    trio.run(main)


def _say_ready(ready: Any, json_output: bool) -> None:
    if json_output:
        line = {
            "event": "ready",
            "role": "verifier",
            "pid": os.getpid(),
            "account": ready.account,
            "peer_id": ready.peer_id,
            "addrs": list(ready.addrs),
            "class_id": ready.class_id.hex(),
        }
        print(json.dumps(line), flush=True)
    else:
        print(f"verifier {ready.account} serves on {ready.addrs[0]} (class {ready.class_id.hex()[:12]})", flush=True)


@app.command()
def stop(network: str = NETWORK, home: Path | None = HOME, json_output: bool = JSON) -> None:
    """Stop a running verifier in order and wait until it is gone."""
    folder = home_of(network_path(network), home)
    pid = running_pid(folder, "verifier")
    if pid is None:
        _say_stopped(folder, None, json_output)
        return
    end(pid)
    _say_stopped(folder, pid, json_output)


def _say_stopped(home: Path, pid: int | None, json_output: bool) -> None:
    if json_output:
        typer.echo(json.dumps({"stopped": pid is not None, "pid": pid, "home": str(home)}))
    else:
        typer.echo(f"no verifier runs in {home}" if pid is None else f"verifier {pid} stopped")


@app.command()
def status(network: str = NETWORK, home: Path | None = HOME, json_output: bool = JSON) -> None:
    """Show a verifier: is it running, its duties, verdicts, disputes and money."""
    from tolsey.verifier.report import report  # noqa: PLC0415  # loads web3

    path = network_path(network)
    folder = home_of(path, home)
    found = report(path, folder / "status.json", pid=running_pid(folder, "verifier"))
    if json_output:
        typer.echo(json.dumps(found, indent=1))
        return
    state = f"running (pid {found['pid']})" if found["running"] else "not running"
    typer.echo(f"verifier {found['account']}: {state}")
    if money := found["money"]:
        earned = sum(found["earned"].values())
        typer.echo(f"  free {dollars(money['free'])}, locked {dollars(money['locked'])}, earned {dollars(earned)}")
    for duty in found["duties"]:
        kind = "drawn" if duty["is_drawn"] else "watched"
        typer.echo(
            f"  job {duty['job_id'][:12]} window {duty['window']:<4} {kind:<8} {duty['stage']:<9} "
            f"{duty['verdict'] or '-':<12} {duty['message']}"
        )
    for item in found["disputes"]:
        typer.echo(
            f"  job {item['job_id'][:12]} segment {item['segment']:<4} {item['charge']:<14} {item['stage']:<7} "
            f"{item['message']}"
        )
    for vote in found["votes"]:
        typer.echo(
            f"  job {vote['job_id'][:12]} segment {vote['segment']:<4} panel vote "
            f"{vote['vote'] or '-'}, {vote['stage']}"
        )


@app.command()
def withdraw(
    amount: str = typer.Argument(help="Test dollars out of the market."),
    to: str | None = typer.Option(None, "--to", help="Account to send them to; else the verifier's own."),
    network: str = NETWORK,
    home: Path | None = HOME,
    passphrase_file: Path | None = PASSPHRASE_FILE,
    json_output: bool = JSON,
) -> None:
    """Take earnings out of the market."""
    from tolsey.contracts.purse import Purse  # noqa: PLC0415  # loads web3

    path = network_path(network)
    purse = Purse(path, home_of(path, home), passphrase_file, "verifier")
    _say(purse.withdraw(parse_dollars("AMOUNT", amount), to), json_output)


@app.command()
def leave(
    network: str = NETWORK,
    home: Path | None = HOME,
    passphrase_file: Path | None = PASSPHRASE_FILE,
    json_output: bool = JSON,
) -> None:
    """Leave the market: make the secret public and ask for the bond, or take it once its time has passed."""
    from tolsey.contracts.purse import Purse  # noqa: PLC0415  # loads web3

    path = network_path(network)
    _say(Purse(path, home_of(path, home), passphrase_file, "verifier").leave(), json_output)


def _say(outcome: Any, json_output: bool) -> None:
    """Prints a purse.Outcome."""
    typer.echo(json.dumps(dataclasses.asdict(outcome), indent=1) if json_output else outcome.message)


def home_of(network: Path, home: Path | None) -> Path:
    """The verifier's folder: as given, else $TOLSEY_HOME, else beside the network file."""
    folder = (home or default_home(network)).resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
