from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.errors import RemoteViolation, SpecInvalid
from tolsey.protocol import wire
from tolsey.protocol.encoding import canonical_json
from tolsey.protocol.job import MAX_SEGMENTS_PER_WINDOW, JobSpec
from tolsey.protocol.listing import MAX_LISTING_BYTES
from tolsey.protocol.offer import LOCAL_CLOCKS, Offer
from tolsey.protocol.wire import (
    OfferReply,
    OfferRequest,
    Progress,
    SignedListing,
    Trace,
    TraceEntry,
    WindowRequest,
    decode_book,
    decode_step_roots,
    encode_book,
    encode_step_roots,
)

MakeSpec = Callable[..., JobSpec]
DECODERS = [OfferRequest.decode, OfferReply.decode, WindowRequest.decode, Trace.decode, Progress.decode, decode_book]


def request(spec: JobSpec) -> OfferRequest:
    return OfferRequest(
        spec=spec, initial_root=b"\x04" * 32, client="0x" + "c1" * 20, client_seal=b"\x05" * 32, verifier_count=2,
        sample_count=3, verdict_fee=1_000, clocks=LOCAL_CLOCKS,
    )  # fmt: skip


def entry(index: int) -> TraceEntry:
    return TraceEntry(index=index, input_root=b"\1" * 32, output_root=b"\2" * 32, checkpoint=b"\3" * 32)


PROGRESS = Progress(
    phase="training", step=3, steps=9, window=1, losses=((1, "2.5"), (2, "2.25")), step_s="0.01", message="m"
)


def test_protocol_ids_are_distinct_and_versioned() -> None:
    names = [limits.protocol for limits in wire.ALL_LIMITS]
    assert len(set(names)) == len(names) == 5
    assert all(name.startswith("/tolsey/") and name.endswith("/1") for name in names)


def test_offer_request_round_trip(make_spec: MakeSpec) -> None:
    message = request(make_spec())
    assert OfferRequest.decode(message.encode()) == message
    assert len(message.encode()) < wire.OFFER.max_request_bytes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spec", 3), ("initial_root", "00"), ("client", "me"), ("client", 3), ("client_seal", "zz"),
        ("verifier_count", 8), ("sample_count", 1025), ("verdict_fee", 1 << 96), ("clocks", [1, 2, 3]),
        ("clocks", [0, 1, 1, 1]), ("clocks", [True, 1, 1, 1]), ("clocks", [1, 1, 1, 1 << 32]), ("clocks", None),
        ("verdict_fee", -1), ("sample_count", "3"),
    ],
)  # fmt: skip
def test_offer_request_with_one_bad_value_blames_the_sender(make_spec: MakeSpec, key: str, value: object) -> None:
    body = json.loads(request(make_spec()).encode()) | {key: value}
    with pytest.raises(RemoteViolation):
        OfferRequest.decode(canonical_json(body))


def test_offer_request_with_an_invalid_spec_names_the_spec(make_spec: MakeSpec) -> None:
    body = json.loads(request(make_spec()).encode()) | {"spec": "{}"}
    with pytest.raises(SpecInvalid):
        OfferRequest.decode(canonical_json(body))


def test_offer_reply_round_trip(make_offer: Callable[..., Offer]) -> None:
    reply = OfferReply(offer=make_offer(), signature=b"\x07" * 65, refusal="")
    assert OfferReply.decode(reply.encode()) == reply
    assert len(reply.encode()) < wire.OFFER.max_reply_bytes
    refusal = OfferReply(offer=None, signature=b"", refusal="busy")
    assert OfferReply.decode(refusal.encode()) == refusal


@pytest.mark.parametrize("signature", ["zz" * 65, "00" * 64, "00" * 66, 3, None])
def test_offer_reply_with_a_bad_signature_field_blames_the_sender(
    make_offer: Callable[..., Offer], signature: object
) -> None:
    body = json.loads(OfferReply(offer=make_offer(), signature=b"", refusal="").encode()) | {"signature": signature}
    with pytest.raises(RemoteViolation):
        OfferReply.decode(canonical_json(body))


def test_offer_reply_without_an_offer_always_carries_a_reason() -> None:
    reply = OfferReply.decode(canonical_json({"offer": None, "refusal": "", "signature": ""}))
    assert reply.refusal == "no reason given"


def test_window_request_round_trip_and_bounds() -> None:
    message = WindowRequest(job_id=b"\x08" * 32, index=3)
    assert WindowRequest.decode(message.encode()) == message
    assert len(WindowRequest(job_id=b"\xff" * 32, index=1 << 32).encode()) <= wire.TRACE.max_request_bytes
    for bad in ({"job_id": "00" * 31, "index": 0}, {"job_id": "00" * 32, "index": -1}, {"job_id": "00" * 32}):
        with pytest.raises(RemoteViolation):
            WindowRequest.decode(canonical_json(bad))


def test_trace_round_trip(make_spec: MakeSpec) -> None:
    for start in (None, b"\x09" * 32):
        trace = Trace(spec=make_spec().encode(), window_start=start, entries=(entry(4), entry(5)))
        assert Trace.decode(trace.encode()) == trace


def test_trace_of_the_widest_window_fits_its_limit(make_spec: MakeSpec) -> None:
    last = (1 << 32) - 1
    one = Trace(spec=make_spec().encode(), window_start=b"\x09" * 32, entries=(entry(last),)).encode()
    two = Trace(spec=make_spec().encode(), window_start=b"\x09" * 32, entries=(entry(last), entry(last))).encode()
    assert len(one) + MAX_SEGMENTS_PER_WINDOW * (len(two) - len(one)) < wire.TRACE.max_reply_bytes


HASHES = ["00" * 32] * 3


@pytest.mark.parametrize(
    "bad",
    [[[1, "00" * 32]], [["1", *HASHES]], [[1, "00", "00", "00"]], [3], "x", [[-1, *HASHES]], [[1 << 32, *HASHES]]],
)
def test_trace_with_bad_entries_blames_the_sender(bad: object) -> None:
    with pytest.raises(RemoteViolation):
        Trace.decode(canonical_json({"spec": "{}", "window_start": None, "entries": bad}))


def test_progress_round_trip_and_limit() -> None:
    assert Progress.decode(PROGRESS.encode()) == PROGRESS
    full = Progress(
        phase="training", step=1 << 32, steps=1 << 32, window=1 << 16, losses=((1 << 32, "9" * 39),) * 4096,
        step_s="1" * 40, message="x" * 500,
    )  # fmt: skip
    assert len(full.encode()) < wire.PROGRESS.max_reply_bytes
    assert Progress.decode(full.encode()) == full


@pytest.mark.parametrize("losses", [[[1, "2"]] * 4097, [[1]], [[1, 2]], [["1", "2"]], [[1, "9" * 40]], {}, None])
def test_progress_with_bad_losses_blames_the_sender(losses: object) -> None:
    with pytest.raises(RemoteViolation):
        Progress.decode(canonical_json(json.loads(PROGRESS.encode()) | {"losses": losses}))


def test_signed_listing_round_trip_and_lower_bound() -> None:
    signed = SignedListing(listing=b"{}", signature=b"\x01" * 65)
    assert SignedListing.decode(signed.encode()) == signed
    with pytest.raises(RemoteViolation):
        SignedListing.decode(b"\x01" * 65)


def test_book_of_the_largest_listings_fits_its_limit() -> None:
    entries = [SignedListing(listing=b"x" * MAX_LISTING_BYTES, signature=b"\x01" * 65)] * (wire.MAX_BOOK_ENTRIES + 3)
    raw = encode_book(entries)
    assert len(decode_book(raw)) == wire.MAX_BOOK_ENTRIES


@pytest.mark.parametrize("bad", [{}, [3], ["zz"], ["00"], ["00" * 66] * 257, "x"])
def test_book_malformed_blames_the_sender(bad: object) -> None:
    with pytest.raises(RemoteViolation):
        decode_book(canonical_json(bad))


def test_step_roots_round_trip_and_count() -> None:
    roots = [b"\1" * 32, b"\2" * 32]
    assert decode_step_roots(encode_step_roots(roots), 2) == roots
    with pytest.raises(RemoteViolation, match="64 bytes of step roots, 96"):
        decode_step_roots(encode_step_roots(roots), 3)


@pytest.mark.parametrize("decode", DECODERS)
@given(st.binary(max_size=60))
def test_decode_of_any_bytes_blames_the_sender(decode: Callable[[bytes], object], raw: bytes) -> None:
    if raw == b"[]" and decode is decode_book:
        return
    with pytest.raises(RemoteViolation):
        decode(raw)


KEYS = ["spec", "offer", "signature", "refusal", "job_id", "index", "entries", "losses", "window_start", "phase"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("decode", DECODERS)
@given(st.dictionaries(st.sampled_from(KEYS), st.none() | st.integers() | TEXT | st.lists(st.integers())))
def test_decode_of_any_object_gives_a_message_or_blames_the_sender(
    decode: Callable[[bytes], object], body: dict[str, object]
) -> None:
    try:
        decode(canonical_json(body))
    except RemoteViolation:
        return
    assert decode in (OfferReply.decode, Trace.decode, WindowRequest.decode)
