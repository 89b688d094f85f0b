"""What this worker sells at this moment: its listing for everybody, its standing for the bidder.

Both are made anew from settings, measurements, tables and chain each time they are asked for, so that they cannot
disagree with them. Sequence numbers rise with the clock and never fall, restarts included. Next in the flow:
publisher.py tells the listing, bidding.py uses the standing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tolsey.contracts.chain import Chain
from tolsey.node.bidding import Standing
from tolsey.node.clock import ChainClock
from tolsey.node.config import WorkerConfig
from tolsey.node.records import OfferRecord, Records
from tolsey.protocol.listing import Listing
from tolsey.protocol.units import Account, ClassId, PeerId, TokenUnits

LISTING_LIFE_S = 180
"""Six announcements: a listing outlives a few lost messages, and a dead worker is off the book in three minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was measured of this machine.

    Attributes:
        class_id, class_name: its numerics class in profile `pinned`. profiles: all that it can run.
        flops_per_s: training speed on a reference program.
    """

    class_id: ClassId
    class_name: str
    profiles: tuple[str, ...]
    flops_per_s: int


class Shop:
    """Listing and standing of one worker.

    Args:
        account, peer_id, addrs: as registered and as listened on.
    """

    def __init__(
        self,
        config: WorkerConfig,
        chain: Chain,
        clock: ChainClock,
        records: Records,
        machine: Machine,
        *,
        account: Account,
        peer_id: PeerId,
        addrs: tuple[str, ...],
    ) -> None:
        self._config = config
        self._chain = chain
        self._clock = clock
        self._records = records
        self._machine = machine
        self._account = account
        self._peer_id = peer_id
        self._addrs = addrs
        self._sequence = 0

    async def listing(self) -> Listing:
        """What is told to everybody; places that are promised count as taken."""
        open_offers, busy = await self._counts()
        self._sequence = max(self._sequence + 1, time.time_ns() // 1_000_000)
        return self._listing(self._sequence, busy + len(open_offers))

    def _listing(self, sequence: int, busy: int) -> Listing:
        config, machine = self._config, self._machine
        return Listing(
            account=self._account,
            peer_id=self._peer_id,
            addrs=self._addrs[:8],
            chain_id=self._chain.gateway.domain.chain_id,
            market=self._chain.gateway.domain.market,
            class_id=machine.class_id,
            class_name=machine.class_name[:64],
            profiles=machine.profiles,
            price_per_petaflop=TokenUnits(config.price_per_petaflop),
            min_price=TokenUnits(config.min_price),
            bond_bps=config.bond_bps,
            min_bond=TokenUnits(config.min_bond),
            memory_bytes=config.memory_bytes,
            flops_per_s=machine.flops_per_s,
            busy=min(busy, config.capacity),
            capacity=config.capacity,
            sequence=sequence,
            expires_at=self._clock.wall_ts + LISTING_LIFE_S,
        )

    async def free_of(self, account: Account) -> TokenUnits:
        """Token units that an account has free in the market; asks the chain."""
        free, _locked = await self._chain.run(self._chain.gateway.account, account)
        return free

    async def standing(self) -> Standing:
        """What the bidder must know; asks the chain."""
        chain = self._chain
        open_offers, busy = await self._counts()
        free = await self.free_of(self._account)
        params = await chain.run(chain.gateway.params)
        return Standing(
            domain=chain.gateway.domain,
            listing=self._listing(0, busy),
            open_offers=len(open_offers),
            promised_bond=sum(record.offer.bond for record in open_offers),
            free=free,
            min_job_bond=params.min_job_bond,
            max_window_s=params.max_window_s,
            min_verdict_window_s=params.min_verdict_window_s,
            now_ts=self._clock.next_ts,
        )

    async def _counts(self) -> tuple[list[OfferRecord], int]:
        """Offers that still bind, and jobs that are not closed."""
        now_ts = self._clock.block_ts
        open_offers = [record for record in await self._records.open_offers() if record.offer.expires_at >= now_ts]
        return open_offers, sum(job.closed_at is None for job in await self._records.jobs())
