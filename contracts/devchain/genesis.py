"""Block 0: the accounts that every Ethereum developer knows, with the balances that anvil gives them.

Equal to anvil's on purpose: a network file written for one engine is valid for the other. The keys are public
knowledge, so nothing of value may ever be sent to them. Next: store.py.
"""

from __future__ import annotations

import functools

from eth_account.hdaccount import seed_from_mnemonic
from eth_account.hdaccount.deterministic import HDPath

CHAIN_ID = 31337
DEV_MNEMONIC = "test test test test test test test test test test test junk"
DEV_ACCOUNTS = 10
DEV_BALANCE_WEI = 10_000 * 10**18
GAS_LIMIT = 30_000_000
"""Gas in one block, as in anvil 1.7."""


@functools.cache
def dev_keys(count: int = DEV_ACCOUNTS) -> tuple[bytes, ...]:
    """The first `count` private keys (32 bytes each) of DEV_MNEMONIC, path m/44'/60'/0'/0/i."""
    seed = seed_from_mnemonic(DEV_MNEMONIC, "")
    return tuple(HDPath(f"m/44'/60'/0'/0/{index}").derive(seed) for index in range(count))
