"""One program on every machine that this one can stand for: builds of the kernels, threads, flushed subnormals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy
import pytest
import torch

import tolsey
from tolsey.numerics import build, library


def bits(x: torch.Tensor) -> torch.Tensor:
    """Bit patterns, every NaN as one. NumPy looks at them: inside the block PyTorch must not."""
    array = x.detach().numpy()
    if array.dtype != numpy.float32:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(numpy.where(numpy.isnan(array), numpy.float32(numpy.nan), array).view(numpy.int32))


def digest(*tensors: torch.Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(bits(tensor).numpy().tobytes())
    return found.hexdigest()


@contextmanager
def machine(isa: str, threads: int, monkeypatch: pytest.MonkeyPatch, *, flush: bool = False) -> Iterator[None]:
    """This process as if it ran elsewhere: another build, other numbers of threads, and switches set by somebody.

    Args:
        flush: subnormals are flushed, PyTorch is asked for deterministic algorithms and for less precise products.
    """
    lib, torch_threads = library.load(isa), torch.get_num_threads()
    before, lib.threads = lib.threads, threads
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush)
    torch.use_deterministic_algorithms(flush)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if flush else precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(False)
        torch.set_flush_denormal(False)
        torch.set_num_threads(torch_threads)
        lib.threads = before


MACHINES = [(isa, threads, flush) for isa in build.runnable() for threads, flush in ((1, False), (2, True))]


def everywhere(program: Callable[[], str], monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> str:
    """What a program gives on every machine; fails where that is not one thing."""
    found = {}
    for isa, threads, flush in MACHINES:
        with machine(isa, threads, monkeypatch, flush=flush), tolsey.exact(seed):
            found[isa, threads, flush] = program()
    assert len(set(found.values())) == 1, found
    return next(iter(found.values()))
