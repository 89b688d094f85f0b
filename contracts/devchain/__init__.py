"""A small Ethereum in one process, for machines that have no anvil: py-evm under a local JSON-RPC port.

It follows Cancun rules, has anvil's chain id, accounts and cheat methods, and keeps every mined block in SQLite, so
that `kill -9` loses nothing that was answered. It is for one machine: no peers, no consensus, unlocked accounts with
published keys. It never listens on anything but loopback.

What it promises beyond stock py-evm (each a test in tests/contracts/test_chain_conformance.py, run on anvil too):
`block.prevrandao` inside a transaction is the header's mixHash; a revert's bytes reach the caller as `error.data`;
logs and transactions are found through an index, so history stays cheap; calls run at the time of the next block.

Order of reading: genesis.py (who is rich), store.py (SQLite), shapes.py (JSON-RPC forms), calls.py (running without
mining), pool.py (what waits), engine.py (blocks), rpc.py (methods), server.py (HTTP), __main__.py (the process).
"""

from __future__ import annotations

from tolsey.contracts.devchain.genesis import CHAIN_ID, DEV_MNEMONIC, dev_keys

__all__ = ["CHAIN_ID", "DEV_MNEMONIC", "dev_keys"]
