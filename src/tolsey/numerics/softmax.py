"""Softmax and log-softmax of NumPy arrays along a dim, forwards and backwards: what native/softmax.c is called with.

The law of their bits is docs/numerics/reductions.md, section 3.
"""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

from tolsey.numerics import library
from tolsey.numerics.library import Library
from tolsey.numerics.reductions import ALONG_DIM, around, row_major

F32 = NDArray[numpy.float32]

for _name in ("softmax", "safe_softmax", "log_softmax"):
    library.declare(f"tolsey_{_name}", f"f32* f32* {ALONG_DIM}")
for _name in ("softmax_backward", "log_softmax_backward"):
    library.declare(f"tolsey_{_name}", f"f32* f32* f32* {ALONG_DIM}")


def softmax(lib: Library, x: F32, dim: int) -> F32:
    return _along(lib, "softmax", dim, x)


def safe_softmax(lib: Library, x: F32, dim: int) -> F32:
    return _along(lib, "safe_softmax", dim, x)


def log_softmax(lib: Library, x: F32, dim: int) -> F32:
    return _along(lib, "log_softmax", dim, x)


def softmax_backward(lib: Library, grad: F32, y: F32, dim: int) -> F32:
    """The gradient of x; y is what softmax gave."""
    return _along(lib, "softmax_backward", dim, grad, y)


def log_softmax_backward(lib: Library, grad: F32, y: F32, dim: int) -> F32:
    """The gradient of x; y is what log_softmax gave."""
    return _along(lib, "log_softmax_backward", dim, grad, y)


def _along(lib: Library, name: str, dim: int, *inputs: F32) -> F32:
    arrays = [row_major(array) for array in inputs]
    result = numpy.empty_like(arrays[0])
    lib.call(f"tolsey_{name}", *arrays, result, *around(result.shape, dim))
    return result
