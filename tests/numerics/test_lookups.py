"""Look-ups and their gradients: kernels and PyTorch's copies against the twins, sums in order, indices checked."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from tolsey.numerics import lookups
from tolsey.numerics.library import Library
from tolsey.numerics.reference import lookups as reference

from .numbers import KINDS, SPECIAL, draw
from .twins import assert_close, assert_twins, wide

SCATTERS = [
    *[((5,), (7,), (9,), 0), ((4, 5), (3, 6), (4, 7), 1), ((4, 5), (6, 4), (7, 5), 0), ((3, 4), (0, 4), (2, 4), 0)],
    *[((3, 4, 5), (2, 6, 5), (3, 6, 6), 1), ((2, 3, 4, 5),) * 3 + (2,), ((3, 300), (9, 290), (9, 300), 0)],
]
"""Sizes of self, index and source, and the dim."""
WRONG = (-1, 7, 1 << 40, -(1 << 62))


def drawn(size: int, *shape: int) -> numpy.ndarray:
    return numpy.asarray(numpy.random.default_rng(1).integers(0, size, shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shape, rows, width", [((5,), 4, 3), ((2, 50), 7, 200), ((0,), 4, 3), ((30,), 1, 1)], ids=str)
def test_embedding_backward_is_the_law_s(
    lib: Library, shape: tuple[int, ...], rows: int, width: int, scale: bool, kind: str
) -> None:
    grad, index = draw(kind, (*shape, width), 1), drawn(rows, *shape)
    for padding in (-1, 0):
        assert_twins(lib, lookups, "embedding_backward", grad, index, rows, padding, scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SCATTERS, ids=str)
def test_scatter_add_is_the_law_s(lib: Library, sizes: tuple[Any, ...], kind: str) -> None:
    self, index, source, dim = sizes
    assert_twins(lib, lookups, "scatter_add", draw(kind, self, 1), dim, drawn(self[dim], *index), draw(kind, source, 2))


def test_order_of_additions_shows(lib: Library) -> None:
    grad, index = draw("unit", (500, 16), 1), numpy.zeros(500, numpy.int64)
    forwards = lookups.embedding_backward(lib, grad, index, 1, -1, False)
    backwards = lookups.embedding_backward(lib, grad[::-1], index, 1, -1, False)
    assert (forwards != backwards).mean() > 0.5


@pytest.mark.parametrize("wrong", WRONG)
def test_index_outside_its_table_fails(lib: Library, wrong: int) -> None:
    index = numpy.zeros(40, numpy.int64)
    index[30] = wrong
    values = draw("unit", (40, 3), 1)
    with pytest.raises(IndexError, match="an index lies outside its table"):
        lookups.embedding_backward(lib, values, index, 7, -2, False)
    with pytest.raises(IndexError, match="an index lies outside its table"):
        lookups.scatter_add(lib, draw("unit", (7, 3), 2), 0, index[:, None], values)


def test_padding_may_lie_outside_the_table(lib: Library) -> None:
    index = numpy.array([1, -5, 1])
    assert_twins(lib, lookups, "embedding_backward", draw("unit", (3, 4), 1), index, 2, -5, True)


@pytest.mark.parametrize("index, source", [((8, 3), (7, 3)), ((5, 4), (5, 4))])
def test_index_larger_than_what_it_walks_is_refused(
    lib: Library, index: tuple[int, int], source: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="refused its arguments"):
        lookups.scatter_add(lib, draw("unit", (7, 3), 1), 0, drawn(7, *index), draw("unit", source, 2))


def test_gradients_are_pytorch_s(lib: Library) -> None:
    index, grad = drawn(9, 6, 40), draw("unit", (6, 40, 5), 1)
    for scale in (False, True):
        weight = wide(draw("unit", (9, 5), 2), grad=True)
        looked_up = torch.nn.functional.embedding(wide(index), weight, padding_idx=3, scale_grad_by_freq=scale)
        looked_up.backward(wide(grad))
        assert weight.grad is not None
        found = lookups.embedding_backward(lib, grad, index, 9, 3, scale)
        assert_close([found], [weight.grad], 2**-19)
    x, source, index = draw("unit", (6, 7, 8), 3), draw("unit", (5, 20, 8), 4), drawn(7, 5, 20, 8)
    expected = torch.scatter_add(wide(x), 1, wide(index), wide(source))
    assert_close([lookups.scatter_add(lib, x, 1, index, source)], [expected], 2**-20)


# embedding, gather and index_select copy: PyTorch's own keep the law.

TABLE = numpy.resize(SPECIAL, (7, 33))
COPIES = [
    ("embedding", (TABLE, drawn(7, 4, 50)), 7),
    ("gather", (TABLE, 0, drawn(7, 50, 33)), 7),
    ("gather", (TABLE, 1, drawn(33, 7, 9)), 33),
    ("index_select", (TABLE, 0, drawn(7, 50)), 7),
    ("index_select", (TABLE, 1, drawn(33, 50)), 33),
]
"""Arguments, and the size of the dim that is looked up."""


def by_pytorch(name: str, *args: Any) -> Any:
    tensors = [torch.from_numpy(arg) if isinstance(arg, numpy.ndarray) else arg for arg in args]
    return getattr(torch.ops.aten, name).default(*tensors)


@pytest.mark.parametrize("name, args, size", COPIES)
def test_pytorch_s_look_ups_keep_every_bit(name: str, args: tuple[Any, ...], size: int) -> None:
    found, expected = by_pytorch(name, *args).numpy(), getattr(reference, name)(*args)
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("wrong", ["size", -1, 1 << 40, -(1 << 62)])
@pytest.mark.parametrize("name, args, size", COPIES)
def test_pytorch_s_look_ups_fail_outside_their_table(
    name: str, args: tuple[Any, ...], size: int, wrong: int | str
) -> None:
    index = args[-1].copy()
    index.reshape(-1)[-1] = size if wrong == "size" else wrong
    with pytest.raises((IndexError, RuntimeError)):
        by_pytorch(name, *args[:-1], index)
    with pytest.raises(IndexError):
        getattr(reference, name)(*args[:-1], index)
