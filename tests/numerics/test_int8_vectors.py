"""The committed vectors of the order-free products hold for the slow twin and for every build."""

from __future__ import annotations

import json

import pytest

from tolsey.numerics.library import Library

from . import int8_vectors

CASES = json.loads(int8_vectors.FILE.read_text())["cases"]


@pytest.fixture
def lib(cpu: Library) -> Library:
    """Builds for CPUs; a GPU has no kernels of these yet."""
    return cpu


def test_vectors_are_those_that_the_script_writes() -> None:
    assert [{**case, **int8_vectors.computed(case, None)} for case in int8_vectors.cases()] == CASES


def test_vectors_hold_for_each_build(lib: Library) -> None:
    wrong = [case["op"] for case in CASES if {**case, **int8_vectors.computed(case, lib)} != case]
    assert not wrong


def test_vectors_reach_every_kind_of_result() -> None:
    words = {word for case in CASES for word in case["output"].split()}
    assert {"7fc00000", "7f800000", "00000000"} <= words
    assert any(0 < int(word, 16) & 0x7FFFFFFF < 0x00800000 for word in words), "a subnormal one"
