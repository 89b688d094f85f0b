"""The embedded chain answers everybody, however many idle connections others hold open."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import requests

from tolsey.contracts.devchain.server import MAX_CONNECTIONS, MAX_KEPT
from tolsey.contracts.local_chain import start_chain_now

ASK = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}


def test_more_idle_clients_than_places_all_are_answered(tmp_path: Path) -> None:
    with start_chain_now(tmp_path, engine="embedded") as chain, ExitStack() as stack:
        sessions = [stack.enter_context(requests.Session()) for _ in range(MAX_CONNECTIONS + 10)]
        answers = [session.post(chain.url, json=ASK, timeout=30) for session in sessions]
        assert {answer.json()["result"] for answer in answers} == {hex(31_337)}
        kept = [answer for answer in answers if answer.headers.get("Connection") != "close"]
        assert len(kept) == MAX_KEPT
        assert sessions[0].post(chain.url, json=ASK, timeout=30).ok
