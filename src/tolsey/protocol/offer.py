"""Offer: a worker's signed price for one job, and the rules that say whether it fits.

The digest of an offer (EIP-712) is the JobId. The worker signs it after it has seen the spec, the client consumes it
with `accept`; it binds until `expires_at` or `revokeOffer`. Solidity twin: `IJobMarket.Offer`, `JobMarket.jobId`.
Next in the flow: lifecycle.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tolsey.errors import RemoteViolation
from tolsey.protocol.encoding import TAG_SEAL, address_word, keccak256, tag, word
from tolsey.protocol.units import Account, ClassId, JobId, Seconds, SpecHash, StateRoot, TokenUnits

if TYPE_CHECKING:  # both files import this one
    from tolsey.protocol.listing import Listing
    from tolsey.protocol.wire import OfferRequest

OFFER_TYPE = (
    "Offer(bytes32 specHash,bytes32 classId,bytes32 initialRoot,bytes32 clientSeal,address client,address worker,"
    "uint96 price,uint96 bond,uint96 forfeit,uint96 verdictFee,uint32 segmentCount,uint32 segmentsPerWindow,"
    "uint8 verifierCount,uint16 sampleCount,uint32 commitWindowS,uint32 revealWindowS,uint32 verdictWindowS,"
    "uint32 challengeWindowS,uint64 nonce,uint40 expiresAt)"
)
RECORD_TYPE = "Record(bytes32 kind,bytes32 digest)"
DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
MAX_VERIFIERS = 7
MAX_SAMPLES = 1024

_HASH = re.compile(r"[0-9a-f]{64}")
_FIELDS: tuple[tuple[str, str, str], ...] = tuple(
    (kind, name, "".join(f"_{c.lower()}" if c.isupper() else c for c in name))
    for kind, name in (part.split(" ") for part in OFFER_TYPE[len("Offer(") : -1].split(","))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The EIP-712 domain of one market: a signature for one chain and contract is worth nothing on another."""

    chain_id: int
    market: Account

    @property
    def separator(self) -> bytes:
        """32 bytes, equal to the contract's `_domainSeparatorV4()`."""
        return keccak256(
            keccak256(DOMAIN_TYPE.encode()),
            keccak256(b"Tolsey"),
            keccak256(b"1"),
            word(self.chain_id),
            address_word(self.market),
        )

    def digest(self, struct_hash: bytes) -> bytes:
        """The 32 bytes to sign for a struct (EIP-712, `encode`)."""
        return keccak256(b"\x19\x01", self.separator, struct_hash)

    def record_digest(self, kind: bytes, digest: bytes) -> bytes:
        """The 32 bytes an account signs for an off-chain record such as a listing."""
        return self.digest(keccak256(keccak256(RECORD_TYPE.encode()), tag(kind), digest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The four windows of a job in seconds (docs/protocol.md section 5)."""

    commit_window_s: Seconds
    reveal_window_s: Seconds
    verdict_window_s: Seconds
    challenge_window_s: Seconds


LOCAL_CLOCKS = Clocks(
    commit_window_s=Seconds(600),
    reveal_window_s=Seconds(5),
    verdict_window_s=Seconds(30),
    challenge_window_s=Seconds(65),
)
PUBLIC_CLOCKS = Clocks(
    commit_window_s=Seconds(86_400),
    reveal_window_s=Seconds(3_600),
    verdict_window_s=Seconds(43_200),
    challenge_window_s=Seconds(129_600),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A worker's binding price for one job. Field order and types are those of the EIP-712 type string.

    Attributes:
        price: for all windows, in token units.
        bond: the worker's money at risk for this job.
        forfeit: paid by whoever ends the job early (client to worker, or worker to client).
        verdict_fee: paid by the client to each drawn verifier and window on its verdict.
        segment_count, segments_per_window: equal to the spec's.
        verifier_count: verifiers drawn per window. sample_count: segments each of them replays.
        client_seal: head of the client's hash chain of secrets. initial_root: state root of step 0.
        nonce: of the worker, any value not used with the same terms. expires_at: unix seconds of block time.
    """

    spec_hash: SpecHash
    class_id: ClassId
    initial_root: StateRoot
    client_seal: bytes
    client: Account
    worker: Account
    price: TokenUnits
    bond: TokenUnits
    forfeit: TokenUnits
    verdict_fee: TokenUnits
    segment_count: int
    segments_per_window: int
    verifier_count: int
    sample_count: int
    commit_window_s: Seconds
    reveal_window_s: Seconds
    verdict_window_s: Seconds
    challenge_window_s: Seconds
    nonce: int
    expires_at: int

    @property
    def window_count(self) -> int:
        """Windows in the whole job."""
        return -(-self.segment_count // self.segments_per_window)

    def window_segments(self, window: int) -> range:
        """Segment indices of window `window`."""
        first = window * self.segments_per_window
        return range(first, min(self.segment_count, first + self.segments_per_window))

    def window_price(self, window: int) -> TokenUnits:
        """What the worker earns for window `window` before the protocol fee."""
        count = self.window_count
        return TokenUnits(self.price * (window + 1) // count - self.price * window // count)

    @property
    def verdict_escrow(self) -> TokenUnits:
        """Locked beside the price for verdict fees; what is not earned returns to the client."""
        return TokenUnits(self.window_count * self.verifier_count * self.verdict_fee)

    @property
    def escrow(self) -> TokenUnits:
        """All that `accept` locks of the client's money."""
        return TokenUnits(self.price + self.verdict_escrow)

    def struct_hash(self) -> bytes:
        """EIP-712 `hashStruct(offer)`."""
        return keccak256(
            keccak256(OFFER_TYPE.encode()), *(_word_of(kind, getattr(self, field)) for kind, _, field in _FIELDS)
        )

    def job_id(self, domain: Domain) -> JobId:
        """The id of the job that accepting this offer creates; also the digest the worker signs."""
        return JobId(domain.digest(self.struct_hash()))

    def to_tuple(self) -> tuple[Any, ...]:
        """Values in ABI order, for a contract call."""
        return tuple(getattr(self, field) for _, _, field in _FIELDS)

    @classmethod
    def from_abi(cls, value: Mapping[str, Any]) -> Offer:
        """The offer in a decoded log or call (camelCase keys)."""
        return cls(**{field: _clean(kind, value[name]) for kind, name, field in _FIELDS})

    def to_json(self) -> dict[str, str | int]:
        """Canonical-JSON form: hashes as hex."""
        return {name: (v.hex() if isinstance(v := getattr(self, field), bytes) else v) for _, name, field in _FIELDS}

    @classmethod
    def from_json(cls, value: Any) -> Offer:
        """The offer in a peer's reply.

        Raises:
            RemoteViolation: a key is missing, unknown, of the wrong type or out of its ABI range.
        """
        if not isinstance(value, Mapping) or set(value) != {name for _, name, _ in _FIELDS}:
            raise RemoteViolation("an offer has exactly the keys of its EIP-712 type")
        try:
            return cls(**{field: _parse(kind, value[name]) for kind, name, field in _FIELDS})
        except (ValueError, TypeError) as error:
            raise RemoteViolation(f"malformed offer: {error}") from error


def why_not(
    offer: Offer, *, request: OfferRequest, listing: Listing, now_ts: int, max_escrow: TokenUnits | None = None
) -> str | None:
    """The reason why `offer` does not fit what was asked for, or is dearer than was listed; None where it fits.

    Args:
        request: every term in it must come back unchanged.
        listing: of the worker that was asked: the price may be lower than it says, the bond higher.
        max_escrow: the most that the client will lock, token units.
    """
    clocks, spec = request.clocks, request.spec
    wanted: tuple[tuple[str, object, object], ...] = (
        ("spec", offer.spec_hash, spec.spec_hash),
        ("class", offer.class_id, spec.class_id),
        ("initial root", offer.initial_root, request.initial_root),
        ("client seal", offer.client_seal, request.client_seal),
        ("client", offer.client.lower(), request.client.lower()),
        ("worker", offer.worker.lower(), listing.account.lower()),
        ("verdict fee", offer.verdict_fee, request.verdict_fee),
        ("segment count", offer.segment_count, spec.segment_count),
        ("segments per window", offer.segments_per_window, spec.segments_per_window),
        ("verifier count", offer.verifier_count, request.verifier_count),
        ("sample count", offer.sample_count, request.sample_count),
        ("commit window", offer.commit_window_s, clocks.commit_window_s),
        ("reveal window", offer.reveal_window_s, clocks.reveal_window_s),
        ("verdict window", offer.verdict_window_s, clocks.verdict_window_s),
        ("challenge window", offer.challenge_window_s, clocks.challenge_window_s),
    )
    for name, got, asked in wanted:
        if got != asked:
            shown = [v.hex()[:16] if isinstance(v, bytes) else str(v) for v in (got, asked)]
            return f"{name} is {shown[0]}, asked was {shown[1]}"
    if offer.expires_at <= now_ts:
        return f"expired {now_ts - offer.expires_at} s ago"
    least_s = 2 * offer.verdict_window_s + 1
    if offer.challenge_window_s < least_s:
        return f"challenge window {offer.challenge_window_s} s leaves no time for verdicts, which take {least_s} s"
    return _why_too_dear(offer, listing.price(spec), listing.bond(offer.price), max_escrow)


def _why_too_dear(offer: Offer, price: TokenUnits, bond: TokenUnits, max_escrow: TokenUnits | None) -> str | None:
    if offer.price > price:
        return f"price is {offer.price} units, its listing says {price}"
    if offer.bond < bond:
        return f"bond is {offer.bond} units, its listing says {bond}"
    if offer.forfeit > offer.price:
        return f"forfeit is {offer.forfeit} units, more than the price of {offer.price}"
    if max_escrow is not None and offer.escrow > max_escrow:
        return f"needs an escrow of {offer.escrow} units, your cap is {max_escrow}"
    return None


def seal_chain(secret: bytes, windows: int) -> list[bytes]:
    """The client's hash chain: element w is revealed for window w, the last element is the seal in the offer.

    Args:
        secret: 32 random bytes that the client keeps until the job ends.
        windows: W >= 1; the list has W + 1 elements.
    """
    chain = [secret]
    for _ in range(windows):
        chain.append(keccak256(tag(TAG_SEAL), chain[-1]))
    return [*reversed(chain[:-1]), chain[-1]]


def _word_of(kind: str, value: Any) -> bytes:
    if kind == "bytes32":
        return bytes(value)
    if kind == "address":
        return address_word(value)
    return word(value)


def _clean(kind: str, value: Any) -> Any:
    return bytes(value) if kind == "bytes32" else value


def _parse(kind: str, value: Any) -> Any:
    if kind == "bytes32":
        if not isinstance(value, str) or not _HASH.fullmatch(value):
            raise ValueError(f"{value!r} is not 64 lower-case hex digits")
        return bytes.fromhex(value)
    if kind == "address":
        address_word(value)
        return value
    if type(value) is not int or not 0 <= value < 1 << int(kind.removeprefix("uint")):
        raise ValueError(f"{value!r} is no {kind}")
    return value
