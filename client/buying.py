"""From a job on disk to an accepted offer: ask, plan, decide, lock the money.

    1. pack       program, data and initial state into the purchase's own content store
    2. seal       a fresh secret and its hash chain; written down before any worker hears of it
    3. ask        every listed worker for a quote (`pinned`: of one class), while our host serves the contents
    4. plan       pure (plan.py): who fits, who does not and why, odds and clocks
    5. decide     the caller's yes; nothing has been signed so far
    6. fund       what the ledger lacks, by a signed permit; refused before it is sent where the wallet lacks it too
    7. claim      the same request, signed: the chosen worker makes a binding offer for what it quoted
    8. accept     the offer is written down first, then sent through the outbox: once, whatever happens

A no at step 5, or any failure before 8, locks nothing, and a plan holds nobody's place: only a claim does, and only for
money that lies in the market. Next in the flow: serve.py.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import shutil
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tolsey.client import spec as specs
from tolsey.client.access import Access
from tolsey.client.config import up_again
from tolsey.client.ledger import Ledger
from tolsey.client.peers import Peers, is_wanted, open_peers
from tolsey.client.plan import Candidate, Plan, Terms, examine, make_plan
from tolsey.client.records import Purchase
from tolsey.client.serve import in_thread
from tolsey.contracts.sender import Sender
from tolsey.contracts.views import NOBODY
from tolsey.errors import ConfigError, InsufficientFunds, LocalViolation, NoOffer
from tolsey.network.identity import Identity
from tolsey.protocol.job import JobSpec, class_of_profile
from tolsey.protocol.listing import Listing
from tolsey.protocol.offer import Offer, seal_chain
from tolsey.protocol.units import Account, ClassId, Seconds, StateRoot, TokenUnits
from tolsey.protocol.wire import OfferRequest
from tolsey.storage.blobs import BlobStore
from tolsey.storage.engine import Database

if TYPE_CHECKING:
    from tolsey.runtime.author import BuiltJob

DEFAULT_VERIFIERS = 3
DEFAULT_SAMPLES = 2
DEFAULT_VERDICT_FEE = "0.05"
INPUT = "input"
"""Who pins the contents of a purchase in its store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line adds to the job file; None and empty mean: as the file says, else the default.

    Raises:
        ConfigError: more or fewer verifiers or samples than there can be.
    """

    data: Path | None = None
    max_cost: str | None = None
    verifiers: int | None = None
    samples: int | None = None
    on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, value in (("verifiers", self.verifiers), ("samples", self.samples)):
            if value is not None and (why := specs.out_of_bounds(key, value)) is not None:
                raise ConfigError(why)


class Shop:
    """An open purchase: its plan is made, its contents are served; `accept` buys.

    Attributes:
        plan: what would happen. peers: the open host.
    """

    def __init__(
        self, access: Access, peers: Peers, database: Database, intent: Purchase, request: OfferRequest, plan: Plan
    ) -> None:
        self._access, self.peers, self._intent, self.plan = access, peers, intent, plan
        self._request, self._database = request, database
        self.accepted = False

    async def accept(self) -> tuple[Purchase, Sender]:
        """Locks the escrow; the purchase with its job id, and the sender that goes on with it.

        Raises:
            InsufficientFunds: nothing was sent. NoOffer: nobody stood by the price; nothing is locked.
            Reverted: the market refused; nothing is locked.
        """
        gateway = await trio.to_thread.run_sync(lambda: self._access.writer, abandon_on_cancel=True)
        sender = Sender(gateway, self._database)
        await self._fund(sender, self.plan.offer.escrow)
        offer, chosen = await self._claim()
        job_id = offer.job_id(self._access.network.domain)
        table = self._access.purchases
        await table.choose(self._intent.seal, job_id, offer, chosen.signature, chosen.listing.peer_id)
        self.accepted = True  # from here on the purchase must not be forgotten
        await sender.send(gateway.action.accept(offer, chosen.signature), action_id=f"accept:{job_id.hex()}")
        purchase = await table.of_job(job_id)
        assert purchase is not None, "it was written two lines above"
        return purchase, sender

    async def _claim(self) -> tuple[Offer, Candidate]:
        """A binding offer for what was quoted: of the chosen worker, else of another whose quote was no dearer."""
        access, request, agreed = self._access, self._request, self.plan.offer.escrow
        dropped: dict[str, str] = {}
        for quoted in self.plan.candidates:
            if quoted.offer is None or quoted.dropped or quoted.offer.escrow > agreed:
                continue
            digest = request.claim_digest(access.network.domain, quoted.account)
            claim = dataclasses.replace(request, client_signature=access.wallet.sign_digest(digest))
            answer = await self.peers.ask(quoted.listing, claim, self.plan.terms)
            now_ts = await in_thread(access.reader.now_ts)
            answer = examine(answer, claim, max_cost=agreed, now_ts=now_ts)
            offer = answer.offer
            if offer is None or answer.dropped:
                dropped[quoted.account] = answer.dropped
            elif offer != dataclasses.replace(quoted.offer, nonce=offer.nonce, expires_at=offer.expires_at):
                dropped[quoted.account] = "offers other terms than it quoted"
            else:
                return offer, answer
        reasons = "".join(f"\n    {account[:10]}…  {why}" for account, why in dropped.items())
        raise NoOffer(
            f"no worker stands by a quote of at most {access.money.text(agreed)}:{reasons}",
            dropped=dropped,
            fix="ask for new quotes: tolsey run again",
        )

    async def _fund(self, sender: Sender, escrow: TokenUnits) -> None:
        gateway, account, money = self._access.writer, self._access.account, self._access.money
        free, _locked = await in_thread(gateway.account, account)
        missing = TokenUnits(escrow - free)
        if missing <= 0:
            return
        held = await in_thread(gateway.token_balance, account)
        if held < missing:
            raise InsufficientFunds(
                f"the escrow is {money.text(escrow)}; {account} has {money.text(free)} free in the market and "
                f"{money.text(held)} in the wallet",
                fix=f"tolsey wallet faucet (local chains), or send {money.text(missing - held)} to {account}",
            )
        action = await in_thread(gateway.action.deposit, missing)
        await sender.send(action, action_id=f"deposit:{self._intent.seal.hex()}:{free}")


@asynccontextmanager
async def open_shop(access: Access, request: specs.Request, wishes: Wishes) -> AsyncIterator[Shop]:
    """Steps 1 to 4; what was not accepted when the block is left costs nothing.

    Raises:
        NoOffer, ConfigError, SpecInvalid, ChainUnavailable: before anything was signed.
    """
    terms = await in_thread(_terms, access, request, wishes)
    account = access.account
    ledger = await in_thread(Ledger.read, access)
    key = os.urandom(32)
    listen = f"/ip4/127.0.0.1/tcp/{_free_port()}"
    folder = access.folder_of(key)
    shop: Shop | None = None
    try:
        with access.blobs_of(key) as blobs, access.outbox_of(key) as database:
            built = await trio.to_thread.run_sync(lambda: specs.build(request, folder / "built", data=wishes.data))
            await trio.to_thread.run_sync(_pack, blobs, built)
            async with open_peers(access, ledger=ledger, identity=Identity(key), listen=listen, store=blobs) as peers:
                sellers = await peers.sellers()
                if not sellers:
                    raise nobody_heard(access.settings.network_path, ledger)
                wanted = among(sellers, terms)
                class_id = class_of_profile(built.job.profile) or choose_class(wanted, ledger)
                intent = _sealed(built, class_id, key, listen)
                await access.purchases.keep(intent)
                asked = _asked(intent, terms, account)
                plan = await _ask(access, peers, sellers, asked, terms)
                shop = Shop(access, peers, database, intent, asked, plan)
                yield shop
    finally:
        shutil.rmtree(folder / "built", ignore_errors=True)
        if shop is None or not shop.accepted:
            shutil.rmtree(folder, ignore_errors=True)


def nobody_heard(network_path: Path, ledger: Ledger) -> NoOffer:
    """Why no listing is heard: nobody is there, or we know nobody who could tell."""
    count = len(ledger.workers)
    if not count:
        return NoOffer("no worker is registered on this market", fix="start one: tolsey worker start")
    there = "1 worker is" if count == 1 else f"{count} workers are"
    if up_again(network_path) is not None:
        return NoOffer(f"{there} registered on chain, none was heard", fix="tolsey status shows which of them runs")
    return NoOffer(
        f"{there} registered on chain, none was heard: put a peer's address into bootstrap of {network_path}",
        fix='bootstrap = ["/ip4/…/tcp/…/p2p/…"]: `tolsey worker start` prints its address; ask one who runs a worker',
    )


def among(sellers: Sequence[Listing], terms: Terms) -> list[Listing]:
    """The sellers that may have the job.

    Raises:
        NoOffer: there is none.
    """
    wanted = [listing for listing in sellers if is_wanted(listing.account, terms)]
    if not wanted:
        raise NoOffer(
            f"{len(sellers)} listings heard, none of a worker that --on names ({', '.join(sorted(terms.on))})",
            fix="tolsey offers, or start a worker: tolsey worker start",
        )
    return wanted


def choose_class(wanted: Sequence[Listing], ledger: Ledger) -> ClassId:
    """The class of machines to buy a job of profile `pinned` in: where most verifiers can check, then where most sell.

    Such a job is bound to one class, because there only equal machines give equal bits.
    """
    count = Counter(listing.class_id for listing in wanted)
    return max(count, key=lambda class_id: (len(ledger.verifier_peers(class_id)), count[class_id], class_id))


def _asked(intent: Purchase, terms: Terms, account: Account) -> OfferRequest:
    return OfferRequest(
        spec=intent.spec,
        initial_root=intent.initial_root,
        client=account,
        client_seal=intent.seal,
        verifier_count=terms.verifier_count,
        sample_count=terms.sample_count,
        verdict_fee=terms.verdict_fee,
        clocks=terms.clocks,
    )


async def _ask(access: Access, peers: Peers, sellers: Sequence[Listing], request: OfferRequest, terms: Terms) -> Plan:
    answers = await peers.ask_all(sellers, request, terms)
    now_ts = await in_thread(access.reader.now_ts)
    candidates = [examine(answer, request, max_cost=terms.max_cost, now_ts=now_ts) for answer in answers]
    pool = await in_thread(access.reader.pool, request.spec.class_id)
    held = sum(who != NOBODY for who in pool)
    return make_plan(candidates, spec=request.spec, terms=terms, pool_size=held, pool_places=len(pool))


def _terms(access: Access, request: specs.Request, wishes: Wishes) -> Terms:
    """What the client wants, from options, then the file, then the network and the defaults."""
    money = access.money
    cost = wishes.max_cost or request.max_cost
    clocks = access.network.clocks
    try:
        asked = dataclasses.replace(clocks, **{name: Seconds(value) for name, value in request.clocks.items()})
    except TypeError as cause:
        raise ConfigError(f"clocks: {cause}") from cause
    return Terms(
        max_cost=None if cost is None else money.parse(cost, name="max_cost"),
        verifier_count=_first(wishes.verifiers, request.verifiers, DEFAULT_VERIFIERS),
        sample_count=_first(wishes.samples, request.samples, DEFAULT_SAMPLES),
        verdict_fee=money.parse(request.verdict_fee or DEFAULT_VERDICT_FEE, name="verdict_fee"),
        clocks=asked,
        on=frozenset(_account_prefix(text) for text in (wishes.on or request.on)),
    )


def _account_prefix(text: str) -> str:
    prefix = text.strip().lower()
    if not re.fullmatch(r"0x[0-9a-f]{4,40}", prefix):
        raise ConfigError(f"--on {text!r} is no account or beginning of one", fix="0x and at least 4 hex digits")
    return prefix


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _sealed(built: BuiltJob, class_id: ClassId, key: bytes, listen: str) -> Purchase:
    spec: JobSpec = specs.spec_of(built, class_id)
    secret = secrets.token_bytes(32)
    return Purchase(
        seal=seal_chain(secret, spec.window_count)[-1],
        secret=secret,
        peer_key=key,
        listen=listen,
        spec=spec,
        initial_root=StateRoot(built.initial_root),
        created_at=int(time.time()),
    )


def _pack(blobs: BlobStore, built: BuiltJob) -> None:
    """Puts everything that a worker may ask for into the store, and checks that the ids are those of the spec."""
    expected = [
        (built.program_path, built.program_id),
        (built.dataset_path, built.dataset_id),
        *zip(built.data_paths, (item.content for item in built.manifest.files), strict=True),
    ]
    if built.initial_path is not None and built.initial_id is not None:
        expected.append((built.initial_path, built.initial_id))
    for path, content_id in expected:
        found = blobs.put_file(path, pin=INPUT)
        if found != content_id:
            raise LocalViolation(f"{path.name} has content id {found.hex()}, the job names {content_id.hex()}")


def _free_port() -> int:
    """A port that this job keeps for its life, so that the worker finds a restarted client."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
