"""What a person writes to describe a job, and what it becomes.

A user's file defines one `job = Job(...)` with a factory for an ordinary PyTorch module. `build` captures the step,
packs the data set, makes the initial state and writes everything that the network will carry:

    program.json               the step (graph.py)
    dataset.json, data/…       the manifest and its files (dataset.py)
    initial.safetensors        only where some initial tensors are no function of the seed

`build` runs the author's own Python; nobody else ever does. It refuses models that graphs cannot hold
(errors.UnsupportedOp) and numbers as floats (rates are decimal strings: "1e-3"). Next in the flow: protocol/job.py
makes the JobSpec from `BuiltJob`; client/ posts it.
"""

from __future__ import annotations

import pydoc_data
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from torch import nn

from tolsey.errors import ConfigError, SpecInvalid, TolseyError
from tolsey.protocol.checkpoint import StateRoot
from tolsey.protocol.content import ContentId, content_id_of_bytes
from tolsey.protocol.job import EXACT_FP32, PROFILES
from tolsey.runtime import cost, dataset, state
from tolsey.runtime.admission import Admitted, admit
from tolsey.runtime.capture import Loss, capture
from tolsey.runtime.dataset import BuiltData, DataManifest
from tolsey.runtime.graph import Program, TensorSpec
from tolsey.runtime.optimisers import Optimiser, adamw, lion, sgd
from tolsey.runtime.schedule import Schedule

__all__ = [
    "BuiltJob",
    "Data",
    "Job",
    "Learning",
    "adamw",
    "arrays",
    "blamed_on",
    "build",
    "constant",
    "cosine",
    "digits",
    "lion",
    "load",
    "sgd",
    "text_file",
]
MAX_TEXT_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A data set and how a batch of it looks.

    Attributes:
        built: manifest and files.
        batch: (batch size) -> dtype and shape of each batch tensor.
    """

    built: BuiltData
    batch: Callable[[int], Mapping[str, TensorSpec]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """A learning-rate schedule without the steps, which the job knows."""

    kind: str
    warmup_steps: int = 0
    final_ratio: str = "0"


def constant(*, warmup_steps: int = 0) -> Learning:
    """The peak rate at every step, after a linear warm-up."""
    return Learning(kind="constant", warmup_steps=warmup_steps)


def cosine(*, warmup_steps: int = 0, final_ratio: str = "0") -> Learning:
    """From the peak rate down to final_ratio of it along half a cosine, after a linear warm-up."""
    return Learning(kind="cosine", warmup_steps=warmup_steps, final_ratio=final_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training job as its author describes it.

    Attributes:
        name: lower-case letters, digits, `._-`.
        model: factory of the module; called once, when the job is built.
        data: `text_file`, `arrays`, `digits`, or a Data of your own.
        lr: peak learning rate, decimal string.
        loss: "cross_entropy" or "mse" of (model(x), y), or a function (model, batch) -> number.
        batch_size: examples per micro-batch.
        micro_batches: gradients are summed over that many micro-batches before each update.
        steps: optimiser updates in all.
        steps_per_segment: updates between two checkpoints; what a verifier replays at once.
        segments_per_window: segments paid together.
        optimiser: `adamw(...)`, `lion(...)` or `sgd(...)`.
        schedule: `cosine(...)` or `constant(...)`.
        clip_norm: decimal string: gradients are scaled to at most that joint norm; None for never.
        seed: 64 bits: initial values, data order and dropout.
        profile: numerics profile: "exact-fp32/1", whose bits are the same on every machine, or "pinned", stock PyTorch,
            which only machines of one class can check.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Data
    lr: str
    loss: Loss = "cross_entropy"
    batch_size: int
    micro_batches: int = 1
    steps: int
    steps_per_segment: int
    segments_per_window: int = 1
    optimiser: Optimiser = field(default_factory=adamw)
    schedule: Learning = field(default_factory=constant)
    clip_norm: str | None = None
    seed: int = 0
    profile: str = EXACT_FP32

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batches", "steps", "steps_per_segment", "segments_per_window"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise SpecInvalid(f"{name} is {value!r}, it must be a whole number of at least 1")
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 64:
            raise SpecInvalid(f"seed is {self.seed!r}, allowed are 0 to 2^64 - 1")
        if self.profile not in PROFILES:
            raise SpecInvalid(f"profile {self.profile!r} is not one of {', '.join(PROFILES)}")
        if self.steps_per_segment > self.steps:
            raise SpecInvalid(f"steps_per_segment is {self.steps_per_segment}, the job has {self.steps} steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltJob:
    """Everything that a job is, on disk and hashed.

    Attributes:
        job: what it was built from.
        program: the captured step; `program_path` holds its bytes, `program_id` is their content id.
        dataset_path, dataset_id: the manifest.
        data_paths: the data files in manifest order (ids in the manifest).
        initial_path, initial_id: tensors that the seed does not give; None for most models.
        initial_root: state root before the first step.
        memory_bytes: what a step needs at its peak, estimated.
        work_flops: floating-point operations of all steps, products counted (others are a few per cent).
    """

    job: Job
    program: Program
    program_path: Path
    program_id: ContentId
    manifest: DataManifest
    dataset_path: Path
    dataset_id: ContentId
    data_paths: tuple[Path, ...]
    initial_path: Path | None
    initial_id: ContentId | None
    initial_root: StateRoot
    memory_bytes: int
    work_flops: int


def load(path: Path) -> Job:
    """The `job` that a user's Python file defines.

    Raises:
        ConfigError: no such file, it raises, or it defines no `job` of type Job.
    """
    if not path.is_file():
        raise ConfigError(f"there is no job file {path}")
    sys.path.insert(0, str(path.resolve().parent))
    try:
        with blamed_on(path):
            found = runpy.run_path(str(path), run_name="tolsey_job").get("job")
    finally:
        sys.path.pop(0)
    if not isinstance(found, Job):
        what = type(found).__name__
        raise ConfigError(f"{path} defines {what} under the name job", fix="end it with: job = Job(...)")
    return found


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Turns what the author's own code raises into an error that names its line; what it does not raise passes.

    Raises:
        ConfigError: the code in `path`, or what it called, raised or asked to exit; or it is no Python.
    """
    try:
        yield
    except TolseyError:
        raise
    except (Exception, SystemExit) as cause:
        line = _line_in(path, cause)
        if line is None:
            raise
        raise ConfigError(f"{path} line {line}: {type(cause).__name__}: {cause}", fix=f"correct {path}") from cause


def _line_in(path: Path, cause: BaseException) -> int | None:
    """The line of `path` at which it went wrong; None where nothing of that file ran."""
    if isinstance(cause, SyntaxError) and cause.filename == str(path):
        return cause.lineno
    frames = traceback.extract_tb(cause.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)


def build(job: Job, folder: Path) -> BuiltJob:
    """Captures, packs and hashes a job into `folder` (made where missing).

    Raises:
        UnsupportedOp, SpecInvalid: the model or a number cannot be part of a job.
        StorageError: the disk refuses.
    """
    schedule = Schedule(
        kind=job.schedule.kind,
        peak_lr=job.lr,
        warmup_steps=job.schedule.warmup_steps,
        total_steps=job.steps,
        final_ratio=job.schedule.final_ratio,
    )
    manifest = job.data.built.manifest
    captured = capture(
        job.model,
        loss=job.loss,
        batch=job.data.batch(job.batch_size),
        data={"kind": manifest.kind},
        optimiser=job.optimiser,
        schedule=schedule,
        micro_batches=job.micro_batches,
        clip_norm=job.clip_norm,
        seed=job.seed,
        profile=job.profile,
    )
    admitted: Admitted = admit(captured.program, memory_bytes=1 << 50, profile=job.profile)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    program_raw, manifest_raw = captured.program.encode(), manifest.encode()
    program_path, dataset_path = folder / "program.json", folder / "dataset.json"
    state.write_atomically(program_path, [program_raw])
    state.write_atomically(dataset_path, [manifest_raw])
    data_paths = tuple(folder / "data" / f"{place}-{Path(item.name).name}" for place, item in enumerate(manifest.files))
    for path, raw in zip(data_paths, job.data.built.files, strict=True):
        state.write_atomically(path, [raw])
    initial_path = initial_id = None
    if captured.literals:
        raw = state.encode_tensors(captured.literals)
        initial_path, initial_id = folder / "initial.safetensors", content_id_of_bytes(raw)
        state.write_atomically(initial_path, [raw])
    first = state.initial_state(captured.program, job.seed, initial_path)
    return BuiltJob(
        job=job,
        program=captured.program,
        program_path=program_path,
        program_id=content_id_of_bytes(program_raw),
        manifest=manifest,
        dataset_path=dataset_path,
        dataset_id=content_id_of_bytes(manifest_raw),
        data_paths=data_paths,
        initial_path=initial_path,
        initial_id=initial_id,
        initial_root=state.root_of(first, job.profile),
        memory_bytes=admitted.peak_bytes,
        work_flops=job.steps * cost.step_flops(captured.program),
    )


def text_file(path: Path | str | None = None, *, context: int) -> Data:
    """A file's bytes as tokens, in windows of `context`; without a path, the language reference that ships with Python.

    Raises:
        ConfigError: the file cannot be read, or is too short or too long.
    """
    source = Path(pydoc_data.__path__[0]) / "topics.py" if path is None else Path(path)
    try:
        size = source.stat().st_size
        raw = source.read_bytes() if size <= MAX_TEXT_BYTES else b""
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}") from error
    if not context < size <= MAX_TEXT_BYTES:
        raise ConfigError(f"{source} has {size} bytes, allowed are {context + 1} to {MAX_TEXT_BYTES}")

    def batch(size: int) -> Mapping[str, TensorSpec]:
        spec = TensorSpec("int64", (size, context))
        return {"x": spec, "y": spec}

    return Data(built=dataset.build_tokens(raw, name=source.name), batch=batch)


def arrays(**fields: Any) -> Data:
    """Arrays or tensors [count, …] as batch tensors of the same names; a named loss wants x and y."""
    built = dataset.build_examples(fields)

    def batch(size: int) -> Mapping[str, TensorSpec]:
        return {name: TensorSpec(s.dtype, (size, *s.shape)) for name, s in built.manifest.fields.items()}

    return Data(built=built, batch=batch)


def digits() -> Data:
    """1,797 handwritten digits: x uint8 [1, 8, 8] in 0 … 16, y int64 class (scikit-learn's copy of the UCI set).

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        bundle = import_module("sklearn.datasets").load_digits()  # heavy and optional, so imported here
    except ImportError as error:
        raise ConfigError(
            "the digits data set comes with scikit-learn, which is not installed", fix="pip install 'tolsey[examples]'"
        ) from error
    images = bundle.images.astype("uint8").reshape(-1, 1, 8, 8)
    return arrays(x=images, y=bundle.target.astype("int64"))
