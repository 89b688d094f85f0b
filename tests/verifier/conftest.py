from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tolsey.testing.chain import MarketWorld

from .worlds import CLOCKS, TERMS, PaperMarket


@pytest.fixture
def market(tmp_path: Path) -> Iterator[PaperMarket]:
    with MarketWorld.open(tmp_path, clocks=CLOCKS, terms=TERMS) as world:
        yield PaperMarket(world, tmp_path)
