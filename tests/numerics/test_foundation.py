"""What all kernels stand on: single operations, the pool of threads, the control register, compiling and choosing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy
import pytest

from tolsey.errors import ConfigError, LocalViolation
from tolsey.numerics import build, library
from tolsey.numerics.library import Library
from tolsey.numerics.probe import OPERATIONS, probe
from tolsey.numerics.reference import numbers as reference

from .numbers import KINDS, SPECIAL, assert_same_bits, draw

FLUSH_X86 = 0x8040  # flush-to-zero and denormals-are-zero in MXCSR
UPWARD_X86 = 0x4000
x86 = pytest.mark.skipif("avx2" not in build.isas(), reason="speaks of x86-64's control register")


def triples(kind: str, count: int) -> list[numpy.ndarray]:
    a, b, c = (draw(kind, (count,), seed) for seed in (1, 2, 3))
    if kind == "cancelling":  # c nearly undoes a * b, or exactly to binary32
        c = -(a * b) * numpy.where(numpy.arange(count) % 3 == 0, numpy.float32(1 + 2.0**-23), numpy.float32(1))
    if kind == "special":
        a, b, c = (x.reshape(-1) for x in numpy.meshgrid(SPECIAL, SPECIAL, SPECIAL))
    return [numpy.ascontiguousarray(x, dtype=numpy.float32) for x in (a, b, c)]


@pytest.mark.parametrize("kind", KINDS)
def test_reference_fma_equals_the_definition(kind: str) -> None:
    a, b, c = (x[:3000] if kind != "special" else x for x in triples(kind, 3000))
    exact = [reference.fma_exact(*(float(n) for n in three)) for three in zip(a, b, c, strict=True)]
    assert_same_bits(reference.fma(a, b, c), numpy.array(exact, dtype=numpy.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["fma", "fma_one"])
def test_fma_of_each_build_equals_reference(lib: Library, kind: str, form: str) -> None:
    a, b, c = triples(kind, 20_011)
    assert_same_bits(probe(lib, form, a, b, c), reference.fma(a, b, c))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if not name.startswith("fma")])
def test_single_operation_of_each_build_equals_reference(lib: Library, operation: str, kind: str) -> None:
    a, b, _ = triples(kind, 5_003)
    with numpy.errstate(all="ignore"):
        expected = {
            "sqrt": lambda: numpy.sqrt(a),
            "round": lambda: numpy.rint(a),
            "max": lambda: reference.maximum(a, b),
            "min": lambda: reference.minimum(a, b),
            "canonical": lambda: a,
            "add": lambda: a + b,
            "sub": lambda: a - b,
            "mul": lambda: a * b,
            "div": lambda: a / b,
        }[operation.removesuffix("_one")]()
    found = probe(lib, operation, a, b)
    assert_same_bits(found, expected)
    if operation == "canonical":
        assert set(found.view(numpy.uint32)[numpy.isnan(found)]) <= {reference.NAN.view(numpy.uint32)}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 999, 1000, 1001])
def test_tail_writes_what_belongs_to_it_and_no_more(lib: Library, count: int) -> None:
    a = numpy.full(count + 40, 3, dtype=numpy.float32)
    out = numpy.full(count + 40, 7, dtype=numpy.float32)
    lib.call("tolsey_probe", OPERATIONS.index("add"), a, a, a, out[:count], count)
    assert (out[:count] == 6).all() and (out[count:] == 7).all()


@x86
@pytest.mark.parametrize("control", [FLUSH_X86, UPWARD_X86])
def test_kernel_under_a_foreign_control_register_computes_by_the_law_and_gives_it_back(
    cpu: Library, control: int
) -> None:
    a, b, c = triples("tiny", 40_000)
    a = a * numpy.float32(2.0**-40)
    expected = reference.fma(a, b, c), a * b
    assert (numpy.abs(expected[1]) < numpy.finfo(numpy.float32).tiny).mean() > 0.9
    before = cpu.control
    cpu.control = foreign = before | control
    try:
        seen, inside = cpu.is_lawful(), cpu.is_lawful(entered=True)
        found = probe(cpu, "fma", a, b, c), probe(cpu, "mul", a, b)
        after = cpu.control
    finally:
        cpu.control = before
    assert (seen, inside) == (False, True)
    assert after & ~0x3F == foreign & ~0x3F
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one, other)


def test_many_threads_calling_at_once_each_get_their_own_result(cpu: Library) -> None:
    draws = [triples("unit", 50_000 + n) for n in range(6)]
    expected = [reference.fma(*three) for three in draws]
    found: dict[int, bool] = {}
    start = threading.Barrier(len(draws))

    def call(n: int) -> None:
        start.wait()
        found[n] = all((probe(cpu, "fma", *draws[n]) == expected[n]).all() for _ in range(30))

    callers = [threading.Thread(target=call, args=(n,)) for n in range(len(draws))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == dict.fromkeys(range(len(draws)), True)


FORKING = """
import os, sys, numpy
from tolsey.numerics import library
from tolsey.numerics.probe import probe
lib = library.load(sys.argv[1])
lib.threads = 2
a = numpy.arange(100_000, dtype=numpy.float32)
assert (probe(lib, "add", a, a) == a + a).all()
child = os.fork()
same = bool((probe(lib, "add", a, a) == a + a).all())
if child == 0:
    os._exit(0 if same and lib.threads == 2 else 1)
_, status = os.waitpid(child, 0)
sys.exit(status != 0 or not same)
"""


@pytest.mark.parametrize("isa", build.runnable())
def test_pool_works_in_a_forked_child_and_in_its_parent(isa: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKING, isa], timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_idle_pool_uses_no_time(cpu: Library) -> None:
    a = numpy.zeros(100_000, dtype=numpy.float32)
    probe(cpu, "add", a, a)
    before = os.times()
    threading.Event().wait(0.2)  # what is measured is that nothing happens while time passes
    after = os.times()
    assert (after.user + after.system) - (before.user + before.system) < 0.1


def test_kernel_refuses_bad_arguments(lib: Library) -> None:
    a = numpy.zeros(4, dtype=numpy.float32)
    with pytest.raises(ValueError, match="tolsey_probe refused"):
        lib.call("tolsey_probe", 99, a, a, a, a, 4)
    with pytest.raises(TypeError, match="float32, not array of float64"):
        lib.call("tolsey_probe", 0, a.astype(numpy.float64), a, a, a, 4)
    with pytest.raises(TypeError, match="takes 6 arguments, not 2"):
        lib.call("tolsey_probe", 0, a)
    with pytest.raises(TypeError, match="aligned"):
        crooked = numpy.zeros(17, dtype=numpy.uint8)[1:].view(numpy.float32)
        lib.call("tolsey_probe", 0, crooked, a, a, a, 4)


def test_no_threads_are_refused(cpu: Library) -> None:
    with pytest.raises(ConfigError, match="0 threads"):
        cpu.threads = 0


def test_declare_another_signature_is_our_own_fault() -> None:
    library.declare("tolsey_probe", "i64 f32* f32* f32* f32* i64")
    with pytest.raises(LocalViolation, match="declared with"):
        library.declare("tolsey_probe", "i64")
    with pytest.raises(LocalViolation, match="none of"):
        library.declare("tolsey_nothing", "f16*")
    with pytest.raises(LocalViolation, match="never declared"):
        library.current().function("tolsey_nothing")


def test_isa_variable_chooses_and_wrong_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.ISA_VARIABLE, raising=False)
    assert library.current().isa == build.runnable()[0]
    monkeypatch.setenv(library.ISA_VARIABLE, "baseline" if "baseline" in build.isas() else "neon")
    assert library.current().isa == os.environ[library.ISA_VARIABLE]
    monkeypatch.setenv(library.ISA_VARIABLE, "mmx")
    with pytest.raises(ConfigError, match=r"TOLSEY_ISA=mmx names no build"):
        library.current()
    monkeypatch.setattr(build, "cpu_features", lambda: frozenset({"avx2", "fma"}))
    monkeypatch.setenv(library.ISA_VARIABLE, "neon" if "baseline" in build.isas() else "avx2")
    library.load.cache_clear()
    with pytest.raises(ConfigError, match="this CPU cannot run"):
        library.current()


def test_compile_without_a_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(build.CC_VARIABLE, raising=False)
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(build, "BUILT", tmp_path)
    with pytest.raises(ConfigError, match="there is no C compiler") as caught:
        build.shared_object(build.isas()[0])
    assert "apt-get install gcc" in caught.value.diagnostics()
    monkeypatch.setenv(build.CC_VARIABLE, "nosuchcc -m64")
    with pytest.raises(ConfigError, match="'nosuchcc' is not on the path"):
        build.shared_object(build.isas()[0])


def test_compile_that_fails_shows_the_compilers_words_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "native"
    broken.mkdir()
    (broken / "broken.c").write_text("int broken(void) { return nonsense; }\n")
    monkeypatch.setattr(build, "SOURCES", broken)
    with pytest.raises(ConfigError, match="nonsense"):
        build.compile_build(build.isas()[0], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_compile_into_a_place_that_cannot_be_written_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be kept in"):
        build.compile_build(build.isas()[0], tmp_path / "file")


def test_name_changes_with_every_source_and_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    names = set()
    for name, text in (("a.c", "1"), ("a.c", "2"), ("b.h", "1"), ("b.h", "2")):
        (tmp_path / name).write_text(text)
        names |= {build.file_name(isa) for isa in build.isas()}
    assert len(names) == 4 * len(build.isas())


@pytest.mark.parametrize("isa", build.isas())
def test_build_compiles_without_a_warning(isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "COMMON_FLAGS", (*build.COMMON_FLAGS, "-Werror"))
    assert build.compile_build(isa, tmp_path).is_file()


def test_room_imports_no_torch() -> None:
    program = (
        "import importlib, pkgutil, sys, tolsey.numerics\n"
        "for m in pkgutil.walk_packages(tolsey.numerics.__path__, 'tolsey.numerics.'):\n"
        "    importlib.import_module(m.name)\n"
        "print(*({n.split('.')[0] for n in sys.modules} & {'torch', 'trio', 'web3', 'scipy', 'libp2p'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
