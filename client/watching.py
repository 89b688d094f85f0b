"""Live progress on standard error: step, loss, time left, state and deadline, in one line that rewrites itself.

Without a terminal it prints a line per change of state and nothing else, so that logs stay readable.
Next: commands/buy.py and demo.py use it.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from tolsey.client import exit_codes, render
from tolsey.client.money import Money
from tolsey.client.serve import Update
from tolsey.protocol.lifecycle import FINAL, State

_PHASES = {
    State.NONE: "waiting for the block",
    State.ACCEPTED: "accepted",
    State.COMMITTED: "committed, to be drawn",
    State.DRAWN: "drawn, verifiers replay",
    State.DEMANDED: "a segment is demanded",
    State.CHALLENGED: "challenged, a panel judges",
}


class Screen:
    """A context manager; `update` and `tell` may be called inside it.

    An interrupt that leaves it says what becomes of the job (cli.py prints the words).

    Args:
        job: the one that is followed; None where it is still to be bought. quiet: say nothing at all.
    """

    def __init__(self, money: Money, *, job: str | None = None, quiet: bool = False) -> None:
        self._money, self._quiet = money, quiet
        self._left_behind = "nothing was bought" if job is None else _goes_on(job)
        self._is_live = render.err.is_terminal and not quiet
        self._bar = Progress(
            TextColumn("{task.fields[state]:<26}"), BarColumn(bar_width=24), TextColumn("{task.fields[line]}"),
            console=render.err, transient=True, auto_refresh=False,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._said: tuple[object, ...] = ()
        self._note = ""

    def tell(self, event: str, value: Any) -> None:
        """Says that the job was accepted or left to a follower."""
        if event == "locking":
            self._left_behind = (
                f"the escrow may be locked already: tolsey show {value[:12]} says, tolsey follow goes on"
            )
        elif event == "accepted":
            self._left_behind = _goes_on(value[:12])
        if self._quiet:
            return
        if event == "accepted":
            render.err.print(f"accepted: job {value}")
        elif event == "detached":
            render.err.print(f"process {value} follows it; tolsey ps shows how it goes")

    def update(self, update: Update) -> None:
        """Shows how the job stands."""
        if self._quiet:
            return
        view, progress = update.view, update.progress
        if update.note and update.note != self._note:
            render.err.print(f"[yellow]{update.note}[/]")
        self._note = update.note
        if view is None:
            return
        key = (view.state, view.window)
        if key != self._said and view.state not in FINAL:
            self._said = key
            if not self._is_live:
                render.err.print(f"window {view.window}: {_PHASES.get(view.state, view.state.name.lower())}")
        if not self._is_live or progress is None:
            return
        if self._task is None:
            self._task = self._bar.add_task("", total=progress.steps, state="", line="")
            self._bar.start()
        phase = progress.phase if view.state is State.ACCEPTED else _PHASES.get(view.state, view.state.name.lower())
        self._bar.update(
            self._task, completed=progress.step, state=f"window {view.window}: {phase}", line=_line(update)
        )
        self._bar.refresh()

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._bar.stop()
        if error is not None and isinstance(exit_codes.leaf_of(error), KeyboardInterrupt):
            raise exit_codes.Interrupted(self._left_behind) from error


def _goes_on(job: str) -> str:
    return f"the job goes on: tolsey follow {job} takes it up again, tolsey cancel {job} ends it for the forfeit"


def _line(update: Update) -> str:
    progress, view = update.progress, update.view
    assert progress is not None and view is not None
    parts = [f"step {progress.step}/{progress.steps}"]
    if progress.losses:
        parts.append(f"loss {progress.losses[-1][1][:6]}")
    left_s = eta_s(update)
    if left_s is not None:
        parts.append(f"training ends in {render.duration(left_s)}")
    if view.deadline > update.now_ts:
        parts.append(f"deadline in {render.duration(view.deadline - update.now_ts)}")
    return "  ".join(parts)


def eta_s(update: Update) -> float | None:
    """Seconds of training left by the worker's own step time; None where it cannot be told."""
    progress = update.progress
    if progress is None or progress.step >= progress.steps:
        return None
    try:
        step_s = float(progress.step_s)
    except ValueError:
        return None
    left = step_s * (progress.steps - progress.step)
    return left if math.isfinite(left) and 0 < left < 1e9 else None
