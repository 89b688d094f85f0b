"""Which jobs a worker offers on, and at what price.

Two halves. The *rules* (`refusal`, `content_refusal`, `terms`) are pure: numbers in, one sentence or an offer out, so
that each can be read and tested alone. The *bidder* walks a request through them in a numbered procedure, cheapest
check first. Whoever only asks gets a *quote*: the same terms without a signature, which hold nothing, so that looking
costs nobody a sale. An *offer* is for a client that signs its request and has the escrow free in the market: it binds,
so it is written down before it leaves, it holds a place of the worker's capacity and a part of its bond until it
expires, and the same request gets the same offer again. Money that covers one escrow holds one place here, not two.

It refuses whatever it cannot check, in one sentence that names the two values that disagree; it never bargains.
Next in the flow: worker.py, once the client has accepted.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from tolsey.contracts.amounts import dollars
from tolsey.contracts.wallet import recover
from tolsey.errors import ConfigError, NetworkError, RemoteViolation, SpecInvalid, StorageError
from tolsey.node.config import WorkerConfig
from tolsey.node.records import OfferRecord, Records
from tolsey.protocol.encoding import address_word, keccak256
from tolsey.protocol.job import JobSpec
from tolsey.protocol.listing import Listing
from tolsey.protocol.offer import Domain, Offer
from tolsey.protocol.units import Account, StateRoot, TokenUnits
from tolsey.protocol.wire import OfferReply, OfferRequest

ANSWER_FLOOR_S = 10
"""Shortest verdict window: a demand must be seen, answered and mined within it (guess: five local blocks)."""
COMMIT_FLOOR_S = 20
"""Shortest commit window, for the same reason, whatever the measured speed."""
WORK_TOLERANCE = 0.98
"""How far the spec's work may lie under our own count of it; two honest counts may round differently."""
MAX_OPEN_OFFERS = 256
"""Rows kept for offers that were not accepted yet; capacity bounds them far earlier."""
MAX_SURVEYS = 64
"""Programs that were measured a moment ago, so that the offer after a quote needs no second look."""
NO_ACCOUNT = "0x" + "0" * 40

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the worker knows of itself and the chain when a request comes in.

    Attributes:
        listing: its newest terms; `busy` counts live jobs only.
        open_offers: signed, not expired, not accepted. promised_bond: their bonds together, token units.
        free: token units of the worker on the market's ledger that are not locked.
        min_job_bond, max_window_s, min_verdict_window_s: parameters of the deployment.
        now_ts: time of the newest block.
    """

    domain: Domain
    listing: Listing
    open_offers: int
    promised_bond: int
    free: int
    min_job_bond: int
    max_window_s: int
    min_verdict_window_s: int
    now_ts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a program needs, measured by building it: see executor.py.

    Attributes:
        initial_root: state root of step 0 by the spec's own initialisers.
        checkpoint_bytes: one checkpoint file. dataset_bytes: all files of the dataset.
        memory_bytes, work_flops: peak memory and work of the whole job by our own count.
    """

    initial_root: StateRoot
    checkpoint_bytes: int
    dataset_bytes: int
    memory_bytes: int
    work_flops: int


class Surveyor(Protocol):
    """Fetches a job's program and measures it in the child."""

    async def survey(self, spec: JobSpec, peer_id: str) -> Survey:
        """What `spec` needs.

        Raises:
            SpecInvalid, RemoteViolation: the contents are not a job of this spec.
            NetworkError: the peer does not serve them.
            StorageError: no room to look at them.
        """

    async def room_bytes(self) -> int:
        """Bytes that checkpoints and data of one more job may use."""


def refusal(request: OfferRequest, standing: Standing, config: WorkerConfig) -> str | None:
    """The reason why this request gets no offer, by what it says alone, or None."""
    spec, listing, clocks = request.spec, standing.listing, request.clocks
    if (why := listing.why_not(spec, domain=standing.domain, now_ts=standing.now_ts)) is not None:
        return why
    if listing.busy + standing.open_offers >= listing.capacity:
        return f"has promised {standing.open_offers} and runs {listing.busy} of {listing.capacity} jobs"
    try:
        address_word(request.client)
    except ValueError:
        return f"client {request.client[:64]!r} is no account"
    if request.client.lower() in (listing.account.lower(), NO_ACCOUNT):
        return f"client {request.client} is this worker or nobody"
    for name in ("commit", "reveal", "verdict", "challenge"):
        if (asked := getattr(clocks, f"{name}_window_s")) > standing.max_window_s:
            return f"{name} window of {asked} s is above the market's {standing.max_window_s} s"
    if clocks.verdict_window_s < (floor := max(ANSWER_FLOOR_S, standing.min_verdict_window_s)):
        return f"verdict window of {clocks.verdict_window_s} s leaves no time to answer a demand ({floor} s)"
    if clocks.challenge_window_s <= 2 * clocks.verdict_window_s:
        return (
            f"challenge window of {clocks.challenge_window_s} s ends before verdicts of "
            f"2 x {clocks.verdict_window_s} s are told"
        )
    if clocks.commit_window_s < (needed := commit_window_needed_s(spec, listing, config.time_margin)):
        return f"commit window of {clocks.commit_window_s} s is too short, this machine needs {needed} s for a window"
    return _money_refusal(request, standing, config)


def _money_refusal(request: OfferRequest, standing: Standing, config: WorkerConfig) -> str | None:
    offer = terms(request, standing, config, nonce=0)
    if offer.price >= 1 << 96 or offer.bond >= 1 << 96:
        return f"price of {offer.price} token units does not fit the market's 96 bits"
    spare = standing.free - standing.promised_bond
    if offer.bond > spare:
        return f"the job needs a bond of {dollars(offer.bond)}, only {dollars(max(spare, 0))} is free"
    return None


def content_refusal(request: OfferRequest, survey: Survey, room_bytes: int) -> str | None:
    """The reason why the job's contents do not fit what the request says of them or this machine, or None."""
    spec = request.spec
    if survey.initial_root != request.initial_root:
        return f"initial root is {request.initial_root.hex()[:16]}, the spec gives {survey.initial_root.hex()[:16]}"
    if spec.work_flops < survey.work_flops * WORK_TOLERANCE:
        return f"the spec says {spec.work_flops} operations, its program needs {survey.work_flops}"
    if spec.memory_bytes < survey.memory_bytes:
        return f"the spec says {spec.memory_bytes} bytes of memory, its program needs {survey.memory_bytes}"
    needed = survey.dataset_bytes + (spec.segment_count + 2) * survey.checkpoint_bytes
    if needed > room_bytes:
        return f"data and checkpoints need {needed} bytes of disk, {room_bytes} are free for them"
    return None


def commit_window_needed_s(spec: JobSpec, listing: Listing, margin: float) -> int:
    """Seconds that a window needs at the measured speed when all places are taken, with the margin."""
    share = min(spec.segments_per_window, spec.segment_count) / spec.segment_count
    return COMMIT_FLOOR_S + int(margin * listing.eta_s(spec) * share * listing.capacity)


def terms(request: OfferRequest, standing: Standing, config: WorkerConfig, *, nonce: int) -> Offer:
    """The offer that the worker's own listing gives for this request."""
    spec, clocks = request.spec, request.clocks
    price = standing.listing.price(spec)
    offer = Offer(
        spec_hash=spec.spec_hash,
        class_id=spec.class_id,
        initial_root=request.initial_root,
        client_seal=request.client_seal,
        client=request.client,
        worker=standing.listing.account,
        price=price,
        bond=TokenUnits(max(standing.listing.bond(price), standing.min_job_bond)),
        forfeit=TokenUnits(0),
        verdict_fee=request.verdict_fee,
        segment_count=spec.segment_count,
        segments_per_window=spec.segments_per_window,
        verifier_count=request.verifier_count,
        sample_count=request.sample_count,
        commit_window_s=clocks.commit_window_s,
        reveal_window_s=clocks.reveal_window_s,
        verdict_window_s=clocks.verdict_window_s,
        challenge_window_s=clocks.challenge_window_s,
        nonce=nonce,
        expires_at=standing.now_ts + config.offer_ttl_s,
    )
    # Never more than what is left to pay at the end, nor than the bond: the market refuses either.
    last = min(offer.window_price(window) for window in (0, offer.window_count - 1))
    forfeit = min(last * config.forfeit_bps // 10_000, offer.bond)
    return dataclasses.replace(offer, forfeit=TokenUnits(forfeit))


class Bidder:
    """Answers offer requests.

    Args:
        standing: what the worker knows now; asks the chain.
        free_of: token units that an account has free in the market; asks the chain.
        sign: signs a 32-byte digest with the worker's account.
        on_change: called when a place was promised, so that the listing is told anew.
    """

    def __init__(
        self,
        config: WorkerConfig,
        records: Records,
        surveyor: Surveyor,
        *,
        standing: Callable[[], Awaitable[Standing]],
        free_of: Callable[[Account], Awaitable[TokenUnits]],
        sign: Callable[[bytes], bytes],
        on_change: Callable[[], None],
    ) -> None:
        self._config = config
        self._records = records
        self._surveyor = surveyor
        self._standing = standing
        self._free_of = free_of
        self._surveys: OrderedDict[tuple[bytes, str], Survey] = OrderedDict()
        self._sign = sign
        self._on_change = on_change
        self._looking, self._promising = trio.Lock(), trio.Lock()
        self.closed_because: str | None = "is starting"

    async def answer(self, peer_id: str, raw: bytes) -> OfferReply:
        """A quote, a signed offer or a refusal for one request.

        Raises:
            RemoteViolation: the request is malformed.
            ChainError, StorageError: our own trouble; nothing was promised.
        """
        # 1. What is asked? A spec that cannot be a job is the asker's mistake, not an offence.
        try:
            request = OfferRequest.decode(raw)
        except SpecInvalid as error:
            return _no(error.message)
        if self.closed_because is not None:
            return _no(self.closed_because)
        standing = await self._standing()
        is_claim = request.client_signature != b""
        if is_claim and not _is_signed(request, standing):
            return _no(f"the request is not signed by {request.client}")
        # 2. The same request again gets the same offer, as long as that binds.
        request_hash = keccak256(request.encode())
        if is_claim and (known := await self._known(request_hash, standing)) is not None:
            return OfferReply(offer=known.offer, signature=known.signature, refusal="")
        # 3. What the words alone rule out, before any byte is fetched.
        if (why := refusal(request, standing, self._config)) is not None:
            return _no(why)
        # 4. What the contents rule out: fetched, built and measured, one request at a time.
        try:
            survey = await self._survey(request.spec, peer_id)
            if (why := content_refusal(request, survey, await self._surveyor.room_bytes())) is not None:
                return _no(why)
            async with self._promising:
                # 5. Time has passed: the place may be gone, the clock is later.
                standing = await self._standing()
                if (why := refusal(request, standing, self._config)) is not None:
                    return _no(why)
                # 6. A quote is words; an offer is for money that is there.
                if not is_claim:
                    return OfferReply(offer=terms(request, standing, self._config, nonce=0), signature=b"", refusal="")
                if (why := await self._uncovered(request, standing)) is not None:
                    return _no(why)
                # 7. Signed, written down, told: in this order, because what was told binds.
                return await self._promise(request, request_hash, standing, peer_id)
        except (ConfigError, RemoteViolation, NetworkError, StorageError) as error:
            return _no(error.message)

    async def _promise(
        self, request: OfferRequest, request_hash: bytes, standing: Standing, peer_id: str
    ) -> OfferReply:
        offer = terms(request, standing, self._config, nonce=secrets.randbits(64))
        job_id = offer.job_id(standing.domain)
        signature = self._sign(job_id)
        await self._records.keep_offer(
            OfferRecord(
                job_id=job_id,
                request_hash=request_hash,
                offer=offer,
                signature=signature,
                spec=request.spec,
                client_peer_id=peer_id,
            )
        )
        _log.info("job %s: offered to %s for %s", job_id.hex()[:12], offer.client, dollars(offer.price))
        self._on_change()
        return OfferReply(offer=offer, signature=signature, refusal="")

    async def _known(self, request_hash: bytes, standing: Standing) -> OfferRecord | None:
        for record in await self._records.open_offers():
            if record.request_hash == request_hash and record.offer.expires_at > standing.now_ts:
                return record
        return None

    async def _survey(self, spec: JobSpec, peer_id: str) -> Survey:
        """What the program needs, measured once for each peer that serves it.

        Raises:
            NetworkError: another one is being measured.
        """
        key = (spec.spec_hash, peer_id)
        if (known := self._surveys.get(key)) is not None:
            return known
        try:
            self._looking.acquire_nowait()
        except trio.WouldBlock:
            raise NetworkError("is looking at another job, ask again") from None
        try:
            found = self._surveys[key] = await self._surveyor.survey(spec, peer_id)
        finally:
            self._looking.release()
        if len(self._surveys) > MAX_SURVEYS:
            self._surveys.popitem(last=False)
        return found

    async def _uncovered(self, request: OfferRequest, standing: Standing) -> str | None:
        """The reason why the client's money does not cover this offer beside those it holds already, or None."""
        escrow = terms(request, standing, self._config, nonce=0).escrow
        held = sum(
            record.offer.escrow
            for record in await self._records.open_offers()
            if record.offer.client.lower() == request.client.lower() and record.offer.expires_at >= standing.now_ts
        )
        free = await self._free_of(request.client)
        if escrow + held <= free:
            return None
        beside = f" beside {dollars(held)} for offers made" if held else ""
        return f"the escrow is {dollars(escrow)}{beside}, {request.client} has {dollars(free)} free in the market"


def _is_signed(request: OfferRequest, standing: Standing) -> bool:
    digest = request.claim_digest(standing.domain, standing.listing.account)
    try:
        return recover(digest, request.client_signature).lower() == request.client.lower()
    except RemoteViolation:
        return False


def _no(why: str) -> OfferReply:
    _log.info("no offer: %s", why)
    return OfferReply(offer=None, signature=b"", refusal=why)
