"""`python -m tolsey.testing.dishonest_worker --mode skip-steps …`: a worker that cheats; for tests and demonstrations.

All other arguments are those of `tolsey worker start`. It bonds money and loses it when it is caught.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from tolsey.client.cli import report
from tolsey.node import command
from tolsey.testing.dishonest import MODES


def main(argv: list[str] | None = None) -> NoReturn:
    """Runs a dishonest worker until it is told to stop."""
    parser = argparse.ArgumentParser(prog="dishonest_worker", description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--mode", choices=sorted(MODES), required=True)
    known, rest = parser.parse_known_args(argv)
    try:
        command.app(["start", *rest], obj=MODES[known.mode])
    except BaseException as caught:  # noqa: BLE001  # the last door, as in client/cli.py: sorted there
        sys.exit(report(caught))
    sys.exit(0)


if __name__ == "__main__":
    main()
