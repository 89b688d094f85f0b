"""Listing: what a worker sells, signed by its account and gossiped; nothing in it binds, an offer does.

A listing is canonical JSON of at most 2 kB with a 65-byte signature by the account over the EIP-712 `Record` of its
digest. It expires within ten minutes, so that a book heals by itself; a newer `sequence` replaces an older one of
the same account. Money never depends on delivery: a late joiner asks any peer for its book (wire.py).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tolsey.errors import RemoteViolation
from tolsey.protocol.encoding import TAG_LISTING, address_word, canonical_json, keccak256, parse_canonical_json
from tolsey.protocol.job import PINNED, JobSpec
from tolsey.protocol.offer import Domain
from tolsey.protocol.units import Account, ClassId, PeerId, TokenUnits

MAX_LISTING_BYTES = 2_048
MAX_AGE_S = 600
PETAFLOP = 10**15


def topic_of(domain: Domain) -> str:
    """The gossip topic of one market's listings."""
    return f"/tolsey/listings/1/{domain.chain_id}/{domain.market.lower()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A worker's standing terms.

    Attributes:
        account, peer_id, addrs: who sells and where it listens (multiaddrs, at most 8).
        chain_id, market: the deployment it sells on.
        class_id: its numerics class in profile `pinned`; class_name: the same for people, at most 64 characters.
        profiles: numerics profiles it runs.
        price_per_petaflop: token units per 10^15 floating-point operations; min_price: token units per job.
        bond_bps: bond it locks as a share of the price (10,000 = the price itself); min_bond: at least, token units.
        memory_bytes: memory a job may use; flops_per_s: measured training speed, for ETAs.
        busy: jobs it runs now; capacity: jobs it runs at a time.
        sequence: rises with every listing of this account; expires_at: unix seconds.
    """

    account: Account
    peer_id: PeerId
    addrs: tuple[str, ...]
    chain_id: int
    market: Account
    class_id: ClassId
    class_name: str
    profiles: tuple[str, ...]
    price_per_petaflop: TokenUnits
    min_price: TokenUnits
    bond_bps: int
    min_bond: TokenUnits
    memory_bytes: int
    flops_per_s: int
    busy: int
    capacity: int
    sequence: int
    expires_at: int

    def __post_init__(self) -> None:
        if len(self.addrs) > 8 or len(self.profiles) > 8 or len(self.class_name) > 64:
            raise RemoteViolation("a listing has at most 8 addresses, 8 profiles and 64 characters of class name")
        if len(self.class_id) != 32:
            raise RemoteViolation(f"class id of {len(self.class_id)} bytes, 32 are due")

    def price(self, spec: JobSpec) -> TokenUnits:
        """What this worker asks for the whole of `spec`, token units, rounded up."""
        return TokenUnits(max(self.min_price, -(-spec.work_flops * self.price_per_petaflop // PETAFLOP)))

    def bond(self, price: TokenUnits) -> TokenUnits:
        """What it puts at risk for a job of that price."""
        return TokenUnits(max(self.min_bond, -(-price * self.bond_bps // 10_000)))

    def eta_s(self, spec: JobSpec) -> float:
        """Seconds of training it expects."""
        return spec.work_flops / max(self.flops_per_s, 1)

    def why_not(self, spec: JobSpec, *, domain: Domain, now_ts: int) -> str | None:
        """The reason why this listing cannot serve `spec`, or None."""
        if (self.chain_id, self.market.lower()) != (domain.chain_id, domain.market.lower()):
            return f"sells on market {self.market} of chain {self.chain_id}"
        if self.expires_at <= now_ts:
            return f"listing expired {now_ts - self.expires_at} s ago"
        if spec.profile not in self.profiles:
            return f"runs profiles {', '.join(self.profiles)}, the job asks for {spec.profile}"
        if spec.profile == PINNED and self.class_id != spec.class_id:
            return f"is of class {self.class_id.hex()[:12]}, the job is pinned to {spec.class_id.hex()[:12]}"
        if self.memory_bytes < spec.memory_bytes:
            return f"offers {self.memory_bytes} bytes of memory, the job needs {spec.memory_bytes}"
        if self.busy >= self.capacity:
            return f"is busy with {self.busy} of {self.capacity} jobs"
        return None

    def encode(self) -> bytes:
        """Canonical JSON."""
        value = dataclasses.asdict(self)
        value["class_id"] = self.class_id.hex()
        value["addrs"], value["profiles"] = list(self.addrs), list(self.profiles)
        return canonical_json(value)

    def digest(self, domain: Domain) -> bytes:
        """The 32 bytes that the account signs."""
        return domain.record_digest(TAG_LISTING, keccak256(self.encode()))

    @classmethod
    def decode(cls, raw: bytes) -> Listing:
        """The listing in bytes from anybody; the signature is checked apart (contracts/wallet.py).

        Raises:
            RemoteViolation: too large, not canonical, or a field is missing, unknown or of the wrong type.
        """
        value: Any = parse_canonical_json(raw, max_bytes=MAX_LISTING_BYTES)
        fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        if not isinstance(value, Mapping) or set(value) != set(fields):
            raise RemoteViolation("a listing has exactly its documented keys", evidence=raw)
        parsed: dict[str, Any] = {}
        for name, kind in fields.items():
            parsed[name] = _parse_field(name, kind, value[name])
        return cls(**parsed)


def _parse_field(name: str, kind: str, value: Any) -> Any:
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(v, str) and len(v) <= 256 for v in value):
            raise RemoteViolation(f"{name} is a list of short strings")
        return tuple(value)
    if kind in ("int", "TokenUnits"):
        if type(value) is not int or not 0 <= value < 1 << 96:
            raise RemoteViolation(f"{name} is a whole number below 2^96, not {value!r}")
        return value
    if not isinstance(value, str) or len(value) > 128:
        raise RemoteViolation(f"{name} is a short string")
    if kind == "ClassId":
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise RemoteViolation(f"{name} is not 64 lower-case hex digits: {value!r}")
        return bytes.fromhex(value)
    if kind == "Account":
        try:
            address_word(value)
        except ValueError as error:
            raise RemoteViolation(f"{name}: {error}") from error
    return value
