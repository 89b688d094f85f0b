"""Builds on CPUs that are not this one, emulated: NEON on ARM, and the baseline where there is neither AVX nor FMA.

`make test-neon` installs what they need, or says what that is; without it they are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tolsey.numerics import build, library

from . import replaying

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Machine:
    """How one kind of machine is compiled for and emulated; a control word under which kernels must not compute."""

    isa: str
    cc: str
    emulator: tuple[str, ...]
    foreign: int

    @property
    def missing(self) -> list[str]:
        return [word for word in (self.cc, *self.emulator[:1]) if shutil.which(word) is None]


MACHINES = {
    # FPCR: flush-to-zero, rounding up.
    "neon": Machine(
        "neon", "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"), foreign=1 << 24 | 1 << 22
    ),
    # MXCSR: the same, and reading subnormals as zero. Nehalem (2008) has SSE4.2 and neither AVX nor FMA.
    "baseline": Machine("baseline", "gcc", ("qemu-x86_64", "-cpu", "Nehalem"), foreign=0xDFC0),
}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors as this machine's fastest build was called for them."""
    path = tmp_path_factory.mktemp("calls") / "calls"
    assert replaying.write_calls(path, library.load(build.runnable()[0])) > 500
    return path


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory, calls: Path) -> Run:
    """Runs every call on an emulated machine: replay(name, threads, foreign)."""

    @cache
    def built(name: str) -> tuple[Path, Path]:
        machine, folder = MACHINES[name], tmp_path_factory.mktemp(name)
        kernels = build.compile_build(machine.isa, folder, cc=machine.cc)
        return replaying.compile_replay(folder, machine.cc), kernels

    def run(name: str, threads: int, foreign: bool) -> subprocess.CompletedProcess[str]:
        machine = MACHINES[name]
        if machine.missing:
            pytest.skip(f"{', '.join(machine.missing)} not installed: make test-neon")
        program, kernels = built(name)
        control = f"{machine.foreign if foreign else 0:x}"
        return ran([*machine.emulator, str(program), str(kernels), str(calls), str(threads), control])

    return run


def ran(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(("name", "threads", "foreign"), [("neon", 1, False), ("neon", 3, True), ("baseline", 1, True)])
def test_vectors_hold_on_an_emulated_machine(replay: Run, name: str, threads: int, foreign: bool) -> None:
    done = replay(name, threads, foreign)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-3000:] + done.stderr
    assert done.stdout.startswith(f"{name}, {threads} thread(s): ")
    assert done.stdout.endswith(" calls, 0 wrong\n")


def test_replay_sees_one_wrong_bit(calls: Path, tmp_path: Path) -> None:
    isa = build.runnable()[0]
    program, kernels = replaying.compile_replay(tmp_path), library.load(isa).path
    assert ran([str(program), str(kernels), str(calls), "2", "0"]).returncode == 0
    # The last call is of a function of one argument: the file ends with its result, and two words for how many.
    raw = bytearray(calls.read_bytes())
    raw[-16 - 4] ^= 1
    (tmp_path / "wrong").write_bytes(raw)
    done = ran([str(program), str(kernels), str(tmp_path / "wrong"), "1", "0"])
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith(" 1 wrong")
    (tmp_path / "cut").write_bytes(raw[:-9])
    assert ran([str(program), str(kernels), str(tmp_path / "cut"), "1", "0"]).returncode == 2
