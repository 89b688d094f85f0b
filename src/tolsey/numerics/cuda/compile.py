"""Cubins out of *.cu by NVRTC: no CUDA toolkit on the user's machine, no GPU to compile.

A cubin is named by what it is made of: `gemm-sm_90-<hash>.cubin`, the hash over sources, options and NVRTC's version;
it is kept in the user's cache beside what build.py compiles. NVRTC comes from the wheel `nvidia-cuda-nvrtc-cu12` (or
-cu13), which PyTorch's CUDA builds bring, else from the system.

    python -m tolsey.numerics.cuda.compile            # compiles for every compute capability, writes figures.json
    python -m tolsey.numerics.cuda.compile --check    # and compares with figures.json instead

figures.json says for each kernel and capability how many registers a thread holds, how many bytes spill to local
memory and how many are shared by a block: what decides how many threads run at once, seen without a GPU.

Next in the flow: driver.py.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.util
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tolsey.errors import ConfigError, LocalViolation
from tolsey.numerics import build

SOURCES: Final = Path(__file__).parent
FIGURES: Final = SOURCES / "figures.json"
INSTALL: Final = "pip install 'tolsey[cuda]' (the wheel nvidia-cuda-nvrtc-cu12)"

CAPABILITIES: Final = (75, 80, 86, 89, 90, 100)
"""Turing, Ampere (A100 and the others), Ada, Hopper, Blackwell."""

OPTIONS: Final = (
    # What the bits hang on: no contraction of a*b+c, IEEE division and root, subnormals kept.
    *("--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false"),
    *("--std=c++20", "--device-as-default-execution-space"),
)

_TERMS: Final = (
    *("plain", "squares", "sizes", "not_zero", "powers", "deviations", "differences", "with_normalised"),
    *("largest_of", "smallest_of", "largest_size", "smallest_size"),
)
_TEAMS: Final = ("kept", "warp", "block")
UNITS: Final[dict[str, tuple[str, ...]]] = {
    "places": tuple(
        f"tolsey_{name}"
        for name in (
            *("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "sigmoid", "sqrt", "rsqrt", "reciprocal"),
            *("relu", "silu", "gelu", "gelu_tanh", "maximum", "minimum", "pow", "sigmoid_backward", "tanh_backward"),
            *("silu_backward", "gelu_backward", "gelu_tanh_backward", "threshold_backward", "pow_scalar", "clamp"),
            *("clamp_low", "clamp_high", "lerp", "addcmul", "f32_to_i64", "f32_to_i32", "f32_to_i16", "f32_to_i8"),
            *("f32_to_u8", "i64_to_f32", "i32_to_f32", "adamw", "sgd", "lion"),
            *("philox_words", "keep_mask", "keep_mask_u8", "probe", "exact_sum_add", "exact_sum_round"),
        )
    ),
    "gemm": ("gemm_32", "gemm_64", "gemm_128"),
    "int8": (
        *("int8_exponents", "int8_digits", "int8_multiply_2_128", "int8_multiply_2_64", "int8_multiply_3_64"),
        "int8_round",
    ),
    "conv": (
        *("convolution", "convolution_backward_input"),
        *("convolution_backward_weight_64", "convolution_backward_weight_16"),
    ),
    "reduce": (
        *(f"{term}_{form}" for term in _TERMS for form in ("rows", "columns")),
        *("norm_of_powers", "argmax", "cumsum"),
    ),
    "softmax": tuple(f"{name}_{team}" for name in ("softmax", "softmax_backward") for team in _TEAMS),
    "norms": (*(f"{name}_{team}" for name in ("norm_forward", "norm_backward") for team in _TEAMS), "spread"),
    "losses": ("nll_terms", "nll_mean", "nll_backward", "mse_places", "mse_backward"),
    "lookups": (
        *("embedding_places", "scatter_places", "pooled_places"),
        *("sort_count", "sort_offsets", "sort_move", "add_runs"),
    ),
    "pooling": ("avg_pool2d", "avg_pool2d_backward", "max_pool2d"),
}
"""Source file -> its kernels."""


class Nvrtc:
    """NVIDIA's runtime compiler, loaded.

    Raises:
        ConfigError: it is not on this machine.
    """

    def __init__(self) -> None:
        self.path, self._handle = _load()
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._handle.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"
        count = ctypes.c_int()
        self._handle.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._handle.nvrtcGetSupportedArchs(known)
        self.capabilities = tuple(sorted(known))

    def compile(self, unit: str, architecture: str, *more: str, instead: tuple[str, ...] = ()) -> Compiled:
        """One of `UNITS`, with OPTIONS (or others `instead`) and `more`.

        Args:
            architecture: sm_NN for a cubin, compute_NN for PTX alone.

        Raises:
            LocalViolation: NVRTC refuses the source; its first lines are in the message.
        """
        file = SOURCES / f"{unit}.cu"
        folders = (f"--include-path={SOURCES}", f"--include-path={build.SOURCES}")
        options = [f"--gpu-architecture={architecture}", *(instead or OPTIONS), *folders, *more]
        program = ctypes.c_void_p()
        source = file.read_bytes()
        self._handle.nvrtcCreateProgram(ctypes.byref(program), source, file.name.encode(), 0, None, None)
        try:
            words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            answer = self._handle.nvrtcCompileProgram(program, len(options), words)
            log = self._text("ProgramLog", program).decode(errors="replace")
            if answer != 0:
                shown = "\n".join(log.splitlines()[:12])
                raise LocalViolation(f"NVRTC {self.version} does not compile {file.name} for {architecture}:\n{shown}")
            cubin = self._text("CUBIN", program, is_text=False) if architecture.startswith("sm_") else b""
            return Compiled(cubin=cubin, ptx=self._text("PTX", program).decode(), log=log)
        finally:
            self._handle.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, what: str, program: ctypes.c_void_p, *, is_text: bool = True) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._handle, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        room = ctypes.create_string_buffer(size.value)
        getattr(self._handle, f"nvrtcGet{what}")(program, room)
        return room.value if is_text else room.raw


@dataclass(frozen=True, slots=True)
class Compiled:
    cubin: bytes
    ptx: str
    log: str


def _load() -> tuple[str, ctypes.CDLL]:
    found = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (found.submodule_search_locations or () if found else ())]
    # The wheels of CUDA 12 have a folder for each library, those of CUDA 13 one for all.
    inside = [path for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so.*"), reverse=True)]
    for path in [*map(str, inside), "libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"]:
        try:
            return path, ctypes.CDLL(path)
        except OSError:
            continue
    raise ConfigError("exact numerics on a GPU needs NVRTC, NVIDIA's compiler library, and there is none", fix=INSTALL)


@cache
def nvrtc() -> Nvrtc:
    """The compiler, loaded once.

    Raises:
        ConfigError: it is not on this machine.
    """
    return Nvrtc()


SHARED: Final = (
    *("activations.c", "elementwise.c", "exact_sum.c", "optimisers.c", "philox.c", "probe.c"),
    *("choosing.h", "functions.h", "places.h", "whole.h"),
)
"""What of ../native is compiled for GPUs too."""


def made_of(compiler: str = "") -> str:
    """A hash over every source, the options and a compiler's version."""
    digest = hashlib.sha256(repr((OPTIONS, compiler)).encode())
    ours = sorted(path.name for path in SOURCES.iterdir() if path.suffix in (".cu", ".h"))
    for path in [*(SOURCES / name for name in ours), *(build.SOURCES / name for name in SHARED)]:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def cubin(unit: str, capability: int) -> bytes:
    """A unit for a compute capability (90 is 9.0), from the cache, or compiled now (some seconds).

    Raises:
        ConfigError: it must be compiled, and there is no NVRTC, it does not know the capability, or the cache cannot be
            written.
    """
    compiler = nvrtc()
    file = build.cache_folder() / f"{unit}-sm_{capability}-{made_of(compiler.version)}.cubin"
    if file.is_file():
        return file.read_bytes()
    if capability not in compiler.capabilities:
        known = ", ".join(map(str, compiler.capabilities))
        raise ConfigError(
            f"NVRTC {compiler.version} compiles for {known}, not for compute capability {capability}",
            fix="pip install --upgrade nvidia-cuda-nvrtc-cu12",
        )
    made = compiler.compile(unit, f"sm_{capability}").cubin
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}-{hashlib.sha256(made).hexdigest()[:8]}")
        beside.write_bytes(made)
        beside.replace(file)
    except OSError as error:
        raise ConfigError(
            f"compiled kernels cannot be kept in {file.parent}: {error.strerror or error}",
            fix=f"set {build.CACHE_VARIABLE} to a folder that can be written",
        ) from error
    return made


# figures

Figures = dict[str, dict[str, list[int]]]
"""Kernel -> capability -> registers of a thread, bytes of local memory, of a stack frame among them that spilled, bytes
shared by a block."""

_ENTRY: Final = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
_FRAME: Final = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED: Final = re.compile(r"Used (\d+) registers")
_SHARED: Final = re.compile(r"(\d+) bytes smem")


def figures_of(log: str) -> dict[str, list[int]]:
    """Of each kernel that an assembler's verbose log speaks of: registers, frame, spilled and shared bytes."""
    found: dict[str, list[int]] = {}
    kernel = ""
    for line in log.splitlines():
        if entry := _ENTRY.search(line):
            kernel = entry[1]
            found[kernel] = [0, 0, 0, 0]
        elif not kernel:
            continue
        elif frame := _FRAME.search(line):
            found[kernel][1:3] = [int(frame[1]), max(int(frame[2]), int(frame[3]))]
        elif used := _USED.search(line):
            shared = _SHARED.search(line)
            found[kernel][0], found[kernel][3] = int(used[1]), int(shared[1]) if shared else 0
            kernel = ""
    return found


def measure(compiler: Nvrtc) -> Figures:
    """Compiles everything for every capability that this NVRTC knows.

    Raises:
        LocalViolation: a kernel of UNITS is not there, or one that is there is not in UNITS.
    """
    cases = [(unit, name) for unit in UNITS for name in CAPABILITIES if name in compiler.capabilities]

    def one(case: tuple[str, int]) -> dict[str, list[int]]:
        return figures_of(compiler.compile(case[0], f"sm_{case[1]}", "--ptxas-options=-v").log)

    found: Figures = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for (unit, capability), figures in zip(cases, pool.map(one, cases), strict=True):
            if set(figures) != set(UNITS[unit]):
                raise LocalViolation(f"{unit}.cu holds {sorted(figures)}, and UNITS says {sorted(UNITS[unit])}")
            for kernel in UNITS[unit]:
                found.setdefault(kernel, {})[f"sm_{capability}"] = figures[kernel]
    return found


def written(compiler: Nvrtc, figures: Figures) -> str:
    """figures.json: a line for each kernel."""
    lines = [f"    {json.dumps(kernel)}: {json.dumps(figures[kernel])}" for kernel in sorted(figures)]
    head = {"nvrtc": compiler.version, "options": " ".join(OPTIONS), "made_of": made_of(compiler.version)}
    parts = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    columns = json.dumps(["registers", "frame_bytes", "spilled_bytes", "shared_bytes"])
    return (
        "{\n"
        + ",\n".join([*parts, f'  "columns": {columns}'])
        + ',\n  "kernels": {\n'
        + ",\n".join(lines)
        + "\n  }\n}\n"
    )


def check(compiler: Nvrtc) -> str:
    """What figures.json says that is not so; empty where all is.

    Raises:
        ConfigError: the figures were taken with another NVRTC.
    """
    known = json.loads(FIGURES.read_text())
    if known["nvrtc"] != compiler.version:
        raise ConfigError(
            f"figures.json was written with NVRTC {known['nvrtc']}, and this is {compiler.version}",
            fix=f"pip install 'nvidia-cuda-nvrtc-cu12=={known['nvrtc']}.*'",
        )
    now = measure(compiler)
    wrong = [
        f"{kernel} {capability}: {known['kernels'].get(kernel, {}).get(capability)} is {figures} now"
        for kernel, of in sorted(now.items())
        for capability, figures in of.items()
        if known["kernels"].get(kernel, {}).get(capability) != figures
    ]
    return "\n".join(wrong + [f"{kernel} is gone" for kernel in sorted(set(known["kernels"]) - set(now))])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tolsey.numerics.cuda.compile", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="compare with figures.json; 1 where they differ")
    compiler = nvrtc()
    if parser.parse_args().check:
        if wrong := check(compiler):
            print(wrong)
            raise SystemExit("figures.json is out of date: python -m tolsey.numerics.cuda.compile")
        return
    FIGURES.write_text(written(compiler, measure(compiler)))


main.__doc__ = "Compiles the GPU kernels for every compute capability and writes what they use."

if __name__ == "__main__":
    main()
