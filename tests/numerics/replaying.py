"""The vectors as a file of calls to kernels, for replay.c: how builds are tried on machines that run no Python.

A `Recorder` stands in for a `Library`: it passes each call on to a build of this machine and keeps the memory of each
argument before and after. What this machine's build makes of the vectors is checked beforehand, so the file says what
the law says.

The file, all little-endian int64 but where bytes are named: number of calls; then for each the length and bytes of its
kernel's name, and its number of arguments; then for each its kind and one word of 8 bytes:

    0 integer   its value (0 for no array)
    1, 2        the bits of a binary32 or binary64 number
    3, 4 memory where the address points in it; then its size in bytes, its bytes before, its bytes after.
                Of kind 4 it holds binary32 numbers, and one NaN is as good as another.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy

from tolsey.numerics import library, selftest
from tolsey.numerics.library import Library

SOURCE = Path(__file__).with_name("replay.c")


class Recorder(Library):
    """A loaded build that remembers its calls."""

    def __init__(self, through: Library) -> None:
        super().__init__(through.isa, through.path)
        self.calls: list[bytes] = []

    def call(self, name: str, *arguments: Any) -> None:
        kernel = self.function(name)
        if isinstance(kernel, partial):  # another kernel stands for this one, with arguments of its own before all
            return self.call(kernel.func.__name__, *kernel.args, *arguments)
        spans = [_span(given) for given in arguments]
        before = [_memory(span) for span in spans]
        super().call(name, *arguments)
        self.calls.append(_called(name, arguments, spans, before))


def write_calls(path: Path, through: Library) -> int:
    """Every case of the vectors, as calls; how many calls that were."""
    recorder = Recorder(through)
    for family in selftest.FAMILIES:
        for case in selftest.cases(family):
            if case["op"] not in selftest.COPIES:
                assert selftest.holds(recorder, case), f"{family}: {case['op']} is wrong here already"
    path.write_bytes(_integers(len(recorder.calls)) + b"".join(recorder.calls))
    return len(recorder.calls)


def compile_replay(folder: Path, cc: str = "cc") -> Path:
    """replay.c for the machine that `cc` compiles for."""
    program = folder / "replay"
    subprocess.run([cc, "-std=gnu11", "-O1", "-Wall", "-Werror", str(SOURCE), "-o", str(program), "-ldl"], check=True)
    return program


def _called(name: str, arguments: tuple[Any, ...], spans: list[Any], before: list[bytes]) -> bytes:
    parts = [_integers(len(name)), name.encode(), _integers(len(arguments))]
    for word, given, span, held in zip(library.declared()[name], arguments, spans, before, strict=True):
        if span is not None:
            kind = 4 if given.dtype == numpy.float32 else 3
            parts += [_integers(kind, given.ctypes.data - span[0], len(held)), held, _memory(span)]
        elif word == "f32":
            parts += [_integers(1), struct.pack("<ff", given, 0.0)]
        elif word == "f64":
            parts += [_integers(2), struct.pack("<d", given)]
        else:
            parts += [_integers(0), struct.pack("<Q", int(given or 0) & (2**64 - 1))]
    return b"".join(parts)


def _span(given: Any) -> tuple[int, int] | None:
    """First byte and end of what an array's elements lie in."""
    if not isinstance(given, numpy.ndarray):
        return None
    low, high = numpy.lib.array_utils.byte_bounds(given)
    return (low, high) if given.size else (low, low)


def _memory(span: tuple[int, int] | None) -> bytes:
    return b"" if span is None else ctypes.string_at(span[0], span[1] - span[0])


def _integers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)
