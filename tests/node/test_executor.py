"""Real training children: what the worker measures, makes, makes again, and what dishonest ones make instead."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tolsey.errors import RemoteViolation, SpecInvalid
from tolsey.node.config import WorkerConfig
from tolsey.node.executor import Executor, pin_of
from tolsey.node.preflight import data_files
from tolsey.node.records import JobRecord, OfferRecord, Records, SegmentRecord
from tolsey.protocol.content import ContentId
from tolsey.protocol.encoding import canonical_json
from tolsey.protocol.job import EXACT_CLASSES, PINNED, PROFILES
from tolsey.protocol.units import StateRoot
from tolsey.runtime import author
from tolsey.runtime.child_client import TrainingProcessDied, class_of
from tolsey.storage.blobs import BlobStore
from tolsey.storage.engine import Database
from tolsey.testing.dishonest import MODES

from . import worlds
from .scripted_client import spec_of, tiny_job

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> author.BuiltJob:
    return author.build(tiny_job(steps=8, steps_per_segment=4, segments_per_window=1), tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, built: author.BuiltJob) -> list[SegmentRecord]:
    """Both segments of the job, made by a shipped worker in one go."""

    async def make() -> list[SegmentRecord]:
        shed = Shed(tmp_path_factory.mktemp("honest"), built)
        try:
            return await shed.train(await shed.accepted(), range(0, 2))
        finally:
            shed.close()

    return trio.run(make)


class LocalFetcher:
    """Brings contents from a folder instead of peers, with the same promises."""

    def __init__(self, blobs: BlobStore, paths: list[Path]) -> None:
        self.blobs, self.paths = blobs, paths

    async def get(self, content_id: ContentId, peer_id: str, *, max_bytes: int, owner: str) -> int:
        for path in self.paths:
            self.blobs.put_file(path)
        self.blobs.pin(content_id, owner)
        size = self.blobs.path_of(content_id).stat().st_size
        assert size <= max_bytes
        return size


class Shed:
    """One executor with its stores and one accepted job."""

    def __init__(
        self,
        folder: Path,
        built: author.BuiltJob,
        executor: type[Executor] = Executor,
    ) -> None:
        self.built = built
        self.spec = spec_of(built)
        self.database = Database.open(folder / "worker.sqlite")
        self.blobs = BlobStore(folder / "blobs", 1 << 30)
        self.records = Records(self.database)
        config = WorkerConfig(network="", home=folder, disk_spare_bytes=0)
        self.executor = executor(config, self.blobs, self.records)
        contents = [built.program_path, built.dataset_path, *built.data_paths]
        self.executor.fetcher = LocalFetcher(self.blobs, contents)  # type: ignore[assignment]  # same shape

    def close(self) -> None:
        self.blobs.close()
        self.database.close()

    async def accepted(self) -> JobRecord:
        """A job that is accepted and prepared."""
        spec = self.spec
        offer = worlds.offer(spec, initial_root=StateRoot(self.built.initial_root))
        record = OfferRecord(
            job_id=worlds.job_id(offer),
            request_hash=bytes(32),
            offer=offer,
            signature=bytes(65),
            spec=spec,
            client_peer_id=worlds.GOOD_PEER,
        )
        await self.records.keep_offer(record)
        job = await self.records.begin_job(record.job_id)
        await self.executor.prepare(job)
        return job

    async def train(self, job: JobRecord, segments: range) -> list[SegmentRecord]:
        made: list[SegmentRecord] = []

        async def keep(record: SegmentRecord) -> None:
            await self.records.add_segment(job.job_id, record)
            made.append(record)

        await self.executor.train(job, segments, keep)
        return made


@pytest.fixture
def shed(tmp_path: Path, built: author.BuiltJob) -> Iterator[Shed]:
    opened = Shed(tmp_path, built)
    yield opened
    opened.close()


async def test_measure_class_profiles_and_speed_once(shed: Shed) -> None:
    first = await shed.executor.measure()
    assert first.class_id == (await class_of()).class_id and first.flops_per_s > 1e6
    assert first.profiles == PROFILES
    assert (await shed.executor.measure()).flops_per_s == first.flops_per_s


async def test_measure_without_kernels_sells_the_other_profile_and_says_why(
    shed: Shed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOLSEY_ISA", "of-no-machine")
    machine = await shed.executor.measure()
    assert machine.profiles == (PINNED,) and machine.flops_per_s > 1e6
    said = [record.getMessage() for record in caplog.records if "is not sold" in record.getMessage()]
    assert [line.split(" is not sold: TOLSEY_ISA=of-no-machine names no build")[0] for line in said] == [*EXACT_CLASSES]
    assert all("try: unset TOLSEY_ISA" in line for line in said)


async def test_survey_measures_what_the_author_measured(shed: Shed) -> None:
    survey = await shed.executor.survey(shed.spec, worlds.GOOD_PEER)
    assert survey.initial_root == shed.built.initial_root
    assert (survey.memory_bytes, survey.work_flops) == (shed.built.memory_bytes, shed.built.work_flops)
    assert survey.dataset_bytes == sum(path.stat().st_size for path in shed.built.data_paths)
    assert not any(shed.blobs.owners(cid) for cid in shed.blobs.ids())


async def test_survey_spec_that_disagrees_with_the_program_is_invalid(shed: Shed) -> None:
    spec = dataclasses.replace(shed.spec, batch_size=9)
    with pytest.raises(SpecInvalid, match="batch size"):
        await shed.executor.survey(spec, worlds.GOOD_PEER)


async def test_prepare_other_initial_root_than_offered_is_refused(shed: Shed) -> None:
    shed.built = dataclasses.replace(shed.built, initial_root=StateRoot(b"\x13" * 32))
    with pytest.raises(RemoteViolation, match="initial root"):
        await shed.accepted()


async def test_train_in_two_goes_equals_one_and_steps_end_in_the_root(shed: Shed, honest: list[SegmentRecord]) -> None:
    job = await shed.accepted()
    (first,) = await shed.train(job, range(0, 1))
    (second,) = await shed.train(job, range(1, 2))
    assert (first.input_root, second.input_root) == (job.offer.initial_root, first.output_root)
    assert [step for step, _ in second.losses] == [4, 5, 6, 7]
    assert shed.blobs.owners(second.checkpoint) == [pin_of(job.job_id)]
    roots = await shed.executor.step_roots(job, 1)
    assert len(roots) == 4 and roots[-1] == second.output_root
    assert [record.output_root for record in honest] == [first.output_root, second.output_root]
    assert [record.checkpoint for record in honest] == [first.checkpoint, second.checkpoint]


async def test_train_killed_child_is_started_again_from_the_last_checkpoint(shed: Shed) -> None:
    job = await shed.accepted()
    made: list[int] = []

    async def keep(record: SegmentRecord) -> None:
        await shed.records.add_segment(job.job_id, record)
        made.append(record.index)
        if record.index == 0:
            for pid in children():
                os.kill(pid, signal.SIGKILL)

    await shed.executor.train(job, range(0, 2), keep)
    assert made == [0, 1]


async def test_train_child_that_always_dies_is_given_up(shed: Shed, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await shed.accepted()
    monkeypatch.setattr("tolsey.runtime.child_client.sys.executable", "/bin/false")
    with pytest.raises(TrainingProcessDied):
        await shed.train(job, range(0, 1))


async def test_train_cancelled_leaves_no_child(shed: Shed) -> None:
    job = await shed.accepted()
    with trio.move_on_after(1.0):
        await shed.train(job, range(0, 2))
    assert children() == []


async def test_forget_lets_all_but_checkpoints_go(shed: Shed) -> None:
    job = await shed.accepted()
    (record,) = await shed.train(job, range(0, 1))
    fresh = await shed.records.job(job.job_id)
    assert fresh is not None
    await shed.executor.forget(fresh)
    assert [cid for cid in shed.blobs.ids() if shed.blobs.owners(cid)] == [record.checkpoint]


@pytest.mark.parametrize("mode", ["skip-steps", "forge", "stale-checkpoint", "wrong-data", "reorder"])
async def test_dishonest_executor_makes_valid_checkpoints_with_other_roots(
    tmp_path: Path, built: author.BuiltJob, honest: list[SegmentRecord], mode: str
) -> None:
    liar = Shed(tmp_path, built, MODES[mode].executor)  # type: ignore[arg-type]  # all of these are classes
    try:
        job = await liar.accepted()
        forged = await liar.train(job, range(0, 2))
        # The lie holds where nobody replays: a child takes its first checkpoint as the start of segment 1.
        roots = await Executor.step_roots(liar.executor, job, 1)
    finally:
        liar.close()
    assert [record.input_root for record in forged] == [job.offer.initial_root, forged[0].output_root]
    assert all(lie.output_root != truth.output_root for lie, truth in zip(forged, honest, strict=True))
    assert mode == "wrong-data" or roots[-1] != forged[1].output_root


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"files": []},
        {"files": "x"},
        {"files": [{"content": "zz", "size_bytes": 1}]},
        {"files": [{"content": "00" * 32, "size_bytes": 0}]},
        {"files": [{"content": "00" * 32, "size_bytes": True}]},
        {"files": [{"content": "00" * 31, "size_bytes": 1}]},
    ],
)
def test_data_files_malformed_manifest_is_a_violation(value: Any) -> None:
    with pytest.raises(RemoteViolation):
        data_files(canonical_json(value))


def children() -> list[int]:
    """Process ids of our own training children."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if parent == os.getpid() and b"tolsey.runtime.child" in words:
            found.append(int(path.name))
    return found
