"""A wheel built from this tree computes on a machine without a compiler; an sdist holds the whole checkout."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import setuptools

from tolsey.numerics import build

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(int(setuptools.__version__.split(".")[0]) < 77, reason="pyproject.toml needs setuptools >= 77"),
]
NOT_SHIPPED = re.compile(r"\.ci/|(.*/)?\.gitignore$")

SELF_TEST = """
import json, sys
from tolsey.numerics import build, library, selftest
found = {}
for isa in build.runnable():
    lib = library.load(isa)
    found[isa] = [str(lib.path), selftest.check(lib).cases, selftest.check(lib).failed]
print(json.dumps(found))
assert "torch" not in sys.modules
"""


def tracked() -> list[str]:
    """The checkout's files."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\0"
    )[:-1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp("tree")
    for name in tracked():
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() or source.is_file():
            shutil.copy2(source, target, follow_symlinks=False)
    return folder


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build_with("build_wheel", tree, tmp_path_factory.mktemp("wheel"))
    assert built.suffix == ".whl"
    return built


def build_with(hook: str, tree: Path, folder: Path, **environment: str) -> Path:
    """What a build front end would get from setuptools, without fetching anything."""
    program = f"import sys; from setuptools import build_meta as b; print('\\n' + b.{hook}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=tree, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that has the wheel, and of everything else only what this one has (NumPy)."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "beside.pth").write_text(sysconfig.get_path("platlib") + "\n")
    return python


def run_without_compiler(python: Path, folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(folder), "CC": "/nowhere/cc", "HOME": str(folder), build.CACHE_VARIABLE: str(folder)}
    return subprocess.run(
        [str(python), "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_wheel_is_for_this_kind_of_machine_and_any_python(wheel: Path) -> None:
    assert re.fullmatch(r"tolsey-[^-]+-py3-none-linux_(x86_64|aarch64)\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        facts = email.message_from_bytes(packed.read(next(n for n in names if n.endswith(".dist-info/WHEEL"))))
    assert facts["Root-Is-Purelib"] == "false"
    built = {name for name in names if name.startswith("tolsey/numerics/built/")}
    assert built == {f"tolsey/numerics/built/{build.file_name(isa)}" for isa in build.isas()}
    shipped = {
        Path(name).name for name in names if name.startswith(("tolsey/numerics/native/", "tolsey/numerics/vectors/"))
    }
    here = ROOT / "src" / "tolsey" / "numerics"
    assert shipped == {path.name for folder in ("native", "vectors") for path in (here / folder).rglob("*.*")}


def test_wheel_computes_where_there_is_no_compiler(installed: Path, tmp_path: Path) -> None:
    done = run_without_compiler(installed, tmp_path, SELF_TEST)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(build.runnable())
    for path, cases, failed in found.values():
        assert Path(path).is_relative_to(installed.parents[1]) and cases > 300 and failed == []
    assert not (tmp_path / "tolsey").exists(), "nothing was compiled"


def test_wheel_without_its_kernels_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    built = next(installed.parents[1].glob("lib/*/site-packages/tolsey/numerics/built"))
    away = built.rename(built.with_name("away"))
    try:
        done = run_without_compiler(
            installed, tmp_path, "from tolsey.errors import ConfigError\nfrom tolsey.numerics import library\n"
            "try: library.current()\nexcept ConfigError as error: print(error.diagnostics())",
        )  # fmt: skip
    finally:
        away.rename(built)
    assert "the C compiler '/nowhere/cc' is not on the path" in done.stdout and "unset CC" in done.stdout, done.stderr


def test_wheel_built_without_a_compiler_is_a_plain_one(tree: Path, tmp_path: Path) -> None:
    wheel = build_with("build_wheel", tree, tmp_path, CC="/nowhere/cc")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert not [name for name in packed.namelist() if name.endswith(".so")]


def test_editable_install_compiles_nothing_before_its_first_use(tree: Path, tmp_path: Path) -> None:
    wheel = build_with("build_editable", tree, tmp_path)
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert [name for name in names if "editable" in name] and not [name for name in names if name.endswith(".so")]
    assert not list(tree.glob("src/tolsey/numerics/built/*"))


def test_sdist_is_the_checkout(tree: Path, tmp_path: Path) -> None:
    sdist = build_with("build_sdist", tree, tmp_path)
    with tarfile.open(sdist) as packed:
        members = {m.name.partition("/")[2]: m for m in packed.getmembers()}
        packed.extractall(tmp_path, filter="data")
    missing = [name for name in tracked() if not NOT_SHIPPED.match(name) and name not in members]
    assert missing == []
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    for room in ("contracts", "node", "client", "verifier"):
        assert os.readlink(unpacked / "src" / "tolsey" / room) == f"../../{room}"
    assert not [name for name in members if name.endswith((".so", ".pyc"))]
    assert build_with("build_wheel", unpacked, tmp_path, CC="/nowhere/cc").name.endswith("-py3-none-any.whl")


def test_baseline_asks_for_no_instruction_beyond_sse2(tmp_path: Path) -> None:
    if "baseline" not in build.isas() or shutil.which("objdump") is None:
        pytest.skip("needs x86-64 and objdump (binutils)")
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", str(build.shared_object("baseline"))],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    mnemonics = set(re.findall(r"^\s+[0-9a-f]+:\s+(\w+)", listing, re.M))
    assert {"mulps", "cvtps2pd"} <= mnemonics
    # Every VEX and EVEX instruction begins with v (verr and verw aside); the others are SSE3 to SSE4.2.
    beyond = {m for m in mnemonics if m.startswith("v") and m not in ("verr", "verw")}
    beyond |= mnemonics & {"haddps", "movddup", "pshufb", "palignr", "pabsd", "blendvps", "roundps", "pmulld", "pminsd",
                           "ptest", "pmaxsd", "insertps", "dpps", "popcnt", "pextrd", "pinsrd"}  # fmt: skip
    assert beyond == set()
