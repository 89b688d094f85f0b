"""Chains for tests: start either engine in a folder, speak raw JSON-RPC or web3 to it, deploy the probe contract.

`ENGINES` parametrises; the anvil cases skip with a reason where anvil is not installed.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from web3 import HTTPProvider, Web3
from web3.contract import Contract
from web3.types import TxReceipt

from tolsey.contracts.anvil import find_anvil
from tolsey.contracts.devchain import dev_keys
from tolsey.contracts.local_chain import LocalChain, start_chain_now

PROBE = json.loads((Path(__file__).parent / "probe" / "probe.json").read_text())
ENGINES = [
    pytest.param("embedded", id="embedded"),
    pytest.param(
        "anvil", id="anvil", marks=pytest.mark.skipif(find_anvil() is None, reason="anvil not found: set TOLSEY_ANVIL")
    ),
]
SEED_KEY = dev_keys()[0]
SEED_ACCOUNT = Account.from_key(SEED_KEY)


class RpcError(Exception):
    """A JSON-RPC error object."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code, self.data = error["code"], error.get("data")


class Market:
    """One running chain and the two ways to talk to it."""

    def __init__(self, folder: Path, engine: str, **options: Any) -> None:
        self._attach(start_chain_now(folder, engine=engine, **options))  # type: ignore[arg-type]

    @classmethod
    def attached(cls, chain: LocalChain) -> Market:
        market = cls.__new__(cls)
        market._attach(chain)
        return market

    def _attach(self, chain: LocalChain) -> None:
        self.chain = chain
        self.web3 = Web3(HTTPProvider(chain.url))

    def rpc(self, method: str, *params: Any) -> Any:
        answer: dict[str, Any] = self.web3.provider.make_request(method, list(params))  # type: ignore[arg-type,assignment]
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    def deploy(self) -> Contract:
        factory = self.web3.eth.contract(abi=PROBE["abi"], bytecode=PROBE["bytecode"])
        receipt = self.mined(factory.constructor().transact({"from": SEED_ACCOUNT.address}))
        assert receipt["contractAddress"] is not None
        return self.web3.eth.contract(address=receipt["contractAddress"], abi=PROBE["abi"])

    def mined(self, tx_hash: Any) -> TxReceipt:
        return self.web3.eth.wait_for_transaction_receipt(tx_hash, timeout=20, poll_latency=0.01)

    def transact(self, function: Any) -> TxReceipt:
        return self.mined(function.transact({"from": SEED_ACCOUNT.address}))

    def signed(self, *, nonce: int, tip_wei: int = 10**9, key: bytes = SEED_KEY, **fields: Any) -> bytes:
        base = {
            "to": "0x" + "42" * 20, "value": 1, "gas": 21_000, "nonce": nonce, "chainId": 31337,
            "maxFeePerGas": 10**10 + tip_wei, "maxPriorityFeePerGas": tip_wei,
        }  # fmt: skip
        return bytes(Account.sign_transaction({**base, **fields}, key).raw_transaction)

    def send(self, raw: bytes) -> bytes:
        return bytes.fromhex(self.rpc("eth_sendRawTransaction", "0x" + raw.hex())[2:])

    def await_block(self, number: int) -> None:
        """Returns once the chain has mined block `number` by itself."""
        while self.web3.eth.block_number < number:
            time.sleep(0.05)  # JSON-RPC over HTTP has nothing to wait on

    def kill(self) -> None:
        """kill -9, as an operator's out-of-memory killer would."""
        os.kill(self.chain.pid, signal.SIGKILL)
        self.chain.stop_now()

    def stop(self) -> None:
        if self.chain.is_running:
            self.chain.stop_now()
