"""The training of jobs: contents in, checkpoints out, all arithmetic in child processes that can be killed at once.

This process never loads torch. A child runs one request and ends (runtime/child_client.py): measure the machine, look
at a program, or run a range of segments. Leaving the `async with` kills it, so cancelling a job's task is all that it
takes to stop training. A checkpoint counts from the moment at which it lies in the blob store, pinned for its job; what
a killed child left in the work folder is thrown away.

It refuses to start what does not fit: memory that is not free, disk that is not there. A child that dies is started
again from the last checkpoint, a few times. Next in the flow: worker.py writes the segments down, committer.py commits.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tolsey.errors import LocalViolation, NetworkError, RemoteViolation
from tolsey.node.bidding import Survey
from tolsey.node.config import WorkerConfig
from tolsey.node.fetching import Fetcher
from tolsey.node.preflight import MAX_MANIFEST_BYTES, class_name, data_files, fresh, require_memory
from tolsey.node.records import JobRecord, Records, SegmentRecord
from tolsey.node.shop import Machine
from tolsey.protocol.content import ContentId
from tolsey.protocol.job import JobSpec
from tolsey.protocol.units import JobId, StateRoot
from tolsey.runtime.child_client import (
    InitDone,
    InitRequest,
    JobFiles,
    Ready,
    RunRequest,
    SegmentDone,
    StepDone,
    StepRoot,
    TrainingProcessDied,
    class_of,
    speed_of,
    training,
)
from tolsey.storage.blobs import BlobStore

MAX_PROGRAM_BYTES = 64 << 20
"""As runtime/graph.py, which checks again in the child; importing it here would load torch."""
SURVEY_S = 45.0
"""For fetching and building a program before an offer; the asker waits 60 s (wire.OFFER)."""
TRAINING_SHARE = 0.3
"""Of the matrix speed, what small models reach in training; our own 2-layer GPT steps are near it (guess)."""
MAX_DEATHS = 3
"""Child deaths in a row without a finished segment before the job is given up."""

Keep = Callable[[SegmentRecord], Awaitable[None]]
_log = logging.getLogger(__name__)


def pin_of(job_id: JobId) -> str:
    """The owner under which a job's contents are pinned."""
    return f"job-{job_id.hex()}"


class Executor:
    """Runs the children of one worker.

    Attributes:
        fetcher: where contents come from; set once there is a network.
        live: per job in training the steps of the segment that is not finished yet, as (step, loss); lost at a stop.
    """

    def __init__(self, config: WorkerConfig, blobs: BlobStore, records: Records) -> None:
        self.config = config
        self.blobs = blobs
        self.records = records
        self.fetcher: Fetcher | None = None
        self.live: dict[JobId, list[tuple[int, str]]] = {}

    # this machine

    async def measure(self) -> Machine:
        """Class, profiles and speed of this machine; the speed once for each class and set of profiles."""
        ready = await class_of(self.config.device)
        for profile, why in ready.lacking.items():
            _log.warning("%s is not sold: %s", profile, why.diagnostics())
        fact = "-".join(("speed", ready.class_id.hex()[:16], *ready.profiles))
        kept = await self.records.fact(fact)
        if kept is None:
            speed = await speed_of(self.config.device)
            kept = str(int(speed.flops_per_s * TRAINING_SHARE)).encode()
            await self.records.keep_fact(fact, kept)
        return Machine(
            class_id=ready.class_id,
            class_name=class_name(ready.facts),
            profiles=ready.profiles,
            flops_per_s=max(1, int(kept)),
        )

    # before an offer

    async def survey(self, spec: JobSpec, peer_id: str) -> Survey:
        """What `spec` needs, by fetching its program and building it in a child."""
        folder = fresh(self.config.home / "survey")
        try:
            with trio.fail_after(SURVEY_S):
                sizes = await self._describe(spec, peer_id, owner="survey")
                return await self._build(spec, folder, sum(size for _, size in sizes))
        except trio.TooSlowError as error:
            raise NetworkError(f"the program could not be fetched and built within {SURVEY_S:.0f} s") from error
        except TrainingProcessDied as error:
            raise RemoteViolation(f"the program cannot be built here: {error.message[:200]}") from error
        finally:
            for content_id in _named(spec):
                self.blobs.unpin(content_id, "survey")
            shutil.rmtree(folder, ignore_errors=True)

    async def room_bytes(self) -> int:
        """Disk that one more job may fill: quota and disk, less what running jobs will still write."""
        return await trio.to_thread.run_sync(self._free_bytes) - await self._promised_bytes()

    async def _build(self, spec: JobSpec, folder: Path, dataset_bytes: int) -> Survey:
        require_memory(spec, self.config.device)
        ready: Ready | None = None
        request = InitRequest(
            files=self.files(spec, folder), out_dir=folder, memory_bytes=spec.memory_bytes, device="cpu"
        )
        async with training(request) as events:
            async for event in events:
                if isinstance(event, Ready):
                    ready = event
                if isinstance(event, InitDone) and ready is not None:
                    return Survey(
                        initial_root=event.root,
                        checkpoint_bytes=event.size_bytes,
                        dataset_bytes=dataset_bytes,
                        memory_bytes=ready.peak_bytes,
                        work_flops=event.work_flops,
                    )
        raise LocalViolation("the child ended without the initial state")

    # before training

    async def prepare(self, job: JobRecord) -> None:
        """Brings everything that the job is made of here, and makes the checkpoint of step 0.

        Raises:
            NetworkError: some content is to be had from nobody now; try again.
            SpecInvalid, RemoteViolation: the contents are not the job that was offered for.
            StorageError: no room.
        """
        owner = pin_of(job.job_id)
        for content_id, size in await self._describe(job.spec, job.client_peer_id, owner=owner):
            await self._get(content_id, job.client_peer_id, max_bytes=size, owner=owner)
        if job.initial is not None and self.blobs.has(job.initial):
            return
        out = fresh(self.folder(job) / "out")
        files = self.files(job.spec, self.folder(job))
        request = InitRequest(files=files, out_dir=out, memory_bytes=job.spec.memory_bytes, device="cpu")
        async with training(request) as events:
            async for event in events:
                if isinstance(event, InitDone):
                    if event.root != job.offer.initial_root:
                        raise RemoteViolation(
                            f"the contents give initial root {event.root.hex()}, offered was "
                            f"{job.offer.initial_root.hex()}"
                        )
                    await self.records.note(job.job_id, initial=await self.store(event.path, owner))

    async def _describe(self, spec: JobSpec, peer_id: str, *, owner: str) -> list[tuple[ContentId, int]]:
        """Fetches program, manifest and initial tensors; gives the data files with their sizes."""
        await self._get(spec.program, peer_id, max_bytes=MAX_PROGRAM_BYTES, owner=owner)
        await self._get(spec.dataset, peer_id, max_bytes=MAX_MANIFEST_BYTES, owner=owner)
        if spec.initial_tensors is not None:
            await self._get(spec.initial_tensors, peer_id, max_bytes=spec.memory_bytes, owner=owner)
        return data_files(self.blobs.path_of(spec.dataset).read_bytes())

    async def _get(self, content_id: ContentId, peer_id: str, *, max_bytes: int, owner: str) -> None:
        if self.fetcher is None:
            raise LocalViolation("contents are asked for before there is a network")
        await self.fetcher.get(content_id, peer_id, max_bytes=max_bytes, owner=owner)

    # training

    async def train(self, job: JobRecord, segments: range, keep: Keep) -> None:
        """Runs segments from the checkpoint before them; `keep` is awaited with each once it is durable.

        Raises:
            TrainingProcessDied: again and again at the same segment.
            RemoteViolation: the program fails on its own data. ConfigError, StorageError: no memory, no disk.
        """
        first, deaths = segments.start, 0

        async def count(record: SegmentRecord) -> None:
            nonlocal first, deaths
            await keep(record)
            first, deaths = record.index + 1, 0

        while first < segments.stop:
            try:
                await self.run_segments(job, range(first, segments.stop), count)
            except TrainingProcessDied as error:
                deaths += 1
                _log.warning("job %s: %s (%d of %d)", job.job_id.hex()[:12], error.message, deaths, MAX_DEATHS)
                if deaths == MAX_DEATHS:
                    raise

    async def run_segments(self, job: JobRecord, segments: range, keep: Keep) -> None:
        """One child over a range of segments."""
        require_memory(job.spec, self.config.device)
        checkpoint, root = await self.start_of(job, segments.start)
        losses: list[tuple[int, str]] = []
        self.live[job.job_id] = losses
        request = self.request(job, segments, checkpoint, root)
        try:
            async with training(request) as events:
                async for event in events:
                    if isinstance(event, StepDone):
                        losses.append((event.step, f"{event.loss:.6g}"))
                    if isinstance(event, SegmentDone):
                        await keep(await self.record(job, event, tuple(losses)))
                        losses.clear()
        finally:
            del self.live[job.job_id]

    def request(self, job: JobRecord, segments: range, checkpoint: Path, root: StateRoot) -> RunRequest:
        """What the child is asked to run."""
        return RunRequest(
            files=self.files(job.spec, self.folder(job), data=True),
            first_segment=segments.start,
            last_segment=segments.stop - 1,
            checkpoint=checkpoint,
            input_root=root,
            out_dir=fresh(self.folder(job) / "out"),
            memory_bytes=job.spec.memory_bytes,
            device=self.config.device,
        )

    async def record(self, job: JobRecord, done: SegmentDone, losses: tuple[tuple[int, str], ...]) -> SegmentRecord:
        """Moves a finished segment's checkpoint into the blob store."""
        steps = done.segment.last_step - done.segment.first_step
        return SegmentRecord(
            index=done.segment.index,
            input_root=done.segment.input_root,
            output_root=done.segment.output_root,
            checkpoint=await self.store(done.path, pin_of(job.job_id)),
            losses=losses,
            step_us=int(done.seconds * 1e6 / max(steps, 1)),
        )

    async def start_of(self, job: JobRecord, index: int) -> tuple[Path, StateRoot]:
        """The checkpoint before segment `index`, and its root."""
        if index == 0:
            newest = await self.records.job(job.job_id)
            if newest is None or newest.initial is None:
                raise LocalViolation(f"job {job.job_id.hex()} is trained before it is prepared")
            return self.blobs.path_of(newest.initial), job.offer.initial_root
        (before,) = await self.records.segments(job.job_id, range(index - 1, index))
        return self.blobs.path_of(before.checkpoint), before.output_root

    async def step_roots(self, job: JobRecord, index: int) -> list[StateRoot]:
        """State roots after each step of a finished segment, by running it again in another child."""
        checkpoint, root = await self.start_of(job, index)
        out = fresh(self.folder(job) / "steps")
        request = RunRequest(
            files=self.files(job.spec, self.folder(job), data=True),
            first_segment=index,
            last_segment=index,
            checkpoint=checkpoint,
            input_root=root,
            out_dir=out,
            memory_bytes=job.spec.memory_bytes,
            step_roots=True,
            device=self.config.device,
        )
        roots: list[StateRoot] = []
        try:
            async with training(request) as events:
                async for event in events:
                    if isinstance(event, StepRoot):
                        roots.append(event.root)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        return roots

    # the end

    async def forget(self, job: JobRecord) -> None:
        """Lets everything but the checkpoints of a closed job go."""
        owner = pin_of(job.job_id)
        contents = list(_named(job.spec))
        if self.blobs.has(job.spec.dataset):
            contents += [cid for cid, _ in data_files(self.blobs.path_of(job.spec.dataset).read_bytes())]
        if job.initial is not None:
            contents.append(job.initial)
        for content_id in contents:
            await trio.to_thread.run_sync(self.blobs.unpin, content_id, owner)
        await trio.to_thread.run_sync(lambda: shutil.rmtree(self.folder(job), ignore_errors=True))

    # inside

    def folder(self, job: JobRecord) -> Path:
        """Where the job's child works."""
        path = self.config.home / "work" / job.job_id.hex()
        path.mkdir(parents=True, exist_ok=True)
        return path

    def files(self, spec: JobSpec, folder: Path, *, data: bool = False) -> JobFiles:
        """The job's contents as the child wants them; `data` where it will train."""
        spec_path = folder / "spec.json"
        spec_path.write_bytes(spec.encode())
        manifest = self.blobs.path_of(spec.dataset)
        files = data_files(manifest.read_bytes()) if data else []
        initial = None if spec.initial_tensors is None else self.blobs.path_of(spec.initial_tensors)
        return JobFiles(
            spec=spec_path,
            program=self.blobs.path_of(spec.program),
            dataset=manifest,
            data_files=[self.blobs.path_of(content_id) for content_id, _ in files],
            initial_tensors=initial,
        )

    async def store(self, path: Path, owner: str) -> ContentId:
        """Moves a file into the blob store, pinned."""
        return await trio.to_thread.run_sync(lambda: self.blobs.put_file(path, pin=owner, move=True))

    def _free_bytes(self) -> int:
        blobs = self.blobs
        unpinned = sum(blobs.path_of(cid).stat().st_size for cid in blobs.ids() if not blobs.owners(cid))
        quota = blobs.quota_bytes - blobs.used_bytes + unpinned
        disk = shutil.disk_usage(blobs.root).free - blobs.spare_bytes + unpinned
        return max(0, min(quota, disk))

    async def _promised_bytes(self) -> int:
        promised = 0
        for job in await self.records.jobs():
            if job.closed_at is None and job.initial is not None and self.blobs.has(job.initial):
                last = await self.records.last_segment(job.job_id)
                left = job.offer.segment_count - (0 if last is None else last.index + 1)
                promised += left * self.blobs.path_of(job.initial).stat().st_size
        return promised


def _named(spec: JobSpec) -> list[ContentId]:
    named = [spec.program, spec.dataset]
    return named if spec.initial_tensors is None else [*named, spec.initial_tensors]
