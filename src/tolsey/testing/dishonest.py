"""Workers that cheat, one way each, so that tests and demos can show what catches them.

A dishonest worker is the shipped one with one seam replaced (`node/service.py` Parts): it enrols, bids, trains and
serves with the same code, and lies in one place. The shipped worker has no flag for any of this; the only way in is
`python -m tolsey.testing.dishonest_worker`.

| mode             | the lie                                                            | what should catch it |
|------------------|--------------------------------------------------------------------|----------------------|
| skip-steps       | runs a share of each segment's steps, forges the checkpoint's step | replay: mismatch     |
| forge            | random numbers for a checkpoint, no training at all                | replay: mismatch     |
| stale-checkpoint | gives the checkpoint before again, with the next step written on it | replay: mismatch    |
| wrong-data       | trains honestly, on examples in another order                      | replay: mismatch     |
| reorder          | trains every step, and adds the terms of products the other way round | replay: mismatch  |
| discontinuous    | says that segments start where none ended                          | proveDiscontinuity   |
| withhold         | commits, then serves neither traces nor checkpoints, nor answers   | demand, then resolve |
| hide             | serves as little, and opens on chain whatever is demanded          | unavailable          |
| garbage          | serves other bytes than were committed                             | chunk hashes         |
| silent           | accepts and never commits                                          | expire               |
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import trio

from tolsey.contracts.views import JobView
from tolsey.network.host import Host
from tolsey.network.rpc import serve
from tolsey.network.transfer import ContentStore
from tolsey.node.committer import Committer
from tolsey.node.executor import Executor, Keep, pin_of
from tolsey.node.preflight import fresh
from tolsey.node.records import JobRecord, SegmentRecord
from tolsey.node.responder import Responder, guarded, rpc_of
from tolsey.node.service import Parts
from tolsey.node.worker import Worker
from tolsey.numerics.library import Library
from tolsey.protocol.content import ContentId, Manifest
from tolsey.protocol.encoding import keccak256
from tolsey.protocol.job import JobSpec
from tolsey.protocol.lifecycle import State
from tolsey.protocol.units import StateRoot
from tolsey.protocol.wire import BOOK, OFFER
from tolsey.runtime import dataset, exact, graph, state
from tolsey.runtime.admission import admit_bytes
from tolsey.runtime.child_client import JobFiles, RunRequest, SegmentDone, StepDone, training
from tolsey.runtime.executor import Executable
from tolsey.runtime.ops import Call
from tolsey.runtime.segment import StepResult, Trainer
from tolsey.runtime.state import TrainingState
from tolsey.storage.blobs import BlobStore

_log = logging.getLogger(__name__)


class ForgingExecutor(Executor):
    """Makes each segment's checkpoint by `forged` and writes on it that the whole segment was done."""

    async def run_segments(self, job: JobRecord, segments: range, keep: Keep) -> None:
        for index in segments:
            out = fresh(self.folder(job) / "forged")
            start, root = await self.start_of(job, index)
            steps = job.spec.segment_steps(index)
            made, losses = await self.forged(job, start, steps, out)
            cursor = steps.stop * job.spec.batch_size * job.spec.micro_batches
            lie = dataclasses.replace(made, step=steps.stop, cursor=cursor)
            path = out / "checkpoint.safetensors"
            await trio.to_thread.run_sync(state.write, lie, path)
            output_root = await trio.to_thread.run_sync(state.root_of, lie, job.spec.profile)
            _log.warning("job %s: segment %d is forged", job.job_id.hex()[:12], index)
            await keep(
                SegmentRecord(
                    index=index,
                    input_root=root,
                    output_root=output_root,
                    checkpoint=await self.store(path, pin_of(job.job_id)),
                    losses=tuple(losses),
                )
            )

    async def forged(
        self, job: JobRecord, start: Path, steps: range, out: Path
    ) -> tuple[TrainingState, Sequence[tuple[int, str]]]:
        """The state to pass off as the segment's end, and losses to show."""
        raise NotImplementedError

    async def state_in(self, job: JobRecord, path: Path) -> TrainingState:
        """The training state in a checkpoint file."""
        program = graph.decode(self.blobs.path_of(job.spec.program).read_bytes())
        return await trio.to_thread.run_sync(state.read, path, program)


class StepSkipper(ForgingExecutor):
    """Runs the first `share` of each segment's steps, at least one where there are more."""

    share = 0.5

    async def forged(
        self, job: JobRecord, start: Path, steps: range, out: Path
    ) -> tuple[TrainingState, Sequence[tuple[int, str]]]:
        count = min(max(1, int(len(steps) * self.share)), max(len(steps) - 1, 0))
        if not count:
            return await self.state_in(job, start), ()
        # A spec of one-step segments lets the honest child stop where we want it to.
        cut = dataclasses.replace(job.spec, steps_per_segment=1, segments_per_window=min(job.spec.steps, 65_536))
        request = RunRequest(
            files=self.files(cut, out, data=True),
            first_segment=steps.start,
            last_segment=steps.start + count - 1,
            checkpoint=start,
            out_dir=out,
            memory_bytes=job.spec.memory_bytes,
            device=self.config.device,
        )
        losses: list[tuple[int, str]] = []
        last = start
        async with training(request) as events:
            async for event in events:
                if isinstance(event, StepDone):
                    losses.append((event.step, f"{event.loss:.6g}"))
                if isinstance(event, SegmentDone):
                    last = event.path
        return await self.state_in(job, last), losses


class Forger(ForgingExecutor):
    """Random numbers of the right shapes; costs nothing."""

    async def forged(
        self, job: JobRecord, start: Path, steps: range, out: Path
    ) -> tuple[TrainingState, Sequence[tuple[int, str]]]:
        before = await self.state_in(job, start)
        generator = torch.Generator().manual_seed(steps.start)
        tensors = {
            name: torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in before.tensors.items()
        }
        return dataclasses.replace(before, tensors=tensors), [(step, "0.01") for step in steps]


class Repeater(ForgingExecutor):
    """Hands in the checkpoint before once more."""

    async def forged(
        self, job: JobRecord, start: Path, steps: range, out: Path
    ) -> tuple[TrainingState, Sequence[tuple[int, str]]]:
        return await self.state_in(job, start), [(step, "0.01") for step in steps]


class WrongData(Executor):
    """Trains on the same examples in the order of another seed."""

    def files(self, spec: JobSpec, folder: Path, *, data: bool = False) -> JobFiles:
        if data:
            spec = dataclasses.replace(spec, seed=spec.seed ^ 1)
        return super().files(spec, folder, data=data)


class Reorderer(ForgingExecutor):
    """Does all of the work of an exact job with the law's own kernels, but runs the chain of each product downwards.

    Nothing is saved by it: it stands for every machine whose results are as good as the law's, and other bits.
    """

    async def forged(
        self, job: JobRecord, start: Path, steps: range, out: Path
    ) -> tuple[TrainingState, Sequence[tuple[int, str]]]:
        before = await self.state_in(job, start)
        results = await trio.to_thread.run_sync(self._trained, job, before, steps.stop)
        return results[-1].state, [(result.step, f"{result.loss:.6g}") for result in results]

    def _trained(self, job: JobRecord, before: TrainingState, last_step: int) -> list[StepResult]:
        spec, files = job.spec, self.files(job.spec, self.folder(job), data=True)
        admitted = admit_bytes(files.program.read_bytes(), memory_bytes=spec.memory_bytes, profile=spec.profile)
        manifest = dataset.decode_manifest(files.dataset.read_bytes())
        data = dataset.Dataset(manifest, list(files.data_files), admitted.program.batch, spec.seed)
        with mock.patch.dict(exact.KERNELS, _DOWNWARDS):  # looked up while the program is made ready
            executable = Executable(admitted, self.config.device, profile=spec.profile)
        return list(Trainer(executable, data, seed=spec.seed).steps(before, last_step))


def _downwards(make: exact.Maker) -> exact.Maker:
    """A product whose terms come in the other order: both factors are turned round along the dim that is summed."""

    def made(lib: Library, args: Sequence[Any]) -> Call:
        product = make(lib, args)
        return lambda *tensors: product(*tensors[:-2], tensors[-2].flip(-1), tensors[-1].flip(-2))

    return made


_DOWNWARDS = {name: _downwards(exact.KERNELS[name]) for name in ("mm", "bmm", "addmm")}


class Discontinuous(Executor):
    """Trains honestly and says of every segment but the first that it started elsewhere."""

    async def record(self, job: JobRecord, done: SegmentDone, losses: tuple[tuple[int, str], ...]) -> SegmentRecord:
        honest = await super().record(job, done, losses)
        if honest.index == 0:
            return honest
        return dataclasses.replace(honest, input_root=StateRoot(keccak256(b"elsewhere", honest.input_root)))


class CarelessCommitter(Committer):
    """Commits segments that do not follow one another."""

    def check(self, job: JobRecord, found: Sequence[SegmentRecord], indices: range) -> None:
        pass


class Withholder(Responder):
    """Offers and nothing else."""

    def serve(self, host: Host) -> None:
        serve(host, rpc_of(OFFER), guarded(self.offer))
        serve(host, rpc_of(BOOK), guarded(self._book.answer))


class Unanswering(Worker):
    """Lets demands pass."""

    async def answer(self, view: JobView) -> None:
        _log.warning("job %s: a demand is left unanswered", self.job.job_id.hex()[:12])


class Sleeper(Worker):
    """Accepts, then does nothing at all until others end the job."""

    async def train(self) -> None:
        await trio.sleep_forever()

    async def turn(self, view: JobView) -> None:
        if view.state is not State.ACCEPTED:
            await super().turn(view)


class GarbageStore:
    """Right manifests, wrong chunks."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def manifest(self, content_id: ContentId) -> Manifest | None:
        return self._blobs.manifest(content_id)

    def read_chunk(self, content_id: ContentId, index: int) -> bytes:
        chunk = self._blobs.read_chunk(content_id, index)
        return bytes([chunk[0] ^ 1]) + chunk[1:]


def _garbage(blobs: BlobStore) -> ContentStore:
    return GarbageStore(blobs)


MODES: dict[str, Parts] = {
    "skip-steps": Parts(executor=StepSkipper),
    "forge": Parts(executor=Forger),
    "stale-checkpoint": Parts(executor=Repeater),
    "wrong-data": Parts(executor=WrongData),
    "reorder": Parts(executor=Reorderer),
    "discontinuous": Parts(executor=Discontinuous, committer=CarelessCommitter),
    "withhold": Parts(responder=Withholder, worker=Unanswering),
    "hide": Parts(responder=Withholder),
    "garbage": Parts(store=_garbage),
    "silent": Parts(worker=Sleeper),
}
"""Every way to cheat that is shipped for tests, by name."""
