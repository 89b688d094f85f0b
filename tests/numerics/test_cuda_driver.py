"""driver.py against a libcuda over this machine's memory (libcuda.cpp): every call is made, with what cuda.h asks for.

What a real driver and a GPU answer is not seen here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy
import pytest

from tolsey.errors import ConfigError, LocalViolation
from tolsey.numerics import build, int8, lookups, losses, norms, products, reductions
from tolsey.numerics.cuda import compile, driver, launches
from tolsey.numerics.cuda.library import GpuLibrary
from tolsey.numerics.reference import int8 as slow_int8
from tolsey.numerics.reference import lookups as slow_lookups
from tolsey.numerics.reference import norms as slow_norms
from tolsey.numerics.reference import products as slow_products
from tolsey.numerics.reference import reductions as slow_reductions

from . import emulated
from .numbers import assert_same_bits, draw
from .twins import assert_same

LIBCUDA = Path(__file__).with_name("libcuda.cpp")


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("libcuda") / "libcuda.so.1"
    command = [*build.compiler(), "-std=gnu++20", "-O1", "-fPIC", "-shared", LIBCUDA, "-o", made, "-lstdc++", "-ldl"]
    subprocess.run(command, check=True)
    return made


@pytest.fixture
def lib(libcuda: Path, monkeypatch: pytest.MonkeyPatch) -> GpuLibrary:
    """The kernels on that device; a cubin is the unit's name and nothing more."""
    monkeypatch.setenv("EMULATED_KERNELS", str(emulated.shared_object()))
    monkeypatch.setattr(driver, "LIBCUDA", str(libcuda))
    monkeypatch.setattr(compile, "cubin", lambda unit, capability: f"{unit}-{capability}".encode())
    return GpuLibrary(driver.Gpu())


def test_kernels_of_all_kinds_run_on_the_device(lib: GpuLibrary) -> None:
    assert repr(lib) == "GpuLibrary(Gpu(capability=86, multiprocessors=3))"
    x, y = draw("special", (70, 300), 1), draw("unit", (300, 40), 2)
    assert_same_bits(products.gemm(lib, x, y), slow_products.gemm(x, y))
    assert_same_bits(products.gemm(lib, y.T, x.T), slow_products.gemm(y.T, x.T))
    assert_same_bits(products.gemm(int8.kernels(lib, 3), x, y), slow_int8.gemm(x, y, slices=3))
    assert_same_bits(reductions.sum(lib, x, (0,)), slow_reductions.sum(x, (0,)))
    args = (x, [300], None, None, 1e-5)
    assert_same(norms.layer_norm(lib, *args), slow_norms.layer_norm(*args))
    index = numpy.arange(70) % 9
    assert_same(
        lookups.embedding_backward(lib, x, index, 9, 3, True), slow_lookups.embedding_backward(x, index, 9, 3, True)
    )


def test_result_inside_of_a_larger_array_leaves_the_rest_alone(lib: GpuLibrary) -> None:
    a, b, room = draw("unit", (5, 6), 1), draw("unit", (6, 7), 2), numpy.full((9, 20), 3, numpy.float32)
    products.gemm(lib, a, b, out=room[2:7, 1:15:2])
    expected = numpy.full((9, 20), 3, numpy.float32)
    expected[2:7, 1:15:2] = slow_products.gemm(a, b)
    assert_same_bits(room, expected)


def test_target_that_is_no_class_is_heard_of(lib: GpuLibrary) -> None:
    with pytest.raises(IndexError, match="an index lies outside its table"):
        losses.nll_loss(lib, draw("unit", (2, 3), 1), numpy.array([1, 3]), None, 1, -100)


def test_memory_that_is_not_there_is_a_memory_error_and_the_next_call_runs(lib: GpuLibrary) -> None:
    large = numpy.zeros(40 << 20, numpy.float32)
    with pytest.raises(MemoryError, match="no memory left"):
        lib.call("tolsey_exp", large, large, large.size)
    small = numpy.zeros(5, numpy.float32)
    lib.call("tolsey_exp", small, small, 5)
    assert (small == 1).all()


def test_memory_of_a_call_serves_the_next(lib: GpuLibrary) -> None:
    x = numpy.zeros(5 << 20, numpy.float32)  # more than the first block; many of it would not fit
    for _ in range(5):
        lib.call("tolsey_exp", x, x, x.size)
    assert x.size


def test_address_that_is_not_the_device_s_is_our_own_fault(lib: GpuLibrary) -> None:
    here = numpy.zeros(4, numpy.float32)
    sizes = numpy.array([1, 1, 1, 1], numpy.int64)
    with pytest.raises(LocalViolation, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        lib.function("tolsey_scatter_add")(here.ctypes.data, 0, 0, 0, 1, *[sizes.ctypes.data] * 3, 0)


def test_machine_without_a_driver_is_told_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBCUDA", "libcuda-of-nobody.so.1")
    with pytest.raises(ConfigError, match="no NVIDIA driver") as refused:
        driver.Gpu()
    assert "--device cpu" in str(refused.value.fix)


def test_kernel_that_is_not_there_yet_is_named(lib: GpuLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(launches.LAUNCHES, "tolsey_cumsum")
    with pytest.raises(ConfigError, match="tolsey_cumsum has no GPU kernel yet"):
        reductions.cumsum(lib, draw("unit", (3, 4), 1), 1)
