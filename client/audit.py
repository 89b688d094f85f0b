"""Doubt, as a command: run a worker's segments again, and add up the whole market again.

`replay_job` needs torch, and for a job of profile `pinned` a machine of its numerics class; one of an exact profile is
run again on any machine. It fetches the inputs and the checkpoint before a segment, all checked against their hashes,
runs the segment in a child process and compares state roots. Where they differ it asks the worker for its root after
every step and names the first that is not ours.

`replay_ledger` needs nothing but the chain's endpoint: it folds every log of the market (contracts/book.py) into
states, balances and verdicts and compares each with what the contract stores. It opens no database.
Next in the flow: commands/trust.py.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tolsey.client import fetch, timeline
from tolsey.client import spec as specs
from tolsey.client.access import Access
from tolsey.client.ledger import JobLog, Ledger
from tolsey.client.peers import Peers
from tolsey.client.views import AuditView, LedgerAudit, SegmentAudit
from tolsey.contracts.audit import differences
from tolsey.contracts.book import Book
from tolsey.errors import CheckpointUnavailable, ConfigError, NetworkError, RemoteViolation
from tolsey.network.transfer import fetch as fetch_content
from tolsey.protocol.content import ContentId
from tolsey.protocol.encoding import parse_canonical_json
from tolsey.protocol.job import JobSpec
from tolsey.protocol.units import StateRoot
from tolsey.protocol.wire import Trace, TraceEntry
from tolsey.runtime.child_client import JobFiles, RunRequest, SegmentDone, StepRoot, training

MAX_MANIFEST_BYTES = 4 << 20
MAX_INPUT_BYTES = 1 << 38
ANY_MEMORY = 1 << 50

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """What every re-run of one job needs."""

    peers: Peers
    folder: Path
    sources: list[tuple[str, list[str]]]
    spec: JobSpec
    files: JobFiles
    worker_peer: str


async def replay_job(
    access: Access, peers: Peers, ledger: Ledger, log: JobLog, *, segment: int | None, sample: int | None, full: bool,
    tell: Tell,
) -> AuditView:  # fmt: skip
    """Re-runs the chosen segments of the committed windows.

    Raises:
        ConfigError: nothing was committed, or the segment is not among what was.
        CheckpointUnavailable: inputs or a checkpoint are not served now.
        ClassMismatch: the job is pinned to another kind of machine.
    """
    committed = len(log.roots)
    if committed == 0:
        raise ConfigError(f"job {log.job_id.hex()[:12]} has no committed window yet", fix="tolsey wait JOB")
    last = log.offer.window_segments(committed - 1).stop
    chosen = choose_segments(last, segment=segment, sample=sample, full=full)
    peer_id, _addrs = await peers.locate(log.offer.worker)
    sources = fetch.sources_of(peers, [peer_id])
    traces: dict[int, Trace] = {}
    for window in sorted({index // log.offer.segments_per_window for index in chosen}):
        traces[window] = await fetch.checked_trace(
            peers, [peer_id], offer=log.offer, domain=ledger.domain, job_id=log.job_id, window=window,
            root=log.roots[window],
        )  # fmt: skip
        tell(f"window {window}: the worker's trace hashes to the root on chain, {log.roots[window].hex()[:16]}")
    spec = specs.decoded(next(iter(traces.values())).spec, log.offer.spec_hash)
    folder = access.home / "audits" / f"{log.job_id.hex()[:12]}-{secrets.token_hex(4)}"
    try:
        files = await _inputs(peers, sources, spec, folder)
        bench = _Bench(peers=peers, folder=folder, sources=sources, spec=spec, files=files, worker_peer=peer_id)
        done: list[SegmentAudit] = []
        for index in chosen:
            trace = traces[index // log.offer.segments_per_window]
            done.append(await _replay(bench, log, trace, index))
            tell(f"segment {index}: {'equal' if done[-1].equal else 'DIFFERS'} after {done[-1].seconds:.1f} s")
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
    return AuditView(job_id=log.job_id.hex(), segments=tuple(done), equal=all(one.equal for one in done))


def choose_segments(count: int, *, segment: int | None, sample: int | None, full: bool) -> list[int]:
    """Which of the committed segments are re-run; one drawn at random where nothing was asked.

    Raises:
        ConfigError: no such segment.
    """
    if full:
        return list(range(count))
    if segment is not None:
        if not 0 <= segment < count:
            raise ConfigError(f"segment {segment} is not committed; committed are 0 to {count - 1}")
        return [segment]
    wanted = 1 if sample is None else sample
    if wanted < 1:
        raise ConfigError(f"--sample {wanted}: at least one segment is re-run")
    return sorted(secrets.SystemRandom().sample(range(count), min(wanted, count)))


async def _inputs(peers: Peers, sources: Sequence[tuple[str, Sequence[str]]], spec: JobSpec, folder: Path) -> JobFiles:
    """Program, manifest, data and initial tensors, each under its content id."""
    await trio.Path(folder).mkdir(parents=True)
    spec_path = folder / "spec.json"
    await trio.Path(spec_path).write_bytes(spec.encode())
    program = await _content(peers, sources, spec.program, folder)
    dataset = await _content(peers, sources, spec.dataset, folder)
    manifest: Any = parse_canonical_json(await trio.Path(dataset).read_bytes(), max_bytes=MAX_MANIFEST_BYTES)
    try:
        ids = [ContentId(bytes.fromhex(item["content"])) for item in manifest["files"]]
    except (TypeError, KeyError, ValueError) as cause:
        raise RemoteViolation(f"data set manifest {spec.dataset.hex()[:12]} names no files: {cause}") from cause
    data = [await _content(peers, sources, content_id, folder) for content_id in ids]
    initial = None if spec.initial_tensors is None else await _content(peers, sources, spec.initial_tensors, folder)
    return JobFiles(spec=spec_path, program=program, dataset=dataset, data_files=data, initial_tensors=initial)


async def _content(
    peers: Peers, sources: Sequence[tuple[str, Sequence[str]]], content_id: ContentId, folder: Path
) -> Path:
    into = folder / content_id.hex()
    if await trio.Path(into).exists():
        return into
    try:
        await fetch_content(peers.host, content_id, sources, into, max_bytes=MAX_INPUT_BYTES)
    except NetworkError as cause:
        raise CheckpointUnavailable(
            f"nobody serves content {content_id.hex()[:12]} now: {cause.message}",
            fix="try again while the worker is up",
        ) from cause
    return into


async def _replay(bench: _Bench, log: JobLog, trace: Trace, index: int) -> SegmentAudit:
    """One segment, from its committed start to our own root."""
    entry = trace.entries[index - trace.entries[0].index]
    start = _start_of(trace, entry)
    checkpoint = None if start is None else await _content(bench.peers, bench.sources, start, bench.folder)
    began = time.monotonic()
    root, _ = await _run(bench, entry, checkpoint, step_roots=False)
    first_step = None
    if root != entry.output_root:
        first_step = await _first_difference(bench, log, entry, checkpoint)
    return SegmentAudit(
        segment=index,
        committed=entry.output_root.hex(),
        replayed=root.hex(),
        equal=root == entry.output_root,
        first_step=first_step,
        seconds=round(time.monotonic() - began, 3),
    )


def _start_of(trace: Trace, entry: TraceEntry) -> ContentId | None:
    """The checkpoint before a segment; None for the initial state."""
    place = entry.index - trace.entries[0].index
    return trace.window_start if place == 0 else trace.entries[place - 1].checkpoint


async def _run(
    bench: _Bench, entry: TraceEntry, checkpoint: Path | None, *, step_roots: bool
) -> tuple[StateRoot, list[StateRoot]]:
    """Our root after the segment, and after each of its steps where asked."""
    request = RunRequest(
        files=bench.files,
        first_segment=entry.index,
        last_segment=entry.index,
        out_dir=bench.folder,
        memory_bytes=ANY_MEMORY,
        checkpoint=checkpoint,
        input_root=entry.input_root,
        step_roots=step_roots,
    )
    steps: list[StateRoot] = []
    async with training(request) as events:
        async for event in events:
            if isinstance(event, StepRoot):
                steps.append(StateRoot(event.root))
            elif isinstance(event, SegmentDone):
                return StateRoot(event.segment.output_root), steps
    raise CheckpointUnavailable(f"segment {entry.index} could not be run to its end here")


async def _first_difference(bench: _Bench, log: JobLog, entry: TraceEntry, checkpoint: Path | None) -> int | None:
    """The first step after which the worker's own step roots differ from ours; None where it does not tell them."""
    steps = bench.spec.segment_steps(entry.index)
    try:
        told = await bench.peers.step_roots(bench.worker_peer, log.job_id, entry.index, len(steps))
    except (NetworkError, RemoteViolation):
        return None
    _, ours = await _run(bench, entry, checkpoint, step_roots=True)
    for step, theirs, mine in zip(steps, told, ours, strict=False):
        if theirs != mine:
            return step
    return None


def replay_ledger(access: Access) -> LedgerAudit:
    """The market from its logs alone, compared with the contract's storage at one block; blocks.

    Raises:
        Reorged: the chain changed while it was read; ask again.
    """
    gateway = access.reader
    block = gateway.block_number()
    events = gateway.logs(access.network.deployed_block, block)
    book = Book.of(events, gateway.params().treasury)
    flows = timeline.flows(events)
    return LedgerAudit(
        blocks=block,
        events=len(events),
        jobs=dict(Counter(job.state.name.lower() for job in book.jobs.values())),
        accounts=len(book.accounts),
        paid=flows.paid_worker + flows.paid_verifiers + flows.fee,
        slashed=flows.bond_lost,
        burned=flows.burned,
        differences=tuple(differences(book, gateway, block)),
    )
