"""Which account is which peer, from the chain's own log: a registration counts only with the peer's signature in it.

Read lazily: a question brings the table up to the newest confirmed block and no further, so a worker that nobody
listens to reads nothing. What was read is kept as one fact in the database, so that a restart does not read the whole
history again. Next in the flow: publisher.py asks before it believes a listing.
"""

from __future__ import annotations

import json

import trio

from tolsey.contracts.bindings import binding_digest
from tolsey.contracts.chain import Chain
from tolsey.contracts.events import Event, WorkerRegistered
from tolsey.network.identity import verify_peer_signature
from tolsey.node.records import Records
from tolsey.protocol.units import Account

BLOCKS_AT_ONCE = 20_000
"""Read before progress is written down; about ten requests to an endpoint."""
_FACT = "registry"


class Registry:
    """Accounts and peer ids of registered workers."""

    def __init__(self, chain: Chain, records: Records) -> None:
        self._chain = chain
        self._records = records
        self._peers: dict[str, str] | None = None
        self._next_block = chain.gateway.network.deployed_block
        self._reading = trio.Lock()

    async def is_registered(self, account: Account, peer_id: str) -> bool:
        """Whether `account` is a worker that stays, and says by both keys that `peer_id` is its peer.

        Raises:
            ChainError: the chain cannot be asked now.
        """
        registration = await self._chain.run(self._chain.gateway.worker, account)
        if registration is None or registration.leaving_since:
            return False
        return await self.peer_of(account) == peer_id

    async def peer_of(self, account: Account) -> str | None:
        """The peer id that the account registered last, or None."""
        async with self._reading:
            if self._peers is None:
                await self._restore()
            await self._catch_up()
        assert self._peers is not None
        return self._peers.get(account.lower())

    async def _catch_up(self) -> None:
        gateway = self._chain.gateway
        newest = await self._chain.run(gateway.block_number) - gateway.network.confirmations
        while self._next_block <= newest:
            until = min(newest, self._next_block + BLOCKS_AT_ONCE - 1)
            for event in await self._chain.run(gateway.logs, self._next_block, until):
                self._take(event)
            self._next_block = until + 1
            value = json.dumps({"next": self._next_block, "peers": self._peers}).encode()
            await self._records.keep_fact(_FACT, value)

    def _take(self, event: Event) -> None:
        assert self._peers is not None
        if isinstance(event, WorkerRegistered):
            digest = binding_digest(self._chain.gateway.domain, event.account, event.peer_id)
            if verify_peer_signature(event.peer_id, digest, event.peer_signature):
                self._peers[event.account.lower()] = event.peer_id

    async def _restore(self) -> None:
        kept = await self._records.fact(_FACT)
        self._peers = {}
        if kept is not None:
            value = json.loads(kept)
            self._peers, self._next_block = dict(value["peers"]), int(value["next"])
