"""The command line before a shop that has one offer and sells nothing: what stands between the two is the question.

Started by test_interrupt.py on a terminal of its own; the market is a network file and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
from offers import SPEC, TERMS, candidate

from tolsey.client import cli, market, plan
from tolsey.client.access import Access
from tolsey.client.money import Money

PLAN = plan.make_plan([candidate(1, 500_000)], spec=SPEC, terms=TERMS, pool_size=3, pool_places=3)


class Counter:
    """Has the plan; whoever accepts waits for a block that does not come."""

    plan = PLAN

    async def accept(self) -> None:
        print("a block is due", flush=True)
        await trio.sleep_forever()


@asynccontextmanager
async def open_shop(*_given: Any) -> AsyncIterator[Any]:
    yield Counter()


def main(folder: Path) -> None:
    """Types `tolsey run`, answers included, on the terminal that we are at."""
    market.open_shop = open_shop  # type: ignore[assignment]  # what is behind the counter is not what is tested
    Access.money = Money()  # type: ignore[assignment]  # the chain is not asked for its token
    market.specs.read_request = lambda _path: SimpleNamespace()  # type: ignore[assignment]  # nor the job for itself
    cli.main(["run", str(folder / "job.py"), "--network", str(folder / "network.toml")])
