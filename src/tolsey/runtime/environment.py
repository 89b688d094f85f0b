"""Environment variables that must stand before torch is imported: the half of determinism.py that a parent needs.

It imports no torch. Next in the flow: child_client.py starts the child with it; determinism.py checks it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

THREADS: Final = 1
"""Threads of a pinned process: thread count changes sums, and with them bits, from the first step on."""

ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": str(THREADS),
    "MKL_NUM_THREADS": str(THREADS),
    "OPENBLAS_NUM_THREADS": str(THREADS),
    "MKL_DYNAMIC": "FALSE",
    "MKL_CBWR": "AUTO",
    "OMP_DYNAMIC": "FALSE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "NVIDIA_TF32_OVERRIDE": "0",
    "PYTHONHASHSEED": "0",
}
MEMORY: Final = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(16 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}
"""glibc keeps what a step frees for the next step. By default it hands memory back as soon as some megabytes lie free,
and the next step pays for every page again: 4 % of a step of the byte GPT. 32 MiB is the most that it accepts there."""

FOREIGN: Final = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "LD_PRELOAD",
    "PYTHONPATH",
)
"""Variables that would change bits (or code) behind our back; the child does not inherit them."""


def child_environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base` with everything that steers numerics pinned, and the allocator told what to keep."""
    return {name: value for name, value in base.items() if name not in FOREIGN} | MEMORY | ENVIRONMENT


def wrong_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables of ENVIRONMENT that are not as they must be, and FOREIGN ones that are set."""
    wrong = [name for name, value in ENVIRONMENT.items() if environment.get(name) != value]
    return wrong + [name for name in FOREIGN if name in environment]
