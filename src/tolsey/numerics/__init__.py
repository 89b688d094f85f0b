"""Exact numerics: the arithmetic of profile `exact-fp32/1`, the same bits on every machine.

The law is docs/numerics.md. Each operation of it stands three times: in `native/` (C, fast), in `reference/` (plain
Python and NumPy, slow and obvious) and on the law's pages; tests hold them together bit by bit. No torch in here.

    build.py      compiles native/ into one shared object per instruction set
    library.py    chooses and loads one, calls its kernels
    products.py, elementwise.py, reductions.py, …   what the kernels of one family are called with
    selftest.py   holds a build to the vectors in vectors/; bench.py measures it
"""

from __future__ import annotations

from typing import Final

PROFILE: Final = "exact-fp32/1"
"""The numerics profile whose law this is."""
