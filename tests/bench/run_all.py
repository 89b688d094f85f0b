"""Every measured claim, one table after another: `make bench` (`--quick` for smaller sizes).

Benchmarks print what they see, also where a target is missed; they assert nothing by time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Runs each bench_*.py in a process of its own; the exit code is the number that could not run."""
    failed = []
    for script in sorted(HERE.glob("bench_*.py")):
        print(f"\n=== {script.stem.removeprefix('bench_')} ===", flush=True)
        if subprocess.run([sys.executable, str(script), *sys.argv[1:]], check=False).returncode != 0:
            failed.append(script.name)
    if failed:
        print(f"\ncould not run: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
