"""The GPU's kernels compiled for this CPU and run by emulator.h, as a device that library.GpuLibrary takes.

What is compared is the text of the kernels, with every index, barrier and shuffle in it, and how they are launched.
What is not: NVIDIA's compiler and hardware (test_cuda_code.py looks at the code that the compiler makes).
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from tolsey.numerics import build
from tolsey.numerics.cuda import compile
from tolsey.numerics.cuda.library import GpuLibrary

EMULATOR = Path(__file__).with_name("emulator.h")
FLAGS = ("-std=gnu++20", "-O1", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-w", "-include", str(EMULATOR))


class Emulated:
    """A device whose memory is this machine's."""

    memory = "cpu"
    threads_a_block = 64

    def __init__(self, path: Path, multiprocessors: int = 1) -> None:
        self.multiprocessors = multiprocessors
        self._kernels = ctypes.CDLL(str(path))
        self._rooms: list[Any] = []

    def launch(self, kernel: str, grid: Sequence[int], block: Sequence[int], *arguments: Any) -> None:
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self.launch_prepared(kernel, grid, block, addresses)

    def launch_prepared(self, kernel: str, grid: Sequence[int], block: Sequence[int], addresses: Any) -> None:
        sizes = (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block)
        assert min(*grid, *block) > 0, f"{kernel} over {grid} blocks of {block}"
        getattr(self._kernels, f"emulate_{kernel}")(*sizes, addresses)

    def room(self, size_bytes: int) -> int:
        # As on a GPU: aligned, and full of what was there before.
        self._rooms.append(ctypes.create_string_buffer(b"\xaa" * (size_bytes + 256), size_bytes + 256))
        return -(-ctypes.addressof(self._rooms[-1]) // 256) * 256

    def call_ends(self) -> None:
        self._rooms.clear()

    def zero(self, address: int, size_bytes: int) -> None:
        ctypes.memset(address, 0, size_bytes)

    def fill(self, address: int, number: int, count: int) -> None:
        (ctypes.c_int32 * count).from_address(address)[:] = [number] * count

    def copy(self, to: int, source: int, size_bytes: int) -> None:
        ctypes.memmove(to, source, size_bytes)

    def read(self, address: int, size_bytes: int) -> bytes:
        return ctypes.string_at(address, size_bytes)

    def upload(self, start: int, size_bytes: int) -> int:
        there = self.room(size_bytes)
        ctypes.memmove(there, start, size_bytes)
        return there

    def download(self, address: int, to: int, size_bytes: int) -> None:
        ctypes.memmove(to, address, size_bytes)


def compile_units(
    folder: Path, sources: Path = compile.SOURCES, units: Sequence[str] = tuple(compile.UNITS), *more: str
) -> Path:
    """A shared object with the emulated kernels of some units, compiled with `more` options."""
    command = [*build.compiler(), *FLAGS, *more, f"-I{sources}", f"-I{build.SOURCES}"]
    if "fma" in build.cpu_features():
        command.append("-mfma")

    def one(unit: str) -> Path:
        wrapped = "".join(f"EMULATED({kernel})\n" for kernel in compile.UNITS[unit])
        text = folder / f"{unit}.cpp"
        text.write_text(f'#include "{sources / unit}.cu"\n{wrapped}')
        done = subprocess.run([*command, "-c", text, "-o", text.with_suffix(".o")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:4000]
        return text.with_suffix(".o")

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(one, units))
    made = folder / "emulated.so"
    subprocess.run([*build.compiler(), "-shared", *objects, "-o", made, "-lstdc++", "-lm"], check=True)
    return made


def shared_object() -> Path:
    """All kernels, compiled once for a state of the sources; processes that want them at once wait for the first."""
    name = hashlib.sha256(EMULATOR.read_bytes() + compile.made_of().encode()).hexdigest()[:16]
    made = build.cache_folder() / f"emulated-{name}.so"
    made.parent.mkdir(parents=True, exist_ok=True)
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_file():
            with tempfile.TemporaryDirectory(dir=made.parent) as folder:
                compile_units(Path(folder)).replace(made)
    return made


@cache
def library_on(multiprocessors: int) -> GpuLibrary:
    """All kernels on an emulated device that asks for so many blocks."""
    return GpuLibrary(Emulated(shared_object(), multiprocessors))


def library() -> GpuLibrary:
    """All kernels on the smallest emulated device."""
    return library_on(1)
