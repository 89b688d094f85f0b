"""The committed vectors hold for the slow twin and for every build."""

from __future__ import annotations

import json

from tolsey.numerics.library import Library

from . import function_vectors

CASES = json.loads(function_vectors.FILE.read_text())["cases"]


def test_vectors_are_those_that_the_script_writes() -> None:
    written = [{**case, "outputs": function_vectors.computed(case, None)} for case in function_vectors.cases()]
    assert written == CASES


def test_vectors_hold_for_each_build(lib: Library) -> None:
    wrong = [case["op"] for case in CASES if function_vectors.computed(case, lib) != case["outputs"]]
    assert not wrong
