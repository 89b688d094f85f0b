from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from eth_account.messages import _hash_eip191_message, encode_typed_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tolsey.errors import RemoteViolation
from tolsey.protocol.encoding import TAG_LISTING, TAG_SEAL, canonical_json, keccak256, tag
from tolsey.protocol.job import JobSpec
from tolsey.protocol.listing import Listing
from tolsey.protocol.offer import DOMAIN_TYPE, OFFER_TYPE, Clocks, Domain, Offer, seal_chain, why_not
from tolsey.protocol.wire import OfferRequest

MakeOffer = Callable[..., Offer]
MakeSpec = Callable[..., JobSpec]
MakeListing = Callable[..., Listing]
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def members(type_string: str) -> list[dict[str, str]]:
    inside = type_string[type_string.index("(") + 1 : -1]
    return [dict(zip(("type", "name"), part.split(" "), strict=True)) for part in inside.split(",")]


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def eip712_digest(offer: Offer, domain: Domain) -> bytes:
    """The digest as an independent implementation of EIP-712 computes it."""
    message = encode_typed_data(
        full_message={
            "types": {"EIP712Domain": members(DOMAIN_TYPE), "Offer": members(OFFER_TYPE)},
            "primaryType": "Offer",
            "domain": {
                "name": "Tolsey", "version": "1", "chainId": domain.chain_id, "verifyingContract": domain.market,
            },
            "message": {camel(k): v for k, v in dataclasses.asdict(offer).items()},
        }
    )  # fmt: skip
    return bytes(_hash_eip191_message(message))


@quick
@given(
    st.integers(0, (1 << 96) - 1),
    st.integers(0, (1 << 40) - 1),
    st.integers(0, 255),
    st.binary(min_size=32, max_size=32),
)
def test_job_id_is_the_eip712_digest(
    make_offer: MakeOffer, domain: Domain, price: int, expires_at: int, verifiers: int, root: bytes
) -> None:
    offer = make_offer(price=price, expires_at=expires_at, verifier_count=verifiers, initial_root=root)
    assert offer.job_id(domain) == eip712_digest(offer, domain)


def test_job_id_changes_with_every_field_chain_and_market(make_offer: MakeOffer, domain: Domain) -> None:
    offer = make_offer()
    ids = {offer.job_id(domain)}
    for field in dataclasses.fields(Offer):
        value: Any = getattr(offer, field.name)
        changed = (
            value + 1 if isinstance(value, int) else b"\x99" * 32 if isinstance(value, bytes) else "0x" + "99" * 20
        )
        ids.add(dataclasses.replace(offer, **{field.name: changed}).job_id(domain))
    ids.add(offer.job_id(dataclasses.replace(domain, chain_id=1)))
    ids.add(offer.job_id(dataclasses.replace(domain, market="0x" + "44" * 20)))
    assert len(ids) == len(dataclasses.fields(Offer)) + 3


def test_record_digest_is_bound_to_its_kind(domain: Domain) -> None:
    assert domain.record_digest(TAG_LISTING, bytes(32)) != domain.record_digest(b"tolsey/other/1", bytes(32))


@quick
@given(st.integers(0, (1 << 96) - 1), st.integers(1, 500), st.integers(1, 60))
def test_window_prices_sum_to_the_price_and_windows_cover_the_segments(
    make_offer: MakeOffer, price: int, segments: int, per_window: int
) -> None:
    offer = make_offer(price=price, segment_count=segments, segments_per_window=per_window)
    prices = [offer.window_price(w) for w in range(offer.window_count)]
    assert sum(prices) == price
    assert max(prices) - min(prices) <= 1
    assert [s for w in range(offer.window_count) for s in offer.window_segments(w)] == list(range(segments))


def test_escrow_is_price_and_every_verdict_fee(make_offer: MakeOffer) -> None:
    offer = make_offer(segment_count=15, segments_per_window=4, verifier_count=2, verdict_fee=10, price=100)
    assert (offer.verdict_escrow, offer.escrow) == (4 * 2 * 10, 180)


def test_to_tuple_and_from_abi_follow_the_type_string(make_offer: MakeOffer) -> None:
    offer = make_offer()
    names = [member["name"] for member in members(OFFER_TYPE)]
    assert Offer.from_abi(dict(zip(names, offer.to_tuple(), strict=True))) == offer
    assert [camel(field.name) for field in dataclasses.fields(Offer)] == names


def test_json_round_trip(make_offer: MakeOffer) -> None:
    offer = make_offer()
    assert Offer.from_json(json.loads(canonical_json(offer.to_json()))) == offer


@pytest.mark.parametrize("key", [member["name"] for member in members(OFFER_TYPE)])
@pytest.mark.parametrize("value", [None, True, -1, 1 << 256, "", "zz", "0x" + "ab" * 19, [], {}, 5.5, "00" * 31])
def test_json_with_one_bad_value_blames_the_sender(make_offer: MakeOffer, key: str, value: object) -> None:
    with pytest.raises(RemoteViolation):
        Offer.from_json(make_offer().to_json() | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("verifierCount", 256), ("price", 1 << 96), ("segmentCount", 1 << 32), ("expiresAt", 1 << 40),
        ("client", 5), ("worker", "0x" + "ab " * 20),
    ],
)  # fmt: skip
def test_json_outside_its_abi_range_blames_the_sender(make_offer: MakeOffer, key: str, value: object) -> None:
    with pytest.raises(RemoteViolation):
        Offer.from_json(make_offer().to_json() | {key: value})


def test_json_with_another_set_of_keys_blames_the_sender(make_offer: MakeOffer) -> None:
    body = make_offer().to_json()
    for bad in ([], None, body | {"extra": 1}, {k: v for k, v in body.items() if k != "bond"}):
        with pytest.raises(RemoteViolation, match="keys"):
            Offer.from_json(bad)


def fits(offer: Offer, spec: JobSpec, listing: Listing, now_ts: int = 0, max_escrow: int | None = None) -> str | None:
    request = OfferRequest(
        spec=spec, initial_root=b"\x04" * 32, client="0x" + "C1" * 20, client_seal=b"\x05" * 32, verifier_count=2,
        sample_count=3, verdict_fee=1_000,
        clocks=Clocks(commit_window_s=600, reveal_window_s=5, verdict_window_s=20, challenge_window_s=45),
    )  # fmt: skip
    return why_not(offer, request=request, listing=listing, now_ts=now_ts, max_escrow=max_escrow)


@pytest.fixture
def listed(make_listing: MakeListing) -> Listing:
    """The listing that gives the offer's price and bond exactly; its account is written in another case."""
    return make_listing(account="0x" + "A0" * 20, min_price=1_000_003, bond_bps=0, min_bond=2_000_000)


def test_why_not_of_a_fitting_offer_is_none_whatever_the_case_of_the_account(
    make_offer: MakeOffer, make_spec: MakeSpec, listed: Listing
) -> None:
    offer = make_offer()
    assert fits(offer, make_spec(), listed, max_escrow=offer.escrow) is None


def test_why_not_of_a_better_offer_than_listed_is_none(
    make_offer: MakeOffer, make_spec: MakeSpec, listed: Listing
) -> None:
    assert fits(make_offer(price=900_000, bond=2_000_001, forfeit=900_000), make_spec(), listed) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"spec_hash": b"\x66" * 32}, "spec"), ({"class_id": b"\x66" * 32}, "class"),
        ({"initial_root": b"\x66" * 32}, "initial root"), ({"client_seal": b"\x66" * 32}, "seal"),
        ({"client": "0x" + "66" * 20}, "client"), ({"worker": "0x" + "66" * 20}, "worker"),
        ({"segment_count": 14}, "segment count"), ({"segments_per_window": 5}, "per window"),
        ({"verifier_count": 1}, "verifier count is 1, asked was 2"), ({"sample_count": 4}, "sample count"),
        ({"verdict_fee": 999}, "verdict fee"), ({"commit_window_s": 601}, "commit window"),
        ({"reveal_window_s": 6}, "reveal window"), ({"verdict_window_s": 19}, "verdict window"),
        ({"challenge_window_s": 46}, "challenge window"), ({"expires_at": 10}, "expired"),
        ({"price": 1_000_004}, "listing says 1000003"), ({"bond": 1_999_999}, "listing says 2000000"),
        ({"forfeit": 1_000_004}, "more than the price"),
    ],
)  # fmt: skip
def test_why_not_names_what_differs(
    make_offer: MakeOffer, make_spec: MakeSpec, listed: Listing, change: dict[str, Any], word: str
) -> None:
    assert word in (fits(make_offer(**change), make_spec(), listed, now_ts=10) or "")


def test_why_not_compares_every_field_of_an_offer(make_offer: MakeOffer, make_spec: MakeSpec, listed: Listing) -> None:
    offer = make_offer()
    for field in dataclasses.fields(Offer):
        value: Any = getattr(offer, field.name)
        far = 1 << 90 if isinstance(value, int) else b"\x99" * 32 if isinstance(value, bytes) else "0x" + "99" * 20
        changed = dataclasses.replace(offer, **{field.name: far})
        free = field.name in ("bond", "nonce", "expires_at")  # more of these is no worse
        assert (fits(changed, make_spec(), listed) is None) is free, field.name


def test_why_not_escrow_above_the_cap(make_offer: MakeOffer, make_spec: MakeSpec, listed: Listing) -> None:
    offer = make_offer()
    assert "cap" in (fits(offer, make_spec(), listed, max_escrow=offer.escrow - 1) or "")


def test_why_not_no_time_for_verdicts_though_asked_for(
    make_offer: MakeOffer, make_spec: MakeSpec, listed: Listing
) -> None:
    clocks = Clocks(commit_window_s=600, reveal_window_s=5, verdict_window_s=20, challenge_window_s=40)
    offer, spec = make_offer(challenge_window_s=40), make_spec()
    request = OfferRequest(
        spec=spec, initial_root=offer.initial_root, client=offer.client, client_seal=offer.client_seal,
        verifier_count=2, sample_count=3, verdict_fee=1_000, clocks=clocks,
    )  # fmt: skip
    assert "no time for verdicts" in (why_not(offer, request=request, listing=listed, now_ts=0) or "")


@given(st.binary(min_size=32, max_size=32), st.integers(1, 40))
def test_seal_chain_reveals_of_every_window_hash_to_the_seal(secret: bytes, windows: int) -> None:
    chain = seal_chain(secret, windows)
    assert len(chain) == windows + 1
    for window in range(windows):
        value = chain[window]
        for _ in range(window + 1):
            value = keccak256(tag(TAG_SEAL), value)
        assert value == chain[-1]
    assert chain[windows - 1] == secret
