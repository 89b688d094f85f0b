"""The self-test reads what the files say, tries every case, and takes no refusal for an answer."""

from __future__ import annotations

import hashlib

import numpy
import pytest

from tolsey.numerics import build, library, products, selftest
from tolsey.numerics.cuda import library as gpu
from tolsey.numerics.library import Library

F32 = numpy.float32


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (numpy.array([1.0, -0.0, 1e-45], F32), "3f800000 80000000 00000001"),
        (numpy.array([-2, 3], numpy.int64), "fffffffffffffffe 0000000000000003"),
        (numpy.array([7, 255], numpy.uint8), "07 ff"),
        (numpy.array([], F32), ""),
    ],
    ids=["float32", "int64", "uint8", "nothing"],
)
def test_words_are_big_endian_and_read_back(given: numpy.ndarray, text: str) -> None:
    assert selftest.words(given) == text
    back = selftest.array_of(text, given.dtype.name)
    assert back.dtype == given.dtype and back.tobytes() == given.tobytes()


def test_words_nan_is_canonical_in_outputs_alone() -> None:
    nan = numpy.array([0xFF812345], numpy.uint32).view(F32)
    assert (selftest.words(nan), selftest.words(nan, canonical=True)) == ("ff812345", "7fc00000")
    assert nan.view(numpy.uint32)[0] == 0xFF812345


def test_digest_is_of_little_endian_bytes() -> None:
    outputs = [numpy.array([1.0], F32), None, numpy.array([[2]], numpy.int64)]
    assert selftest.digest(outputs) == hashlib.sha256(bytes.fromhex("0000803f 0200000000000000")).hexdigest()


def test_check_tries_every_case_of_every_family(lib: Library) -> None:
    families = [family for family in selftest.FAMILIES if (family, lib.isa) != ("int8", gpu.ISA)]
    found = selftest.check(lib, families)
    every = [case for family in families for case in selftest.cases(family)]
    copies = [case for case in every if case["op"] in selftest.COPIES]
    assert (found.isa, found.threads, found.failed) == (lib.isa, lib.threads, ())
    assert found.cases == len(every) - len(copies) > 300
    assert {path.stem for path in selftest.VECTORS.iterdir()} == set(selftest.FAMILIES)


def test_a_kernel_that_refuses_or_answers_otherwise_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    lib, case = library.load(build.runnable()[0]), next(c for c in selftest.cases("products") if c["op"] == "mm")
    assert selftest.holds(lib, case)

    def refuses(*given: object) -> numpy.ndarray:
        raise ValueError("tolsey_gemm refused its arguments")

    monkeypatch.setattr(products, "gemm", refuses)
    assert not selftest.holds(lib, case)


def test_a_layout_that_gives_other_bits_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row-major product is right, the one of a transposed second operand is one ulp off."""
    lib = library.load(build.runnable()[0])
    case = next(c for c in selftest.cases("products") if c["op"] == "mm" and c["args"][0]["shape"] == [3, 7])
    right = products.gemm

    def wrong_when_transposed(lib: Library, a: numpy.ndarray, b: numpy.ndarray, *more: object) -> numpy.ndarray:
        found = right(lib, a, b, *more)  # type: ignore[arg-type]  # bias and out, handed on
        if not b.flags.c_contiguous:
            found.flat[0] = numpy.nextafter(found.flat[0], F32(9))
        return found

    monkeypatch.setattr(products, "gemm", wrong_when_transposed)
    assert not selftest.holds(lib, case)
