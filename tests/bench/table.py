"""How a benchmark says what it measured: a row a figure, and whether a target was met.

`run_all.py` reads the rows again: one that ends in NO is a missed target. A figure without a target has no last column.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

ROW = "{:58} {:52} {:22} {}"


def head() -> None:
    """The table's first row, and how busy the machine is."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    print(ROW.format("figure", "measured", "target", "met"), flush=True)


def row(what: str, measured: str, target: str = "", met: bool | None = None) -> bool:
    """Prints a figure; gives `met` back, True where there is no target."""
    print(ROW.format(what, measured, target, "" if met is None else "yes" if met else "NO").rstrip(), flush=True)
    return met is not False


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Median, quartiles and extremes."""
    low, middle, high = statistics.quantiles(values, n=4)
    parts = [f"{value:{form}}" for value in (middle, low, high, min(values), max(values))]
    return "{} (middle half {} to {}, all {} to {})".format(*parts)
