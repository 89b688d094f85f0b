"""Matrix products: every build, thread count and memory layout gives the bits of the plain chain; a changed order is
seen."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tolsey.numerics import build, products
from tolsey.numerics.library import Library
from tolsey.numerics.reference import products as reference

from .numbers import F32, KINDS, SPECIAL, assert_same_bits, bits, draw

# Around the sizes of tiles and vectors of every build, past one slice of k, past one chunk, thin and flat.
SHAPES = [
    (1, 1, 1),
    (2, 3, 5),
    (4, 8, 16),
    (7, 9, 31),
    (13, 33, 17),
    (12, 32, 256),
    (25, 65, 257),
    (1, 200, 40),
    (200, 1, 40),
    (3, 140, 600),
    (140, 3, 600),
    (64, 64, 32),
    (150, 100, 70),
    (300, 40, 20),
    (40, 600, 20),
    # Rows of A that lie at distances which crowd a cache; enough columns to turn A.
    (30, 20, 512),
    (20, 30, 1024),
    (50, 400, 33),
]
EMPTY = [(0, 3, 4), (3, 0, 4), (0, 0, 0), (3, 4, 0), (1, 1, 0)]


@cache
def case(kind: str, m: int, n: int, k: int) -> tuple[F32, F32, F32, F32]:
    """Operands, a bias for each column, and what the law makes of them."""
    a, b, bias = draw(kind, (m, k), 1), draw(kind, (k, n), 2), draw(kind, (n,), 3)
    return a, b, bias, reference.gemm(a, b, bias)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_gemm_equals_reference(lib: Library, shape: tuple[int, int, int], kind: str) -> None:
    a, b, bias, expected = case(kind, *shape)
    assert_same_bits(products.gemm(lib, a, b, bias), expected)


@pytest.mark.parametrize("shape", [(13, 33, 300), (64, 20, 17), (5, 100, 40), (40, 260, 12)], ids=str)
@pytest.mark.parametrize("layout", ["NT", "TN", "TT", "C transposed"])
def test_gemm_transposed_operands_and_result_give_the_same_bits(
    lib: Library, shape: tuple[int, int, int], layout: str
) -> None:
    a, b, bias, expected = case("special", *shape)
    out = numpy.empty((shape[1], shape[0]), numpy.float32).T if layout == "C transposed" else None
    if layout[0] == "T":
        a = numpy.asfortranarray(a)
    if layout[1] == "T":
        b = numpy.asfortranarray(b)
    assert_same_bits(products.gemm(lib, a, b, bias, out), expected)


def test_gemm_views_with_steps_reversed_and_cut_out_are_read_in_place(lib: Library) -> None:
    whole_a, whole_b = draw("wide", (40, 90), 1), draw("wide", (90, 100), 2)
    views = [
        (whole_a[3:30:2, 5:85:3], whole_b[1:28, 7:60:2]),
        (whole_a[::-1, ::-1], whole_b[::-1, ::-1]),
        (whole_b[10:50, 20:60].T, whole_a[:, 4:44]),
        # Rows as far apart as fours are, but none begins at one.
        (whole_b[1:41, 21:61], whole_b[3:43, 6:26]),
    ]
    for a, b in views:
        expected = reference.gemm(a, b)
        room = numpy.full((expected.shape[0] * 2, expected.shape[1] * 3), 7, numpy.float32)
        out = room[::2, ::3]
        assert_same_bits(products.gemm(lib, a, b, out=out), expected)
        assert (room[1::2] == 7).all() and (room[:, 1::3] == 7).all(), "written beside the view"


def test_gemm_step_of_zero_broadcasts(lib: Library) -> None:
    row, column = draw("unit", (1, 70), 1), draw("unit", (70, 1), 2)
    a, b = numpy.broadcast_to(row, (37, 70)), numpy.broadcast_to(column, (70, 45))
    one = numpy.broadcast_to(draw("unit", (1, 1), 3), (37, 70))
    for left, right in ((a, b), (one, b), (a, draw("unit", (70, 45), 4))):
        assert_same_bits(products.gemm(lib, left, right), reference.gemm(left, right))


@pytest.mark.parametrize("bias_shape", [(33,), (13, 1), (13, 33), (1, 1), ()], ids=str)
def test_bias_of_every_shape_is_added_once_after_the_chain(lib: Library, bias_shape: tuple[int, ...]) -> None:
    a, b, bias = draw("cancelling", (13, 300), 1), draw("cancelling", (300, 33), 2), draw("unit", bias_shape, 3)
    expected = reference.gemm(a, b) + bias
    assert_same_bits(products.gemm(lib, a, b, bias), expected)
    assert_same_bits(products.gemm(lib, a, b, bias, numpy.empty((33, 13), numpy.float32).T), expected)


def test_chain_starts_at_plus_zero(lib: Library) -> None:
    zero = numpy.float32(-0.0)
    a, b = numpy.full((3, 2), zero), numpy.ones((2, 3), numpy.float32)
    assert not numpy.signbit(products.gemm(lib, a, b)).any()
    nothing = products.gemm(lib, a[:, :0], b[:0], numpy.full(3, zero))
    assert not numpy.signbit(nothing).any(), "+0 and a bias of -0 are +0"


@pytest.mark.parametrize(("batch", "m", "n", "k"), [(1, 9, 9, 9), (7, 13, 20, 33), (40, 5, 4, 3), (3, 120, 90, 70)])
def test_batch_equals_reference(lib: Library, batch: int, m: int, n: int, k: int) -> None:
    a, b = draw("special", (batch, m, k), 1), draw("special", (batch, k, n), 2)
    expected = reference.gemm(a, b)
    assert_same_bits(products.gemm(lib, a, b), expected)
    turned = numpy.ascontiguousarray(b.transpose(0, 2, 1)).transpose(0, 2, 1)
    assert_same_bits(products.gemm(lib, a, turned), expected)
    assert_same_bits(products.gemm(lib, a[0], b), reference.gemm(a[0], b))
    bias = draw("unit", (batch, 1, n), 3)
    assert_same_bits(products.gemm(lib, a, b, bias), expected + bias)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    m=st.integers(1, 70),
    n=st.integers(1, 70),
    k=st.integers(0, 300),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1000),
    turned=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_gemm_any_shape_and_layout_equals_reference(
    lib: Library, m: int, n: int, k: int, kind: str, seed: int, turned: tuple[bool, bool, bool]
) -> None:
    a, b = draw(kind, (m, k), seed), draw(kind, (k, n), seed + 1)
    expected = reference.gemm(a, b)
    a, b = (numpy.asfortranarray(x) if turn else x for x, turn in zip((a, b), turned, strict=False))
    out = numpy.empty((n, m), numpy.float32).T if turned[2] else None
    assert_same_bits(products.gemm(lib, a, b, out=out), expected)


def test_long_chain_over_several_rounds_equals_reference(lib: Library) -> None:
    """Longer than what is packed at once."""
    a, b, bias, expected = case("unit", 9, 12, 20_000)
    assert_same_bits(products.gemm(lib, a, b, bias), expected)


@pytest.mark.slow
def test_chain_of_a_million_equals_reference() -> None:
    k = 1_000_000
    a, b = draw("unit", (2, k), 1), draw("unit", (k, 3), 2)
    expected = reference.gemm(a, b)
    for isa in build.runnable():
        found = Library(isa, build.shared_object(isa))
        for threads in (1, 2):
            found.threads = threads
            assert_same_bits(products.gemm(found, a, b), expected)


def test_thread_counts_beyond_the_tasks_change_nothing() -> None:
    a, b, bias, expected = case("wide", 150, 100, 70)
    lib = Library(build.runnable()[0], build.shared_object(build.runnable()[0]))
    for threads in (3, 8, 64):
        lib.threads = threads
        assert_same_bits(products.gemm(lib, a, b, bias), expected)
    lib.threads = 1


def test_special_values_meet_each_other(lib: Library) -> None:
    a, b = SPECIAL.reshape(-1, 1), SPECIAL.reshape(1, -1)
    expected = reference.gemm(a, b)
    found = products.gemm(lib, a, b)
    assert_same_bits(found, expected)
    assert {0x7F800000, 0xFF800000, 0x7FC00000, 0, 0x80000000} <= set(bits(found).reshape(-1).tolist())


def test_error_against_binary64_is_that_of_a_chain(lib: Library) -> None:
    """|C - exact| <= k * 2^-24 * sum |a b| (Higham: a chain of k fused steps), and torch's own product is no better by
    more than that."""
    m, n, k = 40, 50, 1000
    a, b = draw("unit", (m, k), 1), draw("unit", (k, n), 2)
    exact = a.astype(numpy.float64) @ b.astype(numpy.float64)
    bound = k * 2.0**-24 * (numpy.abs(a).astype(numpy.float64) @ numpy.abs(b).astype(numpy.float64))
    found = products.gemm(lib, a, b)
    assert (numpy.abs(found - exact) <= bound).all()
    torch_error = numpy.abs((torch.from_numpy(a) @ torch.from_numpy(b)).numpy() - exact).max()
    assert numpy.abs(found - exact).max() < 20 * torch_error


def test_shapes_that_do_not_fit_are_refused(lib: Library) -> None:
    a = numpy.zeros((2, 3), numpy.float32)
    with pytest.raises(ValueError, match="a product of"):
        products.gemm(lib, a, a)
    with pytest.raises(ValueError, match="does not fit into"):
        products.gemm(lib, a, a.T, out=numpy.zeros((3, 3), numpy.float32))


def changed(
    isa: str, changes: list[tuple[str, str]], folder: Path, monkeypatch: pytest.MonkeyPatch, source: str = "gemm.c"
) -> Library:
    """A build of products and convolutions in which each old text of `source` is a new one."""
    native = folder / "native"
    native.mkdir()
    parts = (build.SOURCES / f"{name}.c" for name in ("gemm", "control", "parallel", "scratch"))
    for path in (*parts, *build.SOURCES.glob("conv*.c"), *build.SOURCES.glob("*.h")):
        shutil.copy(path, native)
    text = (native / source).read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"the source no longer says {old!r} once"
        text = text.replace(old, new)
    (native / source).write_text(text)
    monkeypatch.setattr(build, "SOURCES", native)
    return Library(isa, build.compile_build(isa, folder))


SMALL = [
    ("#define SLICE 256", "#define SLICE 8"),
    ("#define BLOCK_ROWS (TILE_ROWS * 24)", "#define BLOCK_ROWS (TILE_ROWS * 2)"),
    ("#define BLOCK_COLUMNS 512", "#define BLOCK_COLUMNS (TILE_COLUMNS * 2)"),
    ("#define SHARED_FLOATS ((int64_t)1 << 19)", "#define SHARED_FLOATS ((int64_t)1 << 10)"),
    ("#define SHARED_LANES 512", "#define SHARED_LANES 64"),
    ("#define WORTH_A_THREAD ((double)(1 << 19))", "#define WORTH_A_THREAD 1.0"),
    ("FEW_USES = 384", "FEW_USES = 40"),
    ("CROWDED = 512", "CROWDED = 5"),
]
"""Blocks of gemm.c so small that every boundary is crossed many times: what takes millions of numbers otherwise."""


@pytest.mark.parametrize("isa", build.runnable())
def test_every_boundary_of_blocks_crossed_many_times_changes_nothing(
    isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several rounds of rows, of columns and of k."""
    lib = changed(isa, SMALL, tmp_path, monkeypatch)
    for m, n, k in [*SHAPES, (100, 90, 80), (90, 100, 80), (160, 33, 150), (33, 160, 150)]:
        a, b, bias, expected = case("special", m, n, k)
        for threads in (1, 2, 5):
            lib.threads = threads
            assert_same_bits(products.gemm(lib, a, b, bias), expected)
    lib.threads = 1


TWO_ACCUMULATORS = [
    (
        "    for (int64_t k = 0; k < depth; k++) {\n        vf y[TILE_VECTORS];",
        "    vf odd[TILE_ROWS][TILE_VECTORS];\n    memset(odd, 0, sizeof odd);\n"
        "    for (int64_t k = 0; k < depth; k++) {\n        vf y[TILE_VECTORS];",
    ),
    (
        "acc[i][v] = vfma(x, y[v], acc[i][v]);",
        "{ vf *to = k & 1 ? &odd[i][v] : &acc[i][v]; *to = vfma(x, y[v], *to); }",
    ),
    ("vstore_n(c[v] + i * row_step, acc[i][v], last)", "vstore_n(c[v] + i * row_step, acc[i][v] + odd[i][v], last)"),
    ("vstore(c[v] + i * row_step, acc[i][v])", "vstore(c[v] + i * row_step, acc[i][v] + odd[i][v])"),
]
MUTATIONS = {
    "two accumulators": TWO_ACCUMULATORS,
    "two roundings": [("acc[i][v] = vfma(x, y[v], acc[i][v])", "acc[i][v] = x * y[v] + acc[i][v]")],
    "descending k": [
        ("    for (int64_t k = 0; k < depth; k++) {\n        vf y", "    a += (depth - 1) * (panel ? rows : 1);\n"
         "    b += (depth - 1) * vectors * VW;\n    for (int64_t k = 0; k < depth; k++) {\n        vf y"),
        ("        a += panel ? rows : 1;\n        b += vectors * VW;",
         "        a -= panel ? rows : 1;\n        b -= vectors * VW;"),
    ],
    "bias before the chain's end": [("block.last = it->k0 + k + block.depth == it->k;", "block.last = block.first;")],
    "slices summed apart": [
        ("acc[i][v] = v == vectors - 1 ? vload_n", "left[i][v] = v == vectors - 1 ? vload_n"),
        ("    vf acc[TILE_ROWS][TILE_VECTORS];",
         "    vf acc[TILE_ROWS][TILE_VECTORS], left[TILE_ROWS][TILE_VECTORS];\n    memset(left, 0, sizeof left);"),
        ("vstore_n(c[v] + i * row_step, acc[i][v], last)",
         "vstore_n(c[v] + i * row_step, acc[i][v] + left[i][v], last)"),
        ("vstore(c[v] + i * row_step, acc[i][v])", "vstore(c[v] + i * row_step, acc[i][v] + left[i][v])"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("isa", build.runnable())
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_changed_order_is_caught(mutation: str, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = changed(isa, MUTATIONS[mutation], tmp_path, monkeypatch)
    a, b, bias, expected = case("unit", 13, 33, 300)
    with pytest.raises(AssertionError, match="differ, first at"):
        assert_same_bits(products.gemm(lib, a, b, bias), expected)
