"""Messages between peers: protocol ids, size and time limits, and their canonical JSON bodies.

Every protocol is one bounded request and one bounded reply (network/rpc.py frames them); bulk bytes travel by content
id (network/transfer.py). Replies are claims: whoever acts on one checks it against the chain or a hash first.

    book     any peer -> listings it knows           signed by their accounts
    offer    client -> worker: spec and wishes       reply: a quote, or an Offer where the client signed; or why not
    progress anyone -> worker: how a job goes        not signed, for eyes only
    trace    anyone -> worker: segments of a window  checked against the window root on chain
    steps    challenger -> worker: step roots        checked by replay
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tolsey.errors import RemoteViolation
from tolsey.protocol.content import ContentId
from tolsey.protocol.encoding import TAG_CLAIM, address_word, canonical_json, keccak256, parse_canonical_json
from tolsey.protocol.job import MAX_SPEC_BYTES, JobSpec
from tolsey.protocol.offer import Clocks, Domain, Offer
from tolsey.protocol.units import Account, JobId, Seconds, StateRoot, TokenUnits

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one request/reply protocol: bytes and seconds."""

    protocol: str
    max_request_bytes: int
    max_reply_bytes: int
    deadline_s: float


BOOK = Limits(protocol="/tolsey/book/1", max_request_bytes=64, max_reply_bytes=5 << 18, deadline_s=10)
OFFER = Limits(protocol="/tolsey/offer/1", max_request_bytes=MAX_SPEC_BYTES + 4096, max_reply_bytes=8192, deadline_s=60)
PROGRESS = Limits(protocol="/tolsey/progress/1", max_request_bytes=256, max_reply_bytes=1 << 20, deadline_s=10)
TRACE = Limits(protocol="/tolsey/trace/1", max_request_bytes=256, max_reply_bytes=16 << 20, deadline_s=60)
STEPS = Limits(protocol="/tolsey/steps/1", max_request_bytes=256, max_reply_bytes=16 << 20, deadline_s=600)
ALL_LIMITS = (BOOK, OFFER, PROGRESS, TRACE, STEPS)
MAX_BOOK_ENTRIES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedListing:
    """Listing bytes as signed, with the 65-byte signature."""

    listing: bytes
    signature: bytes

    def encode(self) -> bytes:
        """listing ‖ signature, as gossiped."""
        return self.listing + self.signature

    @classmethod
    def decode(cls, raw: bytes) -> SignedListing:
        """Splits a gossip message.

        Raises:
            RemoteViolation: too short to hold a signature.
        """
        if len(raw) <= 65:
            raise RemoteViolation(f"signed listing of {len(raw)} bytes")
        return cls(listing=raw[:-65], signature=raw[-65:])


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferRequest:
    """What a client asks a worker to price. Field meanings as in Offer.

    Attributes:
        client_signature: empty asks for a quote, which binds nobody; the client's 65 bytes over `claim_digest` ask for
            an offer, which holds a place of the worker.
    """

    spec: JobSpec
    initial_root: StateRoot
    client: Account
    client_seal: bytes
    verifier_count: int
    sample_count: int
    verdict_fee: TokenUnits
    clocks: Clocks
    client_signature: bytes = b""

    def claim_digest(self, domain: Domain, worker: Account) -> bytes:
        """What the client signs to be made an offer: this request, to this worker and nobody else."""
        asked = dataclasses.replace(self, client_signature=b"").encode()
        return domain.record_digest(TAG_CLAIM, keccak256(address_word(worker), asked))

    def encode(self) -> bytes:
        return canonical_json(
            {
                "spec": self.spec.encode().decode(),
                "initial_root": self.initial_root.hex(),
                "client": self.client,
                "client_seal": self.client_seal.hex(),
                "client_signature": self.client_signature.hex(),
                "verifier_count": self.verifier_count,
                "sample_count": self.sample_count,
                "verdict_fee": self.verdict_fee,
                "clocks": [
                    self.clocks.commit_window_s,
                    self.clocks.reveal_window_s,
                    self.clocks.verdict_window_s,
                    self.clocks.challenge_window_s,
                ],
            }
        )

    @classmethod
    def decode(cls, raw: bytes) -> OfferRequest:
        body = _Body(raw, OFFER.max_request_bytes)
        clocks = body.get("clocks", list)
        if len(clocks) != 4 or not all(type(c) is int and 0 < c < 1 << 32 for c in clocks):
            raise RemoteViolation(f"clocks are four whole numbers of seconds, not {clocks!r}")
        return cls(
            spec=JobSpec.decode(body.get("spec", str).encode()),
            initial_root=StateRoot(body.hash("initial_root")),
            client=body.account("client"),
            client_seal=body.hash("client_seal"),
            client_signature=body.signature("client_signature"),
            verifier_count=body.integer("verifier_count", 7),
            sample_count=body.integer("sample_count", 1024),
            verdict_fee=TokenUnits(body.integer("verdict_fee", (1 << 96) - 1)),
            clocks=Clocks(
                commit_window_s=Seconds(clocks[0]),
                reveal_window_s=Seconds(clocks[1]),
                verdict_window_s=Seconds(clocks[2]),
                challenge_window_s=Seconds(clocks[3]),
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferReply:
    """An offer or the reason why there is none; without a signature the offer is a quote, which binds nobody."""

    offer: Offer | None
    signature: bytes
    refusal: str

    def encode(self) -> bytes:
        return canonical_json(
            {
                "offer": None if self.offer is None else self.offer.to_json(),
                "signature": self.signature.hex(),
                "refusal": self.refusal,
            }
        )

    @classmethod
    def decode(cls, raw: bytes) -> OfferReply:
        body = _Body(raw, OFFER.max_reply_bytes)
        refusal = body.get("refusal", str)[:500]
        if body.value.get("offer") is None:
            return cls(offer=None, signature=b"", refusal=refusal or "no reason given")
        return cls(offer=Offer.from_json(body.value["offer"]), signature=body.signature("signature"), refusal="")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRequest:
    """Asks for the trace of one window, the step roots of one segment, or (index 0) the progress of a job."""

    job_id: JobId
    index: int

    def encode(self) -> bytes:
        return canonical_json({"job_id": self.job_id.hex(), "index": self.index})

    @classmethod
    def decode(cls, raw: bytes) -> WindowRequest:
        body = _Body(raw, 256)
        return cls(job_id=JobId(body.hash("job_id")), index=body.integer("index", 1 << 32))


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEntry:
    """One segment of a worker's trace: its roots and the content id of the checkpoint at its end."""

    index: int
    input_root: StateRoot
    output_root: StateRoot
    checkpoint: ContentId


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A window as its worker tells it, with the spec so that a stranger can replay it.

    `window_start` is the checkpoint before the first segment, or None where that is the initial state.
    """

    spec: bytes
    window_start: ContentId | None
    entries: tuple[TraceEntry, ...]

    def encode(self) -> bytes:
        return canonical_json(
            {
                "spec": self.spec.decode(),
                "window_start": None if self.window_start is None else self.window_start.hex(),
                "entries": [
                    [e.index, e.input_root.hex(), e.output_root.hex(), e.checkpoint.hex()] for e in self.entries
                ],
            }
        )

    @classmethod
    def decode(cls, raw: bytes) -> Trace:
        body = _Body(raw, TRACE.max_reply_bytes)
        start = body.value.get("window_start")
        entries = body.get("entries", list)
        return cls(
            spec=body.get("spec", str).encode(),
            window_start=None if start is None else ContentId(body.hash("window_start")),
            entries=tuple(_trace_entry(entry) for entry in entries),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a job goes, as its worker tells it.

    Attributes:
        phase: "fetching", "training", "committing", "verifying", "done", "failed" or "unknown".
        step, steps: done and in all. window: the one being trained.
        losses: (step, loss as decimal string) pairs, at most 4096, thinned evenly.
        step_s: seconds of the last step, decimal string. message: for people.
    """

    phase: str
    step: int
    steps: int
    window: int
    losses: tuple[tuple[int, str], ...]
    step_s: str
    message: str

    def encode(self) -> bytes:
        return canonical_json(
            {
                "phase": self.phase,
                "step": self.step,
                "steps": self.steps,
                "window": self.window,
                "losses": [[step, loss] for step, loss in self.losses],
                "step_s": self.step_s,
                "message": self.message,
            }
        )

    @classmethod
    def decode(cls, raw: bytes) -> Progress:
        body = _Body(raw, PROGRESS.max_reply_bytes)
        losses = body.get("losses", list)
        if len(losses) > 4096 or not all(
            isinstance(p, list) and len(p) == 2 and type(p[0]) is int and isinstance(p[1], str) and len(p[1]) < 40
            for p in losses
        ):
            raise RemoteViolation("losses are at most 4096 pairs of step and decimal string")
        return cls(
            phase=body.get("phase", str)[:32],
            step=body.integer("step", 1 << 32),
            steps=body.integer("steps", 1 << 32),
            window=body.integer("window", 1 << 16),
            losses=tuple((step, loss) for step, loss in losses),
            step_s=body.get("step_s", str)[:40],
            message=body.get("message", str)[:500],
        )


def encode_book(entries: list[SignedListing]) -> bytes:
    """A reply to BOOK: at most MAX_BOOK_ENTRIES signed listings."""
    return canonical_json([entry.encode().hex() for entry in entries[:MAX_BOOK_ENTRIES]])


def decode_book(raw: bytes) -> list[SignedListing]:
    """The listings in a reply to BOOK; each is still to be checked."""
    value = parse_canonical_json(raw, max_bytes=BOOK.max_reply_bytes)
    if not isinstance(value, list) or len(value) > MAX_BOOK_ENTRIES or not all(isinstance(v, str) for v in value):
        raise RemoteViolation(f"a book is a list of at most {MAX_BOOK_ENTRIES} hex strings")
    return [SignedListing.decode(_unhex("book entry", item)) for item in value]


def encode_step_roots(roots: list[StateRoot]) -> bytes:
    """A reply to STEPS: the state root after every step of the segment, 32 bytes each."""
    return b"".join(roots)


def decode_step_roots(raw: bytes, count: int) -> list[StateRoot]:
    """The roots in a reply to STEPS, which must be `count`."""
    if len(raw) != 32 * count:
        raise RemoteViolation(f"{len(raw)} bytes of step roots, {32 * count} are due")
    return [StateRoot(raw[i : i + 32]) for i in range(0, len(raw), 32)]


class _Body:
    """A request or reply body whose fields are fetched by type."""

    def __init__(self, raw: bytes, max_bytes: int) -> None:
        value = parse_canonical_json(raw, max_bytes=max_bytes)
        if not isinstance(value, Mapping):
            raise RemoteViolation("a message body is an object")
        self.value: Mapping[str, Any] = value

    def get(self, name: str, kind: type[T]) -> T:
        item = self.value.get(name)
        if not isinstance(item, kind):
            raise RemoteViolation(f"{name} is {type(item).__name__}, {kind.__name__} is due")
        return item

    def integer(self, name: str, most: int) -> int:
        item = self.value.get(name)
        if type(item) is not int or not 0 <= item <= most:
            raise RemoteViolation(f"{name} is {item!r}, a whole number from 0 to {most} is due")
        return item

    def account(self, name: str) -> Account:
        item = self.get(name, str)
        try:
            address_word(item)
        except ValueError as error:
            raise RemoteViolation(f"{name}: {error}") from error
        return Account(item)

    def signature(self, name: str) -> bytes:
        """65 bytes, or none where nobody signed."""
        found = _unhex(name, self.get(name, str))
        if len(found) not in (0, 65):
            raise RemoteViolation(f"{name} of {len(found)} bytes, 65 are due")
        return found

    def hash(self, name: str) -> bytes:
        return _hash(name, self.value.get(name))


def _trace_entry(value: Any) -> TraceEntry:
    if not isinstance(value, list) or len(value) != 4 or type(value[0]) is not int or not 0 <= value[0] < 1 << 32:
        raise RemoteViolation("a trace entry is [index, input root, output root, checkpoint]")
    return TraceEntry(
        index=value[0],
        input_root=StateRoot(_hash("input root", value[1])),
        output_root=StateRoot(_hash("output root", value[2])),
        checkpoint=ContentId(_hash("checkpoint", value[3])),
    )


def _hash(name: str, value: Any) -> bytes:
    raw = _unhex(name, value)
    if len(raw) != 32:
        raise RemoteViolation(f"{name} has {len(raw)} bytes, 32 are due")
    return raw


def _unhex(name: str, value: Any) -> bytes:
    try:
        return bytes.fromhex(value)
    except (ValueError, TypeError) as error:
        raise RemoteViolation(f"{name} is not hex") from error
