"""Makers of valid protocol objects; each test changes the one field it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tolsey.protocol.job import JobSpec
from tolsey.protocol.listing import Listing
from tolsey.protocol.offer import Domain, Offer

CLIENT = "0x" + "c1" * 20
WORKER = "0x" + "a0" * 20
MARKET = "0x" + "3e" * 20


@pytest.fixture
def domain() -> Domain:
    return Domain(chain_id=31337, market=MARKET)


@pytest.fixture
def make_spec() -> Callable[..., JobSpec]:
    def make(**changes: Any) -> JobSpec:
        fields: dict[str, Any] = {
            "name": "tiny-gpt",
            "program": b"\x01" * 32,
            "dataset": b"\x02" * 32,
            "initial_tensors": None,
            "profile": "pinned",
            "class_id": b"\x03" * 32,
            "seed": 7,
            "steps": 100,
            "steps_per_segment": 7,
            "segments_per_window": 4,
            "batch_size": 8,
            "micro_batches": 2,
            "memory_bytes": 1 << 30,
            "work_flops": 10**12,
        }
        return JobSpec(**(fields | changes))

    return make


@pytest.fixture
def make_offer(make_spec: Callable[..., JobSpec]) -> Callable[..., Offer]:
    def make(**changes: Any) -> Offer:
        spec = make_spec()
        fields: dict[str, Any] = {
            "spec_hash": spec.spec_hash,
            "class_id": spec.class_id,
            "initial_root": b"\x04" * 32,
            "client_seal": b"\x05" * 32,
            "client": CLIENT,
            "worker": WORKER,
            "price": 1_000_003,
            "bond": 2_000_000,
            "forfeit": 100_000,
            "verdict_fee": 1_000,
            "segment_count": spec.segment_count,
            "segments_per_window": spec.segments_per_window,
            "verifier_count": 2,
            "sample_count": 3,
            "commit_window_s": 600,
            "reveal_window_s": 5,
            "verdict_window_s": 20,
            "challenge_window_s": 45,
            "nonce": 9,
            "expires_at": 1_900_000_000,
        }
        return Offer(**(fields | changes))

    return make


@pytest.fixture
def make_listing() -> Callable[..., Listing]:
    def make(**changes: Any) -> Listing:
        fields: dict[str, Any] = {
            "account": WORKER,
            "peer_id": "12D3KooWRzvTsGpDLhrMu1D93Wfh9mJNRn3uKvKvYuTrqW3hWYJz",
            "addrs": ("/ip4/127.0.0.1/tcp/4001",),
            "chain_id": 31337,
            "market": MARKET,
            "class_id": b"\x03" * 32,
            "class_name": "x86-64 cpu",
            "profiles": ("exact-fp32/1", "pinned"),
            "price_per_petaflop": 5_000_000,
            "min_price": 1_000,
            "bond_bps": 15_000,
            "min_bond": 2_000,
            "memory_bytes": 1 << 34,
            "flops_per_s": 10**10,
            "busy": 0,
            "capacity": 1,
            "sequence": 1,
            "expires_at": 1_000,
        }
        return Listing(**(fields | changes))

    return make
