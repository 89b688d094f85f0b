"""Exact numerics: the arithmetic of the exact profiles, the same bits on every machine.

The law of `exact-fp32/1` is docs/numerics.md; for `exact-int8/1` and `exact-int8x3/1` docs/numerics/int8.md says what
differs. Each operation stands three times: in `native/` (C, fast), in `reference/` (plain Python and NumPy, slow and
obvious) and on the law's pages; tests hold them together bit by bit. No torch in here.

    build.py      compiles native/ into one shared object per instruction set
    library.py    chooses and loads one, calls its kernels
    cuda/         the same kernels on NVIDIA GPUs; what depends on single places is compiled from native/
    products.py, elementwise.py, reductions.py, …   what the kernels of one family are called with
    selftest.py   holds a build to the vectors in vectors/; bench.py measures it
"""

from __future__ import annotations

from typing import Final

PROFILE: Final = "exact-fp32/1"
"""The default profile; int8.py names those with other products."""
