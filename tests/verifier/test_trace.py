"""A trace against the chain: whatever is changed in it, it is refused; what passes can be opened."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tolsey.errors import ProofInvalid, RemoteViolation
from tolsey.protocol import merkle
from tolsey.protocol.offer import Domain, Offer
from tolsey.protocol.wire import Trace, TraceEntry
from tolsey.verifier.trace import CheckedTrace, break_in, checked_trace

from .worlds import PaperWindow, paper_spec, paper_window


def check(committed: PaperWindow, trace: Trace | bytes, **changes: Any) -> CheckedTrace:
    raw = trace if isinstance(trace, bytes) else trace.encode()
    known: dict[str, Any] = {
        "offer": committed.offer, "job_id": committed.job_id, "window": committed.index, "root": committed.root,
        "domain": committed.domain, "source": "wim",
    }  # fmt: skip
    return checked_trace(raw, **(known | changes))


def test_committed_trace_passes_and_each_segment_opens() -> None:
    window = paper_window(index=1)
    trace = check(window, window.trace)
    assert trace.first == 4
    assert trace.start_of(4) == window.trace.window_start
    assert trace.start_of(6) == window.trace.entries[1].checkpoint
    for place, segment in enumerate(range(4, 8)):
        opening = trace.opening(segment)
        assert merkle.verify(window.root, 4, place, trace.leaves[place], opening.siblings)
        assert opening.output_root == window.trace.entries[place].output_root
    assert trace.ends_at == window.trace.entries[-1].output_root


def test_trace_of_another_spec_blames_the_server() -> None:
    window = paper_window()
    other = dataclasses.replace(window.trace, spec=paper_spec(seed=8).encode())
    with pytest.raises(RemoteViolation, match="spec"):
        check(window, other)
    with pytest.raises(RemoteViolation, match="spec"):
        check(window, dataclasses.replace(window.trace, spec=b"{}"))


def _swapped(entries: tuple[TraceEntry, ...]) -> tuple[TraceEntry, ...]:
    return (entries[1], entries[0], *entries[2:])


@pytest.mark.parametrize("change", [_swapped, lambda e: e[:-1], lambda e: (*e, e[-1]), lambda e: ()])
def test_trace_with_other_segments_blames_the_server(change: Callable[[Any], Any]) -> None:
    window = paper_window()
    with pytest.raises(RemoteViolation, match="segments"):
        check(window, dataclasses.replace(window.trace, entries=change(window.trace.entries)))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("field", ["input_root", "output_root"])
def test_trace_with_one_root_changed_is_not_the_committed_one(place: int, field: str) -> None:
    window = paper_window()
    entries = list(window.trace.entries)
    entries[place] = dataclasses.replace(entries[place], **{field: b"\x77" * 32})
    with pytest.raises(ProofInvalid, match="the chain holds"):
        check(window, dataclasses.replace(window.trace, entries=tuple(entries)))


def test_trace_is_bound_to_chain_market_job_worker_and_window() -> None:
    window = paper_window()
    domain: Domain = window.domain
    offer: Offer = dataclasses.replace(window.offer, worker="0x" + "99" * 20)
    for changes in (
        {"domain": dataclasses.replace(domain, chain_id=1)},
        {"domain": dataclasses.replace(domain, market="0x" + "99" * 20)},
        {"job_id": b"\x99" * 32},
        {"offer": offer},
        {"root": b"\x99" * 32},
    ):
        with pytest.raises(ProofInvalid):
            check(window, window.trace, **changes)
    with pytest.raises(RemoteViolation):
        check(window, window.trace, window=1)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"x" * 100])
def test_no_trace_blames_the_server(raw: bytes) -> None:
    with pytest.raises(RemoteViolation):
        check(paper_window(), raw)


def test_break_in_finds_the_first_segment_that_does_not_follow() -> None:
    window = paper_window()
    good = check(window, window.trace)
    assert break_in(good, window.trace.entries[0].input_root) is None
    assert break_in(good, None) is None
    assert break_in(good, b"\x77" * 32) == 0
    broken = paper_window(broken=2)
    assert break_in(check(broken, broken.trace), broken.trace.entries[0].input_root) == 2
