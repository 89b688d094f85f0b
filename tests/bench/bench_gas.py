"""Gas of every flow beside the peers' figures, from the committed measurement (`make contracts` checks that it is current)."""

from __future__ import annotations

from tolsey.contracts.gas import table

print(table())
