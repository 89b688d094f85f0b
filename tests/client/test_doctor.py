"""`tolsey doctor` tells the truth of this machine, and ends well only where the kernels are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from click.testing import Result
from typer.testing import CliRunner

from tolsey.client import cli, doctor, render
from tolsey.client.views import ProfileView
from tolsey.errors import ConfigError, LocalViolation
from tolsey.numerics import bench, build, elementwise, int8, library, selftest
from tolsey.numerics.library import Library
from tolsey.protocol.job import EXACT_CLASSES, PROFILES

FLOAT = numpy.float32
NO_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is not installed here", name="torch")
sys.meta_path.insert(0, NoTorch())
from tolsey.client import cli, doctor
doctor._torch_version = lambda: None
cli.main(sys.argv[1:])
"""


def typed(*words: str) -> Result:
    return CliRunner().invoke(cli.app, list(words))


def started(program: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *words], env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


CONVOLUTIONS = "convolution", "convolution_backward"
NO_CLASS = ProfileView(name="pinned", runs=False, note="not asked", class_id=None, step_s=None)


@pytest.fixture
def only_fastest(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One build is enough, where a test is not about builds."""
    name = build.runnable()[0]
    monkeypatch.setattr(build, "ISAS", {name: build.ISAS[name]})
    yield name


def test_doctor_proves_every_build_and_names_every_profile() -> None:
    done = typed("doctor", "--quick", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [one["isa"] for one in found["builds"] if one["runs"]] == list(build.runnable())
    least = sum(len(selftest.cases(family)) for family in selftest.FAMILIES) - 20
    assert all(one["cases"] >= least and one["failed"] == [] for one in found["builds"] if one["runs"])
    *exact, pinned = found["profiles"]
    assert [(one["name"], one["runs"], one["class_id"]) for one in exact] == [(p, True, None) for p in EXACT_CLASSES]
    assert (pinned["name"], pinned["runs"], len(pinned["class_id"])) == ("pinned", True, 64)
    assert {check["name"] for check in found["checks"]} == {"clock", "disk", "memory"}


def test_doctor_with_speed_measures_products_and_a_step(only_fastest: str) -> None:
    view = doctor.examine(Path("/nonexistent/home"))
    assert len(view.builds) == 1
    assert view.builds[0].gflops_one is not None and view.builds[0].gflops_one > 0
    assert all(profile.step_s is not None and profile.step_s > 0 for profile in view.profiles)
    with render.out.capture() as captured:
        render.out.print(render.doctor(view))
    assert only_fastest in captured.get() and "GFLOP/s" in captured.get() and " ms " in captured.get()


def test_doctor_without_torch_tests_the_kernels_and_says_what_is_missing() -> None:
    done = started(NO_TORCH, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["torch"] is None
    assert all(one["cases"] for one in found["builds"] if one["runs"])
    assert [one["runs"] for one in found["profiles"]] == [False] * len(PROFILES)
    assert all("pip install 'tolsey[torch]'" in one["note"] for one in found["profiles"])


def test_doctor_wrong_bit_is_shown_and_ends_badly(only_fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = elementwise.unary

    def off_by_one_ulp(lib: Library, name: str, x: Any) -> Any:
        y = right(lib, name, x)
        if name == "tanh" and lib.threads > 1:
            y.view(numpy.int32)[-1] ^= 1
        return y

    monkeypatch.setattr(elementwise, "unary", off_by_one_ulp)
    monkeypatch.setattr(doctor, "_cores", lambda: 2)
    monkeypatch.setattr(doctor, "_pinned", lambda: NO_CLASS)
    done = typed("doctor", "--quick", "--json")
    found = json.loads(done.stdout)
    assert found["builds"][0]["failed"] == ["functions: tanh", "large: tanh"]
    assert [one["runs"] for one in (found["builds"][0], found["profiles"][0])] == [False, False]
    assert isinstance(done.exception, LocalViolation)
    assert "kernels give wrong bits: functions: tanh, large: tanh" in done.exception.message
    assert cli.report(done.exception) == 70


def test_doctor_wrong_bit_of_whole_numbers_is_shown_as_one_of_the_chain_is(
    only_fastest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of fewer slices than the profile says: all else of the build is right."""
    right = int8.kernels
    monkeypatch.setattr(int8, "kernels", lambda lib, slices: right(lib, 2))
    monkeypatch.setattr(doctor, "_pinned", lambda: NO_CLASS)
    view = doctor.examine(Path("/"), speed=False)
    assert view.builds[0].failed == tuple(f"int8: {op}" for op in ("mm", "addmm", "bmm", *CONVOLUTIONS))
    assert not any(one.runs for one in view.profiles)
    with pytest.raises(LocalViolation, match="kernels give wrong bits: int8: mm"):
        doctor.verdict(view)


def test_doctor_build_that_rounds_otherwise_is_wrong_though_others_are_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, load = library.current().isa, library.load

    def refused(isa: str) -> Library:
        if isa == chosen:
            raise LocalViolation(f"the {isa} kernels do not round as binary32 must")
        return load(isa)

    monkeypatch.setattr(library, "load", refused)
    monkeypatch.setattr(doctor, "_pinned", lambda: NO_CLASS)
    view = doctor.examine(Path("/"), speed=False)
    assert not view.profiles[0].runs
    with pytest.raises(LocalViolation, match=f"the {chosen} kernels give wrong bits: .* do not round"):
        doctor.verdict(view)


def test_doctor_without_compiler_or_wheel_says_what_to_install(tmp_path: Path) -> None:
    nowhere = {build.CACHE_VARIABLE: str(tmp_path), build.CC_VARIABLE: "/nowhere/cc"}
    no_wheel = f"import pathlib\nfrom tolsey.numerics import build\nbuild.BUILT = pathlib.Path({str(tmp_path)!r})\n"
    done = started(no_wheel + NO_TORCH, "doctor", "--json", **nowhere)
    assert done.returncode == 2
    assert "this machine has no exact kernels" in done.stderr and "apt-get install gcc" in done.stderr
    found = json.loads(done.stdout)
    assert found["compiler"] is None
    assert all(not one["runs"] and "'/nowhere/cc' is not on the path" in one["note"] for one in found["builds"])


def test_verdict_of_a_machine_of_an_unknown_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ISAS", {"vax": build.Isa(machine="vax", flags=(), features=frozenset())})
    monkeypatch.setattr(doctor, "_pinned", lambda: NO_CLASS)
    view = doctor.examine(Path("/"), speed=False)
    assert view.builds == () and not view.profiles[0].runs
    with pytest.raises(ConfigError, match="there are none for"):
        doctor.verdict(view)


class Slow:
    """A rival that computes the product twice; it keeps what it was given."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def set_threads(self, count: int) -> None:
        self.threads.append(count)

    def works(self, contest: bench.Contest) -> dict[str, bench.Work]:
        a, b, _ = contest.operands
        return {"slow": lambda: (a.astype(numpy.float64) @ b, a.astype(numpy.float64) @ b)}


def test_measure_computes_the_product_and_compares_with_the_rival() -> None:
    lib, rivals = library.load(build.runnable()[0]), Slow()
    a, b = numpy.random.default_rng(0).standard_normal((2, 200, 200), dtype=FLOAT)
    out = numpy.zeros((200, 200), FLOAT)
    before = lib.threads
    theirs, ours = bench.measure(bench.product("a product", a, b.T, out), [lib], 1, 5, rivals)
    lib.threads = before
    assert numpy.allclose(out, a @ b.T, atol=1e-4)
    assert rivals.threads == [1]
    assert (theirs.who, theirs.ratio) == ("slow", None)
    assert (ours.who, ours.unit, ours.threads) == (lib.isa, "GFLOP/s", 1)
    assert ours.rate > 0 and ours.ratio is not None and ours.ratio > 0


def test_every_contest_is_the_same_work_for_torch() -> None:
    """Results of both on the same operands are close, so that times compare like with like."""
    from tolsey.runtime.rivals import Torch  # noqa: PLC0415  # loads torch

    lib, rivals, seen = library.load(build.runnable()[0]), Torch(), set()
    for contest in (*bench.square_products([64]), *bench.convolutions(), *bench.passes_over_memory(32, 64)):
        if contest.op in seen or contest.op == "adamw":  # in place: both would go on from each other's step
            continue
        seen.add(contest.op)
        place = 3 if contest.op == "layer_norm" else -1
        contest.ours(lib)()
        mine = contest.operands[place].copy()
        given = rivals.works(contest)["torch"]()
        found = next(one for one in (given if isinstance(given, tuple) else (given,)) if one is not None).numpy()
        scale = numpy.abs(found).max()
        assert mine.shape == found.shape and numpy.abs(mine - found).max() <= 1e-4 * scale, contest.what
    assert seen >= {"mm", "convolution", "convolution_backward_input", "convolution_backward_weight", "exp", "softmax"}


def test_bench_kernels_prints_rows_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [(contest, 1) for contest in bench.square_products([16])]
    monkeypatch.setattr(bench, "contests", lambda quick: iter(few))
    isa = build.runnable()[0]
    done = typed("bench", "kernels", "--isa", isa, "--threads", "1", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert {row["who"] for row in rows} >= {"torch", isa}
    assert all((row["ratio"] is None) == (row["who"] != isa) for row in rows)
    done = typed("bench", "kernels", "--isa", isa, "--threads", "1")
    assert done.exit_code == 0 and f" {isa} " in done.stdout and "GFLOP/s" in done.stdout
