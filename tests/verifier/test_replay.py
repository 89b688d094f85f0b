"""The numbered procedure, step by step: each thing that must stop an accusation does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tolsey.errors import CheckpointUnavailable
from tolsey.protocol.content import ContentId
from tolsey.protocol.job import PINNED, JobSpec
from tolsey.protocol.lifecycle import Verdict, Vote
from tolsey.testing.chain import PINNED_CLASS_ID
from tolsey.verifier.compare import compare, vote_of
from tolsey.verifier.replay import Inputs, Progress, Replay
from tolsey.verifier.trace import checked_trace

from .worlds import (
    DATA,
    DATASET,
    PROGRAM,
    PaperBench,
    PaperWindow,
    checkpoint_bytes,
    checkpoint_id,
    paper_root,
    paper_spec,
    paper_window,
)

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


class Files:
    """A source with the files of a window on disk."""

    def __init__(self, folder: Path, missing: set[ContentId] | None = None) -> None:
        self.folder = folder
        self.missing = missing or set()
        self.asked: list[ContentId] = []
        self.released: list[ContentId] = []
        self.swapped: dict[ContentId, bytes] = {}

    async def inputs(self, spec: JobSpec) -> Inputs:
        if spec.program in self.missing:
            raise CheckpointUnavailable("the program is not to be had")
        paths = [self.put(name, raw) for name, raw in (("program", PROGRAM), ("dataset", DATASET), ("data", DATA))]
        return Inputs(spec=spec, program=paths[0], dataset=paths[1], files=(paths[2],))

    async def checkpoint(self, spec: JobSpec, which: str, content_id: ContentId | None) -> Path:
        if content_id is None:
            raise CheckpointUnavailable(f"the trace names no checkpoint {which}")
        self.asked.append(content_id)
        if content_id in self.missing:
            raise CheckpointUnavailable("nobody serves it")
        raw = self.swapped.get(content_id)
        roots = [paper_root(i) for i in range(10)]
        return self.put(
            content_id.hex(), raw or next(checkpoint_bytes(r) for r in roots if checkpoint_id(r) == content_id)
        )

    async def release(self, content_id: ContentId) -> None:
        self.released.append(content_id)

    def put(self, name: str, raw: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(raw)
        return path


def bench(**changes: Any) -> PaperBench:
    return PaperBench({paper_root(i): paper_root(i + 1) for i in range(9)}, **changes)


def replay(window: PaperWindow, bench: PaperBench, files: Files, before: bytes | None = None) -> Replay:
    trace = checked_trace(
        window.trace.encode(), offer=window.offer, job_id=window.job_id, window=window.index, root=window.root,
        domain=window.domain, source="wim",
    )  # fmt: skip
    before = before or window.trace.entries[0].input_root
    return Replay(bench, files, offer=window.offer, trace=trace, before=before, progress=Progress())


async def test_honest_segments_match_each_run_once(tmp_path: Path) -> None:
    machine = bench()
    files = Files(tmp_path)
    finding = await replay(paper_window(index=1), machine, files).judge([4, 7])
    assert (finding.kind, machine.runs) == (Verdict.MATCH, [4, 7])
    assert files.released == files.asked, "a long sample must not fill the disk"


async def test_first_segment_starts_from_the_initial_state_without_a_file(tmp_path: Path) -> None:
    files = Files(tmp_path)
    assert (await replay(paper_window(), bench(), files).judge([0])).kind is Verdict.MATCH
    assert files.asked == []


def pinned_window() -> PaperWindow:
    return paper_window(spec=paper_spec(segments=8, class_id=PINNED_CLASS_ID))


async def test_step_0_pinned_job_of_another_class_abstains_before_anything_is_fetched(tmp_path: Path) -> None:
    machine, files = bench(class_id=b"\x99" * 32), Files(tmp_path)
    finding = await replay(pinned_window(), machine, files).judge([1])
    assert finding.kind is Verdict.ABSTAIN
    assert "class" in finding.reason
    assert (machine.runs, files.asked) == ([], [])


async def test_step_0_pinned_job_of_this_class_is_judged(tmp_path: Path) -> None:
    machine = bench(class_id=PINNED_CLASS_ID)
    assert (await replay(pinned_window(), machine, Files(tmp_path)).judge([1])).kind is Verdict.MATCH


@pytest.mark.parametrize("class_id", [b"\x99" * 32, b"\x98" * 32])
async def test_step_0_exact_job_is_judged_by_machines_of_any_class(tmp_path: Path, class_id: bytes) -> None:
    machine = bench(class_id=class_id)
    assert (await replay(paper_window(), machine, Files(tmp_path)).judge([1])).kind is Verdict.MATCH


async def test_step_0_exact_job_on_a_machine_without_its_kernels_abstains(tmp_path: Path) -> None:
    machine, files = bench(profiles=(PINNED,)), Files(tmp_path)
    finding = await replay(paper_window(), machine, files).judge([1])
    assert finding.kind is Verdict.ABSTAIN
    assert finding.reason == "this machine runs pinned, the job is of exact-fp32/1"
    assert (machine.runs, files.asked) == ([], [])


async def test_step_0_machine_too_small_abstains_before_anything_is_fetched(tmp_path: Path) -> None:
    machine, files = bench(memory_bytes=0), Files(tmp_path)
    finding = await replay(paper_window(), machine, files).judge([1])
    assert finding.kind is Verdict.ABSTAIN
    assert "memory" in finding.reason
    assert (machine.runs, files.asked) == ([], [])


async def test_step_1_spec_that_is_cut_otherwise_than_the_offer_abstains(tmp_path: Path) -> None:
    window = paper_window()
    judged = replay(window, bench(), Files(tmp_path))
    judged._offer = dataclasses.replace(window.offer, segment_count=9)
    finding = await judged.judge([1])
    assert finding.kind is Verdict.ABSTAIN
    assert "8 segments" in finding.reason and "9" in finding.reason


async def test_step_3_break_is_found_without_running_anything(tmp_path: Path) -> None:
    machine = bench()
    finding = await replay(paper_window(broken=2), machine, Files(tmp_path)).judge([0])
    assert (finding.kind, finding.segment, finding.is_break) == (Verdict.MISMATCH, 2, True)
    assert machine.runs == []


async def test_step_3_window_that_starts_elsewhere_is_a_break(tmp_path: Path) -> None:
    finding = await replay(paper_window(index=1), bench(), Files(tmp_path), before=A).judge([5])
    assert (finding.segment, finding.is_break) == (4, True)


async def test_step_4_missing_program_is_unavailable_and_charged_to_no_segment(tmp_path: Path) -> None:
    window = paper_window()
    judged = replay(window, bench(), Files(tmp_path, {JobSpec.decode(window.trace.spec).program}))
    with pytest.raises(CheckpointUnavailable):
        await judged.judge([1])
    assert judged.progress.at is None


async def test_step_5_missing_checkpoint_is_unavailable_and_names_the_segment(tmp_path: Path) -> None:
    files = Files(tmp_path, {checkpoint_id(paper_root(2))})
    machine = bench()
    judged = replay(paper_window(), machine, files)
    with pytest.raises(CheckpointUnavailable):
        await judged.judge([1, 2, 3])
    assert (judged.progress.at, machine.runs) == (2, [1])
    files.missing.clear()
    assert (await judged.judge([1, 2, 3])).kind is Verdict.MATCH
    assert machine.runs == [1, 2, 3], "what matched is not run again"


async def test_step_5_checkpoint_of_another_state_is_unavailable_not_a_mismatch(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.swapped[checkpoint_id(paper_root(2))] = checkpoint_bytes(paper_root(7))
    machine = bench()
    with pytest.raises(CheckpointUnavailable, match="another state"):
        await replay(paper_window(), machine, files).judge([2])
    assert machine.runs == []


async def test_step_5_trace_that_names_no_start_is_unavailable(tmp_path: Path) -> None:
    window = paper_window(index=1)
    window = dataclasses.replace(window, trace=dataclasses.replace(window.trace, window_start=None))
    with pytest.raises(CheckpointUnavailable, match="names no checkpoint"):
        await replay(window, bench(), Files(tmp_path)).judge([4])


async def test_step_6_replay_that_fails_here_abstains(tmp_path: Path) -> None:
    finding = await replay(paper_window(), bench(fails=True), Files(tmp_path)).judge([1])
    assert (finding.kind, finding.segment) == (Verdict.ABSTAIN, 1)


async def test_step_8_other_root_the_second_time_abstains(tmp_path: Path) -> None:
    machine = bench(restless=True)
    finding = await replay(paper_window(), machine, Files(tmp_path)).judge([1])
    assert finding.kind is Verdict.ABSTAIN
    assert "not reproducible" in finding.reason
    assert machine.runs == [1, 1]


async def test_step_9_equal_roots_twice_that_differ_from_the_worker_are_a_mismatch(tmp_path: Path) -> None:
    machine = bench()
    machine.truth[paper_root(1)] = A
    finding = await replay(paper_window(), machine, Files(tmp_path)).judge([0, 1, 3])
    assert (finding.kind, finding.segment, finding.replayed_root) == (Verdict.MISMATCH, 1, A)
    assert machine.runs == [0, 1, 1], "the rest of the sample is not needed"


async def test_mismatch_found_twice_is_still_one_when_asked_again(tmp_path: Path) -> None:
    machine = bench()
    machine.truth[paper_root(1)] = A
    judged = replay(paper_window(), machine, Files(tmp_path))
    first, again = await judged.judge([0, 1, 3]), await judged.judge([0, 1, 3])
    assert first == again and first.kind is Verdict.MISMATCH
    assert machine.runs == [0, 1, 1]


@pytest.mark.parametrize(
    ("claimed", "replayed", "again", "verdict"),
    [
        (A, A, None, Verdict.MATCH), (A, B, B, Verdict.MISMATCH), (A, B, C, Verdict.ABSTAIN),
        (A, B, None, Verdict.ABSTAIN), (A, B, A, Verdict.ABSTAIN),
    ],
)  # fmt: skip
def test_compare_accuses_only_with_two_equal_replays(
    claimed: bytes, replayed: bytes, again: bytes | None, verdict: Verdict
) -> None:
    assert compare(claimed, replayed, again) is verdict  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("replayed", "again", "vote"),
    [(A, None, Vote.WORKER), (B, None, Vote.CHALLENGER), (C, C, Vote.NEITHER), (C, A, Vote.ABSTAIN)],
)
def test_vote_follows_the_machine(replayed: bytes, again: bytes | None, vote: Vote) -> None:
    got = vote_of(output_root=A, claimed_root=B, replayed=replayed, again=again)  # type: ignore[arg-type]
    assert got is vote
