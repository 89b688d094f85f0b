"""What the commands answer, as values: printed as tables for people and, with --json, as these exact keys.

docs/json.md is printed by this file (`python -m tolsey.client.views > docs/json.md`; a test compares). Rules: money is
a whole number of token units, times are unix seconds of block time, durations end in `_s`, hashes and accounts are
hex; a key is never renamed or taken away within a major version, new ones may come. Standard output holds one value,
but for `logs`, which prints a line for each step; standard error holds errors only. So `run --json` is silent until
the job ends: who wants its progress types `run --detach --json`, which gives the id at once, then `logs -f JOB
--json`, then `wait JOB --json`. Next in the flow: render.py.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from dataclasses import dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingView:
    """One line of `tolsey offers`: what a worker sells.

    Attributes:
        worker, peer_id: who sells.
        class_name, class_id: its numerics class, which decides who may check a job of profile pinned.
        profiles: numerics profiles it runs.
        price_per_petaflop, min_price: token units per 10^15 operations, and per job at least.
        bond_bps: bond as a share of the price in ten-thousandths.
        memory_bytes, flops_per_s: what a job may use, and measured speed.
        busy, capacity: jobs it runs and can run.
        expires_at: of the listing.
    """

    worker: str
    peer_id: str
    class_name: str
    class_id: str
    profiles: tuple[str, ...]
    price_per_petaflop: int
    min_price: int
    bond_bps: int
    memory_bytes: int
    flops_per_s: int
    busy: int
    capacity: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateView:
    """A worker that a plan considered.

    Attributes:
        price, escrow, bond: of its offer; null where it made none.
        eta_s: seconds of training it expects. paid_after_s: seconds until the last payment, if everybody is prompt.
        dropped: why it is out of the question; empty where it fits.
    """

    worker: str
    class_name: str
    class_id: str
    price: int | None
    escrow: int | None
    bond: int | None
    eta_s: float
    paid_after_s: float
    dropped: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OddsView:
    """Chance that a worker that fakes `faked` segments of a window (`share` of it) is caught in that window."""

    share: float
    faked: int
    caught: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """`tolsey plan` and `tolsey run --dry-run`.

    Attributes:
        name, spec_hash, profile, steps, segments, segments_per_window, windows: the job.
        worker: of the chosen offer; price, verdict_escrow, escrow, bond, forfeit: its money.
        eta_s, paid_after_s: its seconds of training, and until the last payment, if everybody is prompt.
        clocks: commit_window_s, reveal_window_s, verdict_window_s, challenge_window_s.
        verifiers, samples, pool_size: drawn per window, segments each, and registered for the profile (pinned: in the
            job's class).
        pool_places: what is drawn from: the places of those registered and the empty ones of those who left.
        candidates, odds: everybody considered; the table of detection odds.
    """

    name: str
    spec_hash: str
    profile: str
    steps: int
    segments: int
    segments_per_window: int
    windows: int
    worker: str
    price: int
    verdict_escrow: int
    escrow: int
    bond: int
    forfeit: int
    eta_s: float
    paid_after_s: float
    clocks: dict[str, int]
    verifiers: int
    samples: int
    pool_size: int
    pool_places: int
    candidates: tuple[CandidateView, ...]
    odds: tuple[OddsView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """One line of `tolsey ps`.

    Attributes:
        job_id, name, worker: which job; name is null for a job that this client did not buy.
        state: as in docs/protocol.md section 3, lower case.
        window, windows: the one in progress, and how many.
        price, paid: agreed, and paid so far to the worker and for verdicts.
        deadline: when anybody may move the job on; 0 for a final one.
        step, steps, loss: as the worker told last; null where it never did.
    """

    job_id: str
    name: str | None
    worker: str
    state: str
    window: int
    windows: int
    price: int
    paid: int
    deadline: int
    step: int | None
    steps: int | None
    loss: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One log of a job: block and time, the event's name, a sentence, the two states where it changed one."""

    block: int
    ts: int
    event: str
    text: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """`tolsey show`.

    Attributes:
        job: the line of `ps`.
        client, profile, bond, escrow, forfeit, verdict_fee: terms.
        roots: committed window roots in order.
        timeline: every log of the job in order.
        paid_worker, paid_verifiers, refunded, compensated: money so far: out of the escrow to the worker and to
            verifiers, back to the client, and from the bond to the client.
    """

    job: JobLine
    client: str
    profile: str
    bond: int
    escrow: int
    forfeit: int
    verdict_fee: int
    roots: tuple[str, ...]
    timeline: tuple[TimelineEntry, ...]
    paid_worker: int
    paid_verifiers: int
    refunded: int
    compensated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """`tolsey run`, `wait` and `follow`: how a job stands when the command ends.

    Attributes:
        job_id, state, exit_code: null state for a detached run that has just begun.
        first_step_s: from the start of the command to the first step that the worker reported; null where not seen.
        checkpoint: path of the final checkpoint, null where it was not downloaded.
        pid: of the follower of a detached run, else null.
        unvouched: paid windows for which no verifier said "match": nobody but the clock vouches for them.
    """

    job_id: str
    state: str
    exit_code: int
    first_step_s: float | None
    checkpoint: str | None
    pid: int | None
    unvouched: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelView:
    """`tolsey cancel`: the forfeit that went to the worker, and what came back of the escrow."""

    job_id: str
    state: str
    forfeit: int
    returned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchView:
    """`tolsey get`: the checkpoint and the chain of hashes that ties it to the window root on chain."""

    job_id: str
    path: str
    size_bytes: int
    content_id: str
    state_root: str
    segment: int
    window: int
    window_root: str
    step: int
    plot: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressView:
    """`tolsey logs`: one line of JSON per step: the step and its loss as the worker tells it."""

    step: int
    loss: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentAudit:
    """One re-run segment: the root that the worker committed and the one that this machine got.

    Attributes:
        equal: whether they are the same.
        first_step: the first step after which the states differ, where the worker told its step roots; else null.
        seconds: that the re-run took.
    """

    segment: int
    committed: str
    replayed: str
    equal: bool
    first_step: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditView:
    """`tolsey audit JOB`: every re-run segment; `equal` where all are."""

    job_id: str
    segments: tuple[SegmentAudit, ...]
    equal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerAudit:
    """`tolsey audit --all`: the market rebuilt from its logs and compared with the contract's storage.

    Attributes:
        blocks, events: how far, and how many logs were read.
        jobs: final and live jobs by state.
        accounts: how many balances were compared. paid, slashed, burned: sums over all jobs, token units.
        differences: one sentence each; empty when logs and storage agree.
    """

    blocks: int
    events: int
    jobs: dict[str, int]
    accounts: int
    paid: int
    slashed: int
    burned: int
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletView:
    """`tolsey wallet …`: free and locked on the market's ledger, in the wallet, and gas money in wei."""

    account: str
    network: str
    free: int
    locked: int
    token: int
    gas_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressView:
    """`tolsey wallet address`; asks no chain."""

    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DownView:
    """`tolsey down`: whether a market ran in that folder and was stopped."""

    stopped: bool
    home: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessView:
    """One process of the local market: role, name, pid, whether it lives, its log file."""

    name: str
    role: str
    pid: int
    alive: bool
    account: str | None
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """`tolsey up` and `tolsey status`.

    Attributes:
        network: path of the network file. rpc_url, chain_id, block: the chain and its head; block null when down.
        processes: everything that `up` started.
        listings: workers heard of; jobs: by state.
    """

    network: str
    rpc_url: str
    chain_id: int
    block: int | None
    processes: tuple[ProcessView, ...]
    listings: tuple[ListingView, ...]
    jobs: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildView:
    """One build of the exact kernels on this machine.

    Attributes:
        isa: its instruction set.
        runs: whether it can be used here. note: why not, or where it comes from.
        cases: of the vectors, tried on one thread and on `threads`. failed: what came out otherwise; none where sound.
        gflops_one, gflops_all: 10^9 operations a second in products of 256 x 256, on one thread and on `threads`.
    """

    isa: str
    runs: bool
    note: str
    cases: int
    failed: tuple[str, ...]
    threads: int
    gflops_one: float | None
    gflops_all: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileView:
    """A numerics profile on this machine.

    Attributes:
        name, runs, note: whether jobs of it can be trained and replayed here, and why not, or on what.
        class_id: what this machine's bits can be compared within; null where bits are the same everywhere, or unknown.
        step_s: seconds of a training step of the example byte GPT (0.47 million parameters, 1024 tokens) on one thread;
            null where it was not measured.
    """

    name: str
    runs: bool
    note: str
    class_id: str | None
    step_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckView:
    """Something else that a worker or verifier needs; `ok` is null where this machine does not say."""

    name: str
    ok: bool | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorView:
    """`tolsey doctor`: this machine as the market sees it.

    Attributes:
        version, python, torch: of Tolsey, of Python, of PyTorch (null where not installed).
        machine, cpu, cores, features: kind of machine, its CPU, cores that this process may use, and which of the
            features that builds ask for the CPU has.
        compiler: the C compiler's command; null where there is none.
        builds, profiles, checks: see there.
    """

    version: str
    python: str
    torch: str | None
    machine: str
    cpu: str
    cores: int
    features: tuple[str, ...]
    compiler: str | None
    builds: tuple[BuildView, ...]
    profiles: tuple[ProfileView, ...]
    checks: tuple[CheckView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpeedView:
    """One row of `tolsey bench kernels`, which prints a list of them.

    Attributes:
        what, who, threads: the work; a build, or a vendor's kernel; on how many threads.
        rate, unit: of the best round, GFLOP/s or GB/s.
        ratio: median over rounds of (best vendor's time / this build's): above 1 it is faster; null for a vendor, or
            where torch is not installed.
    """

    what: str
    who: str
    threads: int
    rate: float
    unit: str
    ratio: float | None


ALL = (
    ListingView, CandidateView, OddsView, PlanView, JobLine, TimelineEntry, JobView, RunView, CancelView, FetchView,
    ProgressView, SegmentAudit, AuditView, LedgerAudit, WalletView, AddressView, DownView, ProcessView, StatusView,
    BuildView, ProfileView, CheckView, DoctorView, KernelSpeedView,
)  # fmt: skip


def to_json(view: Any) -> Any:
    """The plain JSON value of a view, of a list of views, or of what stands in one."""
    if dataclasses.is_dataclass(view) and not isinstance(view, type):
        return {field.name: to_json(getattr(view, field.name)) for field in dataclasses.fields(view)}
    if isinstance(view, Enum):
        return view.name.lower()
    if isinstance(view, bytes):
        return view.hex()
    if isinstance(view, list | tuple):
        return [to_json(item) for item in view]
    if isinstance(view, dict):
        return {str(key): to_json(item) for key, item in view.items()}
    return view


def dumps(view: Any, *, indent: int | None = 2) -> str:
    """JSON text of `to_json(view)`."""
    return json.dumps(to_json(view), indent=indent, ensure_ascii=False)


def page() -> str:
    """docs/json.md."""
    head = (inspect.getdoc(inspect.getmodule(page)) or "").split("\n\n", 1)[1]
    rules = head[head.index("Rules:") :].split(" Next in the flow")[0].replace("\n", " ")
    lines = [
        "# What `--json` prints",
        "",
        "Printed by `python -m tolsey.client.views`; a test keeps the two equal.",
        rules,
    ]
    for kind in ALL:
        lines += ["", f"## {kind.__name__}", "", _prose(kind), "", "| key | type |", "|---|---|"]
        lines += [f"| `{field.name}` | {_type(str(field.type))} |" for field in dataclasses.fields(kind)]
    return "\n".join(lines) + "\n"


def _prose(kind: type) -> str:
    text = inspect.cleandoc(kind.__doc__ or "")
    summary, _, attributes = text.partition("\n\nAttributes:\n")
    return summary.replace("\n", " ") + ("\n\n" + " ".join(attributes.split()) if attributes else "")


def _type(annotation: str) -> str:
    words = annotation.replace("tuple[", "list[").replace(", ...]", "]").replace("None", "null")
    return words.replace("str", "string").replace("int", "number").replace("float", "number").replace("|", "or")


if __name__ == "__main__":
    print(page(), end="")
