"""A kernel beside its slow twin: called with the same arguments, they must give the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy
import torch

from tolsey.numerics import lookups, losses, norms, pooling, reductions, softmax
from tolsey.numerics.library import Library
from tolsey.numerics.reference import lookups as slow_lookups
from tolsey.numerics.reference import losses as slow_losses
from tolsey.numerics.reference import norms as slow_norms
from tolsey.numerics.reference import pooling as slow_pooling
from tolsey.numerics.reference import reductions as slow_reductions
from tolsey.numerics.reference import softmax as slow_softmax

from .numbers import assert_same_bits

TWINS = {
    reductions: slow_reductions,
    softmax: slow_softmax,
    norms: slow_norms,
    losses: slow_losses,
    lookups: slow_lookups,
    pooling: slow_pooling,
}

_known: dict[tuple[Any, ...], Any] = {}


def assert_twins(lib: Library, family: ModuleType, name: str, *args: Any) -> Any:
    """What both give; the slow one is asked once for all builds."""
    key = (name, *map(_named, args))
    if key not in _known:
        _known[key] = getattr(TWINS[family], name)(*args)
    expected = _known[key]
    assert_same(getattr(family, name)(lib, *args), expected)
    return expected


def assert_same(found: Any, expected: Any) -> None:
    """Arrays, tuples of them, None: floats to the bit, NaN as one value."""
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif expected is None or found is None:
        assert found is expected
    elif expected.dtype == numpy.float32:
        assert found.dtype == numpy.float32
        assert_same_bits(numpy.atleast_1d(found), numpy.atleast_1d(expected))
        assert found.shape == expected.shape
    else:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert (found == expected).all()


def _named(arg: Any) -> Any:
    return (arg.shape, arg.dtype.str, arg.tobytes()) if isinstance(arg, numpy.ndarray) else repr(arg)


def wide(array: numpy.ndarray, *, grad: bool = False) -> torch.Tensor:
    """The same numbers in float64, for PyTorch to differentiate."""
    tensor = torch.from_numpy(numpy.array(array, order="C"))
    return tensor.double().requires_grad_(grad) if tensor.dtype.is_floating_point else tensor


def assert_close(found: Sequence[Any], expected: Sequence[torch.Tensor], tolerance: float) -> None:
    """Each array within `tolerance` of PyTorch's float64, measured by the largest number of that."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == tuple(other.shape)
        exact = other.detach().numpy()
        scale = numpy.abs(exact).max(initial=0.0)
        assert numpy.abs(one - exact).max(initial=0.0) <= tolerance * scale, (one, exact)
