"""Every build that this CPU can run, with one thread and with two; numbers that break careless arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy
import pytest
from numpy.typing import NDArray

from tolsey.numerics import build, library
from tolsey.numerics.library import Library

F32 = NDArray[numpy.float32]

CASES = [(isa, threads) for isa in build.runnable() for threads in (1, 2)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}t")
def lib(request: pytest.FixtureRequest) -> Iterator[Library]:
    """A loaded build, set to a number of threads."""
    isa, threads = request.param
    loaded = library.load(isa)
    before, loaded.threads = loaded.threads, threads
    yield loaded
    loaded.threads = before
