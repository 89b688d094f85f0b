"""Tables and lines for people; every function takes views and gives something that rich prints.

Nothing is decided here and nothing is fetched. Data goes to standard output, progress and questions to standard
error, so that a pipe gets data only. Next: the commands print what this file gives.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tolsey.client import plots
from tolsey.client.money import Money
from tolsey.client.timeline import short
from tolsey.client.views import (
    AuditView,
    CancelView,
    DoctorView,
    FetchView,
    JobLine,
    JobView,
    KernelSpeedView,
    LedgerAudit,
    ListingView,
    PlanView,
    RunView,
    StatusView,
    WalletView,
)
from tolsey.protocol.job import PINNED

FILE_WIDTH = 140
"""Columns where the output is no terminal, so that a log or a pipe keeps whole accounts and amounts."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else FILE_WIDTH)
_STATE_STYLE = {
    "completed": "green", "accepted": "cyan", "committed": "cyan", "drawn": "cyan", "slashed": "red",
    "challenged": "yellow", "demanded": "yellow", "expired": "yellow", "cancelled": "dim", "voided": "yellow",
}  # fmt: skip


def table(*columns: str, right: Sequence[str] = (), title: str | None = None) -> Table:
    """A plain table in the one style of this program."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `2.0 d`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def size(count: int) -> str:
    """Bytes with a binary unit."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / (1 << 10 * power):.1f} {'KMGT'[power - 1]}iB"


def class_label(name: str, class_id: str) -> str:
    """A numerics class in a table: its device, and the beginning of the id that tells it from others of that device."""
    return f"{name.split(' torch ')[0]} {class_id[:6]}"


def state(name: str) -> Text:
    """A job's state in its colour."""
    return Text(name, style=_STATE_STYLE.get(name, ""))


def offers(listings: Sequence[ListingView], money: Money) -> RenderableType:
    """What workers sell."""
    if not listings:
        return Text("no worker sells on this market now")
    columns = ("WORKER", "CLASS", "PROFILES", "PER PFLOP", "AT LEAST", "BOND", "MEMORY", "SPEED", "BUSY")
    made = table(*columns, right=("BUSY",))
    for row in listings:
        made.add_row(
            short(row.worker), class_label(row.class_name, row.class_id), ", ".join(row.profiles),
            money.text(row.price_per_petaflop), money.text(row.min_price),
            f"{row.bond_bps / 100:.0f} %", size(row.memory_bytes), f"{row.flops_per_s / 1e9:.1f} GFLOP/s",
            f"{row.busy}/{row.capacity}",
        )  # fmt: skip
    return made


def plan(view: PlanView, money: Money) -> RenderableType:
    """The screen before signing."""
    right = ("PRICE", "ESCROW", "BOND", "TRAINS", "ALL PAID")
    made = table("WORKER", "CLASS", *right, "", right=right)
    for row in view.candidates:
        amounts = [money.text(amount) if amount is not None else "-" for amount in (row.price, row.escrow, row.bond)]
        note = Text(row.dropped, style="dim") if row.dropped else Text("chosen" if row.worker == view.worker else "")
        times = duration(row.eta_s), duration(row.paid_after_s)
        made.add_row(short(row.worker), class_label(row.class_name, row.class_id), *amounts, *times, note)
    clocks = view.clocks
    segments = view.segments_per_window
    odds = ", ".join(f"{o.faked} of {segments} → {o.caught:.1%}" for o in view.odds)
    drawn = min(view.verifiers, view.pool_size)
    bits = (
        "bits agree between machines of the worker's class, and only those can check them"
        if view.profile == PINNED
        else "the same bits on every machine, so any verifier can check any worker"
    )
    lines = [
        f"escrow    {money.text(view.escrow)} = price {money.text(view.price)} + verdict fees "
        f"{money.text(view.verdict_escrow)}; what is not earned returns",
        f"paid      window by window ({view.windows}), each only after it was drawn, replayed and left unchallenged; "
        f"the last about {duration(view.paid_after_s)} from now, training is {duration(view.eta_s)} of it",
        f"refund    slashed: everything back, and what was spent is made good from the bond {money.text(view.bond)}; "
        f"no commitment in time: the rest and a forfeit of {money.text(view.forfeit)}",
        f"cancel    before a commitment, for the forfeit of {money.text(view.forfeit)}",
        f"profile   {view.profile}: {bits}",
        f"checked   {drawn} of {view.pool_size} verifiers replay {view.samples} of "
        f"{segments} segments each; faked → caught: {odds}",
        f"clocks    commit {duration(clocks['commit_window_s'])}, reveal {duration(clocks['reveal_window_s'])}, "
        f"verdict {duration(clocks['verdict_window_s'])}, challenge {duration(clocks['challenge_window_s'])}",
    ]
    if empty := view.pool_places - view.pool_size:
        lines.append(f"warning   {empty} of {view.pool_places} places in the pool are empty; a draw may fall on them")
    if view.pool_size == 0:
        where = "in this class" if view.profile == PINNED else "for this profile"
        lines.append(f"warning   no verifier is registered {where}: only you would check (tolsey audit JOB)")
    head = f"Plan  {view.name} · {view.steps} steps in {view.segments} segments · spec {view.spec_hash[:10]}"
    return Group(Text(head, style="bold"), made, *map(Text, lines))


def jobs(lines: Sequence[JobLine], money: Money) -> RenderableType:
    """`tolsey ps`."""
    if not lines:
        return Text("no jobs yet: tolsey run SPEC.toml buys one")
    made = table("JOB", "NAME", "STATE", "WINDOW", "STEP", "LOSS", "PRICE", "PAID", "WORKER", "NEXT", right=("PAID",))
    now = time.time()
    for line in lines:
        step = f"{line.step}/{line.steps}" if line.step is not None else "-"
        left = duration(max(0.0, line.deadline - now)) if line.deadline else "-"
        window = f"{min(line.window + 1, line.windows)}/{line.windows}"
        made.add_row(
            line.job_id[:10], line.name or "-", state(line.state), window, step,
            line.loss or "-", money.text(line.price), money.text(line.paid), short(line.worker), left,
        )  # fmt: skip
    return made


def job(view: JobView, money: Money) -> RenderableType:
    """`tolsey show`."""
    head = Text.assemble((f"Job {view.job.job_id}", "bold"), "  ", state(view.job.state))
    terms = Text(
        f"{view.job.name or 'not mine'} · {view.profile} · worker {short(view.job.worker)} · client "
        f"{short(view.client)} · escrow {money.text(view.escrow)} · bond {money.text(view.bond)} · forfeit "
        f"{money.text(view.forfeit)}"
    )
    made = table("TIME", "BLOCK", "", right=("BLOCK",))
    for entry in view.timeline:
        made.add_row(time.strftime("%H:%M:%S", time.localtime(entry.ts)), str(entry.block), entry.text)
    sums = (
        f"so far: worker {money.text(view.paid_worker)}, verifiers {money.text(view.paid_verifiers)}, "
        f"returned {money.text(view.refunded)}, made good from the bond {money.text(view.compensated)}"
    )
    return Group(head, terms, made, Text(sums))


def wallet(view: WalletView, money: Money) -> RenderableType:
    """`tolsey wallet show`."""
    made = table("", "", right=())
    made.show_header = False
    for name, value in (
        ("account", view.account),
        ("network", view.network),
        ("free in the market", money.text(view.free)),
        ("locked in the market", money.text(view.locked)),
        ("in the wallet", money.text(view.token)),
        ("for gas", f"{view.gas_wei / 1e18:.4f} ETH"),
    ):
        made.add_row(name, value)
    return made


def result(view: RunView) -> RenderableType:
    """How a job ended, and what to type next."""
    short_id = view.job_id[:12]
    line = Text.assemble(f"job {short_id}: ", state(view.state))
    if view.first_step_s is not None:
        line.append(f", first step after {duration(view.first_step_s)}")
    if view.checkpoint:
        line.append(f", checkpoint at {view.checkpoint}")
    follow_up = {
        "completed": f"tolsey get {short_id} --plot loss.png, tolsey audit {short_id}",
        "accepted": f"tolsey show {short_id}, tolsey logs -f {short_id}, tolsey wait {short_id}",
    }.get(view.state, f"tolsey show {short_id}")
    lines = [line, Text(f"next: {follow_up}", style="dim")]
    if view.unvouched:
        windows = ", ".join(map(str, view.unvouched[:8]))
        words = f"no verifier vouched for window {windows}: check it yourself with tolsey audit {short_id} --sample 3"
        lines.insert(1, Text(words, style="yellow"))
    return Group(*lines)


def cancelled(view: CancelView, money: Money) -> RenderableType:
    """What a cancel cost, and what came back."""
    lost = f"forfeit {money.text(view.forfeit)} to the worker, {money.text(view.returned)} back in the market"
    return Text.assemble(f"job {view.job_id[:12]}: ", state(view.state), f", {lost}")


def fetched(view: FetchView) -> RenderableType:
    """The chain of hashes from the file to the chain."""
    lines = [
        f"{view.path}: {size(view.size_bytes)}, state after {view.step} steps",
        f"  file         content {view.content_id[:16]}",
        f"  state root   {view.state_root[:16]}  computed from the file's tensors",
        f"  segment {view.segment:<4} of window {view.window}, whose root {view.window_root[:16]} is on chain",
    ]
    if view.plot:
        lines.append(f"loss curve in {view.plot}")
    return Group(*map(Text, lines))


def audit(view: AuditView) -> RenderableType:
    """`tolsey audit JOB`."""
    made = table("SEGMENT", "COMMITTED", "RE-RUN", "SECONDS", "", right=("SEGMENT", "SECONDS"))
    for row in view.segments:
        verdict = Text("equal", style="green") if row.equal else Text(_differs(row.first_step), style="red")
        made.add_row(str(row.segment), row.committed[:16], row.replayed[:16], f"{row.seconds:.1f}", verdict)
    return made


def ledger(view: LedgerAudit, money: Money) -> RenderableType:
    """`tolsey audit --all`."""
    counted = ", ".join(f"{count} {name}" for name, count in sorted(view.jobs.items())) or "none"
    lines = [
        Text(f"read {view.events} logs up to block {view.blocks}"),
        Text(f"jobs: {counted}; {view.accounts} balances compared"),
        Text(f"paid {money.text(view.paid)}, slashed {money.text(view.slashed)}, burned {money.text(view.burned)}"),
    ]
    if not view.differences:
        return Group(*lines, Text("logs and storage agree", style="green"))
    return Group(*lines, *(Text(f"differs: {line}", style="red") for line in view.differences))


def status(view: StatusView, money: Money) -> RenderableType:
    """`tolsey status`."""
    made = table("PROCESS", "ROLE", "PID", "", "ACCOUNT", "LOG", right=("PID",))
    for row in view.processes:
        alive = Text("running", style="green") if row.alive else Text("gone", style="red")
        made.add_row(row.name, row.role, str(row.pid), alive, short(row.account) if row.account else "-", row.log)
    head = f"chain {view.chain_id} at {view.rpc_url}: " + ("down" if view.block is None else f"block {view.block}")
    counted = ", ".join(f"{count} {name}" for name, count in sorted(view.jobs.items())) or "none"
    return Group(made, Text(head), Text(f"jobs: {counted}"), offers(view.listings, money))


def doctor(view: DoctorView) -> RenderableType:
    """`tolsey doctor`."""
    head = [
        f"Tolsey {view.version}, Python {view.python}, torch {view.torch or 'not installed'}, compiler "
        f"{view.compiler or 'none'}",
        f"{view.cpu} ({view.machine}), {view.cores} cores, {' '.join(view.features) or 'baseline features'}",
    ]
    right = ("VECTORS", "1 THREAD", "ALL CORES")
    builds = table("BUILD", "", *right, "", right=right, title="Exact kernels")
    for one in view.builds:
        speeds = [f"{rate:.1f} GFLOP/s" if rate is not None else "-" for rate in (one.gflops_one, one.gflops_all)]
        tried = str(one.cases) if one.cases else "-"
        builds.add_row(one.isa, _sound(one.runs, bool(one.failed)), tried, *speeds, "; ".join(one.failed) or one.note)
    profiles = table("PROFILE", "", "CLASS", "STEP", "", right=("STEP",), title="Profiles")
    for row in view.profiles:
        step = "-" if row.step_s is None else f"{row.step_s * 1e3:.1f} ms"
        profiles.add_row(row.name, _sound(row.runs), (row.class_id or "-")[:12], step, row.note)
    checks = table("CHECK", "", "", title="Besides")
    for check in view.checks:
        checks.add_row(check.name, Text("?", style="dim") if check.ok is None else _sound(check.ok), check.text)
    return Group(*map(Text, head), builds, profiles, checks)


def _sound(good: bool, wrong: bool = False) -> Text:
    return (
        Text("WRONG BITS", style="bold red") if wrong else Text("yes", style="green") if good else Text("no", "yellow")
    )


def kernel_speed_head() -> RenderableType:
    """What the columns of `kernel_speed` are."""
    return Text(_KERNEL_SPEED.format("WORK", "THREADS", "BY", "RATE", "", "RATIO"), style="bold")


def kernel_speed(rows: Sequence[KernelSpeedView]) -> RenderableType:
    """One contest of `tolsey bench kernels`; lines, so that they come while it goes on."""
    lines = []
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        style = "" if row.ratio is None or row.ratio >= 1 else "yellow"
        words = _KERNEL_SPEED.format(row.what, row.threads, row.who, f"{row.rate:.1f}", row.unit, ratio)
        lines.append(Text(words, style=style))
    return Group(*lines)


_KERNEL_SPEED = "{:<42} {:>7}  {:<9} {:>8} {:<8} {:>6}"


def curve(points: plots.Curve, columns: int) -> RenderableType:
    """The loss in block characters, in at most `columns`."""
    width = max(1, min(64, columns - plots.LABEL_COLUMNS))
    return Group(*(Text(line, style="cyan", no_wrap=True) for line in plots.block_curve(points, width=width)))


def packed(parts: Sequence[str], columns: int) -> list[str]:
    """The parts in as few lines as hold them, each at most `columns` long; only a part longer than that is cut."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= columns:
            lines[-1] += f"  {part}"
        else:
            lines.append(part[:columns])
    return lines


def _differs(first_step: int | None) -> str:
    return "DIFFERS" if first_step is None else f"DIFFERS from step {first_step}"
