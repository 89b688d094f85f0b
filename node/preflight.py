"""What is looked at before a child starts: the data set's files, free memory, an empty folder.

It refuses a manifest that cannot be one, and a job for which memory is not free. The child checks contents again, with
torch; this file keeps torch out of the worker's own process. Next in the flow: executor.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tolsey.errors import ConfigError, RemoteViolation
from tolsey.protocol.content import ContentId
from tolsey.protocol.encoding import parse_canonical_json
from tolsey.protocol.job import JobSpec

MAX_MANIFEST_BYTES = 4 << 20
MAX_DATA_FILES = 10_000
"""Both as in runtime/dataset.py."""


def fresh(folder: Path) -> Path:
    """An empty folder; what a killed child left there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def data_files(raw: bytes) -> list[tuple[ContentId, int]]:
    """Content id and size of each file that a data set manifest names; the child checks the rest of it.

    Raises:
        RemoteViolation: not a manifest, or more files or larger ones than any data set has.
    """
    value: Any = parse_canonical_json(raw, max_bytes=MAX_MANIFEST_BYTES)
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, list) or not 1 <= len(files) <= MAX_DATA_FILES:
        raise RemoteViolation(f"a data set manifest names 1 to {MAX_DATA_FILES} files")
    found = []
    for item in files:
        try:
            content_id, size = bytes.fromhex(item["content"]), item["size_bytes"]
        except (TypeError, KeyError, ValueError) as error:
            raise RemoteViolation(f"data file {item!r:.200} has no readable content id and size") from error
        if len(content_id) != 32 or type(size) is not int or not 0 < size <= 1 << 40:
            raise RemoteViolation(f"data file {item!r:.200} has an impossible content id or size")
        found.append((ContentId(content_id), size))
    return found


def require_memory(spec: JobSpec, device: str) -> None:
    """Refuses to start what would be killed for want of memory; a GPU's memory is the child's to ask for.

    Raises:
        ConfigError: less is free than the job needs.
    """
    free = available_memory_bytes()
    if device == "cpu" and free is not None and free < spec.memory_bytes:
        raise ConfigError(
            f"the job needs {spec.memory_bytes} bytes of memory, {free} are free",
            fix="stop other programs, or offer less with --memory",
        )


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping (MemAvailable); None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def class_name(facts: Mapping[str, Any]) -> str:
    """A class for people, from its facts."""
    device = facts.get("gpu") or f"{facts.get('cpu_vendor', '')} {facts.get('cpu_capability', '')}".strip()
    return f"{device} torch {facts.get('torch', '?')}"[:64]
