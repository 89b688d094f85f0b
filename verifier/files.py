"""The files that a job's segments are run from, and what is missing of them at this moment.

Every size is bounded before the first byte is written: by the law (programs, manifests), by the data set's own
manifest (its files), or by the memory that the spec asks for (states). What is larger than that belongs to no job, so
nobody honest serves it. Which file a checkpoint is stands only in the trace, beside the roots that the chain vouches
for; a source may give the right roots and wrong ids, so a trace whose checkpoints are not to be had is doubted and
asked of the others. Next in the flow: attempt.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

from tolsey.errors import CheckpointUnavailable, RemoteViolation
from tolsey.protocol.checkpoint import MAX_HEADER_BYTES
from tolsey.protocol.content import ContentId
from tolsey.protocol.encoding import parse_canonical_json
from tolsey.protocol.job import JobSpec
from tolsey.protocol.units import JobId, WindowRoot
from tolsey.verifier.fetch import Fetcher
from tolsey.verifier.replay import Inputs
from tolsey.verifier.trace import CheckedTrace
from tolsey.verifier.watcher import Job

MAX_PROGRAM_BYTES = 32 << 20
MAX_MANIFEST_BYTES = 4 << 20
MAX_DATA_FILES = 10_000
"""As in runtime/graph.py and runtime/dataset.py, whose import would load torch; a test compares."""
SILENT_SHARE, LEAST_FAIR_S = 0.5, 5.0
"""A source that says nothing to a request for less than this share of the time, or so many seconds, had no chance."""
REFUSED_SHARE = 0.1
"""One that is not there, or has it not, may be back after this share of the time."""


class Wanted:
    """What is being asked for at this moment, and since when: nobody is blamed for what was hardly asked for.

    Args:
        now_s: the time by which patience is measured.

    Attributes:
        what: None while nothing is missing.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.what: str | None = None
        self._now_s = now_s
        self.begin()

    def begin(self) -> None:
        """From now on time is counted."""
        self._began_s = self._now_s()
        self._since_s: dict[str, float] = {}
        self._refusals: dict[str, str] = {}
        self._last = "the job"
        self.what = None

    def ask(self, what: str) -> None:
        """From now on this is missing."""
        self.what = self._last = what
        self._since_s.setdefault(what, self._now_s())

    def got(self) -> None:
        """It is here; nothing is missing."""
        self._refusals.pop(self._last, None)
        self.what = None

    def own_trouble(self) -> None:
        """What was asked for last came, and this machine could not keep it: as if it had not been asked for."""
        self._since_s.pop(self._last, None)
        self.got()

    def refused(self, reason: str) -> None:
        """What was asked for last is not to be had now, or proved to be something else."""
        self.ask(self._last)
        self._refusals[self._last] = reason

    def blame(self) -> str | None:
        """Why nobody can be expected to have what is missing; None where they had no fair chance."""
        if self.what is None:
            return None
        total_s, waited_s = self._now_s() - self._began_s, self._now_s() - self._since_s[self.what]
        if (reason := self._refusals.get(self.what)) is not None:
            return reason if waited_s >= REFUSED_SHARE * total_s else None
        if waited_s < max(LEAST_FAIR_S, SILENT_SHARE * total_s):
            return None
        return f"{self.what} did not come in {waited_s:.0f} of {total_s:.0f} s"


class WindowTrace:
    """The trace of one window, from whoever has it, kept between tries."""

    def __init__(self, fetcher: Fetcher, job: Job, window: int, root: WindowRoot, wanted: Wanted) -> None:
        self._fetcher = fetcher
        self._job = job
        self._window = window
        self._root = root
        self._wanted = wanted
        self._doubted: set[str] = set()
        self.held: CheckedTrace | None = None

    async def get(self) -> CheckedTrace:
        """The committed trace.

        Raises:
            CheckpointUnavailable: no source serves it now.
        """
        if self.held is None:
            self._wanted.ask(trace_name(self._window))
            self.held = await self._fetcher.trace(self._job, self._window, self._root)
            self._wanted.got()
        elif self.held.source in self._doubted:
            try:
                self.held = await self._fetcher.trace(self._job, self._window, self._root, but=self._doubted)
            except CheckpointUnavailable:  # all have been asked: again from the first, who may say otherwise by now
                self._doubted.clear()
                with suppress(CheckpointUnavailable):
                    self.held = await self._fetcher.trace(self._job, self._window, self._root)
        return self.held

    def doubt(self) -> None:
        """Its checkpoints are not to be had: another source may say better which files they are."""
        if self.held is not None:
            self._doubted.add(self.held.source)


def trace_name(window: int) -> str:
    """What a window's trace is called while it is wanted."""
    return f"the trace of window {window}"


class JobFiles:
    """The files of one job, pinned for one owner; the Source that replay.py asks."""

    def __init__(self, fetcher: Fetcher, job_id: JobId, owner: str, wanted: Wanted) -> None:
        self._fetcher = fetcher
        self._wanted = wanted
        self._job_id = job_id
        self._owner = owner

    async def inputs(self, spec: JobSpec) -> Inputs:
        """Program and data set of the spec."""
        program = await self._file("the program", spec.program, MAX_PROGRAM_BYTES)
        dataset = await self._file("the data set's manifest", spec.dataset, MAX_MANIFEST_BYTES)
        files = [
            await self._file(f"data file {place}", content_id, size)
            for place, (content_id, size) in enumerate(await files_of(dataset))
        ]
        initial = None
        if spec.initial_tensors is not None:
            initial = await self._file("the initial tensors", spec.initial_tensors, state_bytes(spec))
        return Inputs(spec=spec, program=program, dataset=dataset, files=tuple(files), initial_tensors=initial)

    async def checkpoint(self, spec: JobSpec, which: str, content_id: ContentId | None) -> Path:
        """A checkpoint's file; its root is still to be checked.

        Args:
            which: "before segment 3"; whoever names another file each time is asked for the same checkpoint.
            content_id: as the trace says, None where it says nothing.
        """
        self._wanted.ask(f"the checkpoint {which}")
        if content_id is None:
            raise CheckpointUnavailable(f"the trace names no checkpoint {which}")
        return await self._file(f"the checkpoint {which}", content_id, state_bytes(spec))

    async def release(self, content_id: ContentId) -> None:
        """Lets a checkpoint go whose segment is judged."""
        await self._fetcher.release(content_id, self._owner)

    async def _file(self, what: str, content_id: ContentId, max_bytes: int) -> Path:
        self._wanted.ask(what)
        await self._fetcher.content(self._job_id, content_id, self._owner, max_bytes=max_bytes)
        self._wanted.got()
        return self._fetcher.blobs.path_of(content_id)


def state_bytes(spec: JobSpec) -> int:
    """The most that a file of the job's state can have: no worker takes a job that needs more memory than it says."""
    return spec.memory_bytes + 8 + MAX_HEADER_BYTES


async def files_of(manifest: Path) -> list[tuple[ContentId, int]]:
    """Content ids and sizes of the files that a data set's manifest names; the child checks the rest of it.

    Raises:
        CheckpointUnavailable: it is no manifest: nobody can run this job.
    """
    try:
        raw = await trio.Path(manifest).read_bytes()
        value = await trio.to_thread.run_sync(lambda: parse_canonical_json(raw, max_bytes=MAX_MANIFEST_BYTES))
        found = [(item["content"], item["size_bytes"]) for item in value["files"]]
        if len(found) > MAX_DATA_FILES or not all(
            re.fullmatch("[0-9a-f]{64}", name) and type(size) is int and size >= 0 for name, size in found
        ):
            raise ValueError(f"{len(found)} files")
    except (RemoteViolation, KeyError, TypeError, ValueError) as error:
        raise CheckpointUnavailable(f"the data set's manifest cannot be read: {error}") from error
    return [(ContentId(bytes.fromhex(name)), size) for name, size in found]
