"""What a person sees while a job runs: it fits the terminal, it moves, and it leaves standard output alone."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import trio
from rich.console import Console

from tolsey.client import present, render, watching
from tolsey.client.money import Money
from tolsey.client.serve import Update
from tolsey.client.views import ProgressView
from tolsey.contracts.views import JobView
from tolsey.protocol.lifecycle import State
from tolsey.protocol.wire import Progress

from .typist import PATIENCE_S, at_terminal

BLOCKS = set("▁▂▃▄▅▆▇█")


def update(steps: int = 1_000_000, *, done: int = 500) -> Update:
    losses = tuple((step, f"{5.5 - step / 200:.6f}") for step in range(done))
    progress = Progress(
        phase="training", step=done, steps=steps, window=3, losses=losses, step_s="12.5", message="segment 0"
    )
    view = JobView(state=State.ACCEPTED, window=3, deadline=90_000, drawn_at=0, pool_size=3, verdicts_paid=0, seed=0)
    return Update(view=view, progress=progress, now_ts=1_000)


def on_terminal(monkeypatch: pytest.MonkeyPatch, name: str, columns: int) -> io.StringIO:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=columns, height=30, color_system=None, highlight=False)
    monkeypatch.setattr(render, name, console)
    return screen


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_drawn_no_line_is_longer_than_the_terminal(columns: int) -> None:
    wide = Console(file=io.StringIO(), width=500, color_system=None, highlight=False)
    with wide.capture() as captured:
        wide.print(watching.drawn(update(), columns))
    lines = captured.get().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= columns
    text = " ".join(lines)
    for words in ("window 3: training", "step 500/1000000", "loss 3.005", "training ends in", "deadline in"):
        assert words in text
    assert sum(bool(BLOCKS & set(line)) for line in lines) >= 4


def test_packed_fills_lines_and_cuts_what_no_line_holds() -> None:
    assert render.packed(["aa", "bb", "cc"], 6) == ["aa  bb", "cc"]
    assert render.packed(["a" * 9, "b"], 6) == ["a" * 6, "b"]


def test_screen_on_a_terminal_draws_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = on_terminal(monkeypatch, "err", 60)
    with watching.Screen(Money()) as screen:
        screen.update(update())
    assert "5.4" in drawn.getvalue() and BLOCKS & set(drawn.getvalue())


def test_screen_without_a_terminal_prints_states_and_no_curve(capsys: pytest.CaptureFixture[str]) -> None:
    with watching.Screen(Money()) as screen:
        screen.update(update())
        screen.update(update(done=600))
    said = capsys.readouterr()
    assert said.err.count("window 3: accepted") == 1 and not BLOCKS & set(said.err) and said.out == ""


def test_points_leave_out_what_is_no_finite_number() -> None:
    assert present.points([(0, "1.5"), (1, "nan"), (2, "inf"), (3, "x"), (4, "1")]) == [(0, 1.5), (4, 1.0)]


def test_step_page_on_a_terminal_draws_the_curve_below_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = on_terminal(monkeypatch, "out", 60)
    with watching.StepPage(live=True) as page:
        for step in range(40):
            page.add(ProgressView(step=step, loss=str(5.5 - step / 10)))
    assert "step       39  loss 1.6" in drawn.getvalue() and BLOCKS & set(drawn.getvalue())


def test_step_page_in_a_pipe_prints_lines_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with watching.StepPage(live=True) as page:
        page.add(ProgressView(step=7, loss="1.25"))
    assert capsys.readouterr().out == "step        7  loss 1.25\n"


async def test_screen_leaves_standard_output_to_the_data(tmp_path: Path) -> None:
    """On a terminal whose output goes into a file, what is printed while the screen stands is in the file."""
    path = tmp_path / "out.txt"
    code = (
        f"import os, sys; sys.path[:0] = [{str(Path(__file__).parents[2])!r}]\n"
        f"os.dup2(os.open({str(path)!r}, os.O_CREAT | os.O_WRONLY), 1)\n"
        "from tolsey.client import watching\nfrom tolsey.client.money import Money\n"
        "from tests.client.test_watching import update\n"
        "with watching.Screen(Money()) as screen:\n    screen.update(update()); print('data', flush=True)\n"
    )
    with trio.fail_after(PATIENCE_S), at_terminal(code) as person:
        assert await person.end() == 0, person.seen
    assert path.read_text() == "data\n" and BLOCKS & set(person.seen)
