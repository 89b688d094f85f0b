"""docs/graph.md: its example is what the program prints, and its bounds are the program's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tolsey.protocol.checkpoint import DTYPE_BYTES
from tolsey.runtime import graph, initial, ops, optimisers

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "graph.md").read_text()


@pytest.mark.slow
def test_example_prints_the_listing() -> None:
    code, listing = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.S) for kind in ("python", "text"))
    assert code is not None and listing is not None
    printed = subprocess.run([sys.executable, "-c", code[1]], capture_output=True, text=True, timeout=120, check=True)
    lines = iter(printed.stdout.splitlines())
    for shown in listing[1].splitlines():
        assert shown.strip() == "…" or shown in lines, f"not printed, or elsewhere: {shown}"


def test_names_and_bounds_on_the_page_are_the_programs() -> None:
    assert f'`"{graph.FORMAT}"`' in PAGE and f"| `ops` | `{ops.OPS_VERSION}`" in PAGE
    for name in (*DTYPE_BYTES, *initial._ARGUMENTS, *optimisers._KINDS):
        assert f"`{name}`" in PAGE or f'["{name}"' in PAGE, name
    assert f"{graph.MAX_NODES:,}; {graph.MAX_TENSORS:,}; 1 to {graph.MAX_NAME_BYTES}" in PAGE
    assert f"1 to {graph.MAX_MICRO_BATCHES:,}" in PAGE and f"{graph.MAX_PROGRAM_BYTES >> 20} MiB" in PAGE
    assert f"{initial.MAX_LITERAL_BYTES >> 10} KiB" in PAGE and f"{ops.MAX_LITERAL_BYTES:,}" in PAGE
    for kind, roles in (*graph.INPUT_ROLES.items(), *graph.OUTPUT_ROLES.items()):
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{kind}` | `state`"))
        assert all(f"`{role}`" in row for role in roles), row
