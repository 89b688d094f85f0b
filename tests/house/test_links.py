"""The house stands as drawn: four links, no dead link in the prose, light doors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    p
    for p in ROOT.rglob("*.md")
    if not {"node_modules", ".venv", ".venv-slither", ".venv-wheel", "build"} & set(p.parts)
)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("room", ["contracts", "node", "client", "verifier"])
def test_room_link_is_relative_and_leads_to_the_top_level_folder(room: str) -> None:
    link = ROOT / "src" / "tolsey" / room
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{room}"
    assert link.resolve() == ROOT / room


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page_links_to_files_that_exist(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text()) if "://" not in t and not t.startswith("mailto:")]
    dead = [t for t in targets if not (page.parent / t).exists()]
    assert dead == []


@pytest.mark.parametrize("module", ["tolsey", "tolsey.client.cli", "tolsey.contracts.command", "tolsey.protocol.job"])
def test_import_of_the_client_needs_no_torch(module: str) -> None:
    program = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch' or name.startswith('torch.'):\n"
        "            raise ImportError('torch is not installed here')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        f"import {module}\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_protocol_imports_nothing_but_the_standard_library_and_one_hash() -> None:
    program = (
        "import importlib, pkgutil, sys, tolsey.protocol\n"
        "for m in pkgutil.iter_modules(tolsey.protocol.__path__):\n"
        "    importlib.import_module('tolsey.protocol.' + m.name)\n"
        "installed = {n for n, m in sys.modules.items() if 'site-packages' in (getattr(m, '__file__', None) or '')}\n"
        "print(*sorted({name.split('.')[0] for name in installed}))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    foreign = {t for t in done.stdout.split() if not t.startswith(("_distutils", "__editable__"))}
    assert foreign <= {"Crypto", "cffi", "_cffi_backend", "pycparser"}
