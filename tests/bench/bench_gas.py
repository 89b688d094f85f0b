"""Gas of every flow beside the peers' figures, from the committed measurement (`make contracts` keeps it current)."""

from __future__ import annotations

import sys

import table

from tolsey.contracts import gas

MOST_HONEST_JOB = 230_000
"""Gas of an honest job of one window, verdicts apart."""


def main() -> int:
    """Prints the tables; 1 where the target was missed."""
    print(gas.table() + "\n")
    table.head()
    spent = gas.figures()["honestJob"]
    within = spent <= MOST_HONEST_JOB
    return 0 if table.row("honest job of one window", f"{spent:,} gas", f"<= {MOST_HONEST_JOB:,} gas", within) else 1


if __name__ == "__main__":
    sys.exit(main())
