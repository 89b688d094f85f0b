"""Convolutions: forward, both gradients and the transposed ones equal the plain chain in every build, and mean what
torch means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tolsey.numerics import build, products
from tolsey.numerics.library import Library
from tolsey.numerics.products import Geometry
from tolsey.numerics.reference import products as reference

from . import emulated
from .numbers import F32, assert_same_bits, draw
from .test_products import SMALL, changed


@dataclass(frozen=True)
class Case:
    """An ordinary convolution by its shapes."""

    images: int
    groups: int
    channels_in: int  # of a group
    channels_out: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def geometry(self) -> Geometry:
        return Geometry.of(
            (self.images, self.groups * self.channels_in, *self.size),
            (self.groups * self.channels_out, self.channels_in, *self.kernel),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    @property
    def steps(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
        return self.stride, self.padding, self.dilation, self.groups


CASES = {
    "1d": Case(2, 1, 3, 5, (20,), (3,), (1,), (1,), (1,)),
    "1d long, stride, dilation": Case(1, 2, 2, 3, (70,), (5,), (3,), (4,), (2,)),
    "2d same": Case(3, 1, 4, 13, (9, 11), (3, 3), (1, 1), (1, 1), (1, 1)),
    "2d wide": Case(2, 1, 2, 3, (3, 80), (3, 3), (1, 1), (1, 1), (1, 1)),
    "2d images of two pixels": Case(9, 1, 17, 33, (1, 2), (1, 1), (1, 1), (0, 0), (1, 1)),
    "2d pointwise, stride": Case(2, 1, 20, 7, (6, 7), (1, 1), (2, 2), (0, 0), (1, 1)),
    "2d stride beyond the kernel": Case(2, 1, 3, 3, (8, 7), (2, 1), (3, 3), (0, 1), (1, 1)),
    "2d uneven": Case(2, 2, 2, 4, (11, 10), (3, 2), (2, 3), (1, 0), (1, 2)),
    "2d padding beyond the kernel": Case(1, 1, 2, 2, (3, 3), (2, 2), (1, 1), (4, 4), (1, 1)),
    "2d depthwise": Case(2, 6, 1, 1, (9, 9), (3, 3), (2, 2), (1, 1), (1, 1)),
    "2d depthwise same": Case(3, 4, 1, 1, (7, 9), (3, 3), (1, 1), (1, 1), (1, 1)),
    "2d one channel in": Case(2, 1, 1, 5, (9, 20), (5, 5), (1, 1), (2, 2), (1, 1)),
    "2d one channel out, dilation": Case(2, 1, 5, 1, (6, 11), (3, 3), (1, 1), (2, 2), (2, 2)),
    "2d one channel, large window": Case(1, 1, 1, 1, (8, 9), (7, 7), (1, 1), (3, 3), (1, 1)),
    "3d one channel out": Case(2, 1, 3, 1, (3, 4, 5), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "2d many groups": Case(1, 9, 2, 3, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    "2d whole image": Case(2, 1, 3, 4, (6, 5), (6, 5), (1, 1), (0, 0), (1, 1)),
    "2d stride that divides nothing": Case(1, 1, 2, 2, (9, 9), (3, 3), (4, 4), (0, 0), (2, 2)),
    "3d": Case(2, 1, 2, 3, (5, 6, 7), (2, 3, 3), (2, 1, 2), (1, 2, 0), (1, 1, 1)),
    # Gradients of the weight that are read where the input lies: windows three wide, channels out for a vector or more.
    "1d three wide": Case(3, 1, 5, 35, (30,), (3,), (1,), (1,), (1,)),
    "1d three wide, rows beyond a slice": Case(2, 1, 1, 16, (600,), (3,), (2,), (0,), (1,)),
    "2d three wide": Case(3, 1, 5, 50, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    "2d three wide, stride, groups": Case(2, 2, 3, 17, (9, 8), (2, 3), (2, 2), (1, 0), (2, 1)),
    "2d three wide, padding beyond the window": Case(2, 1, 2, 16, (3, 2), (1, 3), (1, 1), (2, 4), (1, 1)),
    "2d three wide, padding beyond the input": Case(1, 1, 2, 16, (1, 1), (3, 3), (1, 5), (1, 7), (1, 1)),
    "3d three wide": Case(2, 1, 2, 24, (4, 3, 5), (3, 2, 3), (1, 1, 2), (1, 0, 1), (1, 2, 1)),
    # Positions that are read where they lie: whole vectors of them in a line, and more than gemm.c's FEW_USES.
    "2d lying": Case(2, 1, 3, 5, (8, 32), (3, 3), (1, 1), (1, 1), (1, 1)),
    "2d lying, groups, no padding": Case(2, 2, 2, 14, (9, 34), (3, 3), (1, 1), (0, 0), (1, 1)),
    "2d lying, stride of lines, dilation": Case(3, 1, 3, 2, (20, 16), (2, 3), (2, 1), (1, 2), (2, 2)),
    "2d lying, in the gradient of a stride": Case(3, 1, 3, 4, (18, 64), (3, 3), (2, 2), (1, 1), (1, 1)),
    "2d lying, padding beyond the window": Case(2, 1, 2, 3, (20, 11), (2, 2), (1, 1), (3, 3), (1, 1)),
    "3d lying": Case(2, 1, 2, 3, (3, 5, 16), (2, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "no image": Case(0, 1, 2, 3, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    "no channel": Case(2, 1, 0, 3, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
}


@cache
def solved(name: str, kind: str) -> dict[str, F32]:
    """Operands and what the law makes of them."""
    return solve(CASES[name], kind, seed=0)


def solve(case: Case, kind: str, seed: int) -> dict[str, F32]:
    shape = case.geometry
    x, weight = draw(kind, shape.input_shape, seed + 1), draw(kind, shape.weight_shape, seed + 2)
    gradient = draw(kind, shape.output_shape, seed + 3)
    bias_out = draw(kind, shape.weight_shape[:1], seed + 4)
    bias_in = draw(kind, shape.input_shape[1:2], seed + 5)
    return {
        "x": x,
        "weight": weight,
        "gradient": gradient,
        "bias_out": bias_out,
        "bias_in": bias_in,
        "forward": reference.convolution(x, weight, bias_out, *case.steps),
        "backward_input": reference.convolution_backward_input(gradient, weight, bias_in, case.size, *case.steps),
        "backward_weight": reference.convolution_backward_weight(gradient, x, case.kernel, *case.steps),
    }


def check(lib: Library, case: Case, all_: dict[str, F32]) -> None:
    shape = case.geometry
    assert_same_bits(products.convolution(lib, shape, all_["x"], all_["weight"], all_["bias_out"]), all_["forward"])
    assert_same_bits(
        products.convolution_backward_input(lib, shape, all_["gradient"], all_["weight"], all_["bias_in"]),
        all_["backward_input"],
    )
    assert_same_bits(
        products.convolution_backward_weight(lib, shape, all_["gradient"], all_["x"]), all_["backward_weight"]
    )


@pytest.mark.parametrize("name", CASES)
def test_weights_gradient_in_a_large_gpu_s_small_tiles_is_the_law_s(name: str) -> None:
    lib, all_ = emulated.library_on(1000), solved(name, "special")
    found = products.convolution_backward_weight(lib, CASES[name].geometry, all_["gradient"], all_["x"])
    assert_same_bits(found, all_["backward_weight"])


@pytest.mark.parametrize("kind", ["unit", "special", "tiny"])
@pytest.mark.parametrize("name", CASES)
def test_convolution_and_gradients_equal_reference(lib: Library, name: str, kind: str) -> None:
    check(lib, CASES[name], solved(name, kind))


DIMENSION = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dimensions=st.lists(DIMENSION, min_size=1, max_size=3),
    images=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
def test_any_convolution_equals_reference(
    lib: Library,
    dimensions: list[tuple[int, int, int, int, int]],
    images: int,
    channels: tuple[int, int, int],
    seed: int,
) -> None:
    size, kernel, stride, padding, dilation = (tuple(part) for part in zip(*dimensions, strict=True))
    size = tuple(max(n, d * (k - 1) + 1 - 2 * p) for n, k, p, d in zip(size, kernel, padding, dilation, strict=True))
    case = Case(images, *channels, size, kernel, stride, padding, dilation)
    check(lib, case, solve(case, "special", seed))


def test_convolution_of_many_images_is_that_of_each(lib: Library) -> None:
    """Tiles straddle images; threads split them."""
    case = Case(70, 1, 8, 24, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1))
    x, weight = draw("unit", case.geometry.input_shape, 1), draw("unit", case.geometry.weight_shape, 2)
    whole = products.convolution(lib, case.geometry, x, weight)
    one = Case(1, 1, 8, 24, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1))
    for image in (0, 1, 33, 69):
        assert_same_bits(
            whole[image : image + 1], products.convolution(lib, one.geometry, x[image : image + 1], weight)
        )


@pytest.mark.parametrize("output_padding", [(0, 0), (1, 0), (1, 1)])
def test_transposed_convolution_is_the_other_ones_gradient(lib: Library, output_padding: tuple[int, int]) -> None:
    x, weight = draw("unit", (2, 6, 5, 7), 1), draw("unit", (6, 2, 3, 2), 2)
    bias = draw("unit", (4,), 3)
    steps = {"stride": (2, 3), "padding": (1, 0), "dilation": (1, 2), "groups": 2}
    shape = Geometry.of_transposed(x.shape, weight.shape, output_padding=output_padding, **steps)
    found = products.convolution_backward_input(lib, shape, x, weight, bias)
    wide = [torch.from_numpy(t.astype(numpy.float64)).requires_grad_() for t in (x, weight, bias)]
    out = torch.nn.functional.conv_transpose2d(*wide, output_padding=output_padding, **steps)
    assert found.shape == tuple(out.shape)
    numpy.testing.assert_allclose(found, out.detach().numpy(), rtol=0, atol=2e-5)
    gradient = draw("unit", found.shape, 4)
    out.backward(torch.from_numpy(gradient.astype(numpy.float64)))
    assert wide[0].grad is not None and wide[1].grad is not None
    numpy.testing.assert_allclose(
        products.convolution(lib, shape, gradient, weight), wide[0].grad.numpy(), rtol=0, atol=2e-5
    )
    numpy.testing.assert_allclose(
        products.convolution_backward_weight(lib, shape, x, gradient), wide[1].grad.numpy(), rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("no ")])
def test_convolution_and_gradients_agree_with_autograd_in_binary64(lib: Library, name: str) -> None:
    """Within n * 2^-24 of the sum of sizes, n the length of the chain: the bound of a chain."""
    case, all_ = CASES[name], solved(name, "unit")
    wide = [torch.from_numpy(all_[part].astype(numpy.float64)).requires_grad_() for part in ("x", "weight", "bias_out")]
    large = [tensor.detach().abs().requires_grad_() for tensor in wide]
    results = []
    for tensors, sign in ((wide, 1), (large, 0)):
        out = torch.ops.aten.convolution(
            *tensors, case.stride, case.padding, case.dilation, False, [0] * len(case.size), case.groups
        )
        gradient = torch.from_numpy(all_["gradient"].astype(numpy.float64))
        out.backward(gradient if sign else gradient.abs())
        assert tensors[0].grad is not None and tensors[1].grad is not None
        results.append([t.detach().numpy() for t in (out, tensors[0].grad, tensors[1].grad)])
    shape = case.geometry
    found = [
        products.convolution(lib, shape, all_["x"], all_["weight"], all_["bias_out"]),
        products.convolution_backward_input(lib, shape, all_["gradient"], all_["weight"]),
        products.convolution_backward_weight(lib, shape, all_["gradient"], all_["x"]),
    ]
    window = int(numpy.prod(case.kernel))
    lengths = [case.channels_in * window, case.channels_out * window, case.images * int(numpy.prod(shape.out))]
    for mine, exact, size, length in zip(found, *results, lengths, strict=True):
        assert mine.shape == exact.shape
        assert (numpy.abs(mine - exact) <= (length + 2) * 2.0**-24 * size).all()


@pytest.mark.parametrize("isa", build.runnable())
def test_every_boundary_of_blocks_crossed_many_times_changes_nothing(
    isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = changed(isa, SMALL, tmp_path, monkeypatch)
    for name in CASES:
        for threads in (1, 2, 5):
            lib.threads = threads
            check(lib, CASES[name], solved(name, "special"))
    lib.threads = 1


@pytest.mark.parametrize("isa", build.runnable())
@pytest.mark.parametrize(
    ("mutation", "new"),
    [("another tap", "depths[k ? k - 1 : k]"), ("another line", "(depths[k] & ~15)"), ("the order given", "depths[k]")],
)
def test_positions_read_from_another_place_are_seen(
    mutation: str, new: str, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the cases do read positions where they lie, and would see it if they were read elsewhere."""
    lib = changed(isa, [("lying[v] + depths[k]", f"lying[v] + {new}")], tmp_path, monkeypatch)
    names = [name for name in CASES if "lying" in name]
    wrong = []
    for name in names:
        try:
            check(lib, CASES[name], solved(name, "unit"))
        except AssertionError:
            wrong.append(name)
    assert wrong == ([] if mutation == "the order given" else names)


THREE_WIDE = [name for name in CASES if "three wide" in name]


@pytest.mark.parametrize("isa", build.runnable())
def test_every_boundary_of_the_weights_gradient_crossed_many_times_changes_nothing(
    isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes millions of numbers otherwise: several rounds of images, slices of rows, blocks of lines."""
    small = [
        ("#define SLICE 256", "#define SLICE 12"),
        ("#define BLOCK_LINES (LINES * 24)", "#define BLOCK_LINES (LINES * 2)"),
        ("#define ROUND_FLOATS MOST_FRAME_FLOATS", "#define ROUND_FLOATS ((int64_t)5000)"),
        (
            "int threads = tolsey_threads_worth((double)it.lines",
            "int threads = tolsey_threads_worth(1e9 * (double)it.lines",
        ),
    ]
    lib = changed(isa, small, tmp_path, monkeypatch, "conv_weight.c")
    for name in THREE_WIDE:
        all_ = solved(name, "special")
        for threads in (1, 2, 5):
            lib.threads = threads
            found = products.convolution_backward_weight(lib, CASES[name].geometry, all_["gradient"], all_["x"])
            assert_same_bits(found, all_["backward_weight"])
    lib.threads = 1


MUTATIONS = {
    "two accumulators": [
        ("    for (int64_t r = 0; r < rows; r++) {\n        const float *a[LINES];",
         "    vf odd[LINES * TAPS][VECTORS];\n    memset(odd, 0, sizeof odd);\n"
         "    for (int64_t r = 0; r < rows; r++) {\n        const float *a[LINES];"),
        ("acc[i][v] = vfma(y[v], x, acc[i][v]);",
         "{ vf *to = k & 1 ? &odd[i][v] : &acc[i][v]; *to = vfma(y[v], x, *to); }"),
        ("vstore(sums + (i * vectors + v) * VW, acc[i][v]);",
         "vstore(sums + (i * vectors + v) * VW, acc[i][v] + odd[i][v]);"),
    ],
    "two roundings": [("acc[i][v] = vfma(y[v], x, acc[i][v])", "acc[i][v] = y[v] * x + acc[i][v]")],
    "descending places": [
        ("        for (int64_t k = 0; k < width; k++) {\n            vf y",
         "        for (int l = 0; l < lines; l++) a[l] += (width - 1) * step;\n"
         "        b += (width - 1) * vectors * VW;\n        for (int64_t k = 0; k < width; k++) {\n            vf y"),
        ("a[l] += step;\n            b += vectors * VW;\n        }",
         "a[l] -= step;\n            b -= vectors * VW;\n        }\n        b += (width + 1) * vectors * VW;"),
    ],
    "slices summed apart": [
        ("it->image0 == 0 && row == 0", "1"),
        ("    int64_t c_step = it->lines * TAPS;",
         "    int64_t c_step = it->lines * TAPS;\n    float total[BLOCK_LINES * TAPS * COLUMNS] = {0};"),
        ("        }\n    }\n    tolsey_pack_depth(sums, width",
         "        }\n        for (int64_t i = 0; i < lines * TAPS * width; i++) total[i] += sums[i];\n    }\n"
         "    tolsey_pack_depth(total, width"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("isa", build.runnable())
@pytest.mark.parametrize("mutation", [None, *MUTATIONS])
def test_changed_order_of_the_weights_gradient_is_caught(
    mutation: str | None, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = changed(isa, MUTATIONS[mutation] if mutation else [], tmp_path, monkeypatch, "conv_weight.c")
    case = Case(5, 1, 3, 20, (11, 10), (3, 3), (1, 1), (1, 1), (1, 1))
    all_ = solve(case, "unit", seed=1)
    found = products.convolution_backward_weight(lib, case.geometry, all_["gradient"], all_["x"])
    if mutation is None:
        assert_same_bits(found, all_["backward_weight"])
        return
    with pytest.raises(AssertionError, match="differ, first at"):
        assert_same_bits(found, all_["backward_weight"])


def test_padding_takes_part_as_plus_zero_so_an_infinite_weight_gives_nan_at_the_border(lib: Library) -> None:
    shape = Geometry.of((1, 1, 3), (1, 1, 3), stride=(1,), padding=(1,), dilation=(1,), groups=1)
    x, weight = numpy.ones((1, 1, 3), numpy.float32), numpy.array([[[numpy.inf, 1, 1]]], numpy.float32)
    found = products.convolution(lib, shape, x, weight)[0, 0]
    assert numpy.isnan(found[0]) and numpy.isposinf(found[1:]).all()


def test_taps_that_the_stride_steps_over_take_no_part(lib: Library) -> None:
    shape = Geometry.of((1, 1, 4), (1, 1, 2), stride=(2,), padding=(0,), dilation=(1,), groups=1)
    gradient, weight = numpy.ones((1, 1, 2), numpy.float32), numpy.array([[[1, numpy.inf]]], numpy.float32)
    found = products.convolution_backward_input(lib, shape, gradient, weight)[0, 0]
    assert found.tolist() == [1, numpy.inf, 1, numpy.inf]


@pytest.mark.parametrize(
    ("x", "weight", "changed", "says"),
    [
        ((1, 4, 5), (2, 3, 3), {}, "4 channels into 2"),
        ((1, 4, 5), (3, 2, 3), {"groups": 2}, "4 channels into 3"),
        ((1, 4, 5), (2, 4, 7), {}, "does not fit an input"),
        ((1, 4, 5), (2, 4, 3), {"stride": (0,)}, "stride"),
        ((1, 4, 5), (2, 4, 3), {"stride": (1, 1)}, "of 1 dimensions"),
        ((1, 4, 5, 5, 5, 5), (2, 4, 3, 3, 3, 3), {}, "of 4 dimensions"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    x: tuple[int, ...], weight: tuple[int, ...], changed: dict[str, object], says: str
) -> None:
    options = {"stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1, **changed}
    if len(x) == 6:
        options |= {"stride": (1,) * 4, "padding": (0,) * 4, "dilation": (1,) * 4}
    with pytest.raises(ValueError, match=says):
        Geometry.of(x, weight, **options)  # type: ignore[arg-type]


def test_arrays_of_another_shape_than_the_geometrys_are_refused(lib: Library) -> None:
    case = CASES["2d same"]
    x, weight = draw("unit", case.geometry.input_shape), draw("unit", case.geometry.weight_shape)
    with pytest.raises(ValueError, match="contiguous"):
        products.convolution(lib, case.geometry, numpy.asfortranarray(x), weight)
    with pytest.raises(ValueError, match="weight of"):
        products.convolution(lib, case.geometry, x, weight[:1])


def test_kernel_refuses_a_geometry_without_sense(lib: Library) -> None:
    case = CASES["2d same"]
    all_ = solved("2d same", "unit")
    for place, value in ((0, -1), (1, -1), (7, 0), (10, 0), (13, -1), (16, 0), (19, -1)):
        geometry = case.geometry.packed()
        geometry[place] = value
        out = numpy.empty_like(all_["forward"])
        with pytest.raises(ValueError, match="tolsey_convolution refused"):
            lib.call("tolsey_convolution", geometry, all_["x"], all_["weight"], None, out)
