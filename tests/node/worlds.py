"""Builders for this room's tests: specs, offers, requests and records with sensible values."""

from __future__ import annotations

import dataclasses
from typing import Any

from tolsey.protocol.content import ContentId
from tolsey.protocol.job import EXACT_CLASSES, EXACT_FP32, PROFILES, JobSpec
from tolsey.protocol.listing import PETAFLOP, Listing
from tolsey.protocol.offer import LOCAL_CLOCKS, Domain, Offer
from tolsey.protocol.units import Account, ClassId, JobId, PeerId, SpecHash, StateRoot, TokenUnits
from tolsey.protocol.wire import OfferRequest

CLIENT = Account("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
WORKER = Account("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
MARKET = Account("0x5FbDB2315678afecb367f032d93F642f64180aa3")
DOMAIN = Domain(chain_id=31_337, market=MARKET)
CLASS = ClassId(b"\xc1" * 32)
ROOT = StateRoot(b"\x11" * 32)
SEAL = b"\x5e" * 32
NOW = 1_800_000_000
GOOD_PEER = PeerId("12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X")


def spec(**changes: Any) -> JobSpec:
    """A job of 6 segments in 3 windows, one petaflop."""
    values: dict[str, Any] = {
        "name": "tiny",
        "program": ContentId(b"\x01" * 32),
        "dataset": ContentId(b"\x02" * 32),
        "initial_tensors": None,
        "profile": EXACT_FP32,
        "class_id": EXACT_CLASSES[EXACT_FP32],
        "seed": 7,
        "steps": 12,
        "steps_per_segment": 2,
        "segments_per_window": 2,
        "batch_size": 4,
        "micro_batches": 1,
        "memory_bytes": 1 << 26,
        "work_flops": PETAFLOP,
    }
    return JobSpec(**values | changes)


def listing(**changes: Any) -> Listing:
    """A free worker at 10^13 operations a second, one dollar a petaflop."""
    values: dict[str, Any] = {
        "account": WORKER,
        "peer_id": GOOD_PEER,
        "addrs": (),
        "chain_id": DOMAIN.chain_id,
        "market": DOMAIN.market,
        "class_id": CLASS,
        "class_name": "cpu",
        "profiles": PROFILES,
        "price_per_petaflop": TokenUnits(1_000_000),
        "min_price": TokenUnits(500_000),
        "bond_bps": 5_000,
        "min_bond": TokenUnits(0),
        "memory_bytes": 4 << 30,
        "flops_per_s": 10**13,
        "busy": 0,
        "capacity": 1,
        "sequence": 1,
        "expires_at": NOW + 180,
    }
    return Listing(**values | changes)


def request(**changes: Any) -> OfferRequest:
    """A client's request for `spec()` with local clocks."""
    values: dict[str, Any] = {
        "spec": spec(),
        "initial_root": ROOT,
        "client": CLIENT,
        "client_seal": SEAL,
        "verifier_count": 1,
        "sample_count": 1,
        "verdict_fee": TokenUnits(10_000),
        "clocks": LOCAL_CLOCKS,
    }
    return OfferRequest(**values | changes)


def clocks(**changes: int) -> Any:
    """Local clocks with some of them changed."""
    return dataclasses.replace(LOCAL_CLOCKS, **changes)


def offer(job: JobSpec | None = None, **changes: Any) -> Offer:
    """An offer for `spec()` by WORKER to CLIENT."""
    job = job or spec()
    values: dict[str, Any] = {
        "spec_hash": SpecHash(job.spec_hash),
        "class_id": job.class_id,
        "initial_root": ROOT,
        "client_seal": SEAL,
        "client": CLIENT,
        "worker": WORKER,
        "price": TokenUnits(1_000_000),
        "bond": TokenUnits(500_000),
        "forfeit": TokenUnits(100_000),
        "verdict_fee": TokenUnits(10_000),
        "segment_count": job.segment_count,
        "segments_per_window": job.segments_per_window,
        "verifier_count": 1,
        "sample_count": 1,
        "commit_window_s": LOCAL_CLOCKS.commit_window_s,
        "reveal_window_s": LOCAL_CLOCKS.reveal_window_s,
        "verdict_window_s": LOCAL_CLOCKS.verdict_window_s,
        "challenge_window_s": LOCAL_CLOCKS.challenge_window_s,
        "nonce": 1,
        "expires_at": NOW + 120,
    }
    return Offer(**values | changes)


def job_id(of: Offer) -> JobId:
    """Its id on DOMAIN."""
    return of.job_id(DOMAIN)
