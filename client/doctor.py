"""Looks at this machine as the market would: which profiles it can run, whether its kernels are right, how fast it is.

1. who is here: Python, PyTorch, a compiler, the CPU;
2. each build of the exact kernels: there or compiled now, held to the vectors on one thread and on all, timed;
3. profiles: the exact ones where a build is sound, pinned where PyTorch is there, each with a training step's time;
4. what a node needs besides: a clock that is set, room on the disk, memory.

It needs no market, no wallet and no torch, and changes nothing but the cache of compiled kernels. It tells what it
finds; `verdict` turns what must not be overlooked into an error. Next in the flow: commands/machine.py.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import trio

from tolsey import __version__
from tolsey.client.views import BuildView, CheckView, DoctorView, ProfileView
from tolsey.errors import ConfigError, LocalViolation, TolseyError
from tolsey.numerics import bench, build, library, selftest
from tolsey.numerics.library import Library
from tolsey.protocol.job import EXACT_CLASSES, PINNED

GEMM_EDGE: Final = 256
GEMM_ROUNDS: Final = 20
LEAST_DISK_BYTES: Final = 5 << 30
"""A guess: some checkpoints of a job of 100 million parameters."""
STA_UNSYNC: Final = 0x0040
"""linux/timex.h: the kernel's clock is not held to a reference."""


def examine(home: Path, *, speed: bool = True) -> DoctorView:
    """Everything that this machine tells.

    Args:
        home: where the client or a node would keep its files; need not exist.
        speed: also time products and a training step; without, it takes some seconds less.
    """
    builds = tuple(_build(name, speed) for name in build.isas())
    return DoctorView(
        version=__version__,
        python=platform.python_version(),
        torch=_torch_version(),
        machine=platform.machine(),
        cpu=_cpu_name(),
        cores=_cores(),
        features=tuple(
            sorted(build.cpu_features() & frozenset().union(*(isa.features for isa in build.ISAS.values())))
        ),
        compiler=_compiler(),
        builds=builds,
        profiles=_profiles(builds, speed),
        checks=(_clock(), _disk(home), _memory()),
    )


def verdict(view: DoctorView) -> None:
    """
    Raises:
        LocalViolation: a build computes other bits than the law: whoever sells or verifies with it loses money.
        ConfigError: this machine has no exact kernels, and why.
    """
    wrong = [one for one in view.builds if one.failed]
    if wrong:
        sound = [one.isa for one in view.builds if one.runs]
        raise LocalViolation(
            "; ".join(f"the {one.isa} kernels give wrong bits: {', '.join(one.failed[:4])}" for one in wrong),
            fix=f"report it; until then {library.ISA_VARIABLE}={sound[0]}" if sound else "report it, and do not serve",
        )
    if not any(one.runs for one in view.builds):
        notes = "; ".join(f"{one.isa}: {one.note}" for one in view.builds) or f"there are none for {view.machine}"
        raise ConfigError(
            f"this machine has no exact kernels: {notes}",
            fix="apt-get install gcc libc6-dev, or install a Tolsey wheel for this platform" if view.builds else None,
        )


# builds


def _build(name: str, speed: bool) -> BuildView:
    missing = build.ISAS[name].features - build.cpu_features()
    if missing:
        return _unusable(name, f"this CPU lacks {', '.join(sorted(missing))}")
    try:
        lib = library.load(name)
    except ConfigError as error:
        return _unusable(name, error.message.splitlines()[0])
    except LocalViolation as error:  # it rounds otherwise, seen at once
        return dataclasses.replace(_unusable(name, "refused when loaded"), failed=(error.message,))
    before, threads = lib.threads, _cores()
    try:
        found = [_self_test(lib, count) for count in sorted({1, threads})]
        rates = [_gemm_rate(lib, count) if speed else None for count in (1, threads)]
    finally:
        lib.threads = before
    failed = tuple(dict.fromkeys(words for one in found for words in one.failed))
    return BuildView(
        isa=name,
        runs=not failed,
        note=f"{'brought by the wheel' if lib.path.parent == build.BUILT else 'compiled here'}: {lib.path}",
        cases=found[0].cases,
        failed=failed,
        threads=threads,
        gflops_one=rates[0],
        gflops_all=rates[1],
    )


def _unusable(name: str, why: str) -> BuildView:
    return BuildView(
        isa=name, runs=False, note=why, cases=0, failed=(), threads=_cores(), gflops_one=None, gflops_all=None
    )


def _self_test(lib: Library, threads: int) -> selftest.Verdict:
    lib.threads = threads
    return selftest.check(lib)


def _gemm_rate(lib: Library, threads: int) -> float:
    contest = next(iter(bench.square_products([GEMM_EDGE])))
    return bench.measure(contest, [lib], threads, GEMM_ROUNDS)[0].rate


# profiles


def _profiles(builds: tuple[BuildView, ...], speed: bool) -> tuple[ProfileView, ...]:
    found = (*_exact(builds), _pinned())
    able = [one.name for one in found if one.runs]
    if not speed or not found[0].runs:
        return found
    from tolsey.client.examples.byte_gpt import job  # noqa: PLC0415  # they load torch
    from tolsey.runtime.step_speed import step_seconds  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        taken = step_seconds(job, Path(folder), able)
    return tuple(dataclasses.replace(one, step_s=taken.get(one.name)) for one in found)


def _exact(builds: tuple[BuildView, ...]) -> tuple[ProfileView, ...]:
    """All or none of them: a build that is wrong in one is not to be trusted with another."""
    runs, note = _exact_runs(builds)
    return tuple(ProfileView(name=name, runs=runs, note=note, class_id=None, step_s=None) for name in EXACT_CLASSES)


def _exact_runs(builds: tuple[BuildView, ...]) -> tuple[bool, str]:
    sound = [one.isa for one in builds if one.runs]
    try:
        chosen = library.current().isa
    except (ConfigError, LocalViolation) as error:
        return False, error.message.splitlines()[0]
    note = f"same bits on every machine; the {chosen} build computes"
    if chosen not in sound:
        note = f"the {chosen} build would compute, and gives wrong bits"
    elif _torch_version() is None:
        note += "; training and replay need torch: pip install 'tolsey[torch]'"
    return chosen in sound and _torch_version() is not None, note


def _pinned() -> ProfileView:
    note, class_id = "needs torch: pip install 'tolsey[torch]'", None
    if _torch_version() is not None:
        from tolsey.runtime.child_client import class_of  # noqa: PLC0415  # only where there is something to ask

        try:
            ready = trio.run(class_of)
        except TolseyError as error:
            note = error.message
        else:
            class_id = bytes(ready.class_id).hex()
            named = (str(ready.facts.get(key, "")) for key in ("torch", "cpu_vendor", "cpu_capability"))
            note = f"same bits on machines of this class: torch {' '.join(named)}".rstrip()
    return ProfileView(name=PINNED, runs=class_id is not None, note=note, class_id=class_id, step_s=None)


# the rest


def _clock() -> CheckView:
    """Whether the kernel's clock follows a reference: deadlines are in block time."""
    status = ctypes.create_string_buffer(512)  # struct timex, all zero: a question, nothing is set
    if ctypes.CDLL(None).adjtimex(status) < 0:
        return CheckView(name="clock", ok=None, text="the system does not say whether it is synchronised")
    # struct timex: modes (padded to 8), offset, freq, maxerror, esterror: 8 bytes each; then the int `status`.
    bits = int.from_bytes(status.raw[40:44], "little")
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if bits & STA_UNSYNC:
        return CheckView(name="clock", ok=False, text=f"{now}, not synchronised: start an NTP client")
    return CheckView(name="clock", ok=True, text=f"{now}, synchronised")


def _disk(home: Path) -> CheckView:
    there = next(folder for folder in (home, *home.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    return CheckView(name="disk", ok=free >= LEAST_DISK_BYTES, text=f"{free / (1 << 30):.1f} GiB free at {there}")


def _memory() -> CheckView:
    try:
        pairs = (line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        kib = {key: int(value.split()[0]) for key, value in pairs}
        total, free = kib["MemTotal"], kib["MemAvailable"]
    except (OSError, ValueError, KeyError):
        return CheckView(name="memory", ok=None, text="the system does not say")
    return CheckView(name="memory", ok=True, text=f"{free / (1 << 20):.1f} GiB free of {total / (1 << 20):.1f}")


def _compiler() -> str | None:
    try:
        return " ".join(build.compiler())
    except ConfigError:
        return None


def _torch_version() -> str | None:
    return importlib.metadata.version("torch") if importlib.util.find_spec("torch") is not None else None


def _cores() -> int:
    return min(library.MAX_THREADS, len(os.sched_getaffinity(0)))


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "CPU implementer"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
