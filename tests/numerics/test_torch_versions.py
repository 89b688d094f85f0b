"""Other versions of PyTorch (torch_versions.py), on small shared objects and a package that stand for PyTorch's."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tolsey.errors import ConfigError
from tolsey.numerics import build

from . import torch_versions

CUDART = """
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaMalloc(void) { return 0; }
"""
NCCL = "int ncclSend(void) { return 0; }"
WITH_CUDA = """
int cudaGetDeviceCount(int *), cudaMalloc(void), ncclSend(void), cungqr_(void), strcmp(const char *, const char *);
int devices(void) { int count = 7; return cudaGetDeviceCount(&count) * 10 + count; }
int versioned(void) { return cudaMalloc(); }
int plain(void) { return ncclSend(); }
int lapack(void) { return cungqr_() + strcmp("a", "a"); }
"""
PACKAGE = """
import ctypes, pathlib
__version__ = "2.8.0+cu128"
_cuda = ctypes.CDLL(pathlib.Path(__file__).parent / "lib" / "libtorch_cuda.so")
class cuda:
    is_available = staticmethod(lambda: _cuda.devices() != 1000)
"""


def shared(path: Path, source: str, *linked: str | Path) -> Path:
    path.with_suffix(".c").write_text(source)
    options = ["-shared", "-fPIC", "-fno-builtin", "-Wl,-rpath,$ORIGIN", f"-Wl,-soname,{path.name}"]
    command = [*build.compiler(), *options, path.with_suffix(".c"), *linked, "-o", path]
    subprocess.run([str(word) for word in command], check=True)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`torch/lib` of a build with CUDA: one of its libraries gives functions under a version, another does not."""
    folder = tmp_path / "torch" / "lib"
    folder.mkdir(parents=True)
    versions = folder / "versions"
    versions.write_text("libcudart.so.999 { cudaGetDeviceCount; cudaMalloc; };")
    runtime = shared(folder / "libcudart.so.999", CUDART, f"-Wl,--version-script={versions}")
    nccl = shared(folder / "libnccl.so.999", NCCL)
    cpu = shared(folder / "libtorch_cpu.so", "int cungqr_(void) { return 5; }")
    shared(folder / "libtorch_cuda.so", WITH_CUDA, runtime, nccl, cpu)
    runtime.unlink()
    nccl.unlink()
    return folder


def called(folder: Path, function: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, everything bound at once."""
    load = f"import ctypes; print(ctypes.CDLL({str(folder / 'libtorch_cuda.so')!r}).{function}())"
    return subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=False)


def test_a_stand_in_gives_what_is_wanted_and_no_gpu(folder: Path) -> None:
    assert "libcudart.so.999: cannot open shared object file" in called(folder, "devices").stderr
    assert torch_versions.stand_in(folder) == ["libcudart.so.999", "libnccl.so.999"]
    assert called(folder, "devices").stdout == "1000\n"
    for function, name in (("versioned", "cudaMalloc"), ("plain", "ncclSend")):
        ended = called(folder, function)
        assert ended.returncode < 0 and ended.stderr.startswith(f"{name} was called")


def test_a_stand_in_leaves_alone_what_others_define(folder: Path) -> None:
    torch_versions.stand_in(folder)
    assert called(folder, "lapack").stdout == "5\n"
    names = subprocess.run(["nm", "-D", folder / torch_versions.STAND_IN], capture_output=True, text=True, check=True)
    assert "cungqr_" not in names.stdout and " T strcmp" not in names.stdout


def test_a_build_without_cuda_needs_no_stand_in(folder: Path) -> None:
    (folder / "libtorch_cuda.so").unlink()
    assert torch_versions.stand_in(folder) == []
    assert not (folder / torch_versions.STAND_IN).exists()


@pytest.fixture
def index(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip knows one package: torch 2.8.0, with these shared objects."""
    index = tmp_path / "index"
    index.mkdir()
    about = "torch-2.8.0.dist-info"
    files = {
        **{"torch/__init__.py": PACKAGE.encode(), f"{about}/RECORD": b""},
        **{f"torch/lib/{path.name}": path.read_bytes() for path in folder.glob("*.so")},
        f"{about}/METADATA": b"Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0\nRequires-Dist: nvidia-nccl-cu12\n",
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(index / "torch-2.8.0-py3-none-any.whl", "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(index), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(torch_versions, "ROOM_BYTES", 0)
    return index


def test_an_installed_version_is_imported_before_the_environments_own_and_kept(index: Path) -> None:
    packages = torch_versions.installed("2.8.0")
    said = subprocess.run(
        [sys.executable, "-P", "-c", "import torch, numpy; print(torch.__version__, torch.cuda.is_available())"],
        env=os.environ | {"PYTHONPATH": str(packages)},
        **{"capture_output": True, "text": True, "check": True},
    )
    assert said.stdout == "2.8.0+cu128 False\n"
    (index / "torch-2.8.0-py3-none-any.whl").unlink()
    assert torch_versions.installed("2.8.0") == packages


def test_what_cannot_be_used_is_not_kept(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"pip did not install torch 2\.9\.0"):
        torch_versions.installed("2.9.0")
    assert "torch==2.9.0" in capfd.readouterr().err
    monkeypatch.setattr(torch_versions, "stand_in", lambda folder: [])
    with pytest.raises(ConfigError, match=r"does not run without CUDA(.|\n)*libcudart\.so\.999"):
        torch_versions.installed("2.8.0")
    monkeypatch.setattr(torch_versions, "ROOM_BYTES", 1 << 62)
    with pytest.raises(ConfigError, match="GB are free"):
        torch_versions.installed("2.8.0")
    assert list((tmp_path / "cache" / "tolsey" / "torch").iterdir()) == []


def test_missing_tools_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(ConfigError, match="readelf") as caught:
        torch_versions.stand_in(folder)
    assert "binutils" in caught.value.diagnostics()
