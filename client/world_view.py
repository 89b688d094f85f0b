"""What `tolsey status` shows: processes by their pids, the chain by its head, sellers by their listings, jobs by logs.

Each part is asked for itself, so that a dead chain still shows which processes live. Next: render.py.
"""

from __future__ import annotations

from pathlib import Path

import trio

from tolsey.client import present
from tolsey.client.access import Access
from tolsey.client.config import Settings
from tolsey.client.ledger import Ledger
from tolsey.client.local_market import read_note
from tolsey.client.money import Money
from tolsey.client.peers import open_peers
from tolsey.client.processes import is_alive
from tolsey.client.views import ListingView, ProcessView, StatusView
from tolsey.errors import ChainError


def status(settings: Settings, folder: Path) -> tuple[StatusView, Money]:
    """The market's state and how its token is written; blocks."""
    access = Access(settings)
    note = read_note(folder) or {"members": []}
    processes = tuple(
        ProcessView(
            name=member["name"],
            role=member["role"],
            pid=member["pid"],
            alive=is_alive(member["pid"], member["started"]),
            account=member["account"],
            log=member["log"],
        )
        for member in note["members"]
    )
    try:
        ledger = Ledger.read(access)
        money = access.money
    except ChainError:
        return _view(access, processes, None, [], {}), Money()
    listings = trio.run(_listings, access, ledger) if any(process.alive for process in processes) else []
    return _view(access, processes, ledger.block, listings, present.by_state(ledger)), money


async def _listings(access: Access, ledger: Ledger) -> list[ListingView]:
    async with open_peers(access, ledger=ledger) as peers:
        return [present.listing(listing) for listing in await peers.sellers(patience_s=3)]


def _view(
    access: Access,
    processes: tuple[ProcessView, ...],
    block: int | None,
    listings: list[ListingView],
    jobs: dict[str, int],
) -> StatusView:
    return StatusView(
        network=str(access.settings.network_path),
        rpc_url=access.network.rpc_url,
        chain_id=access.network.chain_id,
        block=block,
        processes=processes,
        listings=tuple(listings),
        jobs=jobs,
    )
