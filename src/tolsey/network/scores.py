"""How each peer has behaved, as a number that heals with time.

0 is a stranger, negative is worse. Below REFUSE_BELOW a peer is refused for REFUSE_S. Nothing is ever earned: a peer
that could save up good behaviour could spend it. The table holds MAX_PEERS peers; the ones forgotten first are those
not heard of for longest among the ones not refused, so that a flood of new ids does not wash a ban out.
Next in the flow: host.py asks before it accepts, dials or serves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

MAX_PEERS = 4096
REFUSE_BELOW = -100.0
REFUSE_S = 600.0
HALF_LIFE_S = 600.0

VIOLATION = 40.0
"""Broke a protocol: three within ten minutes and the peer is out."""
LIE = 101.0
"""Proven false bytes: out at once."""
UNRELIABLE = 5.0
"""Silent when it had to speak, or gone within a frame: nothing once, a nuisance twenty times. A peer that cannot be
reached, has nothing or refuses loses nothing."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    score: float
    at_s: float
    refused_until_s: float = 0.0


class Scores:
    """The table of one node.

    Args:
        clock: seconds that never go back; the event loop's clock by default.
    """

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def lower(self, peer_id: str, points: float, reason: str) -> None:
        """Takes `points` off the peer's score and writes one record of it."""
        if not peer_id:
            return
        now = self._clock()
        entry = self._entries.pop(peer_id, None) or _Entry(0.0, now)
        entry.score, entry.at_s = self._healed(entry, now) - points, now
        if entry.score < REFUSE_BELOW:
            entry.refused_until_s = now + REFUSE_S
        _log.info("peer %s: score %.0f (%s)", peer_id, entry.score, reason[:200])
        self._entries[peer_id] = entry
        if len(self._entries) > MAX_PEERS:
            self._forget_one(now)

    def score(self, peer_id: str) -> float:
        """The score now: 0 for a stranger."""
        entry = self._entries.get(peer_id)
        return 0.0 if entry is None else self._healed(entry, self._clock())

    def is_refused(self, peer_id: str) -> bool:
        """Whether nothing is to be had from or given to this peer for now."""
        entry = self._entries.get(peer_id)
        return entry is not None and self._clock() < entry.refused_until_s

    def _forget_one(self, now: float) -> None:
        oldest = next((p for p, e in self._entries.items() if e.refused_until_s <= now), next(iter(self._entries)))
        del self._entries[oldest]

    @staticmethod
    def _healed(entry: _Entry, now: float) -> float:
        return float(entry.score * 0.5 ** ((now - entry.at_s) / HALF_LIFE_S))
