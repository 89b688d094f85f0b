"""The committed vectors of products, and the large ones, are those of the slow twins, and hold for every build."""

from __future__ import annotations

from pathlib import Path

import pytest

from tolsey.numerics import build, selftest
from tolsey.numerics.library import Library

from . import product_vectors
from .test_products import MUTATIONS, changed

CASES = selftest.cases("products")
LARGE = selftest.cases("large")


def test_vectors_are_those_that_the_script_writes() -> None:
    written = [
        {**case, "outputs": selftest.written(case, product_vectors.expected(case))} for case in product_vectors.cases()
    ]
    assert written == CASES


def test_large_vectors_are_those_that_the_script_writes() -> None:
    written = [
        {**case, "sha256": selftest.digest(product_vectors.expected(case))} for case in product_vectors.large_cases()
    ]
    assert written == LARGE


@pytest.mark.parametrize("family", ["products", "large"])
def test_vectors_hold_for_each_build(lib: Library, family: str) -> None:
    assert [case["op"] for case in selftest.cases(family) if not selftest.holds(lib, case)] == []


@pytest.mark.parametrize("mutation", ["two roundings", "bias before the chain's end"])
def test_changed_order_is_caught(mutation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = changed(build.runnable()[0], MUTATIONS[mutation], tmp_path, monkeypatch)
    assert not all(selftest.holds(lib, case) for case in CASES if case["op"] in ("mm", "addmm"))
