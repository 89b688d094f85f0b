"""The parent's side of the training process: start it, follow its events, be sure that it is gone.

    async with training(RunRequest(...)) as events:
        async for event in events:
            match event:
                case StepDone(): ...
                case SegmentDone(): ...

Leaving the block, by any way, kills the process and waits for it: training never outlives who asked for it. An error
in the child is raised here as the same class of tolsey.errors.

It imports no torch, so that a node's main process stays small. It refuses lines over MAX_LINE_BYTES and events it does
not know. The other end: child.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import trio

from tolsey import errors
from tolsey.errors import ConfigError, LocalViolation, TolseyError
from tolsey.protocol.checkpoint import Segment, StateRoot
from tolsey.protocol.job import PROFILES
from tolsey.protocol.units import ClassId
from tolsey.runtime.environment import child_environment

MAX_LINE_BYTES: Final = 1 << 16
STDERR_TAIL_BYTES: Final = 2000
KILL_WAIT_S: Final = 10.0


class TrainingProcessDied(TolseyError):
    """The training process ended without saying why: out of memory, killed, or a crash inside a library."""

    blame = "machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFiles:
    """Where a job's contents lie; the child checks each against the spec.

    Attributes:
        spec, program, dataset: canonical bytes of JobSpec, program and data set manifest.
        data_files: in the manifest's order.
        initial_tensors: None where the seed gives all of them.
    """

    spec: Path
    program: Path
    dataset: Path
    data_files: Sequence[Path]
    initial_tensors: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRequest:
    """Which class of machines this one belongs to, and which profiles it can run."""

    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRequest:
    """How fast this machine multiplies matrices."""

    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """Write the initial checkpoint into out_dir."""

    files: JobFiles
    out_dir: Path
    memory_bytes: int
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Run segments and write a checkpoint after each.

    Attributes:
        first_segment, last_segment: both included.
        checkpoint: state before first_segment; None for the initial state.
        input_root: what its root must be; None to take it as it is.
        out_dir: receives segment-NNNNNN.safetensors.
        memory_bytes: refuse programs that need more.
        step_roots: also tell the root after every step.
        device: "cpu" or "cuda:0", ….
    """

    files: JobFiles
    first_segment: int
    last_segment: int
    out_dir: Path
    memory_bytes: int
    checkpoint: Path | None = None
    input_root: StateRoot | None = None
    step_roots: bool = False
    device: str = "cpu"


Request = ClassRequest | SpeedRequest | InitRequest | RunRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The process has torch loaded and the program checked.

    Attributes:
        class_id, facts: this machine's class in profile `pinned`, and what it is made of.
        peak_bytes: memory that the program needs; 0 where there is none.
        lacking: profiles that this machine cannot run, each with the reason; told of a ClassRequest only.
    """

    class_id: ClassId
    facts: Mapping[str, Any]
    peak_bytes: int
    lacking: Mapping[str, ConfigError] = field(default_factory=dict)

    @property
    def profiles(self) -> tuple[str, ...]:
        """Numerics profiles that this machine can run."""
        return tuple(profile for profile in PROFILES if profile not in self.lacking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Floating-point operations a second of a product of matrices: above what training reaches."""

    flops_per_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InitDone:
    """The initial checkpoint is on disk; `work_flops`: of the whole job, as cost.py counts."""

    root: StateRoot
    path: Path
    size_bytes: int
    work_flops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """Figures for people; not part of any root."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRoot:
    """The state root after a step."""

    step: int
    root: StateRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDone:
    """A segment is run and its checkpoint is on disk."""

    segment: Segment
    path: Path
    size_bytes: int
    seconds: float


Event = Ready | Speed | InitDone | StepDone | StepRoot | SegmentDone
_E = TypeVar("_E", Ready, Speed, InitDone)


@asynccontextmanager
async def training(request: Request) -> AsyncIterator[AsyncGenerator[Event, None]]:
    """A running training process as its events; killed and reaped when the block is left.

    Raises (from the iteration): the child's own error; TrainingProcessDied; LocalViolation for a line that is no event.
    """
    child = await (_Child.start() if _warm is None else _warm.take())
    try:
        async with aclosing(_events(child.process, request, child.stderr)) as events:
            yield events
    finally:
        await child.end()


@asynccontextmanager
async def kept_warm() -> AsyncIterator[None]:
    """While the block lasts, a process that has torch loaded stands ready, so that a request need not wait for it.

    Loading torch costs 1.7 s of a core; a verdict has a deadline. Each process still serves one request only. The price
    is some 200 MB of memory. A block inside another one (two services in one process) changes nothing.
    """
    global _warm
    if _warm is not None:
        yield
        return
    _warm = _Warm(await _Child.start())
    try:
        yield
    finally:
        warm, _warm = _warm, None
        with trio.CancelScope(shield=True):
            await warm.close()


class _Child:
    """A started process that waits for its request, and the file that takes what it says on standard error."""

    def __init__(self, process: trio.Process, stderr: IO[bytes]) -> None:
        self.process = process
        self.stderr = stderr

    @classmethod
    async def start(cls) -> _Child:
        if importlib.util.find_spec("torch") is None:
            raise ConfigError(
                "training and replay need torch, which is not installed", fix="pip install 'tolsey[torch]'"
            )
        stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        try:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "tolsey.runtime.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=stderr, env=child_environment(dict(os.environ)),
            )  # fmt: skip
        except BaseException:
            stderr.close()
            raise
        return cls(process, stderr)

    async def end(self) -> None:
        try:
            await _end(self.process)
        finally:
            self.stderr.close()


class _Warm:
    """The one spare process. Requests may come at the same time (a survey while a segment is trained): each gets a
    process of its own, whoever finds the spare gone starts one cold.
    """

    def __init__(self, spare: _Child) -> None:
        self.spare: _Child | None = spare
        self._filling = trio.Lock()
        self._is_closed = False

    async def take(self) -> _Child:
        """The spare, and a new one in its place; one that died while it waited is replaced first."""
        taken, self.spare = self.spare, None  # before the first await, so that nobody else takes it too
        try:
            if taken is None or taken.process.poll() is not None:
                dead, taken = taken, None
                if dead is not None:
                    await dead.end()
                taken = await _Child.start()
            async with self._filling:
                if self.spare is None and not self._is_closed:
                    self.spare = await _Child.start()
        except BaseException:
            if taken is not None:
                await taken.end()
            raise
        return taken

    async def close(self) -> None:
        """Ends the spare; none comes after it."""
        self._is_closed = True
        async with self._filling:
            spare, self.spare = self.spare, None
        if spare is not None:
            await spare.end()


_warm: _Warm | None = None


async def class_of(device: str = "cpu") -> Ready:
    """This machine's numerics class and profiles, found by a short-lived process, which compiles missing kernels."""
    return await _one(ClassRequest(device=device), Ready)


async def speed_of(device: str = "cpu") -> Speed:
    """This machine's speed, measured by a short-lived process."""
    return await _one(SpeedRequest(device=device), Speed)


async def write_initial(request: InitRequest) -> InitDone:
    """Writes the initial checkpoint and gives its root."""
    return await _one(request, InitDone)


async def _one(request: Request, kind: type[_E]) -> _E:
    async with training(request) as events:
        async for event in events:
            if isinstance(event, kind):
                return event
    raise LocalViolation(f"the training process ended without {kind.__name__}")


async def _end(process: trio.Process) -> None:
    """Kills the process if it still runs, and waits, whatever has been cancelled around us."""
    if process.returncode is None:
        process.kill()
    with trio.move_on_after(KILL_WAIT_S) as scope:
        scope.shield = True
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()
        await process.wait()


async def _events(process: trio.Process, request: Request, stderr: IO[bytes]) -> AsyncGenerator[Event, None]:
    assert process.stdin is not None and process.stdout is not None
    try:
        await process.stdin.send_all(encode_request(request))
    except trio.BrokenResourceError:
        pass  # it died at once; the end of its output says how
    async with aclosing(_lines(process.stdout)) as lines:
        async for line in lines:
            event = parse_event(line)
            if event is None:
                return
            yield event
    status = await process.wait()
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - STDERR_TAIL_BYTES))
    tail = stderr.read().decode(errors="replace").strip()
    raise TrainingProcessDied(f"the training process ended with status {status}" + (f": {tail}" if tail else ""))


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    """Lines of a stream, each at most MAX_LINE_BYTES."""
    pending = bytearray()
    while chunk := await stream.receive_some(MAX_LINE_BYTES):
        pending += chunk
        while (end := pending.find(b"\n")) >= 0:
            yield bytes(pending[:end])
            del pending[: end + 1]
        if len(pending) > MAX_LINE_BYTES:
            raise LocalViolation(f"the training process wrote a line of more than {MAX_LINE_BYTES} bytes")


def encode_request(request: Request) -> bytes:
    """The request as the child's one line of input."""
    if isinstance(request, ClassRequest):
        return _line({"kind": "class", "device": request.device})
    if isinstance(request, SpeedRequest):
        return _line({"kind": "speed", "device": request.device})
    files = request.files
    value: dict[str, Any] = {
        "kind": "init",
        "spec": str(files.spec),
        "program": str(files.program),
        "dataset": str(files.dataset),
        "data_files": [str(path) for path in files.data_files],
        "initial_tensors": None if files.initial_tensors is None else str(files.initial_tensors),
        "out_dir": str(request.out_dir),
        "memory_bytes": request.memory_bytes,
        "device": request.device,
    }
    if isinstance(request, RunRequest):
        value |= {
            "kind": "run",
            "first_segment": request.first_segment,
            "last_segment": request.last_segment,
            "checkpoint": None if request.checkpoint is None else str(request.checkpoint),
            "input_root": None if request.input_root is None else request.input_root.hex(),
            "step_roots": request.step_roots,
        }
    return _line(value)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def parse_event(line: bytes) -> Event | None:
    """The event in a line; None for the last one.

    Raises:
        TolseyError: the error that the child tells, in its own class. LocalViolation: no event of ours.
    """
    try:
        fields = json.loads(line)
        name = fields.pop("event")
        if name == "done":
            return None
        if name == "error":
            raise _error(fields)
        return _PARSERS[name](fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LocalViolation(f"the training process wrote no event: {line[:200]!r}") from error


def _error(fields: Mapping[str, Any]) -> TolseyError:
    kind = getattr(errors, str(fields["kind"]), None)
    if not (isinstance(kind, type) and issubclass(kind, TolseyError)):
        kind = LocalViolation
    return kind(str(fields["message"]), fix=fields.get("fix"))


def _root(text: str) -> StateRoot:
    return StateRoot(bytes.fromhex(text))


def _segment_done(fields: Mapping[str, Any]) -> SegmentDone:
    segment = Segment(
        index=fields["index"],
        first_step=fields["first_step"],
        last_step=fields["last_step"],
        input_root=_root(fields["input_root"]),
        output_root=_root(fields["output_root"]),
    )
    return SegmentDone(
        segment=segment, path=Path(fields["path"]), size_bytes=fields["size_bytes"], seconds=fields["seconds"]
    )


_PARSERS: Final[dict[str, Callable[[Any], Event]]] = {
    "ready": lambda f: Ready(
        class_id=ClassId(bytes.fromhex(f["class_id"])),
        facts=f["facts"],
        peak_bytes=f["peak_bytes"],
        lacking={profile: ConfigError(message, fix=fix) for profile, (message, fix) in f["lacking"].items()},
    ),
    "speed": lambda f: Speed(flops_per_s=f["flops_per_s"]),
    "init": lambda f: InitDone(
        root=_root(f["root"]), path=Path(f["path"]), size_bytes=f["size_bytes"], work_flops=f["work_flops"]
    ),
    "step": lambda f: StepDone(**f),
    "step_root": lambda f: StepRoot(step=f["step"], root=_root(f["root"])),
    "segment": _segment_done,
}
