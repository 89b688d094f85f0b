"""`tolsey verifier`: start, stop and watch a verifier.

`start` runs in the foreground until SIGTERM or Ctrl-C and prints one line once it truly serves (JSON with --json), so
that a script or supervisor can wait for it. The other commands read the home folder and the chain; they need no
running verifier. Next in the flow: config.py, service.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import trio
import typer

from tolsey import log
from tolsey.contracts.amounts import dollars
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
)
from tolsey.protocol.job import EXACT_FP32, PROFILES
from tolsey.storage.process import running_pid, serve_until_told
from tolsey.storage.sizes import parse_size
from tolsey.verifier.config import VerifierConfig

app = typer.Typer(
    name="verifier", help="Replay samples for pay: start, stop and watch a verifier.", no_args_is_help=True
)

ROLE: Final = "verifier"
HOME = home_option(ROLE)


@app.command()
def start(
    network: str = NETWORK,
    home: Path | None = HOME,
    listen: str = LISTEN,
    announce: list[str] = ANNOUNCE,
    bootstrap: list[str] = BOOTSTRAP,
    profile: str | None = typer.Option(
        None,
        help=f"Numerics profile to be drawn for, of {', '.join(PROFILES)}; each has a bond of its own. Else the one "
        f"that was joined before, {EXACT_FP32} at first.",
    ),
    device: str = typer.Option("cpu", help="cpu, cuda or cuda:N."),
    memory: str = typer.Option("4GiB", help="Memory for one replay."),
    watch_all: bool = typer.Option(False, "--watch-all", help="Also replay samples it was not drawn for."),
    watch_samples: int = typer.Option(1, help="Segments replayed in such a window."),
    max_segment: int = typer.Option(3_600, help="Seconds after which a replay is killed."),
    disk_quota: str = typer.Option("64GiB", help="Disk for fetched contents."),
    faucet: bool = FAUCET,
    rpc_url: str | None = RPC_URL,
    passphrase_file: Path | None = PASSPHRASE_FILE,
    json_output: bool = JSON,
    verbose: bool = VERBOSE,
) -> None:
    """Run a verifier until it is told to stop."""
    path = network_path(network)
    config = VerifierConfig(
        network=str(path),
        home=home_of(ROLE, path, home),
        listen=listen,
        announce=tuple(announce),
        bootstrap=tuple(bootstrap),
        profile=profile,
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

    async def serve(stop: trio.Event, *, task_status: trio.TaskStatus[service.Ready]) -> None:
        await service.run(config, passphrase, stop=stop, parts=parts, task_status=task_status)

    trio.run(serve_until_told, serve, lambda ready: _say_ready(ready, json_output))


def _say_ready(ready: Any, json_output: bool) -> None:
    if json_output:
        line = {
            "event": "ready",
            "role": ROLE,
            "pid": os.getpid(),
            "account": ready.account,
            "peer_id": ready.peer_id,
            "addrs": list(ready.addrs),
            "profile": ready.profile,
            "class_id": ready.class_id.hex(),
        }
        print(json.dumps(line), flush=True)
    else:
        pool = f"profile {ready.profile}, class {ready.class_id.hex()[:12]}"
        print(f"verifier {ready.account} serves on {ready.addrs[0]} ({pool})", flush=True)


add_stop(app, ROLE)


@app.command()
def status(network: str = NETWORK, home: Path | None = HOME, json_output: bool = JSON) -> None:
    """Show a verifier: is it running, its duties, verdicts, disputes and money."""
    from tolsey.verifier.report import report  # noqa: PLC0415  # loads web3

    path = network_path(network)
    folder = home_of(ROLE, path, home)
    found = report(path, folder / "status.json", pid=running_pid(folder, ROLE))
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
            f"  job {item['job_id'][:12]} segment {item['segment']:<4} {item['charge']:<14} {item['stage']:<9} "
            f"{item['message']}"
        )
    for vote in found["votes"]:
        typer.echo(
            f"  job {vote['job_id'][:12]} segment {vote['segment']:<4} panel vote "
            f"{vote['vote'] or '-'}, {vote['stage']}"
        )


add_withdraw(app, ROLE)
add_leave(app, ROLE, "make the secret public and ask for the bond")
