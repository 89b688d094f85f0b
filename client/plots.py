"""Loss curves: a PNG for a report and a few lines of block characters for a terminal.

Next: nothing; render.py and commands/jobs.py call it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

Curve = Sequence[tuple[int, float]]
"""(step, loss), steps rising."""

LABEL_COLUMNS = 9
"""Left of a block curve: a loss and the axis."""
_BLOCKS = " ▁▂▃▄▅▆▇█"


def write_png(path: Path, curve: Curve, *, title: str) -> None:
    """Draws `curve` into `path` (PNG, 1200 x 675 pixels); overwrites it."""
    # matplotlib costs 0.4 s to import; only --plot pays for it. The Agg canvas needs no screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([step for step, _ in curve], [loss for _, loss in curve], color="#1f5fa8", linewidth=1.4)
    axes.set(title=title, xlabel="step", ylabel="loss")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure)
    figure.savefig(str(path), format="png")


def block_curve(curve: Curve, *, width: int = 64, height: int = 6) -> list[str]:
    """`height` lines of at most `width` block characters with the loss at the left edge; empty for no points."""
    if not curve:
        return []
    columns = _columns([loss for _, loss in curve], width)
    low, high = min(columns), max(columns)
    span = (high - low) or 1.0
    eighths = [round((value - low) / span * (height * 8 - 1)) + 1 for value in columns]
    lines = []
    for row in range(height - 1, -1, -1):
        label = f"{high:7.3f}" if row == height - 1 else f"{low:7.3f}" if row == 0 else " " * 7
        lines.append(f"{label} ┤" + "".join(_BLOCKS[max(0, min(8, e - 8 * row))] for e in eighths))
    first, last = str(curve[0][0]), str(curve[-1][0])
    lines.append(" " * LABEL_COLUMNS + first + last.rjust(max(len(columns) - len(first), len(last) + 1)))
    return lines


def _columns(values: Sequence[float], width: int) -> list[float]:
    """The mean of each of at most `width` equal runs."""
    count = min(width, len(values))
    bounds = [len(values) * i // count for i in range(count + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]
