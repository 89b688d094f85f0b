"""JobSpec: the exact description of one training job, and the hash that names it.

A job is data. The spec holds hashes and numbers only: the program (one training step as a graph), the dataset, the
seed, the counts. Two people who hold the same spec hash hold the same job to the bit. What breaks what:

- a wrong hash, seed or count costs *correctness*: the run is another run, replay shows it at once;
- a wrong `resources` figure costs only *liveness*: a worker may refuse or run out of memory.

It refuses to be parsed with an unknown or missing key (a typo must not become a default). Next in the flow:
offer.py (a worker's price for it), runtime/segment.py (how it is run).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tolsey.errors import SpecInvalid
from tolsey.protocol.content import ContentId
from tolsey.protocol.encoding import TAG_CLASS, TAG_SPEC, canonical_json, keccak256, parse_canonical_json, tag
from tolsey.protocol.units import ClassId, SpecHash

SPEC_VERSION = 1
MAX_SPEC_BYTES = 16_384
EXACT_FP32 = "exact-fp32/1"
EXACT_INT8 = "exact-int8/1"
EXACT_INT8X3 = "exact-int8x3/1"
PINNED = "pinned"
PROFILES = (EXACT_FP32, EXACT_INT8, EXACT_INT8X3, PINNED)
"""Numerics profiles this version can run; new ones add names here, none is ever changed."""
EXACT_CLASSES = {
    profile: ClassId(keccak256(tag(TAG_CLASS), canonical_json({"profile": profile})))
    for profile in PROFILES
    if profile != PINNED
}
"""Class id of each exact profile: hashed is its name, where profile `pinned` hashes what a machine is made of."""
MAX_STEPS = 1 << 32
MAX_SEGMENTS_PER_WINDOW = 65_536
MAX_WINDOWS = 65_535
_HASHES = ("program", "dataset", "initial_tensors", "class_id")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One training job.

    Attributes:
        name: for people; lower-case letters, digits, `._-`, at most 64.
        program: content id of the program file (canonical JSON graph, docs/graph.md).
        dataset: content id of the dataset manifest.
        initial_tensors: content id of literal initial tensors, or None where the program's initialisers and the
            seed give all of them.
        profile: numerics profile, one of PROFILES.
        class_id: machines that may run or judge it: those of one fingerprint (profile `pinned`), or all that keep an
            exact profile's law, whose class is the profile itself (`class_of_profile`).
        seed: 64-bit job seed of data order, dropout and initialisation.
        steps: optimiser updates in all.
        steps_per_segment, segments_per_window: how the run is cut; the last of each may be shorter.
        batch_size: examples per micro-batch.
        micro_batches: gradient accumulation; gradients are summed in order.
        memory_bytes: peak memory a worker should have free for training.
        work_flops: floating-point operations of the whole job, for prices and ETAs.
    """

    name: str
    program: ContentId
    dataset: ContentId
    initial_tensors: ContentId | None
    profile: str
    class_id: ClassId
    seed: int
    steps: int
    steps_per_segment: int
    segments_per_window: int
    batch_size: int
    micro_batches: int
    memory_bytes: int
    work_flops: int
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        _within("version", self.version, SPEC_VERSION, SPEC_VERSION)
        if not _NAME.fullmatch(self.name):
            raise SpecInvalid(f"name {self.name!r} is not 1 to 64 of a-z 0-9 . _ - starting with a letter or digit")
        if self.profile not in PROFILES:
            raise SpecInvalid(f"profile {self.profile!r} is not one of {', '.join(PROFILES)}")
        for field in ("program", "dataset", "class_id"):
            _is_hash(field, getattr(self, field))
        if profile_of_class(self.class_id) != self.profile:
            raise SpecInvalid(f"class_id {self.class_id.hex()[:16]} is not one of profile {self.profile}")
        if self.initial_tensors is not None:
            _is_hash("initial_tensors", self.initial_tensors)
        _within("seed", self.seed, 0, (1 << 64) - 1)
        _within("steps", self.steps, 1, MAX_STEPS)
        _within("steps_per_segment", self.steps_per_segment, 1, self.steps)
        _within("segments_per_window", self.segments_per_window, 1, MAX_SEGMENTS_PER_WINDOW)
        _within("batch_size", self.batch_size, 1, 1 << 24)
        _within("micro_batches", self.micro_batches, 1, 1 << 16)
        _within("memory_bytes", self.memory_bytes, 1, 1 << 50)
        _within("work_flops", self.work_flops, 1, 1 << 90)
        if self.window_count > MAX_WINDOWS:
            raise SpecInvalid(f"{self.window_count} windows, at most {MAX_WINDOWS}: use longer segments or windows")

    @property
    def segment_count(self) -> int:
        """Segments in the whole run."""
        return -(-self.steps // self.steps_per_segment)

    @property
    def window_count(self) -> int:
        """Windows in the whole run."""
        return -(-self.segment_count // self.segments_per_window)

    def segment_steps(self, index: int) -> range:
        """The steps of segment `index`, counted from 0."""
        if not 0 <= index < self.segment_count:
            raise IndexError(f"segment {index} of {self.segment_count}")
        first = index * self.steps_per_segment
        return range(first, min(self.steps, first + self.steps_per_segment))

    def window_segments(self, window: int) -> range:
        """The segments of window `window`."""
        if not 0 <= window < self.window_count:
            raise IndexError(f"window {window} of {self.window_count}")
        first = window * self.segments_per_window
        return range(first, min(self.segment_count, first + self.segments_per_window))

    @property
    def spec_hash(self) -> SpecHash:
        """32 bytes that name this job description on chain."""
        return SpecHash(keccak256(tag(TAG_SPEC), self.encode()))

    def encode(self) -> bytes:
        """Canonical JSON; content ids and hashes as lower-case hex."""
        value = dataclasses.asdict(self)
        for name in _HASHES:
            value[name] = None if value[name] is None else value[name].hex()
        return canonical_json(value)

    @classmethod
    def decode(cls, raw: bytes) -> JobSpec:
        """The spec in canonical bytes from anybody.

        Raises:
            RemoteViolation: not canonical or too large. SpecInvalid: a field is missing, unknown or out of range.
        """
        return cls.from_fields(parse_canonical_json(raw, max_bytes=MAX_SPEC_BYTES))

    @classmethod
    def from_fields(cls, value: Any) -> JobSpec:
        """The spec from a mapping with hex hashes, every key known and present."""
        if not isinstance(value, Mapping):
            raise SpecInvalid(f"a job spec is an object, not {type(value).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(value) - known):
            raise SpecInvalid(
                f"unknown key {unknown[0]!r} in the job spec",
                fix=f"remove it; known keys are {', '.join(sorted(known))}",
            )
        if missing := sorted(known - set(value)):
            raise SpecInvalid(f"the job spec lacks the key {missing[0]!r}")
        fields = dict(value)
        for name in _HASHES:
            if fields[name] is not None:
                fields[name] = _hash_from_hex(name, fields[name])
        for field in dataclasses.fields(cls):
            if field.type == "int" and type(fields[field.name]) is not int:
                raise SpecInvalid(f"{field.name} is a whole number, not {fields[field.name]!r}")
            if field.type == "str" and type(fields[field.name]) is not str:
                raise SpecInvalid(f"{field.name} is a string, not {fields[field.name]!r}")
        return cls(**fields)


def class_of_profile(profile: str) -> ClassId | None:
    """The class of all machines, where the profile gives the same bits on every one; None where the machine decides."""
    return EXACT_CLASSES.get(profile)


def profile_of_class(class_id: ClassId) -> str:
    """The profile of a job of this class: the exact one whose class it is, else `pinned`."""
    return next((profile for profile, found in EXACT_CLASSES.items() if found == class_id), PINNED)


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise SpecInvalid(f"{name} is {value}, allowed are {least} to {most}")


def _is_hash(name: str, value: bytes) -> None:
    if not isinstance(value, bytes) or len(value) != 32:
        raise SpecInvalid(f"{name} is not a 32-byte hash: {value!r}")


def _hash_from_hex(name: str, value: Any) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise SpecInvalid(f"{name} is not 64 lower-case hex digits: {value!r}")
    return bytes.fromhex(value)
