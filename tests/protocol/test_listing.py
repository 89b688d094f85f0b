from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.errors import RemoteViolation
from tolsey.protocol.encoding import canonical_json
from tolsey.protocol.job import EXACT_CLASSES, EXACT_FP32, JobSpec
from tolsey.protocol.listing import MAX_LISTING_BYTES, Listing
from tolsey.protocol.offer import Domain

Make = Callable[..., Listing]
MakeSpec = Callable[..., JobSpec]


def test_listing_round_trip(make_listing: Make) -> None:
    listing = make_listing()
    assert Listing.decode(listing.encode()) == listing
    assert len(listing.encode()) <= MAX_LISTING_BYTES


def test_price_is_rounded_up_and_has_a_floor(make_listing: Make, make_spec: MakeSpec) -> None:
    listing = make_listing(price_per_petaflop=3, min_price=1)
    assert listing.price(make_spec(work_flops=10**15)) == 3
    assert listing.price(make_spec(work_flops=10**15 + 1)) == 4
    assert make_listing(min_price=500).price(make_spec(work_flops=1)) == 500


def test_bond_is_a_share_of_the_price_with_a_floor(make_listing: Make) -> None:
    listing = make_listing(bond_bps=15_000, min_bond=100)
    assert listing.bond(1_001) == 1_502
    assert listing.bond(1) == 100


def test_eta_divides_work_by_speed(make_listing: Make, make_spec: MakeSpec) -> None:
    assert make_listing(flops_per_s=10**10).eta_s(make_spec(work_flops=10**12)) == 100.0
    assert make_listing(flops_per_s=0).eta_s(make_spec(work_flops=5)) == 5.0


def test_why_not_of_a_fitting_listing_is_none(make_listing: Make, make_spec: MakeSpec, domain: Domain) -> None:
    assert make_listing().why_not(make_spec(), domain=domain, now_ts=999) is None


def test_why_not_of_an_exact_job_looks_at_no_class(make_listing: Make, make_spec: MakeSpec, domain: Domain) -> None:
    exact = make_spec(profile=EXACT_FP32, class_id=EXACT_CLASSES[EXACT_FP32])
    assert make_listing(class_id=b"\x44" * 32).why_not(exact, domain=domain, now_ts=900) is None
    why = make_listing(profiles=("pinned",)).why_not(exact, domain=domain, now_ts=900)
    assert why == "runs profiles pinned, the job asks for exact-fp32/1"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"chain_id": 1}, "chain 1"), ({"market": "0x" + "77" * 20}, "market"), ({"expires_at": 900}, "expired 0 s"),
        ({"profiles": ()}, "profiles"), ({"class_id": b"\x44" * 32}, "class"), ({"memory_bytes": 1}, "memory"),
        ({"busy": 1}, "busy with 1 of 1"),
    ],
)  # fmt: skip
def test_why_not_names_the_reason(
    make_listing: Make, make_spec: MakeSpec, domain: Domain, change: dict[str, object], word: str
) -> None:
    assert word in (make_listing(**change).why_not(make_spec(), domain=domain, now_ts=900) or "")


def test_digest_is_bound_to_content_and_market(make_listing: Make, domain: Domain) -> None:
    listing = make_listing()
    other = dataclasses.replace(domain, chain_id=1)
    assert len({listing.digest(domain), listing.digest(other), make_listing(sequence=2).digest(domain)}) == 3


BAD = [None, True, -1, 1 << 96, [1], ["x" * 257], {}, "x" * 129, ["a"] * 9, "AB" * 32, "ab "]
FREE_TEXT = {("class_name", "ab "), ("peer_id", "AB" * 32), ("peer_id", "ab "), ("class_name", "AB" * 32)}
BAD_FIELDS = [
    (field.name, value)
    for field, value in product(dataclasses.fields(Listing), BAD)
    if not isinstance(value, str) or (field.name, value) not in FREE_TEXT
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_decode_with_one_bad_value_blames_the_sender(make_listing: Make, name: str, value: object) -> None:
    with pytest.raises(RemoteViolation):
        Listing.decode(canonical_json(json.loads(make_listing().encode()) | {name: value}))


def test_decode_with_another_set_of_keys_blames_the_sender(make_listing: Make) -> None:
    body = json.loads(make_listing().encode())
    for bad in ([], 3, body | {"extra": 1}, {k: v for k, v in body.items() if k != "busy"}):
        with pytest.raises(RemoteViolation):
            Listing.decode(canonical_json(bad))


def test_decode_longer_than_two_kilobytes_is_refused(make_listing: Make) -> None:
    with pytest.raises(RemoteViolation, match="at most 2048"):
        Listing.decode(make_listing(addrs=("/dns4/" + "x" * 249,) * 8).encode())


@given(st.binary(max_size=100))
def test_decode_of_any_bytes_blames_the_sender(raw: bytes) -> None:
    with pytest.raises(RemoteViolation):
        Listing.decode(raw)
