"""`tolsey demo`: the whole story on one machine, told with checked facts.

Everything is a process of its own: a chain, three workers of which one cheats, three verifiers, and the buyer, who
types ordinary `tolsey` commands. The demo only starts them, reads balances from the chain, and compares.

    act 1   a small language model is bought from an honest worker, verified by replay, paid, downloaded and checked
    act 2   the same job is bought from the cheat: caught, bond slashed, buyer made whole
    act 3   every process but the chain is stopped, every local file is put away, and the market is rebuilt from logs

Every promise is an assertion about the chain's state; the exit code is 1 if one is not kept. Whatever happens, the
processes are ended. Next: nothing; this is what a newcomer runs first.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from tolsey.client import present, render
from tolsey.client.access import Access
from tolsey.client.config import NETWORK_VARIABLE, Settings
from tolsey.client.local_market import Actor, Market, open_local_market, verifier, worker
from tolsey.client.market import AsyncMarket
from tolsey.client.money import Money
from tolsey.client.plots import block_curve
from tolsey.client.timeline import short
from tolsey.contracts import deploy as yard
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.local_chain import Engine
from tolsey.contracts.views import BURN, NOBODY
from tolsey.protocol.job import EXACT_FP32
from tolsey.protocol.offer import Clocks
from tolsey.protocol.units import Seconds

HONEST, CHEAT = "worker-1", "worker-3"
EXAMPLE = Path(__file__).parent / "examples" / "byte_gpt.py"
VERDICT_S, PANEL_S = 16, 14
"""On two idle cores two verifiers start torch, replay a segment, and replay it again where it differs, in 10 s."""
CLOCKS = Clocks(
    commit_window_s=Seconds(240),
    reveal_window_s=Seconds(3),
    verdict_window_s=Seconds(VERDICT_S),
    challenge_window_s=Seconds(2 * VERDICT_S + 2),  # outlasts sealing and revealing of verdicts
)
STEPS, FAST_STEPS = 100, 60
STEPS_PER_SEGMENT = 20
JOB_FILE = """\
[job]
file = "{file}"        # an ordinary PyTorch model and `job = Job(...)`
steps = {steps}
steps_per_segment = {steps_per_segment}   # a checkpoint after each; verifiers replay whole segments
segments_per_window = {segments}

[market]
max_cost = "5.00"
verifiers = 2
samples = 1
"""
SLASHED_CODE = 11


@dataclass
class Promises:
    """What was claimed, and whether it was seen."""

    money: Money
    kept: int = 0
    broken: list[str] = field(default_factory=list)

    def check(self, seen: bool, words: str) -> None:
        """Prints the promise with a tick or a cross."""
        if seen:
            self.kept += 1
            render.out.print(f"  [green]✓[/] {words}")
        else:
            self.broken.append(words)
            render.out.print(f"  [red]✗ {words}[/]")


class Teller:
    """Runs the buyer's commands in processes of their own and shows them."""

    def __init__(self, market: Market) -> None:
        self._environment = {**os.environ, NETWORK_VARIABLE: str(market.network_path)}
        self._environment.pop("TOLSEY_HOME", None)

    async def type(self, *words: str, show: str = "", json_output: bool = True) -> tuple[int, Any]:
        """Types `tolsey words…`; exit code and parsed JSON. Progress goes to our own standard error."""
        render.out.print(f"\n[bold]$ tolsey {show or ' '.join(words)}[/]")
        command = [sys.executable, "-m", "tolsey.client.cli", *words, *(["--json"] if json_output else [])]
        done = await trio.run_process(
            command, stdin=subprocess.DEVNULL, capture_stdout=json_output, check=False, env=self._environment
        )
        parsed = json.loads(done.stdout) if json_output and done.stdout else None
        return done.returncode, parsed


def main(*, engine: Engine = "auto", fast: bool = False, keep: bool = False) -> int:
    """Plays the demo; the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="tolsey-demo-"))
    broken = True
    try:
        promises = trio.run(_with_signals, folder, engine, fast)
        broken = bool(promises.broken)
        return 1 if broken else 0
    finally:
        if keep or broken:
            render.err.print(f"everything is in {folder}: logs, job file, chain")
        else:
            shutil.rmtree(folder, ignore_errors=True)


async def _with_signals(folder: Path, engine: Engine, fast: bool) -> Promises:
    """SIGTERM ends the demo in order, as Ctrl-C does."""
    async with trio.open_nursery() as nursery:

        async def stop_on_sigterm(*, task_status: Any) -> None:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                task_status.started()
                async for _ in signals:
                    raise KeyboardInterrupt

        await nursery.start(stop_on_sigterm)
        promises = await _play(folder, engine, fast)
        nursery.cancel_scope.cancel()
    return promises


async def _play(folder: Path, engine: Engine, fast: bool) -> Promises:
    began = time.monotonic()
    actors = [worker(1), worker(2), _cheat(3), verifier(1), verifier(2), verifier(3)]
    render.out.print("[bold]Tolsey: training is bought, checked by running it again, and only then paid.[/]\n")
    terms = replace(yard.LOCAL_TERMS, panel_window_s=Seconds(PANEL_S))
    async with open_local_market(
        folder / "market", actors, engine=engine, clocks=CLOCKS, terms=terms, say=lambda line: render.out.print(line)
    ) as market:
        money = Access(Settings.find(network=market.network_path)).money
        promises, teller = Promises(money), Teller(market)
        render.out.print(f"\n{CHEAT} cheats: it runs half of the steps and asks for all of the money.")
        steps = FAST_STEPS if fast else STEPS
        job_file = folder / "job.toml"
        text = JOB_FILE.format(
            file=EXAMPLE, steps=steps, steps_per_segment=STEPS_PER_SEGMENT, segments=-(-steps // STEPS_PER_SEGMENT)
        )
        await trio.Path(job_file).write_text(text)
        before = await _balances(market)
        render.out.print(f"(the market stands after {time.monotonic() - began:.0f} s)", style="dim")
        first = await _act_one(market, teller, promises, job_file, folder)
        render.out.print(f"({time.monotonic() - began:.0f} s)", style="dim")
        middle = await _balances(market)
        second = await _act_two(market, teller, promises, job_file, middle)
        render.out.print(f"({time.monotonic() - began:.0f} s)", style="dim")
        after = await _balances(market)
        render.out.print()
        render.out.print(_table(money, before, middle, after))
        promises.check(sum(before.values()) == sum(after.values()), "no money came from nowhere and none got lost")
        await _act_three(market, teller, promises, [first, second])
    render.out.print(
        f"\n{promises.kept} promises kept, {len(promises.broken)} broken, {time.monotonic() - began:.0f} s in all"
    )
    return promises


async def _act_one(market: Market, teller: Teller, promises: Promises, job_file: Path, folder: Path) -> str:
    money = promises.money
    honest = market.account_of(HONEST)
    render.out.rule("[bold]Act 1: an honest worker")
    render.out.print(await trio.Path(job_file).read_text(), style="dim", markup=False)
    before = await _balances(market)
    code, bought = await teller.type(
        "run", str(job_file), "--yes", "--on", honest, show=f"run job.toml --yes --on {short(honest)}"
    )
    promises.check(code == 0 and bought["state"] == "completed", "the job was trained, replayed and completed")
    job = bought["job_id"]
    view = await _show(market, job)
    after = await _balances(market)
    matches = sum(entry.event == "VerdictRevealed" and ": match" in entry.text for entry in view.timeline)
    promises.check(
        matches >= 1 and view.profile == EXACT_FP32,
        f"{matches} verifiers replayed their samples and found the bits that {view.profile} gives on any machine",
    )
    price = view.job.price
    promises.check(
        view.paid_worker == price and after[HONEST] - before[HONEST] == price,
        f"the worker was paid its price, {money.text(price)}",
    )
    spent = before["client"] - after["client"]
    promises.check(
        spent == price + view.paid_verifiers,
        f"the buyer paid {money.text(spent)}: the price and {money.text(view.paid_verifiers)} of verdict fees",
    )
    out = folder / "model.safetensors"
    code, fetched = await teller.type("get", job, "--out", str(out), show=f"get {job[:12]} --out model.safetensors")
    promises.check(
        code == 0 and out.stat().st_size == fetched["size_bytes"] and fetched["window_root"] == view.roots[-1],
        f"the model ({render.size(fetched['size_bytes'])}) hashes, tensor by tensor, to the root on chain",
    )
    purchase = await _purchase(market, job)
    points = present.curve(purchase.progress)
    render.out.print("\nloss")
    for line in block_curve(points):
        render.out.print(line, style="cyan")
    promises.check(len(points) > 1 and points[-1][1] < points[0][1] - 1.0, "the loss fell: it learnt to spell")
    return str(job)


async def _act_two(market: Market, teller: Teller, promises: Promises, job_file: Path, before: dict[str, int]) -> str:
    money = promises.money
    cheat = market.account_of(CHEAT)
    render.out.print()
    render.out.rule("[bold]Act 2: the same job from the cheat")
    code, bought = await teller.type(
        "run", str(job_file), "--yes", "--on", cheat, show=f"run job.toml --yes --on {short(cheat)}"
    )
    job = bought["job_id"]
    view = await _show(market, job)
    after = await _balances(market)
    for entry in view.timeline:
        render.out.print(f"  {time.strftime('%H:%M:%S', time.localtime(entry.ts))}  {entry.text}")
    promises.check(
        code == SLASHED_CODE and bought["state"] == "slashed", f"the cheat was caught (exit code {SLASHED_CODE})"
    )
    promises.check(
        after["client"] == before["client"],
        f"the buyer has every cent back: {money.text(view.refunded)} of escrow, {money.text(view.compensated)} "
        "for the verdict fees it had spent, from the cheat's bond",
    )
    lost = before[CHEAT] - after[CHEAT]
    promises.check(lost == view.bond, f"the cheat lost its bond of {money.text(view.bond)}")
    promises.check(after["burned"] > before["burned"], "what nobody earned of it was burned, so cheating oneself costs")
    return str(job)


async def _act_three(market: Market, teller: Teller, promises: Promises, jobs: list[str]) -> None:
    render.out.print()
    render.out.rule("[bold]Act 3: the ledger from logs alone")
    await trio.to_thread.run_sync(market.retire)
    aside = market.folder / "put-away"
    aside.mkdir()
    for name in ("client", *(member.name for member in market.members if member.name != "chain")):
        (market.folder / name).rename(aside / name)
    render.out.print("Workers, verifiers and buyer are stopped and their files put away; only the chain is left.")
    code, found = await teller.type("audit", "--all")
    promises.check(
        code == 0 and found["differences"] == [],
        f"{found['events']} logs give the same {found['accounts']} balances, states and verdicts as the contracts hold",
    )
    promises.check(
        found["jobs"] == {"completed": 1, "slashed": 1} and len(jobs) == 2, "one job completed, one slashed, as seen"
    )


def _cheat(number: int) -> Actor:
    """Started by module name: the buyer's code knows nothing of dishonest workers."""
    command = (sys.executable, "-m", "tolsey.testing.dishonest_worker", "--mode", "skip-steps", "--json")
    return Actor(name=f"worker-{number}", role="worker", command=command)


async def _balances(market: Market) -> dict[str, int]:
    """Everything each actor owns, in the market and outside, token units; burned and fees beside."""
    gateway = Gateway(market.network, None)
    who = {"client": market.client} | {m.name: m.account for m in market.members if m.account is not None}
    who |= {"burned": BURN, "treasury": NOBODY}

    def read() -> dict[str, int]:
        return {name: sum(gateway.account(account)) + gateway.token_balance(account) for name, account in who.items()}  # type: ignore[arg-type]  # accounts told by the actors themselves

    return await trio.to_thread.run_sync(read)


def _table(money: Money, *rounds: dict[str, int]) -> Any:
    made = render.table(
        "WHO",
        "BEFORE",
        "AFTER ACT 1",
        "AFTER ACT 2",
        "CHANGE",
        right=("BEFORE", "AFTER ACT 1", "AFTER ACT 2", "CHANGE"),
    )
    for name in rounds[0]:
        change = rounds[-1][name] - rounds[0][name]
        if name == "treasury" and not change:
            continue
        style = "green" if change > 0 else "red" if change < 0 else "dim"
        made.add_row(name, *(money.text(each[name]) for each in rounds), f"[{style}]{money.text(change)}[/]")
    return made


async def _show(market: Market, job: str) -> Any:
    return await _sdk(market).show(job)


async def _purchase(market: Market, job: str) -> Any:
    mine = await Access(Settings.find(network=market.network_path, home=market.client_home)).purchases.all()
    return next(p for p in mine if p.job_id is not None and p.job_id.hex() == job)


def _sdk(market: Market) -> AsyncMarket:
    return AsyncMarket(Access(Settings.find(network=market.network_path, home=market.client_home)))
