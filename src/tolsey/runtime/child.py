"""`python -m tolsey.runtime.child`: the process in which training happens, so that it can be killed at once.

It reads one JSON request (one line) on standard input, writes JSON events (one a line) on standard output, and has no
other way to the world than the files named in the request. When standard input closes, the parent is gone and it
exits at once. (Linux could also signal a parent's death, but it means the *thread* that started us, and trio starts
processes from short-lived threads.)

Requests, by `kind`:

    "class"  which machines share this one's bits, and which profiles it lacks
    "speed"  how many floating-point operations a second a product of matrices runs at here
    "init"   write the initial checkpoint and tell its root
    "run"    run segments first_segment … last_segment (both included) from a checkpoint, or from the initial state

Events: ready, speed, init, step, step_root, segment, done; error (kind = class name in tolsey.errors, message, fix),
after which it exits with 1. child_client.py, the other end, lists the fields.

It refuses a program, data set or checkpoint that is not the one the spec or request names, a machine of another
numerics class (profile `pinned`) or without the profile's kernels, and a program that the profile's law does not cover.
Next in the flow: segment.py does the work.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import torch

from tolsey.errors import (
    ClassMismatch,
    ConfigError,
    LocalViolation,
    ReplayMismatch,
    SpecInvalid,
    StorageError,
    TolseyError,
)
from tolsey.protocol.checkpoint import Segment, StateRoot
from tolsey.protocol.content import content_id_of_bytes
from tolsey.protocol.job import EXACT_CLASSES, PINNED, JobSpec
from tolsey.runtime import cost, dataset, determinism, exact, optimisers, speed, state
from tolsey.runtime.admission import DEFAULT_MEMORY_BYTES, Admitted, admit_bytes
from tolsey.runtime.executor import Executable
from tolsey.runtime.graph import MAX_PROGRAM_BYTES
from tolsey.runtime.segment import StepResult, Trainer, run_segment
from tolsey.runtime.state import TrainingState

MAX_REQUEST_BYTES: Final = 1 << 20
EXIT_ORPHANED: Final = 3
HASH_THREADS: Final = os.cpu_count() or 1
"""Training is pinned to its threads because their number changes bits; hashing may take the whole machine meanwhile."""

Tell = Callable[..., None]
"""Writes one event: tell(name, field=value, …)."""


def main() -> int:
    """Reads the request, serves it, gives the exit status."""
    events = _own_standard_output()

    def tell(event: str, **fields: Any) -> None:
        events.write(json.dumps({"event": event, **fields}).encode() + b"\n")

    raw = sys.stdin.buffer.readline(MAX_REQUEST_BYTES)
    threading.Thread(target=_exit_with_parent, name="parent-watch", daemon=True).start()
    try:
        _serve(json.loads(raw), tell)
    except TolseyError as error:
        tell("error", kind=type(error).__name__, message=error.message, fix=error.fix)
        return 1
    except (KeyError, TypeError, ValueError) as error:
        tell("error", kind="LocalViolation", message=f"the request cannot be read: {error!r:.300}", fix=None)
        return 1
    except MemoryError:
        tell("error", kind="ConfigError", message="this machine has not enough memory for the job", fix=None)
        return 1
    tell("done")
    return 0


def _own_standard_output() -> IO[bytes]:
    """The event stream; whatever a library prints goes to standard error instead."""
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return events


def _exit_with_parent() -> None:
    """Waits for the end of standard input, which comes when the parent closes it or dies."""
    while os.read(0, 4096):
        pass
    os._exit(EXIT_ORPHANED)


def _serve(request: dict[str, Any], tell: Tell) -> None:
    wrong = determinism.missing_environment()
    if wrong:
        raise LocalViolation(f"the process was started without its pinned environment: {', '.join(wrong)}")
    device = str(request.get("device", "cpu"))
    if request["kind"] == "class":
        determinism.pin(PINNED)
        _ready(tell, device, lacking=_lacking(device))
        return
    if request["kind"] == "speed":
        determinism.pin(PINNED)
        tell("speed", flops_per_s=speed.flops_per_s(device))
        return
    spec = JobSpec.decode(_read(request["spec"], "job spec", MAX_REQUEST_BYTES))
    determinism.pin(spec.profile)
    job = _load(request, spec)
    if spec.profile != PINNED:
        exact.require(torch.device(device), spec.profile)
        exact.check(job.admitted.program, spec.profile)
    if request["kind"] == "init":
        _ready(tell, device, job.admitted)
        _init(request, job, tell)
    elif request["kind"] == "run":
        if spec.profile == PINNED:
            _check_class(spec, device)
        _ready(tell, device, job.admitted)
        _run(request, job, device, tell)
    else:
        raise ConfigError(f"unknown request kind {request['kind']!r:.40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    spec: JobSpec
    admitted: Admitted
    initial_tensors: Path | None


def _load(request: dict[str, Any], spec: JobSpec) -> _Job:
    """The program, admitted, and the path of literal initial tensors; both are what the spec names."""
    raw = _read(request["program"], "program", MAX_PROGRAM_BYTES)
    _expect("program", content_id_of_bytes(raw), spec.program)
    allowed = int(request.get("memory_bytes", DEFAULT_MEMORY_BYTES))
    admitted = admit_bytes(raw, memory_bytes=allowed, profile=spec.profile)
    program = admitted.program
    _, schedule = optimisers.rates_of(program.rates)
    for name, found, wanted in (
        ("batch size", program.batch_size, spec.batch_size),
        ("micro-batches", program.micro_batches, spec.micro_batches),
        ("steps", schedule.total_steps, spec.steps),
    ):
        if found != wanted:
            raise SpecInvalid(f"{name}: the program has {found}, the spec says {wanted}")
    path = None
    if spec.initial_tensors is not None:
        if request.get("initial_tensors") is None:
            raise SpecInvalid(f"the spec names initial tensors {spec.initial_tensors.hex()}, the request brings none")
        path = Path(request["initial_tensors"])
        _expect("initial tensors", _content_id(path), spec.initial_tensors)
    return _Job(spec=spec, admitted=admitted, initial_tensors=path)


def _init(request: dict[str, Any], job: _Job, tell: Tell) -> None:
    first = state.initial_state(job.admitted.program, job.spec.seed, job.initial_tensors)
    path = Path(request["out_dir"]) / "initial.safetensors"
    size = state.write(first, path)
    tell(
        "init",
        root=state.root_of(first, job.spec.profile, threads=HASH_THREADS).hex(),
        path=str(path),
        size_bytes=size,
        work_flops=job.spec.steps * cost.step_flops(job.admitted.program),
    )


def _run(request: dict[str, Any], job: _Job, device: str, tell: Tell) -> None:
    spec, program = job.spec, job.admitted.program
    manifest_raw = _read(request["dataset"], "data set manifest", dataset.MAX_MANIFEST_BYTES)
    _expect("data set manifest", content_id_of_bytes(manifest_raw), spec.dataset)
    data = dataset.Dataset(
        dataset.decode_manifest(manifest_raw), [Path(path) for path in request["data_files"]], program.batch, spec.seed
    )
    trainer = Trainer(Executable(job.admitted, device, profile=spec.profile), data, seed=spec.seed)
    current, root = _start(request, job), None
    if request.get("input_root") is not None:
        root = state.root_of(current, spec.profile, threads=HASH_THREADS)
        if root.hex() != request["input_root"]:
            wanted = request["input_root"]
            raise ReplayMismatch(f"the start checkpoint has root {root.hex()}, the request says {wanted}")
    held = [current.to(device)]
    del current
    for index in range(int(request["first_segment"]), int(request["last_segment"]) + 1):
        root = _segment(request, trainer, spec, held, index, root, tell)


def _segment(
    request: dict[str, Any],
    trainer: Trainer,
    spec: JobSpec,
    held: list[TrainingState],
    index: int,
    root: StateRoot | None,
    tell: Tell,
) -> StateRoot:
    """Runs, roots and writes one segment; gives the root of the state after it.

    Args:
        held: the one state before the segment, and then after it. It is taken out meanwhile: whoever held on to the
            start of a segment would pay for a third state beside the two of a step.
    """
    start = time.perf_counter()
    last_step = spec.segment_steps(index).stop
    running = run_segment(
        trainer,
        held.pop(),
        index=index,
        last_step=last_step,
        profile=spec.profile,
        input_root=root,
        hash_threads=HASH_THREADS,
    )
    for item in running:
        if isinstance(item, StepResult):
            tell("step", step=item.step, loss=item.loss, grad_norm=item.grad_norm, lr=item.lr, step_s=item.step_s)
            if request.get("step_roots"):
                stepped = state.root_of(item.state, spec.profile, threads=HASH_THREADS)
                tell("step_root", step=item.step, root=stepped.hex())
        else:
            done, current = item
    held.append(current)
    determinism.check()
    path = Path(request["out_dir"]) / f"segment-{index:06d}.safetensors"
    size = state.write(current, path)
    _tell_segment(tell, done, path, size, time.perf_counter() - start)
    return done.output_root


def _tell_segment(tell: Tell, done: Segment, path: Path, size: int, seconds: float) -> None:
    tell(
        "segment",
        index=done.index,
        first_step=done.first_step,
        last_step=done.last_step,
        input_root=done.input_root.hex(),
        output_root=done.output_root.hex(),
        path=str(path),
        size_bytes=size,
        seconds=seconds,
    )


def _start(request: dict[str, Any], job: _Job) -> TrainingState:
    """The state before the first segment: from the request's checkpoint, or made from the seed.

    Raises:
        SpecInvalid: it is a state of another moment.
    """
    spec = job.spec
    if request.get("checkpoint") is None:
        found = state.initial_state(job.admitted.program, spec.seed, job.initial_tensors)
    else:
        found = state.read(Path(request["checkpoint"]), job.admitted.program)
    wanted = spec.segment_steps(int(request["first_segment"])).start
    if (found.step, found.cursor) != (wanted, wanted * spec.batch_size * spec.micro_batches):
        raise SpecInvalid(
            f"the start checkpoint is of step {found.step} and example {found.cursor}, segment "
            f"{request['first_segment']} starts at step {wanted}"
        )
    return found


def _ready(
    tell: Tell, device: str, admitted: Admitted | None = None, lacking: dict[str, ConfigError] | None = None
) -> None:
    class_id, facts = determinism.class_fingerprint(device)
    tell(
        "ready",
        class_id=class_id.hex(),
        facts=facts,
        peak_bytes=0 if admitted is None else admitted.peak_bytes,
        lacking={profile: [why.message, why.fix] for profile, why in (lacking or {}).items()},
    )


def _lacking(device: str) -> dict[str, ConfigError]:
    """The profiles that this machine cannot run, and why; kernels that can be compiled are compiled now."""
    lacking: dict[str, ConfigError] = {}
    for profile in EXACT_CLASSES:
        try:
            exact.require(torch.device(device), profile)
        except ConfigError as error:
            lacking[profile] = error
    return lacking


def _check_class(spec: JobSpec, device: str) -> None:
    class_id, facts = determinism.class_fingerprint(device)
    if class_id != spec.class_id:
        raise ClassMismatch(
            f"this machine is of class {class_id.hex()}, the job is for class {spec.class_id.hex()}; here: "
            + ", ".join(f"{name} {value}" for name, value in facts.items() if isinstance(value, str | int)),
            fix="take jobs of your own class: tolsey class",
        )


def _expect(what: str, found: bytes, wanted: bytes) -> None:
    if found != wanted:
        raise SpecInvalid(f"the {what} has content id {found.hex()}, the spec names {wanted.hex()}")


def _content_id(path: Path) -> bytes:
    try:
        return dataset.content_id_of_file(path)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _read(path: str, what: str, longest: int) -> bytes:
    """A file's bytes, at most `longest`.

    Raises:
        SpecInvalid: longer. StorageError: not readable.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(longest + 1)
    except OSError as error:
        raise StorageError(f"cannot read the {what} at {path}: {error.strerror}") from error
    if len(raw) > longest:
        raise SpecInvalid(f"the {what} is longer than {longest} bytes")
    return raw


if __name__ == "__main__":
    sys.exit(main())
