"""A whole market on this machine, each actor a process of its own: chain, workers, verifiers, and a funded client.

    folder/
      network.toml          what everybody is told
      market.json           which processes run; read by `tolsey status` and `tolsey down`
      chain/                the chain's state and log
      worker-1/ verifier-1/ home of each actor: keys, database, contents; log beside it: worker-1.log
      client/               the buyer's home: wallet, purchases, and the passphrase of these test keys

`open_local_market` owns the processes and ends them when its block is left, in reverse order. `tolsey up` runs it in a
keeper process (`python -m tolsey.client.local_market`) that outlives the command; `tolsey demo` runs it in its own.
Nothing waits by the clock: the chain and every actor print a line of JSON once they serve.

It refuses a folder in which a market runs already. Next in the flow: commands/world.py, demo.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import trio

from tolsey import log
from tolsey.client.config import LOCAL, LOCAL_PASSPHRASE
from tolsey.client.processes import end, followers, is_alive, started_tick
from tolsey.contracts import deploy as yard
from tolsey.contracts.devchain import dev_keys
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.local_chain import Engine, start_chain
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.sending import send_and_wait
from tolsey.contracts.wallet import PASSPHRASE_VARIABLE, Keystore, Wallet
from tolsey.errors import ConfigError, StorageError, TolseyError
from tolsey.network.identity import Identity
from tolsey.protocol.offer import LOCAL_CLOCKS, Clocks
from tolsey.protocol.units import Account, Seconds, TokenUnits
from tolsey.runtime.child_client import class_of
from tolsey.storage.lock import FolderLock

BLOCK_TIME_S = 1.0
"""Deadlines are block times, so blocks come also when nobody sends anything."""
READY_S = 180.0
"""An actor imports torch, makes keys, registers and measures itself; six of them share the machine's cores."""
STOP_S = 20.0
IDLE_CHILDREN_S = 3.0
"""What two training processes started at once take on an idle machine of 2023 (2.7 s were measured)."""
MAX_STRETCH = 8.0
LOCAL_SCRYPT_N = 1 << 12
"""Keys of a chain on this machine hold nothing: 2^12 costs 10 ms to open where 2^17 costs half a second."""
CLIENT_DOLLARS = 1_000
CLIENT_GAS_WEI = 10 * 10**18
DOLLAR = yard.DOLLAR

NOTE = "market.json"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """One process to start.

    Attributes:
        name: of its folder and log. role: "worker" or "verifier".
        command: what to run; {home} and {network} stand for paths, options for listening are added.
    """

    name: str
    role: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A running process of the market."""

    name: str
    role: str
    pid: int
    account: str | None
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """A running local market.

    Attributes:
        members: the chain first. client_home: of the funded buyer.
        retire: ends every actor but the chain; blocks.
    """

    folder: Path
    network: NetworkFile
    network_path: Path
    members: tuple[Member, ...]
    client_home: Path
    client: Account
    retire: Callable[[], None]

    def account_of(self, name: str) -> str:
        """The chain account of one actor."""
        found = next(member.account for member in self.members if member.name == name)
        assert found is not None, f"{name} has no account"
        return found


def worker(number: int, *options: str) -> Actor:
    """An honest worker."""
    start = (sys.executable, "-m", "tolsey.client.cli", "worker", "start", "--json")
    return Actor(name=f"worker-{number}", role="worker", command=(*start, *options))


def verifier(number: int, *options: str) -> Actor:
    """A verifier."""
    start = (sys.executable, "-m", "tolsey.client.cli", "verifier", "start", "--json")
    return Actor(name=f"verifier-{number}", role="verifier", command=(*start, *options))


@asynccontextmanager
async def open_local_market(
    folder: Path,
    actors: Sequence[Actor],
    *,
    engine: Engine = "auto",
    clocks: Clocks = LOCAL_CLOCKS,
    terms: yard.Terms = yard.LOCAL_TERMS,
    say: Say = lambda line: None,
) -> AsyncIterator[Market]:
    """A market that serves, until the block is left.

    Args:
        folder: made where missing; a chain that was there before goes on with its history.
        clocks, terms: as an idle machine needs them; a busy or slow one gets longer clocks.
        say: told one line per step, for a person.

    Raises:
        ConfigError: a market runs in this folder; or an actor ended before it served, with the end of its log.
    """
    try:
        lock = FolderLock(folder, "market.lock")
    except StorageError as error:
        raise ConfigError(f"a market runs in {folder}", fix="tolsey status shows it, tolsey down stops it") from error
    try:
        await trio.to_thread.run_sync(_end_leftovers, folder)
        stretch = await _measured_stretch(say)
        clocks = stretched(clocks, stretch, at_most_s=terms.max_window_s)
        terms = dataclasses.replace(terms, panel_window_s=Seconds(round(terms.panel_window_s * stretch)))
        chain = await start_chain(folder / "chain", 0, engine, block_time_s=BLOCK_TIME_S)
        say(f"chain    {chain.engine} serves at {chain.url}")
        running: list[tuple[Member, subprocess.Popen[bytes]]] = []
        try:
            network, network_path = await trio.to_thread.run_sync(_network, folder, chain.url, clocks, terms)
            say(f"market   {network.market} deployed, token {network.token}")
            client = await trio.to_thread.run_sync(fund_client, folder / "client", network)
            say(f"client   {client} holds {CLIENT_DOLLARS} test dollars")
            network = await trio.to_thread.run_sync(_with_bootstrap, folder, network, network_path, actors)
            await _start_all(folder, network_path, network, actors, running, say)
            log_path = folder / "chain" / "chain.log"
            chain_member = Member(name="chain", role=chain.engine, pid=chain.pid, account=None, log=log_path)
            members = (chain_member, *(member for member, _ in running))
            market = Market(
                folder=folder,
                network=network,
                network_path=network_path,
                members=members,
                client_home=folder / "client",
                client=client,
                retire=lambda: _stop_all([process for _, process in running]),
            )
            _write_note(market)
            yield market
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_stop_all, [process for _, process in reversed(running)])
                await chain.stop()
            (folder / NOTE).unlink(missing_ok=True)
    finally:
        lock.release()


def fund_client(home: Path, network: NetworkFile) -> Account:
    """The buyer of a local market: keys made where missing, gas and test dollars given; blocks."""
    keys = Keystore.open(home / "keys", LOCAL_PASSPHRASE, scrypt_n=LOCAL_SCRYPT_N)
    passphrase = home / "passphrase"
    passphrase.write_text(LOCAL_PASSPHRASE + "\n")
    passphrase.chmod(0o600)
    gateway = Gateway(network, keys.wallet)
    if gateway.eth_balance(keys.wallet.account) < CLIENT_GAS_WEI // 2:
        give_gas(network, keys.wallet.account)
    if gateway.token_balance(keys.wallet.account) < CLIENT_DOLLARS * DOLLAR // 2:
        mint(gateway, TokenUnits(CLIENT_DOLLARS * DOLLAR))
    return keys.wallet.account


def mint(gateway: Gateway, amount: TokenUnits) -> None:
    """Test dollars for the gateway's own account; local chains only (the token itself refuses elsewhere)."""
    send_and_wait(gateway.transactions, gateway.action.mint(amount))


def give_gas(network: NetworkFile, account: Account) -> None:
    """Sets a local chain's balance of an account, as its faucet; both engines know anvil's method."""
    Gateway(network, None).rpc.call("anvil_setBalance", account, hex(CLIENT_GAS_WEI))


def read_note(folder: Path) -> dict[str, Any] | None:
    """What market.json says, or None where no market was left running."""
    with suppress(OSError, ValueError):
        note = json.loads((folder / NOTE).read_text())
        if isinstance(note, dict):
            return note
    return None


def stop_market(folder: Path) -> bool:
    """Stops the market that `tolsey up` left running; False where none runs. Blocks until it is gone.

    Raises:
        ConfigError: its keeper does not end.
    """
    note = read_note(folder)
    if note is None:
        return _end_leftovers(folder)
    keeper = note["keeper"]
    stopped = False
    if is_alive(keeper["pid"], keeper["started"]):
        if not end(keeper["pid"], signal.SIGTERM, STOP_S + 3 * STOP_S):
            raise ConfigError(f"the market's keeper {keeper['pid']} does not end", fix=f"kill -9 {keeper['pid']}")
        stopped = True
    return _end_leftovers(folder, note) or stopped


def _end_leftovers(folder: Path, note: dict[str, Any] | None = None) -> bool:
    """Ends what a keeper that was killed has left running, and followers that a buyer has detached; blocks.

    Returns:
        Whether any process of the market was still there.
    """
    note = note or read_note(folder) or {"members": []}
    left = [(member["pid"], member["started"]) for member in reversed(note["members"])]
    left += followers(folder / "client")
    alive = [(pid, started) for pid, started in left if is_alive(pid, started)]
    for pid, _ in alive:
        if not end(pid, signal.SIGTERM, STOP_S):
            end(pid, signal.SIGKILL, STOP_S)
    (folder / NOTE).unlink(missing_ok=True)
    return bool(alive)


def _network(folder: Path, url: str, clocks: Clocks, terms: yard.Terms) -> tuple[NetworkFile, Path]:
    """The deployment of before where the chain still has it, else a new one."""
    path = folder / "network.toml"
    if path.exists():
        known = dataclasses.replace(NetworkFile.load(path), rpc_url=url, clocks=clocks, bootstrap=())
        try:
            Gateway(known, None).check_chain()
        except TolseyError:
            pass  # the chain's folder was deleted
        else:
            known.save(path)
            return known, path
    network = yard.deploy(url, Wallet.from_private_key(dev_keys()[0]), terms, name=LOCAL, clocks=clocks)
    network.save(path)
    return network, path


def _with_bootstrap(folder: Path, network: NetworkFile, path: Path, actors: Sequence[Actor]) -> NetworkFile:
    """Makes every actor's keys, gives each a port, and names the workers in the network file as first peers."""
    addrs = []
    for actor in actors:
        keys = Keystore.open(folder / actor.name / "keys", LOCAL_PASSPHRASE, scrypt_n=LOCAL_SCRYPT_N)
        port_file = folder / actor.name / "port"
        port = _free_port(int(port_file.read_text()) if port_file.exists() else 0)
        port_file.write_text(str(port))
        if actor.role == "worker":
            addrs.append(f"/ip4/127.0.0.1/tcp/{port}/p2p/{Identity(keys.peer_key).peer_id}")
    network = dataclasses.replace(network, bootstrap=tuple(addrs[:3]))
    network.save(path)
    return network


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise ConfigError("no free port on 127.0.0.1")


async def _measured_stretch(say: Say) -> float:
    """How many times slower than an idle machine this one is: with clocks of an idle one, verifiers would be late."""
    await class_of()  # the first one reads torch from disk and compiles our own files
    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(class_of)
    stretch = min(MAX_STRETCH, max(1.0, (time.monotonic() - began) / IDLE_CHILDREN_S))
    if stretch > 1.5:
        say(f"this machine is busy or slow: all clocks are {stretch:.1f} times longer")
    return stretch


def stretched(clocks: Clocks, stretch: float, *, at_most_s: int) -> Clocks:
    """Clocks of a job on a machine that is `stretch` times slower; what the buyer does alone stays as quick."""

    def longer(window_s: Seconds) -> Seconds:
        return Seconds(min(at_most_s, round(window_s * stretch)))

    return Clocks(
        commit_window_s=longer(clocks.commit_window_s),
        reveal_window_s=clocks.reveal_window_s,
        verdict_window_s=longer(clocks.verdict_window_s),
        challenge_window_s=longer(clocks.challenge_window_s),
    )


async def _start_all(
    folder: Path,
    network_path: Path,
    network: NetworkFile,
    actors: Sequence[Actor],
    running: list[tuple[Member, subprocess.Popen[bytes]]],
    say: Say,
) -> None:
    """Starts all actors side by side; returns once each has said that it serves."""

    async def one(actor: Actor) -> None:
        member, process = await _start(folder, network_path, actor, running)
        say(f"{actor.role:8} {actor.name} serves as {member.account}")
        running[:] = [(member, p) if p is process else (m, p) for m, p in running]

    async with trio.open_nursery() as nursery:
        for actor in actors:
            nursery.start_soon(one, actor)


async def _start(
    folder: Path, network_path: Path, actor: Actor, running: list[tuple[Member, subprocess.Popen[bytes]]]
) -> tuple[Member, subprocess.Popen[bytes]]:
    home, log_path = folder / actor.name, folder / f"{actor.name}.log"
    port = (home / "port").read_text()
    command = [
        *actor.command, "--network", str(network_path), "--home", str(home), "--listen", f"/ip4/127.0.0.1/tcp/{port}",
    ]  # fmt: skip
    environment = {
        **os.environ, PASSPHRASE_VARIABLE: LOCAL_PASSPHRASE, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    process = _spawned(command, environment, log_path)
    member = Member(name=actor.name, role=actor.role, pid=process.pid, account=None, log=log_path)
    running.append((member, process))
    ready = None
    with trio.move_on_after(READY_S):
        ready = await _ready_line(process, log_path)
    if ready is None:
        with suppress(subprocess.TimeoutExpired):
            await trio.to_thread.run_sync(process.wait, 1)  # its output has ended, so it is ending
        code = process.poll()
        why = f"did not serve within {READY_S:.0f} s" if code is None else f"ended with code {code} before it served"
        raise ConfigError(f"{actor.name} {why}: {last_words(log_path)}", fix=f"less {log_path}")
    return Member(
        name=actor.name, role=actor.role, pid=process.pid, account=ready.get("account"), log=log_path
    ), process


def _spawned(command: Sequence[str], environment: dict[str, str], log_path: Path) -> subprocess.Popen[bytes]:
    """Popen and not trio's own, because a process of this market ends in our order, not with a nursery."""
    with log_path.open("ab") as log_file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log_file, env=environment,
            start_new_session=True,  # Ctrl-C goes to the keeper, and it stops them in order
        )  # fmt: skip


async def _ready_line(process: subprocess.Popen[bytes], log_path: Path) -> dict[str, Any] | None:
    """The JSON line with event "ready"; None at the end of output. Everything else goes to the log."""
    assert process.stdout is not None
    rest = b""
    os.set_blocking(process.stdout.fileno(), False)
    with log_path.open("ab") as log_file:
        while True:
            await trio.lowlevel.wait_readable(process.stdout.fileno())
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                return None
            log_file.write(piece)
            log_file.flush()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                with suppress(ValueError):
                    said = json.loads(line)
                    if isinstance(said, dict) and said.get("event") == "ready":
                        return said


def last_words(log_path: Path) -> str:
    """The end of a log, on one line."""
    with suppress(OSError):
        lines = log_path.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-4:]) or "it said nothing"
    return "it said nothing"


def _stop_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _write_note(market: Market) -> None:
    note = {
        "keeper": {"pid": os.getpid(), "started": started_tick(os.getpid())},
        "network": str(market.network_path),
        "client": market.client,
        "members": [
            {"name": m.name, "role": m.role, "pid": m.pid, "started": started_tick(m.pid), "account": m.account,
             "log": str(m.log)}
            for m in market.members
        ],
    }  # fmt: skip
    part = market.folder / ".market.json.part"
    part.write_text(json.dumps(note, indent=1) + "\n")
    part.replace(market.folder / NOTE)


# The keeper: what `tolsey up` leaves behind.


def keep(argv: Sequence[str] | None = None) -> int:
    """Runs a market until SIGTERM; tells its parent by lines of JSON on standard output."""
    parser = argparse.ArgumentParser(prog="python -m tolsey.client.local_market", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--verifiers", type=int, default=3)
    parser.add_argument("--engine", default="auto", choices=["auto", "anvil", "embedded"])
    options = parser.parse_args(argv)
    log.set_up()
    actors = [worker(i + 1) for i in range(options.workers)] + [verifier(i + 1) for i in range(options.verifiers)]

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals, trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def stop_on_signal() -> None:
                    async for _ in signals:
                        scope.cancel()

                nursery.start_soon(stop_on_signal)
                async with open_local_market(options.folder, actors, engine=options.engine, say=_tell_parent):
                    _tell_parent(None)
                    await trio.sleep_forever()

    try:
        trio.run(main)
    except BaseExceptionGroup as group:
        return _failed(group)
    except TolseyError as error:
        return _failed(error)
    return 0


def _failed(caught: BaseException) -> int:
    leaf = caught
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    if not isinstance(leaf, TolseyError):
        raise caught
    with suppress(OSError):
        print(json.dumps({"error": leaf.message, "fix": leaf.fix, "code": leaf.exit_code}), flush=True)
    return leaf.exit_code


def _tell_parent(line: str | None) -> None:
    with suppress(OSError):  # the parent is gone once it has heard "ready"
        print(json.dumps({"event": "ready"} if line is None else {"say": line}), flush=True)


@contextmanager
def started_keeper(folder: Path, arguments: Sequence[str]) -> Any:
    """A keeper process that outlives us; yields its output. Killed again if the block fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "keeper.log").open("ab") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tolsey.client.local_market", "--folder", str(folder), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log_file, start_new_session=True,
        )  # fmt: skip
    output: IO[bytes] | None = process.stdout
    assert output is not None
    try:
        yield output
    except BaseException:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    finally:
        output.close()


if __name__ == "__main__":
    sys.exit(keep())
