"""Gas of every flow beside the peers' figures, from the committed measurement (`make contracts` keeps it current)."""

from __future__ import annotations

from tolsey.contracts.gas import table

print(table())
