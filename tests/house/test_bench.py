"""The summary of all benchmarks: a missed target is shown as one, a benchmark that broke as broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1] / "bench"
SCRIPTS = {
    "bench_fine.py": "import table; table.head(); table.row('a', '1 s', '<= 2 s', True); table.row('b', '7 s')",
    "bench_slow.py": "import table; table.row('pull', '3 s', '<= 2 s', False); print('(logged)'); raise SystemExit(1)",
    "bench_noisy.py": "import table; print('Traceback (of a peer)'); table.row('c', '3', '<= 2', False); 1 / 1",
    "bench_torn.py": "import table; table.row('d', '3', '<= 2', False); 1 / 0",
    "bench_gone.py": "import nothing_of_that_name",
}


def test_run_all_tells_missed_from_broken_and_fails_for_broken_only(tmp_path: Path) -> None:
    for name in ("run_all.py", "table.py"):
        (tmp_path / name).write_bytes((BENCH / name).read_bytes())
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run([sys.executable, str(tmp_path / "run_all.py")], capture_output=True, text=True, check=False)
    summary = done.stdout.partition("=== summary ===")[2].splitlines()
    assert [line.split()[:4] for line in summary if line.strip()] == [
        ["fine", "all", "targets", "met"],
        ["gone", "could", "not", "run"],
        ["noisy", "1", "target", "missed"],
        ["c", "3", "<=", "2"],
        ["slow", "1", "target", "missed"],
        ["pull", "3", "s", "<="],
        ["torn", "could", "not", "run"],
        ["d", "3", "<=", "2"],
    ]
    assert done.returncode == 2 and "ModuleNotFoundError" in done.stdout


def test_every_benchmark_is_found_by_run_all() -> None:
    assert {path.name for path in BENCH.glob("*.py")} - {"run_all.py", "table.py", "vendors.py"} == {
        path.name for path in BENCH.glob("bench_*.py")
    }
