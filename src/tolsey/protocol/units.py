"""Units and ids as distinct types, so that a swapped argument fails in the type checker and not with money in it."""

from __future__ import annotations

from typing import NewType

TokenUnits = NewType("TokenUnits", int)
"""Smallest unit of the market's ERC-20 (a test dollar has 1e6 of them). Never assume 18 decimals."""

Seconds = NewType("Seconds", int)
BlockNumber = NewType("BlockNumber", int)
BasisPoints = NewType("BasisPoints", int)

Account = NewType("Account", str)
"""0x-prefixed, EIP-55 checksummed, 20 bytes."""

PeerId = NewType("PeerId", str)
"""Base58 libp2p peer id of an Ed25519 key."""

JobId = NewType("JobId", bytes)
"""32 bytes: the EIP-712 digest of the accepted offer."""

SpecHash = NewType("SpecHash", bytes)
ClassId = NewType("ClassId", bytes)
"""32 bytes: machines of equal class give equal bits (profile `pinned`)."""

StateRoot = NewType("StateRoot", bytes)
"""32 bytes over a whole training state (protocol/checkpoint.py)."""

WindowRoot = NewType("WindowRoot", bytes)
