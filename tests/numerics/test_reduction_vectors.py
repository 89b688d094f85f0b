"""The committed vectors are those of the slow twins, and hold for every build; a changed order of adding is caught."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tolsey.numerics import build, selftest
from tolsey.numerics.library import Library
from tolsey.runtime.ops import OPS

from . import reduction_vectors

CASES = selftest.cases("reductions")
GROUPS = ("Sums and norms", "Losses and look-ups", "Pooling")


def test_vectors_are_those_that_the_script_writes() -> None:
    written = [
        {**case, "outputs": selftest.written(case, reduction_vectors.expected(case))}
        for case in reduction_vectors.cases()
    ]
    assert written == CASES


def test_every_operation_of_the_page_has_a_case_that_programs_can_write() -> None:
    expected = {op.name for op in OPS.values() if op.group in GROUPS or "softmax" in op.name}
    assert {case["op"] for case in CASES} == expected
    for case in CASES:
        op = OPS[case["op"]]
        op.parse([0 if isinstance(arg, dict) else arg for arg in case["args"]])
        assert len(case["outputs"]) == op.outputs


def test_vectors_hold_for_each_build(lib: Library) -> None:
    ours = [case for case in CASES if case["op"] not in selftest.COPIES]
    assert [case["op"] for case in ours if not selftest.holds(lib, case)] == []


HEADERS = ("base.h", "choosing.h", "functions.h", "reduce.h", "lists.h")
FOUNDATION = ("control.c", "parallel.c", "scratch.c")
ROW = "if (left > {0}) a = fold(kind, a, vload_n(mine[{1}] + j, w), m, power, w);"

MUTATIONS = {
    "sum, chunks of 2048": ("reduce.h", "CHUNK = 4096", "CHUNK = 2048"),
    "sum, tree over neighbours": (
        "reduce.h",
        "four = four + MOVED_DOWN_4(four, 2);\n    four = four + MOVED_DOWN_4(four, 1);",
        "four = four + MOVED_DOWN_4(four, 1);\n    four = four + MOVED_DOWN_4(four, 2);",
    ),
    "sum, later rows of a lane first": ("reduce.c", ROW.format(1, "LANES"), f"{ROW.format(2, '2 * LANES')} else"),
    "variance, two roundings": ("reduce.c", "return vfma(d, d, lane);", "return d * d + lane;"),
    "softmax, divided by the sum": ("softmax.c", "vload_n(y + i, w) * r, w)", "vload_n(y + i, w) / vset(sum), w)"),
    "log_softmax, largest and logarithm added": (
        "softmax.c",
        "(vload_n(x + i, w) - m) - l, w)",
        "vload_n(x + i, w) - (m + l), w)",
    ),
    "layer_norm, two roundings": ("norms.c", "return vfma(h, w, b);", "return h * w + b;"),
    "layer_norm_backward, lanes of 2 rows": ("norms.c", "least(rows, LANES);", "least(rows, 2);"),
}
"""Operation and what is done to it: the file, an old text that stands there once, a new one."""


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_changed_order_is_caught(mutation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, old, new = MUTATIONS[mutation]
    native = tmp_path / "native"
    native.mkdir()
    for name in {*HEADERS, *FOUNDATION, "reduce.c", file}:
        shutil.copy(build.SOURCES / name, native)
    text = (native / file).read_text()
    assert text.count(old) == 1, f"{file} no longer says {old!r} once"
    (native / file).write_text(text.replace(old, new))
    monkeypatch.setattr(build, "SOURCES", native)
    isa = build.runnable()[0]
    lib = Library(isa, build.compile_build(isa, tmp_path))
    of_op = [case for case in CASES if case["op"] == mutation.partition(",")[0]]
    assert not all(selftest.holds(lib, case) for case in of_op)
