"""Live progress on standard error: state, a bar, step, loss, time left and deadline, and the loss curve below them.

Without a terminal it prints a line per change of state and nothing else, so that logs stay readable.
Next: commands/buy.py and commands/jobs.py use it.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from tolsey.client import present, render
from tolsey.client.money import Money
from tolsey.client.serve import Update
from tolsey.client.views import ProgressView
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

    Args:
        job: the one that is followed; None where it is still to be bought. quiet: say nothing at all.
    """

    def __init__(self, money: Money, *, job: str | None = None, quiet: bool = False) -> None:
        self._money, self._quiet = money, quiet
        self._left_behind = "nothing was bought" if job is None else _goes_on(job)
        self._is_live = render.err.is_terminal and not quiet
        # Standard output is data and stays where it goes, so the screen must not catch it.
        self._live = Live(console=render.err, transient=True, auto_refresh=False, redirect_stdout=False)
        self._said: tuple[object, ...] = ()
        self._note = ""

    def tell(self, event: str, value: Any) -> None:
        """Says that the job was accepted or left to a follower."""
        if event == "locking":
            self._left_behind = "the escrow may be locked already: tolsey ps says, tolsey follow JOB goes on"
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
        if view.state in FINAL:
            self._left_behind = "the job is over: tolsey ps says how it ended, tolsey get JOB has the result"
        key = (view.state, view.window)
        if key != self._said and view.state not in FINAL:
            self._said = key
            if not self._is_live or progress is None:
                render.err.print(f"window {view.window}: {_PHASES.get(view.state, view.state.name.lower())}")
        if not self._is_live or progress is None:
            return
        self._live.start()  # once; later calls do nothing
        self._live.update(drawn(update, render.err.width), refresh=True)

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def left_behind(self) -> str:
        """What goes on, or does not, when the command ends now."""
        return self._left_behind


class StepPage:
    """Steps line by line on standard output, and while they come, on a terminal, the curve that they make below them.

    A context manager. Args:
        live: whether more steps may come.
    """

    def __init__(self, *, live: bool) -> None:
        self._is_live = live and render.out.is_terminal
        self._points: list[tuple[int, float]] = []
        self._live = Live(console=render.out, auto_refresh=False)

    def add(self, view: ProgressView) -> None:
        """Prints one step."""
        render.out.print(f"step {view.step:>8}  loss {view.loss[:10]}", markup=False, soft_wrap=True)
        if not self._is_live:
            return
        self._points += present.points([(view.step, view.loss)])
        self._live.start()  # once; later calls do nothing
        self._live.update(render.curve(self._points, render.out.width), refresh=True)

    def __enter__(self) -> StepPage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def _goes_on(job: str) -> str:
    """The sentence for a job that needs nobody at the terminal."""
    return f"the job goes on: tolsey follow {job} takes it up again, tolsey cancel {job} ends it for the forfeit"


def drawn(update: Update, columns: int) -> RenderableType:
    """The whole screen for a job whose worker talks, in lines of at most `columns`."""
    progress, view = update.progress, update.view
    assert progress is not None and view is not None, "there is nothing to draw before"
    phase = progress.phase if view.state is State.ACCEPTED else _PHASES.get(view.state, view.state.name.lower())
    parts = [f"window {view.window}: {phase}", f"step {progress.step}/{progress.steps}"]
    if progress.losses:
        parts.append(f"loss {progress.losses[-1][1][:6]}")
    left_s = eta_s(update)
    if left_s is not None:
        parts.append(f"training ends in {render.duration(left_s)}")
    if view.deadline > update.now_ts:
        parts.append(f"deadline in {render.duration(view.deadline - update.now_ts)}")
    lines = [Text(line, no_wrap=True) for line in render.packed(parts, columns)]
    bar = ProgressBar(total=progress.steps, completed=progress.step, width=min(64, columns))
    return Group(*lines, bar, render.curve(present.curve(progress), columns))


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
