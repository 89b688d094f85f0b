"""What `tolsey` exits with, and the page that says so (docs/errors.md is printed by this file; a test compares).

    python -m tolsey.client.exit_codes > docs/errors.md

Errors carry their own code (errors.py). A job's end has one too, so that a script can branch on `tolsey wait`.
"""

from __future__ import annotations

import inspect

from tolsey import errors
from tolsey.errors import TolseyError
from tolsey.protocol.lifecycle import State

OK = 0
INTERRUPTED = 130
WAIT_TIMED_OUT = 124
BUG = 70
"""As LocalViolation: our own fault."""

BY_STATE: dict[State, int] = {
    State.COMPLETED: OK,
    State.SLASHED: 11,
    State.EXPIRED: 12,
    State.CANCELLED: 13,
    State.VOIDED: 14,
}
_ENDS = {
    State.COMPLETED: "every window was paid, its challenge window over; those for which no verifier vouched are named",
    State.SLASHED: "the worker was caught or hid its trace; you were refunded, and made whole from its bond",
    State.EXPIRED: "the worker did not commit in time; unspent escrow and the forfeit came back",
    State.CANCELLED: "you cancelled or the worker resigned; the forfeit went to the other side",
    State.VOIDED: "the judges reached no ruling; the rest of your escrow and both bonds went back",
}


class Interrupted(Exception):
    """Ctrl-C, with a sentence on what became of the work; a bare KeyboardInterrupt is ended by Typer without a word."""


def leaf_of(caught: BaseException) -> BaseException:
    """The exception that tells most in a group: ours before others, the first where all are alike."""
    if not isinstance(caught, BaseExceptionGroup):
        return caught
    leaves = [leaf_of(inner) for inner in caught.exceptions]
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt):
            return leaf
    bugs = [leaf for leaf in leaves if not isinstance(leaf, TolseyError)]
    return bugs[0] if bugs else leaves[0]


def page() -> str:
    """docs/errors.md."""
    lines = [
        "# Exit codes and errors",
        "",
        "Printed by `python -m tolsey.client.exit_codes`; a test keeps this page and the program equal.",
        "Messages go to standard error, data to standard output. `tolsey --verbose …` adds the traceback.",
        "",
        "## How a job ended (`tolsey run`, `wait`, `follow`)",
        "",
        "| code | state | meaning |",
        "|---:|---|---|",
        *(f"| {code} | {state.name.capitalize()} | {_ENDS[state]} |" for state, code in BY_STATE.items()),
        f"| {WAIT_TIMED_OUT} | any live state | `wait --timeout` ran out; the job goes on |",
        f"| {INTERRUPTED} | any | Ctrl-C; nothing is lost, `tolsey follow JOB` goes on |",
        "",
        "## Errors",
        "",
        "| code | error | whose fault | meaning |",
        "|---:|---|---|---|",
        *(f"| {kind.exit_code} | `{_path(kind)}` | {kind.blame} | {_meaning(kind)} |" for kind in _kinds(TolseyError)),
        "",
        "Code 2 is also what a wrong option or argument gives. Code 70 is a bug of ours.",
    ]
    return "\n".join(lines) + "\n"


def _kinds(root: type[TolseyError]) -> list[type[TolseyError]]:
    """Depth first, as in the drawing on top of errors.py; only what stands in that file."""
    found = [root]
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            found += _kinds(kind)
    return found


def _path(kind: type[TolseyError]) -> str:
    parents = [k.__name__ for k in kind.__mro__ if issubclass(k, TolseyError) and k is not TolseyError]
    return " < ".join(parents) or kind.__name__


def _meaning(kind: type[TolseyError]) -> str:
    """The words beside the class in the drawing, else the first line of its docstring."""
    for line in (inspect.getdoc(errors) or "").splitlines():
        name, _, words = line.replace("│", " ").replace("├─", " ").replace("└─", " ").strip().partition("  ")
        if kind.__name__ in name.split(", ") and words.strip():
            return words.strip()
    return (kind.__doc__ or "see its parent").strip().splitlines()[0].rstrip(".")


if __name__ == "__main__":
    print(page(), end="")
