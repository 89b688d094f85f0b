"""Every reason for which a worker says no, and what it signs when it says yes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tolsey.contracts.wallet import Wallet, recover
from tolsey.errors import PeerUnreachable, RemoteViolation, SpecInvalid, StorageError
from tolsey.node.bidding import (
    COMMIT_FLOOR_S,
    Bidder,
    Standing,
    Survey,
    commit_window_needed_s,
    content_refusal,
    refusal,
    terms,
)
from tolsey.node.config import WorkerConfig
from tolsey.node.records import Records
from tolsey.protocol.job import PINNED, JobSpec
from tolsey.protocol.listing import PETAFLOP
from tolsey.protocol.offer import why_not
from tolsey.protocol.units import Account, ClassId, StateRoot, TokenUnits
from tolsey.protocol.wire import OfferReply, OfferRequest
from tolsey.storage.engine import Database

from . import worlds

CONFIG = WorkerConfig(network="local", home=Path("/nowhere"))
SURVEY = Survey(
    initial_root=worlds.ROOT,
    checkpoint_bytes=1_000,
    dataset_bytes=10_000,
    memory_bytes=1 << 20,
    work_flops=PETAFLOP,
)


def standing(**changes: Any) -> Standing:
    values: dict[str, Any] = {
        "domain": worlds.DOMAIN,
        "listing": worlds.listing(),
        "open_offers": 0,
        "promised_bond": 0,
        "free": 100_000_000,
        "min_job_bond": 100_000,
        "max_window_s": 3_600,
        "min_verdict_window_s": 5,
        "now_ts": worlds.NOW,
    }
    return Standing(**values | changes)


def spec_of(**changes: Any) -> OfferRequest:
    return worlds.request(spec=worlds.spec(**changes))


@pytest.mark.parametrize("request_", [worlds.request(), spec_of(profile=PINNED, class_id=worlds.CLASS)])
def test_refusal_fitting_request_is_none(request_: OfferRequest) -> None:
    assert refusal(request_, standing(), CONFIG) is None


@pytest.mark.parametrize(
    ("request_", "standing_", "words"),
    [
        (spec_of(profile=PINNED, class_id=ClassId(b"\x09" * 32)), standing(), "is of class"),
        (spec_of(memory_bytes=8 << 30), standing(), "of memory"),
        (worlds.request(), standing(listing=worlds.listing(busy=1)), "busy with 1 of 1"),
        (worlds.request(), standing(listing=worlds.listing(profiles=(PINNED,))), "runs profiles"),
        (worlds.request(), standing(open_offers=1), "has promised 1 and runs 0 of 1"),
        (worlds.request(client=Account("0x12")), standing(), "is no account"),
        (worlds.request(client=Account("nonsense")), standing(), "is no account"),
        (worlds.request(client=worlds.WORKER), standing(), "is this worker or nobody"),
        (worlds.request(client=Account("0x" + "0" * 40)), standing(), "is this worker or nobody"),
        (worlds.request(clocks=worlds.clocks(commit_window_s=3_601)), standing(), "commit window of 3601 s is above"),
        (worlds.request(clocks=worlds.clocks(reveal_window_s=9_999)), standing(), "reveal window of 9999 s is above"),
        (worlds.request(clocks=worlds.clocks(verdict_window_s=3)), standing(), "no time to answer a demand"),
        (
            worlds.request(clocks=worlds.clocks(verdict_window_s=20)),
            standing(min_verdict_window_s=30),
            "answer a demand (30 s)",
        ),
        (worlds.request(clocks=worlds.clocks(challenge_window_s=40)), standing(), "ends before verdicts"),
        (worlds.request(clocks=worlds.clocks(commit_window_s=30)), standing(), "too short, this machine needs 86 s"),
        (worlds.request(), standing(free=400_000), "only 0.4 is free"),
        (worlds.request(), standing(free=900_000, promised_bond=500_000), "only 0.4 is free"),
        (worlds.request(), standing(min_job_bond=200_000_000), "needs a bond of 200"),
        (
            spec_of(work_flops=1 << 60),
            standing(listing=worlds.listing(flops_per_s=1 << 60, price_per_petaflop=TokenUnits(1 << 94))),
            "does not fit",
        ),
    ],
)
def test_refusal_names_the_reason(request_: OfferRequest, standing_: Standing, words: str) -> None:
    why = refusal(request_, standing_, CONFIG)
    assert why is not None and words in why


@pytest.mark.parametrize(
    ("survey", "room", "words"),
    [
        (dataclasses.replace(SURVEY, initial_root=StateRoot(b"\x99" * 32)), 1 << 30, "initial root is 1111"),
        (dataclasses.replace(SURVEY, work_flops=2 * PETAFLOP), 1 << 30, "its program needs 2000000000000000"),
        (dataclasses.replace(SURVEY, memory_bytes=1 << 40), 1 << 30, "bytes of memory, its program needs"),
        (SURVEY, 17_999, "need 18000 bytes of disk, 17999 are free"),
    ],
)
def test_content_refusal_names_the_reason(survey: Survey, room: int, words: str) -> None:
    why = content_refusal(worlds.request(), survey, room)
    assert why is not None and words in why


def test_content_refusal_fitting_contents_is_none() -> None:
    assert content_refusal(worlds.request(), SURVEY, 18_000) is None


def test_commit_window_needed_counts_margin_capacity_and_share() -> None:
    # 10^15 operations at 10^13 a second are 100 s for 3 windows; twice the margin, two jobs side by side.
    listing = worlds.listing(capacity=2)
    assert commit_window_needed_s(worlds.spec(), listing, 2.0) == COMMIT_FLOOR_S + 133


def test_terms_fit_what_the_client_asked_for() -> None:
    request = worlds.request()
    offer = terms(request, standing(), CONFIG, nonce=5)
    assert why_not(offer, request=request, listing=worlds.listing(), now_ts=worlds.NOW) is None
    assert (offer.price, offer.bond, offer.forfeit) == (1_000_000, 500_000, 166_666)
    assert offer.expires_at == worlds.NOW + CONFIG.offer_ttl_s


def test_terms_forfeit_is_never_above_the_bond() -> None:
    config = dataclasses.replace(CONFIG, forfeit_bps=10_000)
    offer = terms(worlds.request(), standing(listing=worlds.listing(bond_bps=1)), config, nonce=5)
    assert offer.bond == 100_000 == offer.forfeit


class World:
    """A bidder with a real database and a surveyor that says what it is told to."""

    def __init__(self, database: Database) -> None:
        self.records = Records(database)
        self.wallet = Wallet.from_private_key(b"\x07" * 32)
        self.client = Wallet.from_private_key(b"\x08" * 32)
        self.client_free = 10_000_000
        self.survey_result: Survey | Exception = SURVEY
        self.surveys = 0
        self.changes = 0
        self.standing = standing(listing=worlds.listing(account=self.wallet.account))
        self.bidder = Bidder(
            CONFIG,
            self.records,
            self,
            standing=self.now,
            free_of=self.free_of,
            sign=self.wallet.sign_digest,
            on_change=self.changed,
        )
        self.bidder.closed_because = None

    async def now(self) -> Standing:
        records = [o for o in await self.records.open_offers() if o.offer.expires_at >= self.standing.now_ts]
        return dataclasses.replace(self.standing, open_offers=len(records))

    async def free_of(self, account: Account) -> TokenUnits:
        return TokenUnits(self.client_free if account == self.client.account else 0)

    def changed(self) -> None:
        self.changes += 1

    async def survey(self, spec: JobSpec, peer_id: str) -> Survey:
        self.surveys += 1
        if isinstance(self.survey_result, Exception):
            raise self.survey_result
        return self.survey_result

    async def room_bytes(self) -> int:
        return 1 << 30

    async def quote(self, request: OfferRequest | None = None) -> OfferReply:
        return await self.bidder.answer(worlds.GOOD_PEER, (request or worlds.request()).encode())

    async def ask(self, *, signer: Wallet | None = None, worker: Account | None = None, **changes: Any) -> OfferReply:
        """The answer to a claim of our client, signed as it must be unless told otherwise."""
        request = worlds.request(client=self.client.account, **changes)
        digest = request.claim_digest(worlds.DOMAIN, worker or self.wallet.account)
        signature = (signer or self.client).sign_digest(digest)
        return await self.quote(dataclasses.replace(request, client_signature=signature))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = Database.open(tmp_path / "worker.sqlite")
    yield World(database)
    database.close()


async def test_answer_signs_and_remembers_before_it_replies(world: World) -> None:
    reply = await world.ask()
    assert reply.offer is not None
    assert recover(reply.offer.job_id(worlds.DOMAIN), reply.signature) == world.wallet.account
    kept = await world.records.open_offers()
    assert [(k.offer, k.signature) for k in kept] == [(reply.offer, reply.signature)]
    assert world.changes == 1


async def test_answer_same_request_gets_the_same_offer_without_new_work(world: World) -> None:
    first = await world.ask()
    assert await world.ask() == first
    assert (world.surveys, world.changes) == (1, 1)


async def test_answer_second_client_is_refused_while_the_place_is_promised(world: World) -> None:
    await world.ask()
    reply = await world.ask(client_seal=b"\x77" * 32)
    assert reply.offer is None and "has promised 1" in reply.refusal


async def test_answer_quotes_hold_no_place_however_many_are_asked_for(world: World) -> None:
    for number in range(5):
        reply = await world.quote(worlds.request(client_seal=bytes([number]) * 32))
        assert reply.offer is not None and reply.signature == b""
    assert await world.records.open_offers() == [] and world.changes == 0
    bought = await world.ask()
    assert bought.offer is not None and len(bought.signature) == 65


async def test_answer_offer_is_what_was_quoted(world: World) -> None:
    quoted = (await world.quote(worlds.request(client=world.client.account))).offer
    offered = (await world.ask()).offer
    assert quoted is not None and offered is not None
    assert dataclasses.replace(quoted, nonce=offered.nonce) == offered
    assert world.surveys == 1


async def test_answer_claim_without_the_escrow_in_the_market_holds_no_place(world: World) -> None:
    world.client_free = 1_029_999  # a price of 1, three verdicts of 0.01: one unit short
    reply = await world.ask()
    assert reply.offer is None and "the escrow is 1.03" in reply.refusal
    assert await world.records.open_offers() == []


async def test_answer_one_escrow_holds_one_place(world: World) -> None:
    world.standing = dataclasses.replace(
        world.standing, listing=worlds.listing(account=world.wallet.account, capacity=2)
    )
    world.client_free = 2_000_000
    assert (await world.ask()).offer is not None
    reply = await world.ask(client_seal=b"\x77" * 32)
    assert reply.offer is None and "beside 1.03 for offers made" in reply.refusal


async def test_answer_claim_in_anothers_name_or_for_another_worker_is_refused(world: World) -> None:
    for reply in (await world.ask(signer=world.wallet), await world.ask(worker=worlds.WORKER)):
        assert reply.offer is None and "is not signed by" in reply.refusal
    assert world.surveys == 0


async def test_answer_after_expiry_offers_anew(world: World) -> None:
    first = await world.ask()
    world.standing = dataclasses.replace(world.standing, now_ts=worlds.NOW + CONFIG.offer_ttl_s + 1)
    world.standing = dataclasses.replace(
        world.standing, listing=dataclasses.replace(world.standing.listing, expires_at=worlds.NOW + 1_000)
    )
    again = await world.ask()
    assert again.offer is not None and first.offer is not None
    assert again.offer.nonce != first.offer.nonce


@pytest.mark.parametrize(
    "error",
    [
        SpecInvalid("program has 3 steps"),
        RemoteViolation("node 5 declares float32, is int64"),
        PeerUnreachable("content 0101: nothing of it arrived"),
        StorageError("no room"),
    ],
)
async def test_answer_unusable_contents_refused_with_their_reason(world: World, error: Any) -> None:
    world.survey_result = error
    reply = await world.ask()
    assert reply.offer is None and reply.refusal == error.message
    assert await world.records.open_offers() == []


async def test_answer_contents_that_do_not_fit_refused(world: World) -> None:
    world.survey_result = dataclasses.replace(SURVEY, initial_root=StateRoot(b"\x99" * 32))
    assert "initial root" in (await world.ask()).refusal


async def test_answer_closing_worker_refuses(world: World) -> None:
    world.bidder.closed_because = "is stopping"
    assert (await world.ask()).refusal == "is stopping"


async def test_answer_malformed_request_is_a_violation(world: World) -> None:
    with pytest.raises(RemoteViolation):
        await world.bidder.answer(worlds.GOOD_PEER, b"{}")
