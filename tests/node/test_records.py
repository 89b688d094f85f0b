"""The worker's tables keep what they are given across a reopening of the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tolsey.errors import LocalViolation
from tolsey.node.records import OfferRecord, Records, SegmentRecord
from tolsey.protocol.content import ContentId
from tolsey.protocol.lifecycle import State
from tolsey.protocol.units import StateRoot
from tolsey.storage.engine import Database

from . import worlds


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "worker.sqlite")
    yield opened
    opened.close()


def offered(nonce: int = 1, **changes: int) -> OfferRecord:
    offer = worlds.offer(nonce=nonce, **changes)
    return OfferRecord(
        job_id=worlds.job_id(offer),
        request_hash=b"\x07" * 32,
        offer=offer,
        signature=b"\x01" * 65,
        spec=worlds.spec(),
        client_peer_id=worlds.GOOD_PEER,
    )


def segment(index: int) -> SegmentRecord:
    return SegmentRecord(
        index=index,
        input_root=StateRoot(bytes([index]) * 32),
        output_root=StateRoot(bytes([index + 1]) * 32),
        checkpoint=ContentId(bytes([index + 2]) * 32),
        losses=((index * 2, "0.5"), (index * 2 + 1, "0.25")),
        step_us=1_500,
    )


async def test_offer_kept_is_read_back_equal(database: Database) -> None:
    records = Records(database)
    await records.keep_offer(offered())
    assert await records.open_offers() == [offered()]


async def test_forget_offers_expired_drops_only_those(database: Database) -> None:
    records = Records(database)
    await records.keep_offer(offered(1, expires_at=worlds.NOW))
    await records.keep_offer(offered(2, expires_at=worlds.NOW + 10))
    await records.forget_offers(worlds.NOW + 5)
    assert [o.offer.nonce for o in await records.open_offers()] == [2]


async def test_begin_job_moves_the_offer_and_may_be_repeated(database: Database) -> None:
    records = Records(database)
    await records.keep_offer(offered())
    first = await records.begin_job(offered().job_id)
    assert (first.state, first.window, first.closed_at) == (State.ACCEPTED, 0, None)
    assert first.offer == offered().offer and first.spec == worlds.spec()
    assert await records.open_offers() == []
    assert await records.begin_job(offered().job_id) == first


async def test_begin_job_without_offer_is_our_bug(database: Database) -> None:
    with pytest.raises(LocalViolation, match="no such offer"):
        await Records(database).begin_job(offered().job_id)


async def test_segments_come_back_in_order_and_narrowed(database: Database) -> None:
    records = Records(database)
    await records.keep_offer(offered())
    job = await records.begin_job(offered().job_id)
    for index in (0, 1, 2):
        await records.add_segment(job.job_id, segment(index))
    assert await records.segments(job.job_id) == [segment(0), segment(1), segment(2)]
    assert await records.segments(job.job_id, range(1, 3)) == [segment(1), segment(2)]
    assert await records.last_segment(job.job_id) == segment(2)


async def test_note_changes_only_what_is_named(database: Database) -> None:
    records = Records(database)
    await records.keep_offer(offered())
    job = await records.begin_job(offered().job_id)
    await records.note(job.job_id, state=State.SLASHED, window=2, message="x" * 1000)
    after = await records.job(job.job_id)
    assert after is not None and after.is_final
    assert (after.window, after.phase, len(after.message)) == (2, job.phase, 500)


async def test_facts_newer_replaces_older_and_survives_reopening(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    first = Database.open(path)
    await Records(first).keep_fact("class", b"a")
    await Records(first).keep_fact("class", b"b")
    first.close()
    again = Database.open(path)
    assert await Records(again).fact("class") == b"b"
    assert await Records(again).fact("speed") is None
    again.close()
