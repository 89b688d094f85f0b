"""The outbox and the chain log: nothing forgotten, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy.orm import Session

from tolsey.errors import LocalViolation
from tolsey.storage import chain_log, outbox
from tolsey.storage.chain_log import SeenBlock, SeenEvent
from tolsey.storage.engine import Database
from tolsey.storage.outbox import Action
from tolsey.storage.tables import metadata

CHAIN = 31337
SENDER = b"\x11" * 20
MARKET = b"\x22" * 20


def hash_of(*parts: object) -> bytes:
    return repr(parts).encode().rjust(32, b"#")[-32:]


@pytest.fixture
def session() -> Iterator[Session]:
    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    with Session(engine) as opened:
        yield opened


def put(session: Session, action_id: str = "commit:1:0", data: bytes = b"\x01") -> bool:
    return outbox.put(session, action_id, chain_id=CHAIN, to=MARKET, data=data, value_wei=2**200)


def sign(session: Session, action_id: str, nonce: int, copy: int = 0) -> bytes:
    tx_hash = hash_of(action_id, nonce, copy)
    outbox.mark_signed(session, action_id, sender=SENDER, nonce=nonce, tx_hash=tx_hash, raw=b"raw" + tx_hash)
    return tx_hash


def found(session: Session, action_id: str) -> Action:
    action = outbox.find(session, action_id)
    assert action is not None
    return action


def test_put_twice_is_one_action(session: Session) -> None:
    assert put(session) is True
    assert put(session) is False
    action = found(session, "commit:1:0")
    assert (action.state, action.value_wei, action.attempts) == ("meant", 2**200, ())


def test_put_same_id_other_content_is_our_bug(session: Session) -> None:
    put(session)
    with pytest.raises(LocalViolation, match="commit:1:0"):
        put(session, data=b"\x02")
    with pytest.raises(LocalViolation):
        put(session, "")
    with pytest.raises(LocalViolation):
        put(session, "big", data=bytes(outbox.MAX_DATA_BYTES + 1))


def test_honest_course_ends_mined(session: Session) -> None:
    put(session, "a")
    put(session, "b")
    assert outbox.next_unsent(session, CHAIN) == found(session, "a")
    assert outbox.next_nonce(session, CHAIN, SENDER, 7) == 7
    tx_hash = sign(session, "a", 7)
    action = outbox.next_unsent(session, CHAIN)
    assert action is not None and action.state == "signed" and action.attempts[0].raw == b"raw" + tx_hash
    outbox.mark_sent(session, tx_hash)
    following = outbox.next_unsent(session, CHAIN)
    assert following is not None and following.action_id == "b"
    assert outbox.next_nonce(session, CHAIN, SENDER, 7) == 8
    assert [each.action_id for each in outbox.in_flight(session, CHAIN)] == ["a"]
    assert outbox.mark_mined(session, tx_hash, block_number=5, block_hash=hash_of(5), ok=True) is True
    assert outbox.mark_mined(session, tx_hash, block_number=5, block_hash=hash_of(5), ok=True) is False
    assert found(session, "a").state == "mined" and outbox.in_flight(session, CHAIN) == []


def test_mined_before_sent_was_written_down(session: Session) -> None:
    put(session, "a")
    tx_hash = sign(session, "a", 0)
    assert [each.action_id for each in outbox.in_flight(session, CHAIN)] == ["a"]
    outbox.mark_mined(session, tx_hash, block_number=5, block_hash=hash_of(5), ok=False, reason="x" * 5000)
    outbox.mark_sent(session, tx_hash)
    action = found(session, "a")
    assert action.state == "reverted" and action.reason == "x" * 1000 and action.is_final


def test_dearer_copy_keeps_the_nonce_and_either_may_win(session: Session) -> None:
    put(session, "a")
    first = sign(session, "a", 3)
    outbox.mark_sent(session, first)
    with pytest.raises(LocalViolation, match="nonce 3"):
        sign(session, "a", 4, copy=1)
    second = sign(session, "a", 3, copy=1)
    outbox.mark_sent(session, first)
    assert found(session, "a").state == "signed"
    outbox.mark_sent(session, second)
    assert [attempt.is_sent for attempt in found(session, "a").attempts] == [True, True]
    outbox.mark_mined(session, first, block_number=1, block_hash=hash_of(1), ok=True)
    with pytest.raises(LocalViolation, match="not as"):
        outbox.mark_mined(session, second, block_number=1, block_hash=hash_of(1), ok=True)
    with pytest.raises(LocalViolation, match="mined"):
        sign(session, "a", 3, copy=2)


def test_two_actions_never_share_a_nonce(session: Session) -> None:
    put(session, "a")
    put(session, "b")
    sign(session, "a", 3)
    with pytest.raises(LocalViolation, match="nonce 3 belongs to action a"):
        sign(session, "b", 3)
    assert found(session, "b").state == "meant"


def test_block_gone_puts_its_actions_under_way_again(session: Session) -> None:
    put(session, "a")
    tx_hash = sign(session, "a", 0)
    outbox.mark_sent(session, tx_hash)
    outbox.mark_mined(session, tx_hash, block_number=5, block_hash=hash_of(5), ok=True)
    assert outbox.unmine(session, CHAIN, hash_of(6)) == 0
    assert outbox.unmine(session, CHAIN, hash_of(5)) == 1
    action = found(session, "a")
    assert (action.state, action.block_hash, action.nonce) == ("sent", None, 0)
    assert outbox.mark_mined(session, tx_hash, block_number=6, block_hash=hash_of(6), ok=True) is True


def test_branch_gone_puts_all_above_under_way_again(session: Session) -> None:
    for nonce, action_id in enumerate("abc"):
        put(session, action_id)
        tx_hash = sign(session, action_id, nonce)
        outbox.mark_mined(session, tx_hash, block_number=5 + nonce, block_hash=hash_of(nonce), ok=nonce != 2)
    assert sorted(outbox.mined_above(session, CHAIN, 5)) == [(6, hash_of(1)), (7, hash_of(2))]
    assert outbox.unmine_above(session, CHAIN, 6) == 1
    assert [found(session, action_id).state for action_id in "abc"] == ["mined", "mined", "sent"]
    assert outbox.unmine_from(session, CHAIN, b"\x12" * 20, 0) == 0
    assert outbox.unmine_from(session, CHAIN, SENDER, 1) == 1
    assert [found(session, action_id).state for action_id in "abc"] == ["mined", "sent", "sent"]


def test_in_flight_goes_by_nonce(session: Session) -> None:
    """What was meant first may be signed last; sent again, it would wait for the others."""
    put(session, "meant early")
    put(session, "b")
    sign(session, "b", 0)
    sign(session, "meant early", 1)
    assert [action.action_id for action in outbox.in_flight(session, CHAIN)] == ["b", "meant early"]


def test_refused_only_before_it_was_signed(session: Session) -> None:
    put(session, "a")
    put(session, "b")
    outbox.mark_refused(session, "a", "JobMarket_WindowClosed")
    assert found(session, "a").state == "refused"
    sign(session, "b", 0)
    with pytest.raises(LocalViolation, match="b is signed"):
        outbox.mark_refused(session, "b", "too late")
    with pytest.raises(LocalViolation, match="unknown"):
        outbox.mark_refused(session, "c", "nobody")
    with pytest.raises(LocalViolation):
        outbox.mark_sent(session, hash_of("nobody"))


def test_release_frees_the_nonce(session: Session) -> None:
    put(session, "a")
    sign(session, "a", 9)
    outbox.release(session, "a")
    action = found(session, "a")
    assert (action.state, action.nonce, action.attempts) == ("meant", None, ())
    assert outbox.next_nonce(session, CHAIN, SENDER, 2) == 2


class OutboxMachine(RuleBasedStateMachine):
    """Random orders of a sender's and a chain's moves: at most one copy of an action is ever mined."""

    def __init__(self) -> None:
        super().__init__()
        engine = sa.create_engine("sqlite://")
        metadata.create_all(engine)
        self.session = Session(engine)
        self.mined: dict[bytes, str] = {}
        self.taken: set[int] = set()

    @rule(number=st.integers(0, 4))
    def mean(self, number: int) -> None:
        put(self.session, f"action:{number}", data=bytes([number]))

    @rule(copy=st.integers(0, 3))
    def sign_next(self, copy: int) -> None:
        action = outbox.next_unsent(self.session, CHAIN)
        if action is not None:
            nonce = action.nonce
            if nonce is None:
                nonce = outbox.next_nonce(self.session, CHAIN, SENDER, len(self.taken))
            sign(self.session, action.action_id, nonce, copy)

    @rule()
    def send_next(self) -> None:
        action = outbox.next_unsent(self.session, CHAIN)
        if action is not None and action.attempts:
            outbox.mark_sent(self.session, action.attempts[-1].tx_hash)

    @rule(choice=st.integers(0, 100))
    def chain_mines_one(self, choice: int) -> None:
        due = [
            (action, attempt)
            for action in outbox.in_flight(self.session, CHAIN)
            for attempt in action.attempts
            if action.nonce == len(self.taken)
        ]
        if due:
            action, attempt = due[choice % len(due)]
            assert action.nonce is not None and action.nonce not in self.taken
            self.taken.add(action.nonce)
            self.mined[attempt.tx_hash] = action.action_id

    @rule()
    def read_receipts(self) -> None:
        for action in outbox.in_flight(self.session, CHAIN):
            for attempt in action.attempts:
                if attempt.tx_hash in self.mined:
                    outbox.mark_mined(self.session, attempt.tx_hash, block_number=1, block_hash=hash_of(1), ok=True)

    @invariant()
    def no_action_twice(self) -> None:
        assert len(set(self.mined.values())) == len(self.mined)

    def teardown(self) -> None:
        self.session.close()


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = hypothesis_settings(max_examples=40, stateful_step_count=30, deadline=None)


# the chain log


def event(block: int, index: int, job: int = 1) -> SeenEvent:
    return SeenEvent(
        block_number=block, block_hash=hash_of(block), log_index=index, tx_hash=hash_of("tx", block), address=MARKET,
        name="JobAccepted", job_id=bytes([job]) * 32, args={"price": str(2**200)},
    )  # fmt: skip


def block(number: int, branch: str = "") -> SeenBlock:
    parent = hash_of(number - 1, branch)
    return SeenBlock(number=number, hash=hash_of(number, branch), parent_hash=parent, timestamp=number)


def test_event_takes_effect_once(session: Session) -> None:
    assert chain_log.add_event(session, CHAIN, event(5, 0)) is True
    assert chain_log.add_event(session, CHAIN, event(5, 0)) is False
    assert chain_log.add_event(session, 1, event(5, 0)) is True
    chain_log.add_event(session, CHAIN, event(4, 2))
    chain_log.add_event(session, CHAIN, event(4, 1))
    chain_log.add_event(session, CHAIN, event(4, 0, job=2))
    assert chain_log.events_of_job(session, CHAIN, b"\1" * 32) == [event(4, 1), event(4, 2), event(5, 0)]


def test_reorganisation_drops_what_was_above(session: Session) -> None:
    chain_log.add_blocks(session, CHAIN, [block(number) for number in range(1, 7)])
    for number in range(1, 7):
        chain_log.add_event(session, CHAIN, event(number, 0))
    assert chain_log.forget_above(session, CHAIN, 4) == [event(6, 0), event(5, 0)]
    assert [seen.number for seen in chain_log.blocks_seen(session, CHAIN)] == [4, 3, 2, 1]
    chain_log.add_blocks(session, CHAIN, [block(5, "b")])
    assert chain_log.blocks_seen(session, CHAIN)[0] == block(5, "b")


def test_old_blocks_are_forgotten(session: Session) -> None:
    chain_log.add_blocks(session, CHAIN, [block(number) for number in range(300)])
    numbers = [seen.number for seen in chain_log.blocks_seen(session, CHAIN)]
    assert numbers == list(range(299, 299 - chain_log.KEPT_BLOCKS, -1))
    chain_log.add_blocks(session, CHAIN, [])


def test_cursor_moves(session: Session) -> None:
    assert chain_log.cursor(session, CHAIN, "market") is None
    chain_log.set_cursor(session, CHAIN, "market", 5, hash_of(5))
    chain_log.set_cursor(session, CHAIN, "market", 6, hash_of(6))
    assert chain_log.cursor(session, CHAIN, "market") == (6, hash_of(6))


def test_column_types_refuse_what_does_not_fit(database: Database) -> None:
    def bad(session: Session, to: bytes, value_wei: int) -> Any:
        return outbox.put(session, "a", chain_id=CHAIN, to=to, data=b"", value_wei=value_wei)

    for to, value_wei in ((b"\1" * 19, 0), (MARKET, -1), (MARKET, 2**256)):
        with pytest.raises(sa.exc.StatementError):
            database.write_now(bad, to, value_wei)
    assert database.write_now(bad, MARKET, 2**256 - 1) is True
    action = database.read_now(outbox.find, "a")
    assert action is not None and action.value_wei == 2**256 - 1


def test_course_of_an_action_on_every_database(database: Database) -> None:
    database.write_now(put, "a")
    tx_hash = database.write_now(sign, "a", 7)
    database.write_now(outbox.mark_sent, tx_hash)
    assert [each.action_id for each in database.read_now(outbox.in_flight, CHAIN)] == ["a"]
    database.write_now(outbox.mark_mined, tx_hash, block_number=2**40, block_hash=hash_of(5), ok=True)
    action = database.read_now(outbox.find_by_hash, tx_hash)
    assert action is not None
    assert (action.state, action.block_number, action.block_hash) == ("mined", 2**40, hash_of(5))
    assert action.attempts[0].raw == b"raw" + tx_hash and action.to == MARKET
