"""How a wheel gets its compiled kernels, and an sdist the four links; everything else stands in pyproject.toml.

A wheel is built for the kind of machine that builds it: the shared object of each instruction set lies in
numerics/built, so that who installs it needs no compiler. Without a compiler, or on a machine for which there are no
kernels, the wheel is a plain one that compiles at first use, and its name says `any`. An editable install compiles at
first use too.

numerics/build.py does the compiling, here as at first use; it needs nothing but the standard library.
"""

from __future__ import annotations

import shutil
import sys
from functools import cache
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "src"))

from tolsey.errors import ConfigError  # noqa: E402  # found by the line above
from tolsey.numerics import build  # noqa: E402

BUILT = Path("tolsey") / "numerics" / "built"
LINKS = {
    **{f"src/tolsey/{room}": f"../../{room}" for room in ("contracts", "node", "client", "verifier")},
    "contracts/solidity/node_modules": "../../node_modules",
}


@cache
def can_compile() -> bool:
    """Whether this machine has instruction sets of ours and a compiler."""
    try:
        return bool(build.isas() and build.compiler())
    except ConfigError as missing:
        print(f"warning: a wheel without compiled kernels: {missing.message}", file=sys.stderr)
        return False


class BuildWithKernels(build_py):
    """Copies the package, then compiles into the copy."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        built = Path(self.build_lib) / BUILT
        shutil.rmtree(built, ignore_errors=True)  # of earlier sources, or of another machine
        if can_compile():
            for name in build.isas():
                build.compile_build(name, built)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        compiled = [str(path) for path in (Path(self.build_lib) / BUILT).glob("*.so")]
        return [*super().get_outputs(include_bytecode), *compiled]


class PlatformWheel(bdist_wheel):
    """A wheel with kernels fits one kind of machine and every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


class WithKernels(Distribution):
    """Kernels are no extension modules of Python, but make a wheel a compiled one all the same."""

    def has_ext_modules(self) -> bool:
        return can_compile()


class WholeSdist(sdist):
    """An unpacked sdist is laid out as a checkout; setuptools would follow links, or leave out those that dangle."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        for place, leads_to in LINKS.items():
            link = Path(base_dir) / place
            shutil.rmtree(link, ignore_errors=True)
            link.symlink_to(leads_to)


COMMANDS = {"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel, "sdist": WholeSdist}
setup(distclass=WithKernels, cmdclass=COMMANDS)
