"""Other versions of PyTorch, each in a folder of its own, to run on the CPU whatever they were built for.

For x86-64 pip has builds with CUDA only. Their shared objects are linked with CUDA's, gigabytes of which nothing is run
on the CPU, so those are not installed. One small stand-in takes the place of them all: `lib/` beside PyTorch's own
shared objects, where these look first, has it under every name that they need, with every function that they want. It
says that there is no GPU; what is called all the same ends the process with its name.

A folder stands before the other packages on the path (`PYTHONPATH`): PyTorch out of it, NumPy and whatever else is
imported as they are in the environment. Next in the flow: matrix.py.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Final

from tolsey.errors import ConfigError
from tolsey.numerics import build

ROOM_BYTES: Final = 4_000_000_000
"""For the wheel and what is in it: 0.9 and 1.8 GB of PyTorch 2.10.0, the largest yet."""

NAMES: Final = "(?:cu|nv|nccl)"
"""How the names of CUDA's libraries and functions begin."""

STAND_IN: Final = "libcuda_stand_in.so"
ANSWERS: Final = """\
#include <stdio.h>
#include <stdlib.h>

/* PyTorch's shared objects give their kernels to these when they are loaded. */
void *__cudaRegisterFatBinary(void) { return NULL; }
void __cudaRegisterFatBinaryEnd(void) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
void __cudaUnregisterFatBinary(void) {}

int cudaGetDeviceCount(int *count) { *count = 0; return 100; /* cudaErrorNoDevice */ }
int cudaGetLastError(void) { return 0; }

#define REFUSED(name) \\
    void name(void) { fputs(#name " was called; this PyTorch has no CUDA, by torch_versions.py\\n", stderr); abort(); }
"""


def installed(version: str) -> Path:
    """The folder of this version, for this Python; installed now, whole or not at all, where it is not kept yet.

    pip says what it downloads, and how much, before it does. Kept beside the compiled kernels.

    Raises:
        ConfigError: no room, no compiler, pip found no build, or the build cannot be used without CUDA.
    """
    kept = build.cache_folder().parent / "torch"
    folder = kept / f"{version}-{sys.implementation.cache_tag}"
    if folder.exists():
        return folder
    kept.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(kept).free
    if free < ROOM_BYTES:
        raise ConfigError(
            f"to install torch {version} into {kept} takes {ROOM_BYTES / 1e9:.0f} GB, and {free / 1e9:.1f} GB are free",
            fix=f"remove versions that are not wanted from there, or set {build.CACHE_VARIABLE} to a folder elsewhere",
        )
    print(f"torch {version} goes to {folder}", flush=True)
    with tempfile.TemporaryDirectory(dir=kept, prefix=".installing-") as scratch:
        packages = Path(scratch) / "packages"
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
        alone = ["--no-deps", "--no-cache-dir", "--target", str(packages), f"torch=={version}"]
        if subprocess.run([*pip, *alone], env=os.environ | {"TMPDIR": scratch}, check=False).returncode:
            raise ConfigError(
                f"pip did not install torch {version}; its reason stands above",
                fix=f"{sys.executable} -m pip index versions torch",
            )
        stand_in(packages / "torch" / "lib")
        _try(packages, version)
        packages.rename(folder)
    return folder


def stand_in(folder: Path) -> list[str]:
    """Puts the stand-in under the names of CUDA's libraries that shared objects in a folder need and that it lacks.

    Returns:
        Those names, sorted; of a build for CPUs there are none.

    Raises:
        ConfigError: binutils are not installed, or there is no compiler, or it failed.
    """
    objects = sorted(folder.glob("*.so"))
    names = set(re.findall(rf"\(NEEDED\).*\[(lib{NAMES}.*)\]", _output("readelf", "--dynamic", *objects)))
    missing = sorted(name for name in names if not (folder / name).exists())
    if not missing:
        return []
    functions = _wanted(objects)
    source, versions = folder / "stand_in.c", folder / "stand_in.map"
    unanswered = set(itertools.chain(*functions.values())) - set(re.findall(r"(\w+)\(", ANSWERS))
    source.write_text(ANSWERS + "".join(f"REFUSED({name})\n" for name in sorted(unanswered)))
    versions.write_text("".join(f"{key} {{ {'; '.join(names)}; }};\n" for key, names in functions.items() if key))
    linking = ["-shared", "-fPIC", f"-Wl,--version-script={versions}", str(source), "-o", str(folder / STAND_IN)]
    _output(*build.compiler(), "-O1", *linking)
    for name in missing:
        # The loader opens one file once, and knows it by each of its names.
        (folder / name).symlink_to(STAND_IN)
    return missing


def _wanted(objects: list[Path]) -> dict[str, list[str]]:
    """CUDA's functions that shared objects want and none of them has, by the version that is wanted ("": none)."""
    wanted, defined = defaultdict[str, set[str]](set), set[str]()
    for kind, name, version in re.findall(
        rf" (\w) ((?:__)?{NAMES}\w*)(?:@+(\S+))?$", _output("nm", "--dynamic", *objects), re.MULTILINE
    ):
        if kind in "Uw":
            wanted[version].add(name)
        else:
            # LAPACK's complex functions begin with cu too, and PyTorch brings them.
            defined.add(name)
    return {version: sorted(names - defined) for version, names in wanted.items() if names - defined}


def _output(*command: str | Path) -> str:
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{command[0]}, which tells what PyTorch's shared objects need, is not installed",
            fix="apt-get install binutils (or your system's package)",
        ) from error
    if done.returncode:
        shown = "\n".join(done.stderr.splitlines()[:12])
        raise ConfigError(
            f"{command[0]} ended with {done.returncode}\n{shown}", fix="apt-get install gcc libc6-dev binutils"
        )
    return done.stdout


def _try(packages: Path, version: str) -> None:
    """Imports it once."""
    command = [sys.executable, "-P", "-c", "import torch; print(torch.__version__, torch.cuda.is_available())"]
    environment = os.environ | {"PYTHONPATH": str(packages)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found, _, has_gpu = done.stdout.strip().rpartition(" ")
    if done.returncode or found.partition("+")[0] != version or has_gpu != "False":
        shown = "\n".join([done.stdout, *done.stderr.splitlines()[-12:]])
        raise ConfigError(f"torch {version} does not run without CUDA: it said\n{shown}", fix="leave this version out")
