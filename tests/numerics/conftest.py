"""Every build that this CPU can run, with one thread and with two, and the GPU's kernels, emulated."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy
import pytest
from numpy.typing import NDArray

from tolsey.numerics import build, library
from tolsey.numerics.cuda import library as gpu
from tolsey.numerics.cuda.library import ISA, GpuLibrary
from tolsey.numerics.library import Library

from . import emulated

F32 = NDArray[numpy.float32]

GPU_VARIABLE = "TOLSEY_TEST_GPU"
"""Set where this machine has a GPU: its own kernels are tried instead of the emulated ones."""

CASES = [(isa, threads) for isa in build.runnable() for threads in (1, 2)]


@pytest.fixture(params=[*CASES, (ISA, 1)], ids=lambda case: f"{case[0]}-{case[1]}t")
def lib(request: pytest.FixtureRequest) -> Iterator[Library | GpuLibrary]:
    """A loaded build, set to a number of threads; or the GPU's kernels."""
    isa, threads = request.param
    if isa == ISA:
        yield gpu.current() if os.environ.get(GPU_VARIABLE) else emulated.library()
    else:
        yield from _with_threads(isa, threads)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}t")
def cpu(request: pytest.FixtureRequest) -> Iterator[Library]:
    """A loaded build alone: for what a GPU does not have, threads and a control register."""
    yield from _with_threads(*request.param)


def _with_threads(isa: str, threads: int) -> Iterator[Library]:
    loaded = library.load(isa)
    before, loaded.threads = loaded.threads, threads
    yield loaded
    loaded.threads = before
