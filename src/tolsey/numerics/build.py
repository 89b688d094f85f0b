"""One shared object per instruction set out of native/*.c, compiled when a wheel brings none.

A shared object is named by what it is made of: `avx2-<hash>.so`, the hash over sources, flags and machine. So a
changed source is another file, an old one is never loaded by mistake, and two processes that compile at once write
equal files under one name (written beside, then renamed). They are looked for in two places: `built/` beside this
file, where a wheel has them, then `$XDG_CACHE_HOME/tolsey/numerics` (or `~/.cache/…`), where a compilation at first
use puts them.

    python -m tolsey.numerics.build [--into FOLDER]     # compiles every instruction set of this machine

Needs nothing but the standard library: setup.py imports it in an environment without dependencies.
Next in the flow: library.py.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tolsey.errors import ConfigError

SOURCES: Final = Path(__file__).parent / "native"
BUILT: Final = Path(__file__).parent / "built"

CC_VARIABLE: Final = "CC"
CACHE_VARIABLE: Final = "XDG_CACHE_HOME"

COMMON_FLAGS: Final = (
    *("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-Wno-psabi"),
    # What the bits hang on: no contraction of a*b+c, no reassociation, no libm call where an instruction is meant.
    *("-ffp-contract=off", "-fno-fast-math", "-fno-math-errno"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Isa:
    """One build: for which machine, with which flags, on CPUs that have what.

    Args:
        machine: as `platform.machine()` says it.
        flags: for the compiler.
        features: names in /proc/cpuinfo, all of which a CPU must have.
    """

    machine: str
    flags: tuple[str, ...]
    features: frozenset[str]


ISAS: Final = {
    "avx512": Isa(
        machine="x86_64",
        flags=(
            *("-DTOLSEY_AVX512", "-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"),
            "-mprefer-vector-width=512",
        ),
        features=frozenset({"avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"}),
    ),
    "avx2": Isa(machine="x86_64", flags=("-DTOLSEY_AVX2", "-mavx2", "-mfma"), features=frozenset({"avx2", "fma"})),
    "neon": Isa(machine="aarch64", flags=("-DTOLSEY_NEON",), features=frozenset()),
    "baseline": Isa(machine="x86_64", flags=("-DTOLSEY_BASELINE", "-mno-avx"), features=frozenset()),
}
"""Fastest first. Every AArch64 CPU has NEON with fma; an x86-64 CPU without FMA computes it in software, slowly."""


def isas(machine: str = "") -> tuple[str, ...]:
    """Names of the builds for a kind of machine (this one), fastest first."""
    machine = machine or platform.machine()
    return tuple(name for name, isa in ISAS.items() if isa.machine == machine)


@cache
def cpu_features() -> frozenset[str]:
    """What this CPU and its kernel offer, as /proc/cpuinfo names it; empty where that cannot be read."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return frozenset(value.split())
    except OSError:
        pass
    return frozenset()


def runnable() -> tuple[str, ...]:
    """Names of the builds that this CPU can run, fastest first."""
    return tuple(name for name in isas() if ISAS[name].features <= cpu_features())


def sources() -> list[Path]:
    """Every translation unit, in a fixed order."""
    return sorted(SOURCES.glob("*.c"))


def file_name(name: str) -> str:
    """What the shared object of a build is called now: the name changes with each source, header and flag."""
    made_of = hashlib.sha256(repr((name, ISAS[name].machine, COMMON_FLAGS, ISAS[name].flags)).encode())
    for path in sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]):
        made_of.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return f"{name}-{made_of.hexdigest()[:16]}.so"


def cache_folder() -> Path:
    """Where compilations at first use are kept."""
    root = os.environ.get(CACHE_VARIABLE)
    return (Path(root) if root else Path.home() / ".cache") / "tolsey" / "numerics"


def shared_object(name: str) -> Path:
    """The shared object of a build, compiled now where it is not there yet (a few seconds).

    Raises:
        ConfigError: it must be compiled, and there is no C compiler, it failed, or the cache cannot be written.
    """
    wanted = file_name(name)
    for folder in (BUILT, cache_folder()):
        if (folder / wanted).is_file():
            return folder / wanted
    return compile_build(name, cache_folder())


def compile_build(name: str, folder: Path, *, cc: str = "") -> Path:
    """Compiles a build into a folder, whole or not at all; returns its path.

    Args:
        cc: the compiler's command; $CC, else cc, gcc or clang where empty.

    Raises:
        ConfigError: as `shared_object`.
    """
    command = [*compiler(cc), *COMMON_FLAGS, *ISAS[name].flags]
    target = folder / file_name(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".compiling-") as scratch, ThreadPoolExecutor() as pool:
            objects = [Path(scratch) / f"{source.stem}.o" for source in sources()]
            list(pool.map(lambda source, out: _run([*command, "-c", source, "-o", out]), sources(), objects))
            beside = Path(scratch) / target.name
            _run([*command, "-shared", *objects, "-o", beside])
            beside.replace(target)
    except OSError as error:
        raise ConfigError(
            f"the compiled {name} kernels cannot be kept in {folder}: {error.strerror or error}",
            fix=f"set {CACHE_VARIABLE} to a folder that can be written",
        ) from error
    return target


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shown = "\n".join(done.stderr.splitlines()[:12])
        raise ConfigError(
            f"compiling the kernels failed: {command[0]} ended with {done.returncode}\n{shown}",
            fix=f"install a current gcc (apt-get install gcc libc6-dev), or point {CC_VARIABLE} to one",
        )


def compiler(cc: str = "") -> list[str]:
    """The C compiler's command, split into words.

    Raises:
        ConfigError: none is installed.
    """
    asked = cc or os.environ.get(CC_VARIABLE, "")
    if asked:
        words = asked.split()
        if shutil.which(words[0]) is None:
            raise ConfigError(f"the C compiler {words[0]!r} is not on the path", fix=f"unset {CC_VARIABLE}")
        return words
    for word in ("cc", "gcc", "clang"):
        if shutil.which(word) is not None:
            return [word]
    raise ConfigError(
        "exact numerics must be compiled once on this machine, and there is no C compiler",
        fix="apt-get install gcc libc6-dev (or your system's package), or install a Tolsey wheel for this platform",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tolsey.numerics.build", description=main.__doc__)
    parser.add_argument("--into", type=Path, help="folder for the shared objects (the user's cache)")
    folder = parser.parse_args().into or cache_folder()
    for name in isas():
        print(compile_build(name, folder))


main.__doc__ = "Compiles the kernels for every instruction set of this machine."

if __name__ == "__main__":
    main()
