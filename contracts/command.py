"""`tolsey chain`: run a chain on this machine, and put the market's contracts on any chain.

    up      starts a chain, deploys the market where it is not yet there, writes the network file; until Ctrl-C
    down    stops the one that runs        status  says what runs
    deploy  puts a market on any EVM chain

A running chain is known by the lock that its keeper holds, never by a file alone, so a crash leaves nothing to clean
up. `--json` prints one object on one line, for scripts; `up` prints it once the chain truly serves. Next in the flow:
local_chain.py, deploy.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

import trio
import typer

from tolsey.contracts.abi import interface
from tolsey.contracts.deploy import DOLLAR, LOCAL_CHAINS, LOCAL_TERMS, PUBLIC_TERMS, Terms, deploy
from tolsey.contracts.devchain.genesis import dev_keys
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.keeper import CHAIN_LOCK, KEEPER_LOCK, holder, start_detached
from tolsey.contracts.local_chain import Engine, LocalChain, start_chain
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.rpc import Rpc
from tolsey.contracts.wallet import Wallet, read_passphrase
from tolsey.errors import ConfigError, StorageError, TolseyError
from tolsey.protocol.units import Account, BasisPoints, Seconds, TokenUnits
from tolsey.storage.lock import FolderLock
from tolsey.storage.process import end

app = typer.Typer(name="chain", help="Run a local chain and deploy the market's contracts.", no_args_is_help=True)

DATA = typer.Option(None, "--data", help="Folder of the local market: network.toml and chain/.")
OUT = typer.Option(None, help="Network file to write; default: in the data folder of that name.")
WALLET = typer.Option(None, help="V3 key file of the deployer; default on local chains: account 0.")
PASSPHRASE_FILE = typer.Option(None, help="Its first line opens the key file.")
JSON = typer.Option(False, "--json", help="One JSON object on one line.")


@app.command()
def up(
    engine: str = typer.Option("auto", help="auto, anvil or embedded."),
    port: int = typer.Option(8545, help="Port on loopback; 0 takes a free one."),
    data: Path | None = DATA,
    block_time: float = typer.Option(1.0, help="Seconds between blocks when nobody sends; 0 for none."),
    detach: bool = typer.Option(False, "--detach", help="Leave it running and return."),
    json_output: bool = JSON,
) -> None:
    """Start a chain, deploy the market where it is not yet there, and write the network file."""
    folder = data or default_folder()
    if engine not in ("auto", "anvil", "embedded"):
        raise ConfigError(f"--engine {engine}: auto, anvil or embedded is due")
    if detach:
        _print(start_detached(folder, engine, port, block_time), json_output)
        return
    trio.run(_serve, folder, cast(Engine, engine), port, block_time, json_output)


@app.command()
def down(data: Path | None = DATA, json_output: bool = JSON) -> None:
    """Stop the chain that runs; its history stays in the folder."""
    folder = data or default_folder()
    stopped = False
    # The keeper ends its chain; a chain whose keeper was killed is ended by itself.
    for place, name in ((folder, KEEPER_LOCK), (folder / "chain", CHAIN_LOCK)):
        note = holder(place, name)
        if note is not None:
            end(int(note["pid"]))
            stopped = True
    _print({"stopped": stopped}, json_output, "stopped" if stopped else f"no chain runs in {folder}")


@app.command()
def status(data: Path | None = DATA, json_output: bool = JSON) -> None:
    """Say what runs: endpoint, engine, newest block, contracts."""
    folder = data or default_folder()
    note = holder(folder / "chain", CHAIN_LOCK)
    if note is None or "url" not in note:
        _print({"running": False, "folder": str(folder)}, json_output, f"no chain runs in {folder}")
        return
    _print({"running": True, "pid": note["pid"], **_described(NetworkFile.load(folder / "network.toml"))}, json_output)


@app.command(name="deploy")
def deploy_command(
    rpc: str = typer.Option(..., "--rpc", help="JSON-RPC endpoint of the chain."),
    token: str | None = typer.Option(None, help="ERC-20 of the market; without it a test dollar, local chains only."),
    name: str = typer.Option("custom", help="Name of the network."),
    out: Path | None = OUT,
    wallet: Path | None = WALLET,
    passphrase_file: Path | None = PASSPHRASE_FILE,
    fee_bps: int = typer.Option(0, min=0, max=200, help="Protocol fee in 1/100 %; the contract allows no more."),
    treasury: str | None = typer.Option(None, help="Account that gets the fee; due where there is one."),
    worker_bond: str | None = typer.Option(None, help="In whole tokens, as all bonds and fees here."),
    verifier_bond: str | None = typer.Option(None),
    challenge_bond: str | None = typer.Option(None),
    panel_fee: str | None = typer.Option(None),
    min_job_bond: str | None = typer.Option(None),
    max_window_s: int | None = typer.Option(None, help="Upper bound of every clock of an offer, seconds."),
    panel_window_s: int | None = typer.Option(None, help="Seconds to seal a panel vote, and again to reveal it."),
    unbonding_s: int | None = typer.Option(None, help="Seconds from an exit to the bond."),
    json_output: bool = JSON,
) -> None:
    """Put a market on a chain and write its network file."""
    chain_id = Rpc(rpc).number("eth_chainId")
    is_local = chain_id in LOCAL_CHAINS
    decimals = 6 if token is None else _decimals(rpc, token)
    amounts = {
        "worker_bond": worker_bond,
        "verifier_bond": verifier_bond,
        "challenge_bond": challenge_bond,
        "panel_fee": panel_fee,
        "min_job_bond": min_job_bond,
    }
    clocks = {"max_window_s": max_window_s, "panel_window_s": panel_window_s, "unbonding_s": unbonding_s}
    changed: dict[str, Any] = {key: units(text, decimals, key) for key, text in amounts.items() if text is not None}
    changed |= {key: Seconds(value) for key, value in clocks.items() if value is not None}
    if treasury is not None:
        changed["treasury"] = Account(treasury)
    terms = scaled(LOCAL_TERMS if is_local else PUBLIC_TERMS, decimals)
    terms = dataclasses.replace(terms, fee_bps=BasisPoints(fee_bps), **changed)
    network = deploy(
        rpc,
        _deployer(wallet, passphrase_file, is_local),
        terms,
        name=name,
        token=None if token is None else Account(token),
        log=lambda line: typer.echo(line, err=True),
    )
    path = out or default_folder(name) / "network.toml"
    network.save(path)
    _print({"network_file": str(path), **_described(network)}, json_output)


def default_folder(name: str = "local") -> Path:
    """Where the market of that name keeps its files: $XDG_DATA_HOME/tolsey/NAME."""
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "tolsey" / name


def units(text: str, decimals: int, what: str) -> TokenUnits:
    """Token units of a decimal number of whole tokens.

    Raises:
        ConfigError: no number, negative, or finer than the token.
    """
    try:
        scaled_value = Decimal(text).scaleb(decimals)
        if scaled_value < 0 or scaled_value >= 1 << 96 or scaled_value != scaled_value.to_integral_value():
            raise ConfigError(f"{what} {text}: at least 0, below 2^96 units, at most {decimals} decimals")
    except InvalidOperation as error:
        raise ConfigError(f"{what} {text!r} is no number of tokens") from error
    return TokenUnits(int(scaled_value))


def scaled(terms: Terms, decimals: int) -> Terms:
    """The same amounts in a token with other decimals than a dollar's 6."""
    names = ("worker_bond", "verifier_bond", "challenge_bond", "panel_fee", "min_job_bond")
    changed: dict[str, Any] = {name: TokenUnits(getattr(terms, name) * 10**decimals // DOLLAR) for name in names}
    return dataclasses.replace(terms, **changed)


async def _serve(folder: Path, engine: Engine, port: int, block_time_s: float, json_output: bool) -> None:
    """Keeps a chain until a signal or its end."""
    lock = FolderLock(folder, KEEPER_LOCK)
    try:
        chain = await start_chain(folder / "chain", port, engine, block_time_s=block_time_s)
        try:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                network = await trio.to_thread.run_sync(_deployed, folder, chain.url)
                _print({"event": "ready", "pid": os.getpid(), **_described(network)}, json_output)
                await _until_stopped(chain, signals)
        finally:
            await chain.stop()
    finally:
        lock.release()


async def _until_stopped(chain: LocalChain, signals: Any) -> None:
    """Returns on a signal.

    Raises:
        StorageError: the chain ended by itself.
    """
    codes: list[int] = []
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            codes.append(await chain.wait())
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        async for _ in signals:
            nursery.cancel_scope.cancel()
    if codes:
        raise StorageError(f"the chain ended by itself with code {codes[0]}", fix="look into chain/chain.log")


def _deployed(folder: Path, url: str) -> NetworkFile:
    """The deployment of before where this chain still has it, else a new one; its file is up to date."""
    path = folder / "network.toml"
    if path.exists():
        known = dataclasses.replace(NetworkFile.load(path), rpc_url=url)
        with contextlib.suppress(TolseyError):
            Gateway(known, None).check_chain()
            known.save(path)
            return known
    network = deploy(url, Wallet.from_private_key(dev_keys()[0]), LOCAL_TERMS, name="local")
    network.save(path)
    return network


def _described(network: NetworkFile) -> dict[str, Any]:
    gateway = Gateway(network, None)
    newest = gateway.blocks.newest()
    return {
        "network": network.name,
        "rpc_url": network.rpc_url,
        "chain_id": network.chain_id,
        "client": gateway.rpc.call("web3_clientVersion"),
        "block": newest.number,
        "ts": newest.ts,
        "market": network.market,
        "judge": network.judge,
        "token": network.token,
        "beacon": network.beacon,
    }


def _decimals(rpc_url: str, token: str) -> int:
    door = interface("TestDollar")
    raw = Rpc(rpc_url).call("eth_call", {"to": token, "data": "0x" + door.call("decimals").hex()}, "latest")
    return int(door.result("decimals", bytes.fromhex(raw[2:])))


def _deployer(path: Path | None, passphrase_file: Path | None, is_local: bool) -> Wallet:
    if path is not None:
        return Wallet.load(path, read_passphrase(passphrase_file))
    if not is_local:
        raise ConfigError("a deployment is paid by a wallet", fix="--wallet FILE, such as keys/wallet.json")
    return Wallet.from_private_key(dev_keys()[0])


def _print(value: dict[str, Any], json_output: bool, text: str | None = None) -> None:
    if json_output:
        typer.echo(json.dumps(value))
    elif text is not None:
        typer.echo(text)
    else:
        for line in _lines(value):
            typer.echo(line)


def _lines(value: dict[str, Any]) -> Iterator[str]:
    width = max(len(key) for key in value)
    for key, item in value.items():
        yield f"{key.replace('_', ' '):{width}}  {item}"


def main() -> None:
    """The keeper's entry: errors become words on standard error and an exit code."""
    try:
        app()
    except TolseyError as error:
        typer.echo(error.diagnostics(), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
