"""The committed vectors are those of the slow twin, and hold for every build."""

from __future__ import annotations

from tolsey.numerics import selftest
from tolsey.numerics.library import Library

from . import function_vectors

CASES = selftest.cases("functions")


def test_vectors_are_those_that_the_script_writes() -> None:
    written = [{**case, "outputs": function_vectors.expected(case)} for case in function_vectors.cases()]
    assert written == CASES


def test_vectors_hold_for_each_build(lib: Library) -> None:
    assert [case["op"] for case in CASES if not selftest.holds(lib, case)] == []
