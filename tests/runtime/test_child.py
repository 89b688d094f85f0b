"""The training process as its parent sees it: events, errors in their own class, and no orphans."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trio

from tolsey import errors
from tolsey.errors import (
    ClassMismatch,
    ConfigError,
    LocalViolation,
    RemoteViolation,
    SpecInvalid,
    StorageError,
    TolseyError,
)
from tolsey.numerics import int8
from tolsey.protocol.checkpoint import StateRoot
from tolsey.protocol.job import EXACT_CLASSES, EXACT_FP32, EXACT_INT8, PINNED, PROFILES, JobSpec
from tolsey.protocol.units import ClassId
from tolsey.runtime import author, child, child_client, determinism, environment, state
from tolsey.runtime.child_client import (
    ClassRequest,
    Event,
    InitDone,
    JobFiles,
    Ready,
    RunRequest,
    SegmentDone,
    StepDone,
    StepRoot,
)
from tolsey.runtime.environment import ENVIRONMENT, child_environment, wrong_variables
from tolsey.runtime.executor import Executable
from tolsey.runtime.segment import Trainer

MEMORY = 1 << 30


@dataclass
class World:
    """A built job with its spec on disk."""

    runner: Any
    folder: Path
    spec: JobSpec
    files: JobFiles

    def request(self, **changes: Any) -> RunRequest:
        out = self.folder / "out"
        out.mkdir(exist_ok=True)
        base = RunRequest(files=self.files, first_segment=0, last_segment=1, out_dir=out, memory_bytes=MEMORY)
        return replace(base, **changes)

    def with_spec(self, **changes: Any) -> JobFiles:
        path = self.folder / "other-spec.json"
        path.write_bytes(replace(self.spec, **changes).encode())
        return replace(self.files, spec=path)

    def pinned_to(self, class_id: ClassId) -> JobFiles:
        """The same job in the other profile."""
        return self.with_spec(profile=PINNED, class_id=class_id)


@pytest.fixture(scope="module")
def class_id() -> ClassId:
    async def ask() -> ClassId:
        return (await child_client.class_of()).class_id

    return trio.run(ask)


@pytest.fixture
def world(tmp_path: Path, cnn: Any) -> World:
    built, job = cnn.built, cnn.job
    spec = JobSpec(
        name=job.name,
        program=built.program_id,
        dataset=built.dataset_id,
        initial_tensors=None,
        profile=job.profile,
        class_id=EXACT_CLASSES[job.profile],
        seed=job.seed,
        steps=job.steps,
        steps_per_segment=job.steps_per_segment,
        segments_per_window=1,
        batch_size=job.batch_size,
        micro_batches=1,
        memory_bytes=built.memory_bytes,
        work_flops=built.work_flops,
    )
    path = tmp_path / "spec.json"
    path.write_bytes(spec.encode())
    files = JobFiles(spec=path, program=built.program_path, dataset=built.dataset_path, data_files=built.data_paths)
    return World(cnn, tmp_path, spec, files)


async def follow(request: child_client.Request) -> list[Event]:
    async with child_client.training(request) as events:
        return [event async for event in events]


async def test_child_run_gives_steps_roots_and_segments_that_another_process_repeats(world: World) -> None:
    events = await follow(world.request(step_roots=True))
    assert isinstance(events[0], Ready) and events[0].class_id != world.spec.class_id
    segments = [event for event in events if isinstance(event, SegmentDone)]
    roots = [event.root for event in events if isinstance(event, StepRoot)]
    assert [event.step for event in events if isinstance(event, StepDone)] == list(range(6))
    assert segments[0].segment.input_root == world.runner.built.initial_root
    assert segments[0].segment.output_root == segments[1].segment.input_root == roots[2]
    assert segments[1].segment.output_root == roots[5]
    saved = state.read(segments[1].path, world.runner.program)
    assert state.root_of(saved, EXACT_FP32) == roots[5] and segments[1].size_bytes == segments[1].path.stat().st_size
    again = world.folder / "again"
    again.mkdir()
    replayed = await follow(
        world.request(first_segment=1, last_segment=1, checkpoint=segments[0].path, input_root=roots[2], out_dir=again)
    )
    assert replayed[-1].segment == segments[1].segment  # type: ignore[union-attr]  # a SegmentDone
    assert (again / "segment-000001.safetensors").read_bytes() == segments[1].path.read_bytes()


async def test_child_init_writes_the_root_that_the_author_saw(world: World) -> None:
    done = await child_client.write_initial(
        child_client.InitRequest(files=world.files, out_dir=world.folder, memory_bytes=MEMORY)
    )
    assert isinstance(done, InitDone) and done.root == world.runner.built.initial_root
    assert state.root_of(state.read(done.path, world.runner.program), EXACT_FP32) == done.root


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        ("class", ClassMismatch, "this machine is of class"),
        ("program", SpecInvalid, "the program has content id"),
        ("steps", SpecInvalid, "steps: the program has 6, the spec says 7"),
        ("memory", RemoteViolation, "allowed are 10"),
        ("data", RemoteViolation, "the manifest says"),
        ("root", errors.ReplayMismatch, "the start checkpoint has root"),
        ("late", SpecInvalid, "segment 1 starts at step 3"),
        ("missing", StorageError, "cannot read the job spec"),
    ],
)
def test_child_refusal_is_its_own_error(
    world: World, case: str, kind: type[TolseyError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(determinism, "missing_environment", list)  # served in this process: eight starts take a minute
    data = world.folder / "data"
    data.write_bytes(b"other")
    request = {
        "class": lambda: world.request(files=world.pinned_to(ClassId(bytes(32)))),
        "program": lambda: world.request(files=replace(world.files, program=world.files.dataset)),
        "steps": lambda: world.request(files=world.with_spec(steps=7)),
        "memory": lambda: world.request(memory_bytes=10),
        "data": lambda: world.request(files=replace(world.files, data_files=[data])),
        "root": lambda: world.request(input_root=StateRoot(bytes(32))),
        "late": lambda: world.request(first_segment=1),
        "missing": lambda: world.request(files=replace(world.files, spec=world.folder / "none")),
    }[case]()
    with pytest.raises(kind) as caught:
        child._serve(json.loads(child_client.encode_request(request)), lambda *_, **__: None)
    assert message in caught.value.message


async def test_child_run_of_a_pinned_job_of_this_class_gives_the_bits_of_stock_pytorch(
    world: World, class_id: ClassId
) -> None:
    events = await follow(world.request(files=world.pinned_to(class_id), last_segment=0))
    assert isinstance(events[0], Ready) and events[0].class_id == class_id
    exact = state.root_of(world.runner.after(3), EXACT_FP32)
    saved = state.read(events[-1].path, world.runner.program)  # type: ignore[union-attr]  # a SegmentDone
    assert state.root_of(saved, EXACT_FP32) != exact, "other kernels compute it, as its name says"
    assert saved.tensors.keys() == world.runner.after(3).tensors.keys()


async def test_child_run_of_an_int8_job_gives_the_bits_of_its_own_products(world: World) -> None:
    files = world.with_spec(profile=EXACT_INT8, class_id=EXACT_CLASSES[EXACT_INT8])
    events = await follow(world.request(files=files, last_segment=0))
    runner = world.runner
    executable = Executable(runner.admitted, profile=EXACT_INT8)
    *_, third = Trainer(executable, runner.data, seed=runner.job.seed).steps(runner.first(), 3)
    assert events[-1].segment.output_root == state.root_of(third.state, EXACT_INT8)  # type: ignore[union-attr]
    assert state.root_of(third.state, EXACT_FP32) != state.root_of(runner.after(3), EXACT_FP32), "other products"


@pytest.mark.parametrize("kind", ["init", "run"])
def test_child_exact_job_without_kernels_is_refused_with_the_fix_before_any_step(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(determinism, "missing_environment", list)
    monkeypatch.setenv("TOLSEY_ISA", "of-no-machine")
    request = json.loads(child_client.encode_request(world.request())) | {"kind": kind}
    told: list[str] = []
    with pytest.raises(ConfigError, match="of-no-machine names no build") as caught:
        child._serve(request, lambda event, **_: told.append(event))
    assert caught.value.fix == "unset TOLSEY_ISA" and told == []


async def test_child_class_tells_which_profiles_are_lacking_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await child_client.class_of()).profiles == PROFILES
    monkeypatch.setenv("TOLSEY_ISA", "of-no-machine")
    ready = await child_client.class_of()
    assert ready.profiles == (PINNED,)
    assert ready.lacking[EXACT_FP32].fix == "unset TOLSEY_ISA"


def test_child_exact_job_of_a_program_in_another_float_type_is_refused_before_an_offer(
    world: World, run: Any, make_cnn_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(determinism, "missing_environment", list)
    images = (torch.arange(40 * 64) % 17).double().reshape(40, 1, 8, 8)
    job = make_cnn_job(data=author.arrays(x=images, y=torch.arange(40) % 3), profile=PINNED)
    built = run(job).built
    files = replace(world.with_spec(program=built.program_id), program=built.program_path)
    request = json.loads(child_client.encode_request(world.request(files=files))) | {"kind": "init"}
    with pytest.raises(RemoteViolation, match="batch tensor 'x' is float64; exact-fp32/1 computes in float32"):
        child._serve(request, lambda *_, **__: None)


def test_child_int8_job_of_a_program_with_a_longer_product_is_refused_before_an_offer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(determinism, "missing_environment", list)
    monkeypatch.setattr(int8, "MOST_TERMS", 8)
    files = world.with_spec(profile=EXACT_INT8, class_id=EXACT_CLASSES[EXACT_INT8])
    request = json.loads(child_client.encode_request(world.request(files=files))) | {"kind": "init"}
    words = r"phase grad, node \d+: convolution adds up 9 products in one number; exact-int8/1 allows 8"
    with pytest.raises(RemoteViolation, match=words):
        child._serve(request, lambda *_, **__: None)


async def test_child_refusal_crosses_the_pipe_in_its_class(world: World) -> None:
    with pytest.raises(SpecInvalid, match="the program has content id"):
        await follow(world.request(files=replace(world.files, program=world.files.dataset)))


async def test_training_cancelled_leaves_no_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[trio.Process] = []
    original = trio.lowlevel.open_process

    async def watched(*args: Any, **options: Any) -> trio.Process:
        started.append(await original(*args, **options))
        return started[-1]

    monkeypatch.setattr(trio.lowlevel, "open_process", watched)
    with trio.CancelScope() as scope:
        async with child_client.training(world.request()) as events:
            async for _ in events:
                scope.cancel()
    assert scope.cancelled_caught and len(started) == 1
    assert started[0].returncode is not None  # reaped, not only signalled


async def test_training_killed_from_outside_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[trio.Process] = []
    original = trio.lowlevel.open_process

    async def watched(*args: Any, **options: Any) -> trio.Process:
        started.append(await original(*args, **options))
        return started[-1]

    monkeypatch.setattr(trio.lowlevel, "open_process", watched)
    with pytest.raises(child_client.TrainingProcessDied, match="status -9"):
        async with child_client.training(world.request()) as events:
            async for _ in events:
                started[0].kill()


def test_child_exits_when_its_parent_closes_standard_input(world: World) -> None:
    line = child_client.encode_request(world.request(last_segment=1))
    process = subprocess.Popen(
        [sys.executable, "-m", "tolsey.runtime.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(dict(os.environ)),
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(line)
    process.stdin.close()  # as when the parent dies
    assert process.wait(60) == 3
    process.stdout.close()


def test_child_without_pinned_environment_refuses() -> None:
    unpinned = child_environment(dict(os.environ)) | {"OMP_NUM_THREADS": "2"}
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            "import subprocess, sys\n"
            "p = subprocess.Popen([sys.executable, '-m', 'tolsey.runtime.child'], stdin=subprocess.PIPE)\n"
            'p.stdin.write(b\'{"kind": "class"}\\n\'); p.stdin.flush(); sys.exit(p.wait())',
        ],
        capture_output=True,
        env=unpinned,
        check=False,
        timeout=60,
    )
    assert process.returncode == 1
    with pytest.raises(LocalViolation, match="OMP_NUM_THREADS"):
        child_client.parse_event(process.stdout.splitlines()[0])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"event":"launch"}',
        b'{"event":"step"}',
        b'{"event":"step_root","step":1,"root":"zz"}',
        b'{"event":"error","kind":"SystemExit","message":"x"}',
        b'{"event":"error","kind":"os","message":"x"}',
    ],
)
def test_parse_event_anything_else_is_a_local_violation(line: bytes) -> None:
    with pytest.raises(LocalViolation):
        child_client.parse_event(line)


async def test_lines_longer_than_the_bound_refused() -> None:
    sender, receiver = trio.testing.memory_stream_one_way_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send_all, b"x" * (child_client.MAX_LINE_BYTES + 1))
        with pytest.raises(LocalViolation, match="more than 65536"):
            async for _ in child_client._lines(receiver):
                pass


def test_child_environment_pins_and_drops() -> None:
    found = child_environment({"PATH": "/bin", "LD_PRELOAD": "x", "OMP_NUM_THREADS": "8"})
    assert found == {"PATH": "/bin"} | environment.MEMORY | ENVIRONMENT and wrong_variables(found) == []
    assert wrong_variables({**found, "MKL_CBWR": "AVX2", "LD_PRELOAD": "x"}) == ["MKL_CBWR", "LD_PRELOAD"]


async def test_kept_warm_request_is_served_by_the_process_that_stood_ready() -> None:
    async with child_client.kept_warm():
        ready = child_client._warm.spare.process.pid
        async with child_client.training(ClassRequest()) as events:
            assert child_client._warm.spare.process.pid != ready
            assert isinstance(await anext(events), Ready)


async def test_kept_warm_spare_that_was_killed_is_replaced() -> None:
    async with child_client.kept_warm():
        spare = child_client._warm.spare.process
        spare.kill()
        await spare.wait()
        assert (await child_client.class_of()).class_id


async def test_kept_warm_leaves_no_process_behind() -> None:
    async with child_client.kept_warm():
        spare = child_client._warm.spare.process
    assert spare.returncode is not None


async def test_kept_warm_requests_at_the_same_time_get_a_process_each() -> None:
    """A worker surveys one job while it trains another: both used to be given the one spare."""
    taken = []

    async def take() -> None:
        taken.append(await child_client._warm.take())

    async with child_client.kept_warm():
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(take)
        spare = child_client._warm.spare.process
        assert len({child.process.pid for child in taken} | {spare.pid}) == 4
        for child_ in taken:
            await child_.end()
    assert spare.returncode is not None


async def test_start_without_torch_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="torch") as refusal:
        await child_client.class_of()
    assert "pip install 'tolsey[torch]'" in refusal.value.diagnostics()
