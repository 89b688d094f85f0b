"""Measures what a call of a GPU's kernel costs this machine before the GPU has anything to do.

    python tests/bench/bench_launch.py [--quick]

No GPU is needed: the driver is tests/numerics/libcuda.cpp, whose launches return at once, so every figure is Python's
and ctypes' time. A node is what the executor calls: a result is allocated, then one or more kernels are queued. Beside
them stands PyTorch's own dispatch, an addition of two tensors of one number each on the CPU: a step holds a thousand of
either kind. A real driver's own time comes on top of both. Processor time, the best of many rounds by turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import table
import torch

from tolsey.numerics import build
from tolsey.numerics.cuda import compile, driver
from tolsey.numerics.cuda.library import GpuLibrary
from tolsey.runtime import exact
from tolsey.runtime.ops import OPS, refs

LIBCUDA = Path(__file__).resolve().parents[1] / "numerics" / "libcuda.cpp"
CPU = torch.device("cpu")
CALLS = 500
STOCK = "an addition by PyTorch, to which the ratios are"
NODES: dict[str, tuple[list[Any], list[tuple[int, ...]]]] = {
    "exp": ([0], [(8, 8)]),
    "gelu_backward": ([0, 1, "none"], [(8, 8), (8, 8)]),
    "mm": ([0, 1], [(8, 16), (16, 8)]),
    "addmm": ([0, 1, 2], [(8,), (8, 16), (16, 8)]),
    "bmm": ([0, 1], [(4, 8, 16), (4, 16, 8)]),
    "softmax": ([0, -1, False], [(4, 8, 8)]),
    "softmax_backward": ([0, 1, -1, "float32"], [(4, 8, 8), (4, 8, 8)]),
    "layer_norm": ([0, [8], 1, 2, "3ee4f8b588e368f1"], [(16, 8), (8,), (8,)]),
    "layer_norm_backward": (
        [0, 1, [8], 2, 3, 4, 5, [True, True, True]],
        [(16, 8), (16, 8), (16, 1), (16, 1), (8,), (8,)],
    ),
    "sum": ([0, [0], False], [(16, 8)]),
}
"""Operations of ops.md that a transformer's step is made of, with arguments and the shapes of its tensors."""


def device(folder: Path) -> GpuLibrary:
    """The kernels on a driver that runs nothing."""
    made = folder / "libcuda.so.1"
    flags = ("-std=gnu++20", "-O1", "-fPIC", "-shared", "-DRUNS_NOTHING")
    subprocess.run([*build.compiler(), *flags, LIBCUDA, "-o", made, "-lstdc++", "-ldl"], check=True)
    driver.LIBCUDA = str(made)  # type: ignore[misc]  # for this process alone
    compile.cubin = lambda unit, capability: unit.encode()
    return GpuLibrary(driver.Gpu())


def node(lib: GpuLibrary, name: str) -> Callable[[], object]:
    """A call of an operation's node on the kernels of `lib`."""
    arguments, shapes = NODES[name]
    args = OPS[name].parse(arguments)
    call, tensors = exact.KERNELS[name](lib, args), [torch.zeros(shape) for shape in shapes]  # type: ignore[arg-type]
    reads = [tensors[slot] for slot in refs(args)]
    return lambda: call(*reads)


def step(lib: GpuLibrary) -> Callable[[], object]:
    """AdamW's kernel over one tensor, without its results' memory."""
    kernel = lib.function("tolsey_adamw")
    return lambda: kernel(4096, 8192, 12288, 16384, 4096, 12288, 16384, 64, 1.0, 1.0, 1e-3, 1.0, 0.1, 0.999, 1e-3, 1e-8)


def us_each(work: Callable[[], object]) -> float:
    """Microseconds of processor time of a call, of `CALLS` one after another."""
    start = time.thread_time()
    for _ in range(CALLS):
        work()
    return (time.thread_time() - start) / CALLS * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 10 if parser.parse_args().quick else 40
    torch.set_num_threads(1)
    table.head()
    one, other = torch.zeros(1), torch.zeros(1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        lib = device(Path(folder))
        works = {name: node(lib, name) for name in NODES} | {"AdamW's kernel alone": step(lib)}
        best = dict.fromkeys([*works, STOCK], float("inf"))
        for _ in range(rounds):
            for name, work in (works | {STOCK: lambda: one + other}).items():
                best[name] = min(best[name], us_each(work))
    for name, us in best.items():
        table.row(name, f"{us:.1f} us, {us / best[STOCK]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
