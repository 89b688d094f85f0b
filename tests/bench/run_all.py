"""Every measured claim, one table after another: `make bench` (`--quick` for smaller sizes).

Benchmarks print what they see, also where a target is missed: its row ends in NO, and the last table repeats it. They
assert nothing by time, so a missed target is no failure of this script; a benchmark that could not run is.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def run(script: Path) -> tuple[list[str], bool]:
    """Runs one benchmark, showing what it prints; its rows with missed targets, and whether it ran to its end."""
    command = [sys.executable, "-u", str(script), *sys.argv[1:]]
    rows: list[str] = []
    broken = False
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            verdict = line.split()[-1:]
            if verdict in (["yes"], ["NO"]):
                broken = False  # what a benchmark logged on the way did not end it
                rows += [line.rstrip()] if verdict == ["NO"] else []
            broken |= line.startswith("Traceback ")
    return rows, process.returncode == 0 or (bool(rows) and not broken)


def main() -> int:
    """Runs each bench_*.py in a process of its own; the exit code is the number that could not run."""
    missed: dict[str, list[str]] = {}
    failed: list[str] = []
    for script in sorted(HERE.glob("bench_*.py")):
        name = script.stem.removeprefix("bench_")
        print(f"\n=== {name} ===", flush=True)
        began = time.monotonic()
        missed[name], ran = run(script)
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
        if not ran:
            failed.append(name)
    print("\n=== summary ===")
    for name, rows in missed.items():
        said = (
            "could not run"
            if name in failed
            else f"{len(rows)} target{'s' * (len(rows) > 1)} missed"
            if rows
            else "all targets met"
        )
        print(f"{name:12} {said}")
        for row in rows:
            print(f"  {row}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
