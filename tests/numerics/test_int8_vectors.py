"""The committed vectors of the order-free products hold for the slow twin and for every build."""

from __future__ import annotations

from pathlib import Path

import pytest

from tolsey.numerics import build, selftest
from tolsey.numerics.library import Library

from . import int8_vectors
from .test_int8 import MUTATIONS, changed

CASES = selftest.cases("int8")


def test_vectors_are_those_that_the_script_writes() -> None:
    assert [int8_vectors.written(case) for case in int8_vectors.cases()] == CASES


def test_vectors_hold_for_each_build(lib: Library) -> None:
    assert [case["op"] for case in CASES if not selftest.holds(lib, case)] == []


def test_vectors_reach_every_kind_of_result() -> None:
    words = {word for case in CASES if "outputs" in case for word in case["outputs"][0]["words"].split()}
    assert {"7fc00000", "7f800000", "00000000"} <= words
    assert any(0 < int(word, 16) & 0x7FFFFFFF < 0x00800000 for word in words), "a subnormal one"


@pytest.mark.parametrize("mutation", ["carried too late", "terms cut, not rounded"])
def test_changed_arithmetic_is_caught(mutation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = changed(build.runnable()[0], MUTATIONS[mutation], tmp_path, monkeypatch)
    assert not all(selftest.holds(lib, case) for case in CASES if case["op"] == "mm")
