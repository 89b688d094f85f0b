"""How PyTorch and the vendors' libraries under it are held to the instructions that one of our builds uses.

They read their variables when a process starts, so whoever compares runs a process for each build.
"""

from __future__ import annotations

import os
from typing import Final

from tolsey.numerics import library
from tolsey.runtime.environment import child_environment

LIMITS: Final[dict[str, dict[str, str]]] = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {},
}


def environment(isa: str, *, limited: bool = True) -> dict[str, str]:
    """Of a process that measures one build: the one of a training process, and PyTorch held to the same instructions.

    Args:
        limited: False lets PyTorch use all of the machine.
    """
    kept = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    return child_environment(os.environ) | kept | {library.ISA_VARIABLE: isa} | (LIMITS[isa] if limited else {})
