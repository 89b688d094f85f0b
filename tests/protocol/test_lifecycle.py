from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from tolsey.errors import LocalViolation
from tolsey.protocol.lifecycle import FINAL, LIVE, TRANSITIONS, State, Verdict, Vote, check_transition, poke

DOCS = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_states_are_unborn_live_or_final() -> None:
    assert LIVE | FINAL | {State.NONE} == set(State)
    assert not LIVE & FINAL


def test_final_states_are_never_left() -> None:
    assert not [row for row in TRANSITIONS if row.before in FINAL]


def test_every_live_state_can_be_reached_and_left_by_anyone() -> None:
    reached = {after for row in TRANSITIONS for after in row.after}
    assert reached >= LIVE | FINAL
    for state in LIVE:
        call = poke(state)
        rows = [row for row in TRANSITIONS if row.before is state and row.call == call]
        assert len(rows) == 1, state
        assert rows[0].who == "anyone"


def test_every_state_leads_to_a_final_one_by_pokes_alone() -> None:
    """Nobody's silence keeps a job alive for ever: following only calls open to anyone must end."""
    ends = set(FINAL)
    for _ in State:
        ends |= {r.before for r in TRANSITIONS if r.call == poke(r.before) and r.after & ends}
    assert ends >= LIVE


@pytest.mark.parametrize("state", [*FINAL, State.NONE])
def test_poke_of_a_job_that_is_not_live_is_none(state: State) -> None:
    assert poke(state) is None


def test_check_transition_allows_the_table_and_nothing_else() -> None:
    allowed = {(row.before, after) for row in TRANSITIONS for after in row.after}
    for before, after in product(State, State):
        if (before, after) in allowed:
            check_transition(before, after)
        else:
            with pytest.raises(LocalViolation, match=f"{before.name} to {after.name}"):
                check_transition(before, after)


def _documented() -> set[tuple[str, str, str]]:
    """(from, call, to) of the table in docs/protocol.md section 3; rows that stay in a state left out."""
    out = set()
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 7 or not cells[0].isdigit() or cells[4] == "same":
            continue
        call = re.match(r"\w+", cells[2])
        assert call is not None, line
        for before, after in product(re.findall(r"[A-Z]\w+", cells[1]), re.findall(r"[A-Z]\w+", cells[4])):
            out.add((before.upper(), call.group(), after.upper()))
    return out


def test_table_equals_the_one_in_the_documentation() -> None:
    ours = {(row.before.name, row.call, after.name) for row in TRANSITIONS for after in row.after}
    assert ours == _documented()


def test_numbers_on_the_chain_are_those_of_the_documentation() -> None:
    assert [v.value for v in (Verdict.MATCH, Verdict.MISMATCH, Verdict.UNAVAILABLE, Verdict.ABSTAIN)] == [1, 2, 3, 4]
    names = [Vote.WORKER, Vote.CHALLENGER, Vote.NEITHER, Vote.UNAVAILABLE, Vote.ABSTAIN]
    assert [v.value for v in names] == [1, 2, 3, 4, 5]
