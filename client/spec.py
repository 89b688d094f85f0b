"""What a buyer writes: a Python file that defines `job`, or a TOML file that names one and says how to buy it.

    [job]
    file = "byte_gpt.py"           # defines `job = Job(...)` (tolsey.runtime.author); beside the TOML file
    steps = 240                    # any of these in place of what the file says:
    # name, lr, batch_size, micro_batches, steps, steps_per_segment, segments_per_window, clip_norm, seed, profile
    data = "corpus.txt"            # a text file in place of the job's data
    data_content = "9f2c…"         # refuse any other data set than this manifest (content id, hex)

    [market]
    max_cost = "5.00"              # the most that the whole escrow may be
    verifiers = 3                  # drawn per window
    samples = 4                    # segments each of them replays
    verdict_fee = "0.05"           # to each verifier and window
    on = ["0x70997970"]            # workers that may have it, by account or its beginning

    [clocks]                       # seconds of block time; left out: what the network file says
    commit_window_s = 600

An unknown key is refused with its line, because a typo must not become a default. Reading a TOML file needs no torch;
building the job does. Next in the flow: market.py.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tolsey.errors import ConfigError, ProofInvalid, SpecInvalid
from tolsey.protocol.job import EXACT_FP32, PROFILES, JobSpec
from tolsey.protocol.offer import MAX_SAMPLES, MAX_VERIFIERS
from tolsey.protocol.units import ClassId, SpecHash

if TYPE_CHECKING:
    from tolsey.runtime.author import BuiltJob, Job

MAX_FILE_BYTES = 65_536
_TEXT, _COUNT = "a string", "a whole number"
_KEYS: Mapping[str, Mapping[str, str]] = {
    "job": {
        "file": _TEXT, "name": _TEXT, "lr": _TEXT, "clip_norm": _TEXT, "profile": _TEXT, "data": _TEXT,
        "data_content": _TEXT, "batch_size": _COUNT, "micro_batches": _COUNT, "steps": _COUNT,
        "steps_per_segment": _COUNT, "segments_per_window": _COUNT, "seed": _COUNT,
    },
    "market": {"max_cost": _TEXT, "verifiers": _COUNT, "samples": _COUNT, "verdict_fee": _TEXT, "on": "a list"},
    "clocks": {
        "commit_window_s": _COUNT, "reveal_window_s": _COUNT, "verdict_window_s": _COUNT, "challenge_window_s": _COUNT,
    },
}  # fmt: skip
BOUNDS: Mapping[str, tuple[int, int]] = {"verifiers": (0, MAX_VERIFIERS), "samples": (1, MAX_SAMPLES)}
"""Least and most of what a buyer may ask for, in a file, on the command line or of the SDK."""
_OWN = frozenset({"file", "data", "data_content"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A job as asked for, before torch has seen it.

    Attributes:
        file: Python file that defines `job`.
        changes: fields of the author's Job to replace.
        data: text file in place of the job's data. data_content: content id that the data manifest must have, hex.
        max_cost, verdict_fee: decimals as written; verifiers, samples, on, clocks: None or empty where not said.
    """

    file: Path
    changes: Mapping[str, Any] = field(default_factory=dict)
    data: Path | None = None
    data_content: str | None = None
    max_cost: str | None = None
    verdict_fee: str | None = None
    verifiers: int | None = None
    samples: int | None = None
    on: tuple[str, ...] = ()
    clocks: Mapping[str, int] = field(default_factory=dict)


def read_request(path: Path) -> Request:
    """The request in a `.toml` or `.py` file.

    Raises:
        SpecInvalid: a key or value cannot be; quotes the line. ConfigError: the file cannot be read.
    """
    if path.suffix == ".py":
        if not path.is_file():
            raise ConfigError(f"there is no job file {path}")
        return Request(file=path)
    if path.suffix != ".toml":
        raise ConfigError(
            f"{path} is neither a .toml nor a .py file", fix="tolsey run SPEC.toml, or tolsey run file.py"
        )
    try:
        with path.open("rb") as opened:
            raw = opened.read(MAX_FILE_BYTES + 1)
        text = raw.decode()
    except OSError as cause:
        raise ConfigError(
            f"{path} cannot be read: {cause.strerror}", fix=f"check the path: ls {path.parent}"
        ) from cause
    except UnicodeDecodeError as cause:
        raise ConfigError(f"{path} is no text: {cause.reason}", fix="write the job file as UTF-8") from cause
    if len(raw) > MAX_FILE_BYTES:
        raise SpecInvalid(f"{path} has more than {MAX_FILE_BYTES} bytes")
    return parse_request(text, source=path)


def parse_request(text: str, *, source: Path) -> Request:
    """The request in TOML text; `source` is named in errors and paths are beside it."""
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as cause:
        number = re.search(r"at line (\d+)", str(cause))
        line = text.splitlines()[int(number[1]) - 1] if number and int(number[1]) <= len(text.splitlines()) else ""
        raise SpecInvalid(f"{source}: {cause}" + (f"\n    {line.strip()}" if line.strip() else "")) from cause
    return _Reader(text, source).request(value)


def out_of_bounds(key: str, value: int) -> str | None:
    """The reason why nobody can ask for so many verifiers or samples, or None."""
    least, most = BOUNDS[key]
    return None if least <= value <= most else f"{key} is {value}, allowed are {least} to {most}"


class _Reader:
    """Checks parsed TOML key by key; each complaint quotes its line."""

    def __init__(self, text: str, source: Path) -> None:
        self._lines, self._source = text.splitlines(), source

    def request(self, value: dict[str, Any]) -> Request:
        for section, content in value.items():
            if section not in _KEYS:
                raise self._unknown("", section, _KEYS)
            if not isinstance(content, dict):
                raise self._wrong("", section, f"[{section}] is a table")
            for key, item in content.items():
                if key not in _KEYS[section]:
                    raise self._unknown(section, key, _KEYS[section])
                self._check(section, key, item)
        job, market = value.get("job", {}), value.get("market", {})
        if "file" not in job:
            raise SpecInvalid(f"{self._source} lacks `file` in [job]", fix='[job]\nfile = "job.py"')
        if job.get("profile", EXACT_FP32) not in PROFILES:
            raise self._wrong("job", "profile", f"profile is one of {', '.join(PROFILES)}")
        for key in BOUNDS.keys() & market.keys():
            if (why := out_of_bounds(key, market[key])) is not None:
                raise self._wrong("market", key, why)
        folder = self._source.parent
        return Request(
            file=folder / job["file"],
            changes={key: item for key, item in job.items() if key not in _OWN},
            data=folder / job["data"] if "data" in job else None,
            data_content=job.get("data_content"),
            max_cost=market.get("max_cost"),
            verdict_fee=market.get("verdict_fee"),
            verifiers=market.get("verifiers"),
            samples=market.get("samples"),
            on=tuple(market.get("on", ())),
            clocks=value.get("clocks", {}),
        )

    def _check(self, section: str, key: str, item: Any) -> None:
        kind = _KEYS[section][key]
        if kind == _TEXT and not isinstance(item, str):
            hint = f' (numbers are written as text here: {key} = "{item}")' if isinstance(item, int | float) else ""
            raise self._wrong(section, key, f"{key} is a string{hint}")
        if kind == _COUNT and (type(item) is not int or item < 0):
            raise self._wrong(section, key, f"{key} is a whole number")
        if kind == "a list" and (not isinstance(item, list) or not all(isinstance(entry, str) for entry in item)):
            raise self._wrong(section, key, f"{key} is a list of accounts")

    def _unknown(self, section: str, key: str, known: Mapping[str, Any]) -> SpecInvalid:
        close = difflib.get_close_matches(key, list(known), n=1)
        where = f"[{section}]" if section else "a job file"
        fix = f"{close[0]} (did you mean that?)" if close else f"known are {', '.join(known)}"
        return self._wrong(section, key, f"{where} knows no {key!r}", fix=fix)

    def _wrong(self, section: str, key: str, why: str, *, fix: str | None = None) -> SpecInvalid:
        number = self._line_of(section, key)
        where = f"{self._source} line {number}" if number else str(self._source)
        quoted = f"\n    {self._lines[number - 1].strip()}" if number else ""
        return SpecInvalid(f"{where}: {why}{quoted}", fix=fix)

    def _line_of(self, section: str, key: str) -> int:
        inside = ""
        for number, line in enumerate(self._lines, 1):
            header = re.match(r"\s*\[+\s*\"?([^\]\".]+)", line)
            if header:
                inside = header[1].strip()
                if not section and inside == key:
                    return number
            elif inside == section and re.match(rf"\s*\"?{re.escape(key)}\"?\s*[=.]", line):
                return number
        return 0


def build(request: Request, folder: Path, *, data: Path | None = None) -> BuiltJob:
    """Runs the author's file and packs the job into `folder`; seconds of work, needs torch.

    Args:
        data: text file in place of the request's.

    Raises:
        ConfigError: torch is not installed. SpecInvalid: the job cannot be; or its data are not those expected.
    """
    author = _author()
    job: Job = author.load(request.file)
    changes = dict(request.changes)
    text = data or request.data
    if text is not None:
        changes["data"] = author.text_file(text, context=_context_of(job, request.file))
    try:
        job = dataclasses.replace(job, **changes)
    except TypeError as cause:
        raise SpecInvalid(f"{request.file}: {cause}") from cause
    with author.blamed_on(request.file):
        built: BuiltJob = author.build(job, folder)
    expected = (request.data_content or "").lower().removeprefix("0x")
    if expected and not built.dataset_id.hex().startswith(expected):
        raise SpecInvalid(
            f"the data set has content id {built.dataset_id.hex()}, data_content says {expected}",
            fix="use the file that the id was made from, or remove data_content",
        )
    return built


def spec_of(built: BuiltJob, class_id: ClassId) -> JobSpec:
    """The job's exact description.

    Args:
        class_id: that of the profile, or for profile `pinned` of the machines that shall have it.
    """
    job = built.job
    return JobSpec(
        name=job.name,
        program=built.program_id,
        dataset=built.dataset_id,
        initial_tensors=built.initial_id,
        profile=job.profile,
        class_id=class_id,
        seed=job.seed,
        steps=job.steps,
        steps_per_segment=job.steps_per_segment,
        segments_per_window=job.segments_per_window,
        batch_size=job.batch_size,
        micro_batches=job.micro_batches,
        memory_bytes=built.memory_bytes,
        work_flops=built.work_flops,
    )


def decoded(raw: bytes, expected: SpecHash) -> JobSpec:
    """The spec in a stranger's trace, if it is the one that the offer names.

    Raises:
        ProofInvalid: it is another one.
    """
    found = JobSpec.decode(raw)
    if found.spec_hash != expected:
        raise ProofInvalid(
            f"the trace's spec hashes to {found.spec_hash.hex()[:16]}, the offer names {expected.hex()[:16]}"
        )
    return found


def _author() -> ModuleType:
    """tolsey.runtime.author, imported late: torch takes seconds, and only building a job needs it."""
    try:
        return importlib.import_module("tolsey.runtime.author")
    except ImportError as cause:
        if (cause.name or "").split(".")[0] in ("torch", "numpy"):
            raise ConfigError(
                f"building a job needs {cause.name}, which is not installed", fix="pip install 'tolsey[torch]'"
            ) from cause
        raise


def _context_of(job: Job, file: Path) -> int:
    batch = job.data.batch(1)
    x = batch.get("x")
    if x is None or x.dtype != "int64" or len(x.shape) != 2:
        raise SpecInvalid(f"--data replaces text, and {file} does not train on text")
    return int(x.shape[1])
