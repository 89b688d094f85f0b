"""A job, terms and offers for the tests of this room."""

from __future__ import annotations

import dataclasses

from tolsey.client import plan
from tolsey.protocol.content import ContentId
from tolsey.protocol.job import EXACT_CLASSES, EXACT_FP32, PROFILES, JobSpec
from tolsey.protocol.listing import Listing
from tolsey.protocol.offer import LOCAL_CLOCKS, Offer
from tolsey.protocol.units import Account, ClassId, PeerId, SpecHash, StateRoot, TokenUnits
from tolsey.protocol.wire import OfferRequest

CLIENT = Account("0x" + "c1" * 20)
CLASS = ClassId(b"k" * 32)
"""Of every worker's machine in profile `pinned`."""
ROOT, SEAL = StateRoot(b"r" * 32), b"s" * 32
SPEC = JobSpec(
    name="tiny", program=ContentId(b"p" * 32), dataset=ContentId(b"d" * 32), initial_tensors=None,
    profile=EXACT_FP32, class_id=EXACT_CLASSES[EXACT_FP32], seed=1, steps=100, steps_per_segment=10,
    segments_per_window=5, batch_size=2, micro_batches=1, memory_bytes=1, work_flops=10**12,
)  # fmt: skip
TERMS = plan.Terms(max_cost=None, verifier_count=3, sample_count=2, verdict_fee=TokenUnits(50_000), clocks=LOCAL_CLOCKS)
REQUEST = OfferRequest(
    spec=SPEC, initial_root=ROOT, client=CLIENT, client_seal=SEAL, verifier_count=TERMS.verifier_count,
    sample_count=TERMS.sample_count, verdict_fee=TERMS.verdict_fee, clocks=TERMS.clocks,
)  # fmt: skip


def candidate(
    number: int, price: int, /, *, terms: plan.Terms = TERMS, eta_s: float = 5.0, **changed: object
) -> plan.Candidate:
    worker = Account("0x" + f"{number:02x}" * 20)
    offer = Offer(
        spec_hash=SpecHash(SPEC.spec_hash), class_id=SPEC.class_id, initial_root=ROOT, client_seal=SEAL, client=CLIENT,
        worker=worker, price=TokenUnits(price), bond=TokenUnits(10 * price), forfeit=TokenUnits(price // 4),
        verdict_fee=terms.verdict_fee, segment_count=10, segments_per_window=5, verifier_count=3, sample_count=2,
        commit_window_s=terms.clocks.commit_window_s, reveal_window_s=terms.clocks.reveal_window_s,
        verdict_window_s=terms.clocks.verdict_window_s, challenge_window_s=terms.clocks.challenge_window_s,
        nonce=number, expires_at=2_000,
    )  # fmt: skip
    listing = Listing(
        account=worker, peer_id=PeerId(f"peer{number}"), addrs=(), chain_id=1, market=CLIENT, class_id=CLASS,
        class_name="cpu", profiles=PROFILES, price_per_petaflop=TokenUnits(0), min_price=TokenUnits(price),
        bond_bps=100_000, min_bond=TokenUnits(0), memory_bytes=1, flops_per_s=1, busy=0, capacity=1, sequence=1,
        expires_at=2_000,
    )  # fmt: skip
    return plan.Candidate(
        listing=listing, eta_s=eta_s,
        offer=dataclasses.replace(offer, **changed), signature=b"x" * 65,
    )  # fmt: skip
