"""The machine's replays: one child process at a time, each fresh, each killed when nobody waits for it any more.

Every replay starts a new process, so a second one of the same segment shares nothing with the first but the machine:
that is what "again, in a fresh process" needs. The child checks the checkpoint's root before its first step; what it
says is sorted here into the two things the procedure knows: the checkpoint is not the committed state, or this machine
cannot tell. Next in the flow: replay.py.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import trio

from tolsey.errors import CheckpointUnavailable, RemoteViolation, ReplayMismatch, SpecInvalid, TolseyError
from tolsey.protocol.content import CHUNK_BYTES, ContentId, manifest_of
from tolsey.protocol.encoding import canonical_json
from tolsey.protocol.units import ClassId, StateRoot
from tolsey.runtime.child_client import JobFiles, Ready, RunRequest, SegmentDone, StepDone, class_of, training
from tolsey.verifier.replay import Inputs, Replayed, ReplayFailed

_log = logging.getLogger(__name__)


class ChildBench:
    """Replays in child processes; made by `measured`.

    Args:
        folder: scratch space on the disk of the checkpoints.
        memory_bytes: programs that need more are refused. max_segment_s: a longer replay is killed.
    """

    def __init__(self, ready: Ready, folder: Path, *, device: str, memory_bytes: int, max_segment_s: int) -> None:
        self.class_id: ClassId = ready.class_id
        self.profiles: tuple[str, ...] = ready.profiles
        self.fingerprint: bytes = canonical_json(dict(ready.facts))
        self._folder = folder
        self._device = device
        self.memory_bytes = memory_bytes
        self._max_segment_s = max_segment_s
        self._turn = trio.Lock()

    @classmethod
    async def measured(
        cls, folder: Path, *, profile: str | None, device: str, memory_bytes: int, max_segment_s: int
    ) -> ChildBench:
        """A bench of the class and the profiles that the child measures.

        Raises:
            ConfigError: `profile` is named and not among them; says why, and what to do about it.
        """
        await trio.Path(folder).mkdir(parents=True, exist_ok=True)
        ready = await class_of(device)
        for lacked, why in ready.lacking.items():
            if lacked == profile:
                raise why
            _log.info("jobs of %s are not judged here: %s", lacked, why.message)
        return cls(ready, folder, device=device, memory_bytes=memory_bytes, max_segment_s=max_segment_s)

    async def replay(self, inputs: Inputs, segment: int, start: Path | None, input_root: StateRoot) -> Replayed:
        """See replay.Bench."""
        async with self._turn:
            with tempfile.TemporaryDirectory(dir=self._folder, prefix="replay-") as scratch:
                return await self._run(inputs, segment, start, input_root, Path(scratch))

    async def _run(
        self, inputs: Inputs, segment: int, start: Path | None, input_root: StateRoot, scratch: Path
    ) -> Replayed:
        spec_file = scratch / "spec.json"
        await trio.Path(spec_file).write_bytes(inputs.spec.encode())
        request = RunRequest(
            files=JobFiles(
                spec=spec_file,
                program=inputs.program,
                dataset=inputs.dataset,
                data_files=inputs.files,
                initial_tensors=inputs.initial_tensors,
            ),
            first_segment=segment,
            last_segment=segment,
            out_dir=scratch,
            memory_bytes=self.memory_bytes,
            checkpoint=start,
            input_root=input_root,
            device=self._device,
        )
        is_loaded = is_running = False
        try:
            with trio.fail_after(self._max_segment_s):
                async with training(request) as events:
                    async for event in events:
                        is_loaded = is_loaded or isinstance(event, Ready)
                        is_running = is_running or isinstance(event, StepDone)
                        if isinstance(event, SegmentDone):
                            root = StateRoot(event.segment.output_root)
                            return Replayed(root=root, checkpoint=await trio.to_thread.run_sync(content_of, event.path))
        except trio.TooSlowError as error:
            raise ReplayFailed(f"segment {segment} took longer than {self._max_segment_s} s here") from error
        except TolseyError as error:
            # Between "loaded" and the first step the child looks at the data (checked by content id before) and at
            # the checkpoint: what it refuses there is the checkpoint.
            is_checkpoint = start is not None and is_loaded and not is_running
            if is_checkpoint and isinstance(error, ReplayMismatch | RemoteViolation | SpecInvalid):
                raise CheckpointUnavailable(
                    f"the checkpoint served for segment {segment} is not the committed state: {error.message}"
                ) from error
            raise ReplayFailed(f"segment {segment} cannot be run here: {error.message}") from error
        raise ReplayFailed(f"the replay of segment {segment} ended without a result")


def content_of(path: Path) -> ContentId:
    """The content id of a file; blocks."""
    with path.open("rb") as file:
        return manifest_of(iter(lambda: file.read(CHUNK_BYTES), b"")).content_id
