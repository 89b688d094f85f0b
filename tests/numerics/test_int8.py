"""Products of whole numbers: every build gives the twin's bits, no order of terms shows, shards give the whole."""

from __future__ import annotations

import shutil
from functools import cache
from itertools import combinations, pairwise
from itertools import product as every
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tolsey.numerics import build, int8, products
from tolsey.numerics.cuda import compile, launches
from tolsey.numerics.cuda.library import ISA, GpuLibrary
from tolsey.numerics.library import Library
from tolsey.numerics.products import Geometry
from tolsey.numerics.reference import int8 as reference

from . import emulated
from .numbers import F32, KINDS, SPECIAL, assert_same_bits, bits, draw

# Around tiles and vectors of every build, around 15 pairs, thin and flat, past one stretch.
SHAPES = [
    (1, 1, 1), (2, 3, 5), (4, 8, 16), (7, 9, 29), (13, 33, 31), (12, 32, 61), (25, 65, 33), (1, 70, 40), (70, 1, 40),
    (3, 40, 300), (40, 3, 300), (5, 6, 4100),
]  # fmt: skip
EMPTY = [(0, 3, 4), (3, 0, 4), (0, 0, 0), (3, 4, 0), (1, 1, 0)]
BOTH = pytest.mark.parametrize("slices", [2, 3])


@cache
def case(kind: str, m: int, n: int, k: int, slices: int) -> tuple[F32, F32, F32, F32]:
    """Operands, a bias for each column, and what the law makes of them."""
    a, b, bias = draw(kind, (m, k), 1), draw(kind, (k, n), 2), draw(kind, (n,), 3)
    return a, b, bias, reference.gemm(a, b, bias, slices=slices)


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_gemm_equals_twin(lib: Library, kind: str, slices: int) -> None:
    for shape in (*SHAPES, *EMPTY):
        a, b, bias, expected = case(kind, *shape, slices)
        assert_same_bits(products.gemm(int8.kernels(lib, slices), a, b, bias), expected)


@BOTH
def test_gemm_any_layout_gives_the_same_bits(lib: Library, slices: int) -> None:
    whole = int8.kernels(lib, slices)
    a, b, bias, expected = case("special", 13, 33, 300, slices)
    for left in (a, numpy.asfortranarray(a), numpy.repeat(a, 2, axis=1)[:, ::2]):
        for right in (b, numpy.asfortranarray(b), numpy.repeat(b, 2, axis=1)[:, ::2]):
            assert_same_bits(products.gemm(whole, left, right, bias), expected)
    out = numpy.empty((33, 13), numpy.float32).T
    assert_same_bits(products.gemm(whole, a, b, bias, out), expected)


@BOTH
def test_batch_equals_twin(lib: Library, slices: int) -> None:
    whole = int8.kernels(lib, slices)
    for batch, m, n, k in ((7, 13, 20, 33), (40, 5, 4, 3)):
        a, b = draw("wide", (batch, m, k), 1), draw("unit", (batch, k, n), 2)
        assert_same_bits(products.gemm(whole, a, b), reference.gemm(a, b, slices=slices))
        assert_same_bits(products.gemm(whole, a[0], b), reference.gemm(a[0], b, slices=slices))


@BOTH
@pytest.mark.parametrize("k", [300, 9000])
def test_order_of_terms_does_not_show(lib: Library, k: int, slices: int) -> None:
    whole = int8.kernels(lib, slices)
    a, b = draw("cancelling", (13, k), 1), draw("wide", (k, 33), 2)
    once, chain = products.gemm(whole, a, b), products.gemm(lib, a, b)
    for seed in range(3):
        order = numpy.random.default_rng(seed).permutation(k)
        assert_same_bits(products.gemm(whole, a[:, order], b[order]), once)
        assert (products.gemm(lib, a[:, order], b[order]) != chain).any(), "the chain has an order"


@BOTH
def test_many_terms_equal_twin(lib: Library, slices: int) -> None:
    """A million; on a GPU, which may be emulated, more than its kernels add in 32 bits."""
    k = 1_000_000 if lib.isa != ISA else launches.DEPTH_AT_ONCE + 5000
    a, b, expected, order = many(k, slices)
    whole = int8.kernels(lib, slices)
    assert_same_bits(products.gemm(whole, a, b), expected)
    assert_same_bits(products.gemm(whole, a[:, order], b[order]), expected)


@cache
def many(k: int, slices: int) -> tuple[F32, F32, F32, Any]:
    """Three rows that add up to all 62 bits, nearly cancel, and have outliers."""
    a, b = draw("unit", (3, k), 1), draw("unit", (k, 2), 2)
    a[0], b[:, 0] = 1.99, numpy.abs(b[:, 0]) % 0.5 + 1.49
    a[1] = draw("cancelling", (k,), 3)
    a[2, ::1000] *= 1e4
    return a, b, reference.gemm(a, b, slices=slices), numpy.random.default_rng(5).permutation(k)


@BOTH
@pytest.mark.parametrize("sign", [1, -1])
def test_largest_whole_numbers_do_not_overflow(lib: Library, sign: int, slices: int) -> None:
    """Just below a power of two rounds up to it: |A_k| = 2^(p + 1) in every place."""
    largest = numpy.nextafter(numpy.float32(2), numpy.float32(0))
    for k in (15, 30, 31, 32, 64, 4096, 4097, 20_000):
        a, b = numpy.full((13, k), sign * largest), numpy.full((k, 33), largest)
        assert_same_bits(
            products.gemm(int8.kernels(lib, slices), a, b), numpy.full((13, 33), sign * 4.0 * k, numpy.float32)
        )


@BOTH
def test_not_finite_makes_its_row_or_column_nan_and_no_other(lib: Library, slices: int) -> None:
    a, b = draw("unit", (20, 50), 1), draw("unit", (50, 40), 2)
    clean = products.gemm(int8.kernels(lib, slices), a, b)
    a[3, 7], a[11, 49], b[0, 5], b[49, 39] = numpy.inf, numpy.nan, -numpy.inf, SPECIAL[8]
    expected = clean.copy()
    expected[[3, 11]] = expected[:, [5, 39]] = numpy.nan
    assert_same_bits(products.gemm(int8.kernels(lib, slices), a, b), expected)
    a[:], b[:] = 0, numpy.inf
    assert numpy.isnan(products.gemm(int8.kernels(lib, slices), a, b)).all()


@BOTH
def test_zeros_and_rests_have_the_laws_signs(lib: Library, slices: int) -> None:
    zero, tiny = numpy.float32(-0.0), numpy.float32(2.0**-149)
    whole = int8.kernels(lib, slices)
    assert not numpy.signbit(products.gemm(whole, numpy.full((3, 2), zero), numpy.ones((2, 3), numpy.float32))).any()
    cancelled = numpy.array([[1.5, -1.5]], numpy.float32)
    assert not numpy.signbit(products.gemm(whole, cancelled, numpy.ones((2, 1), numpy.float32))).any()
    below = products.gemm(whole, numpy.full((1, 1), -tiny), numpy.full((1, 1), tiny))
    assert below[0, 0] == 0 and numpy.signbit(below[0, 0]), "rounded to zero, it keeps its sign"


@cache
def meeting(slices: int) -> tuple[F32, F32, F32]:
    scales = numpy.ldexp(numpy.float32(1.37), numpy.arange(-149, 128)).astype(numpy.float32)
    column = numpy.concatenate([SPECIAL, scales, -scales])[:, None]
    row = numpy.concatenate([SPECIAL, scales[::9]])[None]
    return column, row, reference.gemm(column, row, slices=slices)


@BOTH
def test_special_values_and_scales_meet_each_other(lib: Library, slices: int) -> None:
    column, row, expected = meeting(slices)
    assert_same_bits(products.gemm(int8.kernels(lib, slices), column, row), expected)
    assert {0x7F800000, 0xFF800000, 0x7FC00000, 0, 0x80000000, 1} <= set(bits(expected).reshape(-1).tolist())


def test_more_terms_than_the_law_allows_are_refused(lib: Library) -> None:
    one = numpy.ones((1, 1), numpy.float32)
    k = int8.MOST_TERMS + 1
    for slices in (2, 3):
        with pytest.raises(ValueError, match="refused its arguments"):
            products.gemm(int8.kernels(lib, slices), numpy.broadcast_to(one, (1, k)), numpy.broadcast_to(one, (k, 1)))
    with pytest.raises(ValueError, match="refused its arguments"):
        products.gemm(int8.kernels(lib, 4), one, one)


GEOMETRIES = [
    dict(x=(2, 6, 9), w=(4, 3, 3), stride=[2], padding=[1], dilation=[1], groups=2),
    dict(x=(3, 5, 11, 10), w=(7, 5, 3, 3), stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1),
    dict(x=(2, 4, 13, 12), w=(6, 2, 3, 2), stride=[2, 3], padding=[2, 0], dilation=[2, 1], groups=2),
    dict(x=(1, 3, 20, 40), w=(18, 3, 1, 5), stride=[1, 1], padding=[0, 2], dilation=[1, 1], groups=1),
    dict(x=(2, 2, 5, 4, 6), w=(3, 2, 2, 3, 2), stride=[1, 2, 1], padding=[1, 1, 0], dilation=[1, 1, 2], groups=1),
    dict(x=(2, 3, 6, 7), w=(3, 1, 3, 3), stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=3),
]


@cache
def convolved(place: int, kind: str, slices: int) -> tuple[Geometry, dict[str, F32], dict[str, F32]]:
    """A geometry, operands, and what the law makes of them in the three directions."""
    it: dict[str, Any] = dict(GEOMETRIES[place])
    x_shape, w_shape = it.pop("x"), it.pop("w")
    shape = Geometry.of(x_shape, w_shape, **it)
    x, weight = draw(kind, x_shape, 1), draw(kind, w_shape, 2)
    gradient, bias = draw(kind, shape.output_shape, 3), draw(kind, (w_shape[0],), 4)
    back, size, kernel = draw(kind, (x_shape[1],), 5), x_shape[2:], w_shape[2:]
    given = {"x": x, "weight": weight, "gradient": gradient, "bias": bias, "back": back}
    return shape, given, {
        "forward": reference.convolution(x, weight, bias, **it, slices=slices),
        "input": reference.convolution_backward_input(gradient, weight, back, size, **it, slices=slices),
        "weight": reference.convolution_backward_weight(gradient, x, kernel, **it, slices=slices),
    }  # fmt: skip


@BOTH
@pytest.mark.parametrize("kind", ["unit", "special"])
@pytest.mark.parametrize("place", range(len(GEOMETRIES)))
def test_convolution_equals_twin_in_all_directions(lib: Library, place: int, kind: str, slices: int) -> None:
    shape, given, expected = convolved(place, kind, slices)
    whole = int8.kernels(lib, slices)
    x, weight, gradient = given["x"], given["weight"], given["gradient"]
    assert_same_bits(products.convolution(whole, shape, x, weight, given["bias"]), expected["forward"])
    found = products.convolution_backward_input(whole, shape, gradient, weight, given["back"])
    assert_same_bits(found, expected["input"])
    assert_same_bits(products.convolution_backward_weight(whole, shape, gradient, x), expected["weight"])


@BOTH
def test_rounding_of_sums_is_one_rounding(lib: Library, slices: int) -> None:
    """Halves of binary32, and one beside them, at every size of a sum and at both ends of the range."""
    halves = [(1 << size) + (1 << size - 24) * odd for size in range(25, 62) for odd in (1, 3)]
    known = [n + beside for n in (*halves, 1, 2, 3, (1 << 53) - 1) for beside in (-1, 0, 1)]
    sums = numpy.array([known, [-n for n in known]], numpy.int64)
    for pair in ((0, 0), (-149, 127), (-130, 20), (-140, -20), (127, 80), (127, 127), (128, 0), (0, -150)):
        e_a = numpy.full(2, pair[0], numpy.int32)
        e_b = numpy.full(len(known), pair[1], numpy.int32)
        expected = reference.rounded(sums, e_a, e_b, slices)
        assert_same_bits(int8.rounded(lib, sums, e_a, e_b, slices=slices), expected)


@BOTH
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_shards_of_a_product_give_the_whole(lib: Library, shards: int, kind: str, slices: int) -> None:
    """Maxima first, then sums of integers, both taken in an order of their own."""
    a, b = draw(kind, (600, 13), 1).T, draw(kind, (600, 33), 2)
    cuts = [0, *sorted(numpy.random.default_rng(shards).choice(600, shards - 1, replace=False)), 600]
    parts = [slice(*cut) for cut in pairwise(cuts)]
    e_a = numpy.max([int8.exponents(lib, a[:, part]) for part in parts], axis=0)
    e_b = numpy.max([int8.exponents(lib, b[part].T) for part in parts], axis=0)
    assert (e_a == reference.exponents(a)).all() and (e_b == reference.exponents(b.T)).all()
    sums = numpy.zeros((13, 33), numpy.int64)
    for part in reversed(parts):
        int8.add_terms(lib, a[:, part], b[part], e_a, e_b, sums, slices=slices)
    found = int8.rounded(lib, sums, e_a, e_b, slices=slices)
    assert_same_bits(found, products.gemm(int8.kernels(lib, slices), a, b))


def test_terms_above_their_exponent_are_refused(lib: Library) -> None:
    a, b, sums = draw("unit", (3, 5)), draw("unit", (5, 4)), numpy.zeros((3, 4), numpy.int64)
    e_a, e_b = int8.exponents(lib, a), int8.exponents(lib, b.T)
    with pytest.raises(ValueError, match="above the exponent"):
        int8.add_terms(lib, a, b, e_a - 1, e_b, sums, slices=2)
    with pytest.raises(ValueError, match="exponents of 3 and 3 lanes"):
        int8.add_terms(lib, a, b, e_a, e_a, sums, slices=2)
    assert not sums.any()


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="integer matrix units want a CUDA device")


@BOTH
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_any_product_of_8_bit_integers_computes_the_law(device: str, slices: int) -> None:
    """Section 3: Karatsuba's products of digits and of sums of two, by PyTorch's integer product."""
    a, b = draw("unit", (32, 512), 1), draw("unit", (512, 48), 2)
    e_a, e_b = reference.exponents(a), reference.exponents(b.T)
    whole_a, whole_b = reference.whole(a, e_a, slices), reference.whole(b.T, e_b, slices)
    left, right = reference.digits(whole_a, slices), reference.digits(whole_b, slices)

    def product(x: Any, y: Any) -> Any:
        assert max(abs(x.min()), x.max() + 1, abs(y.min()), y.max() + 1) <= 128
        left, right = (torch.from_numpy(digit.astype(numpy.int8)).to(device) for digit in (x, y))
        return torch._int_mm(left, right.t()).cpu().numpy().astype(numpy.int64)

    squares = [product(x, y) for x, y in zip(left, right, strict=True)]
    total = sum(square << 14 * (slices - 1 - i) for i, square in enumerate(squares))
    for i, j in combinations(range(slices), 2):
        cross = product(left[i] + left[j], right[i] + right[j]) - squares[i] - squares[j]
        total += cross << 7 * (2 * slices - 2 - i - j)
    assert (total == reference.sums(whole_a, whole_b)).all()
    assert_same_bits(reference.rounded(total, e_a, e_b, slices), reference.gemm(a, b, slices=slices))


def test_digits_stay_in_their_range() -> None:
    for slices in (2, 3):
        largest = 1 << 7 * slices - 1
        numbers = numpy.unique(numpy.concatenate([numpy.arange(-5000, 5000), largest - numpy.arange(9000)]))
        numbers = numpy.concatenate([numbers, -numbers])
        found = reference.digits(numbers, slices)
        assert (sum(digit << 7 * (slices - 1 - i) for i, digit in enumerate(found)) == numbers).all()
        assert all(numpy.abs(found[0]) <= 64) and all(((d >= -64) & (d <= 63)).all() for d in found[1:])


def test_error_is_that_of_rounded_operands(lib: Library) -> None:
    """A term's rounding error is half a unit of its row; more slices make it 128 times less."""
    a, b = draw("unit", (40, 1000), 1), draw("unit", (1000, 50), 2)
    exact = a.astype(numpy.float64) @ b.astype(numpy.float64)
    size = numpy.linalg.norm(exact)
    errors = [numpy.linalg.norm(products.gemm(int8.kernels(lib, slices), a, b) - exact) / size for slices in (2, 3)]
    assert 5e-5 < errors[0] < 4e-4 and errors[1] < errors[0] / 60


def changed(isa: str, changes: list[tuple[str, str]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A build of the products in which each old text of int8.c or its tile is a new one; quickly compiled."""
    native = folder / "native"
    native.mkdir()
    parts = (build.SOURCES / f"{name}.c" for name in ("gemm", "control", "parallel", "scratch"))
    for path in (*parts, *build.SOURCES.glob("conv*.c"), *build.SOURCES.glob("*.h")):
        shutil.copy(path, native)
    texts = {name: (build.SOURCES / name).read_text() for name in ("int8.c", "int8_tile.h", "whole.h")}
    for old, new in changes:
        assert sum(text.count(old) for text in texts.values()) == 1, f"the source no longer says {old!r} once"
        texts = {name: text.replace(old, new) for name, text in texts.items()}
    for name, text in texts.items():
        (native / name).write_text(text)
    monkeypatch.setattr(build, "SOURCES", native)
    monkeypatch.setattr(build, "COMMON_FLAGS", tuple("-O0" if f == "-O3" else f for f in build.COMMON_FLAGS))
    return Library(isa, build.compile_build(isa, folder))


NO_VNNI = ('return __builtin_cpu_supports("avx512vnni")', "return 0")


@pytest.mark.parametrize("isa", build.runnable())
def test_boundaries_crossed_many_times_and_a_cpu_without_vnni_change_nothing(
    isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes millions of numbers otherwise: several stretches, rounds and blocks."""
    small = [
        ("#define STRETCH 4096", "#define STRETCH 36"),
        ("#define SHARED_BYTES ((int64_t)16 << 20)", "#define SHARED_BYTES 3000"),
        ("#define SUMS_BYTES ((int64_t)16 << 20)", "#define SUMS_BYTES 3000"),
        ("#define BLOCK_BYTES ((int64_t)256 << 10)", "#define BLOCK_BYTES 3000"),
        ("#define WORTH_A_THREAD ((double)(1 << 19))", "#define WORTH_A_THREAD 1.0"),
        NO_VNNI,
    ]
    lib = changed(isa, small, tmp_path, monkeypatch)
    for threads in (1, 2, 5):
        lib.threads = threads
        for slices in (2, 3):
            whole = int8.kernels(lib, slices)
            for kind in ("unit", "special"):
                for shape in (*SHAPES, (100, 90, 80), (90, 100, 36)):
                    a, b, bias, expected = case(kind, *shape, slices)
                    assert_same_bits(products.gemm(whole, a, b, bias), expected)
            shape_, given, expected_ = convolved(2, "unit", slices)
            found = products.convolution_backward_weight(whole, shape_, given["gradient"], given["x"])
            assert_same_bits(found, expected_["weight"])
    lib.threads = 1


@BOTH
def test_cuts_of_a_gpu_change_nothing(slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes many numbers otherwise: rounds of rows, columns, batch and terms, and blocks that share terms."""
    for name, small in (("DEPTH_AT_ONCE", 96), ("DEPTH_WORTH_A_BLOCK", 32), ("DIGITS_BYTES", 40_000)):
        monkeypatch.setattr(launches, name, small)
    monkeypatch.setattr(launches, "ROWS_OF_SUMS", 64)
    monkeypatch.setattr(launches, "COLUMNS_OF_SUMS", 128)
    for multiprocessors in (1, 12):
        lib = emulated.library_on(multiprocessors)
        whole = int8.kernels(lib, slices)
        for shape in ((13, 33, 31), (140, 270, 40), (150, 200, 230), (70, 3, 300), (3, 4, 0)):
            a, b, bias, expected = case("special", *shape, slices)
            assert_same_bits(products.gemm(whole, a, b, bias), expected)
        a, b = draw("wide", (7, 13, 200), 1), draw("unit", (7, 200, 20), 2)
        assert_same_bits(products.gemm(whole, a, b), reference.gemm(a, b, slices=slices))
        for place in (1, 2):
            shape_, given, expected_ = convolved(place, "special", slices)
            found = products.convolution(whole, shape_, given["x"], given["weight"], given["bias"])
            assert_same_bits(found, expected_["forward"])
            found = products.convolution_backward_weight(whole, shape_, given["gradient"], given["x"])
            assert_same_bits(found, expected_["weight"])
        a, b, e_a, e_b = draw("unit", (150, 230), 1), draw("unit", (230, 200), 2), *([3] * 150, [3] * 200)
        exponents = [numpy.array(e, numpy.int32) for e in (e_a, e_b)]
        sums = numpy.ones((150, 200), numpy.int64)
        int8.add_terms(lib, a, b, *exponents, sums, slices=slices)
        wholes = (reference.whole(lanes, e, slices) for lanes, e in zip((a, b.T), exponents, strict=True))
        assert (sums == reference.sums(*wholes) + 1).all()


@BOTH
def test_matrix_units_of_an_older_gpu_change_nothing(slices: int, tmp_path: Path) -> None:
    """Compute capability 7.5: units of 8 x 8 x 16, and copies that are not beside the work; a tile half as large."""
    made = emulated.compile_units(tmp_path, compile.SOURCES, ["int8"], "-D__CUDA_ARCH__=750")
    whole = int8.kernels(GpuLibrary(emulated.Emulated(made)), slices)
    for shape in ((13, 33, 31), (140, 270, 70)):
        a, b, bias, expected = case("special", *shape, slices)
        assert_same_bits(products.gemm(whole, a, b, bias), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_terms_of_a_convolution_are_counted_as_the_kernel_counts_them(
    groups: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bound of 8 terms the kernel refuses those directions in which a geometry says that it has more."""
    bound = ("#define MOST_DEPTH ((int64_t)1 << 22)", "#define MOST_DEPTH 8")
    whole = int8.kernels(changed(build.runnable()[0], [bound], tmp_path, monkeypatch), 2)
    seen = set()
    for channels, kernel, stride, dilation, out in every((1, 2, 3), (1, 4, 5), (1, 2, 3), (1, 2, 3), (1, 9)):
        size = (out - 1) * stride + dilation * (kernel - 1) + 1 + 2
        x, weight = (1, groups * channels, max(size, stride)), (groups * channels, channels, kernel)
        shape = Geometry.of(x, weight, stride=[stride], padding=[0], dilation=[dilation], groups=groups)
        numbers = draw("unit", x, 1), draw("unit", weight, 2), draw("unit", shape.output_shape, 3)
        for direction, terms in enumerate(shape.terms):
            assert is_refused(whole, shape, direction, *numbers) == (terms > 8), (shape, direction)
            seen.add((direction, terms > 8))
    assert len(seen) == 6, "both answers in all directions"


def is_refused(lib: Library, shape: Geometry, direction: int, x: F32, weight: F32, gradient: F32) -> bool:
    calls = products.convolution, products.convolution_backward_input, products.convolution_backward_weight
    try:
        calls[direction](lib, shape, *((x, weight), (gradient, weight), (gradient, x))[direction])
    except ValueError:
        return True
    return False


MUTATIONS = {
    "carried too late": [("#define PAIRS_UNTIL_CARRY 15", "#define PAIRS_UNTIL_CARRY 40"), NO_VNNI],
    "terms cut, not rounded": [("return vtoi(vround(", "return vtoi((")],
    "exponents of the last stretch": [
        ("largest(numbers, here,", "memset(sizes, 0, sizeof sizes), largest(numbers, here,")
    ],
    "sums cut to binary64": [("(sum & 1023) ? 512 : 0", "0")],
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_changed_arithmetic_is_caught(mutation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = changed(build.runnable()[0], MUTATIONS[mutation], tmp_path, monkeypatch)
    check = {
        "carried too late": lambda: test_largest_whole_numbers_do_not_overflow(lib, 1, 2),
        "exponents of the last stretch": lambda: test_large_terms_of_one_stretch_set_the_exponent_of_all(lib, 2),
        "sums cut to binary64": lambda: test_rounding_of_sums_is_one_rounding(lib, 3),
        "terms cut, not rounded": lambda: test_batch_equals_twin(lib, 2),
    }
    with pytest.raises(AssertionError, match="differ, first at"):
        check[mutation]()


@BOTH
def test_large_terms_of_one_stretch_set_the_exponent_of_all(lib: Library, slices: int) -> None:
    """Large terms first, small ones after: one exponent holds for all."""
    a, b = draw("unit", (4, 9000), 1), draw("unit", (9000, 5), 2)
    a[:, :4000] *= 1000
    expected = reference.gemm(a, b, slices=slices)
    assert_same_bits(products.gemm(int8.kernels(lib, slices), a, b), expected)
