"""Rates: how many bytes or streams a peer, or all peers together, may have in a second.

A bucket fills at a rate up to its burst. Whoever asks for bytes waits for them; whoever opens streams is told no.
A bucket that nobody has touched until it was full again is forgotten, so the table stays as small as its use.
Next in the flow: host.py and transfer.py.
"""

from __future__ import annotations

import trio

MAX_BUCKETS = 4096


class Bucket:
    """Tokens that come back at a rate.

    Args:
        rate_per_s: tokens a second.
        burst: the most that can be saved up.
    """

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        self._level, self._at_s = burst, trio.current_time()

    def take(self, count: float) -> bool:
        """Whether `count` tokens were there; they are gone if so."""
        self._fill()
        if self._level < count:
            return False
        self._level -= count
        return True

    async def spend(self, count: float) -> None:
        """Takes `count` tokens, more than the burst too, and sleeps until the debt is paid."""
        self._fill()
        self._level -= count
        if self._level < 0:
            await trio.sleep(-self._level / self.rate_per_s)

    @property
    def is_full(self) -> bool:
        """Whether forgetting this bucket would change nothing."""
        self._fill()
        return self._level >= self.burst

    def _fill(self) -> None:
        now = trio.current_time()
        self._level = min(self.burst, self._level + (now - self._at_s) * self.rate_per_s)
        self._at_s = now


class Budget:
    """One bucket per peer.

    Args:
        rate_per_s: tokens a second for each peer; None for no limit.
        burst: the most that a peer can save up.
    """

    def __init__(self, rate_per_s: float | None, burst: float = 0.0) -> None:
        self._rate, self._burst = rate_per_s, burst
        self._buckets: dict[str, Bucket] = {}

    def take(self, peer_id: str, count: float = 1.0) -> bool:
        """Whether the peer had `count` tokens left; they are gone if so."""
        return self._rate is None or self._bucket(peer_id, self._rate).take(count)

    async def spend(self, peer_id: str, count: float) -> None:
        """Takes `count` of the peer's tokens and sleeps until they are paid."""
        if self._rate is not None:
            await self._bucket(peer_id, self._rate).spend(count)

    def _bucket(self, peer_id: str, rate: float) -> Bucket:
        bucket = self._buckets.get(peer_id)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets = {peer: b for peer, b in self._buckets.items() if not b.is_full}
            bucket = self._buckets[peer_id] = Bucket(rate, self._burst)
        return bucket
