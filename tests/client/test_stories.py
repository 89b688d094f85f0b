"""What the logs of a job become: sentences, sums, and the checks that tie a file to the chain."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import trio
from safetensors.numpy import save_file

from tolsey.client import audit, buying, fetch, plots, present, records, timeline
from tolsey.client.access import Access
from tolsey.client.ledger import Ledger
from tolsey.client.market import AsyncMarket
from tolsey.client.money import Money
from tolsey.contracts import events as ev
from tolsey.errors import ConfigError, InsufficientFunds, NoOffer, ProofInvalid
from tolsey.protocol import merkle
from tolsey.protocol.checkpoint import TensorBytes, state_root
from tolsey.protocol.content import ContentId
from tolsey.protocol.lifecycle import State
from tolsey.protocol.listing import Listing
from tolsey.protocol.offer import Domain, Offer, seal_chain
from tolsey.protocol.units import Account, ClassId, JobId, PeerId, StateRoot, TokenUnits, WindowRoot
from tolsey.protocol.wire import Progress, Trace, TraceEntry

from .offers import SPEC, TERMS, candidate

DOMAIN = Domain(chain_id=31_337, market=Account("0x" + "aa" * 20))
OFFER = candidate(1, 500_000).offer
assert isinstance(OFFER, Offer)
JOB = OFFER.job_id(DOMAIN)


def place(number: int) -> dict[str, object]:
    return {"block_number": number, "block_hash": bytes(32), "log_index": 0, "tx_hash": bytes(32), "ts": 1_000 + number}


def change(before: State, after: State, window: int, number: int) -> dict[str, object]:
    return {**place(number), "job_id": JOB, "before": before, "after": after, "window": window, "deadline": 2_000}


def story() -> list[ev.Event]:
    assert OFFER is not None
    return [
        ev.JobAccepted(
            **change(State.NONE, State.ACCEPTED, 0, 1), client=OFFER.client, worker=OFFER.worker, offer=OFFER
        ),
        ev.WindowCommitted(**change(State.ACCEPTED, State.COMMITTED, 0, 2), root=WindowRoot(b"w" * 32)),
        ev.WindowDrawn(
            **change(State.COMMITTED, State.DRAWN, 0, 3), seed=1, pool_size=3, secret=b"s" * 32, beacon=bytes(32)
        ),
        ev.VerdictRevealed(
            **place(4), job_id=JOB, verifier=OFFER.worker, window=0, kind=1, segment=0, salt=1, paid=TokenUnits(50_000)
        ),
        ev.WindowSettled(
            **change(State.DRAWN, State.ACCEPTED, 1, 5), paid=TokenUnits(250_000), fee=TokenUnits(0),
            escrow_returned=TokenUnits(0), bond_returned=TokenUnits(0),
        ),
        ev.WindowCommitted(**change(State.ACCEPTED, State.COMMITTED, 1, 6), root=WindowRoot(b"x" * 32)),
        ev.WindowDrawn(
            **change(State.COMMITTED, State.DRAWN, 1, 7), seed=1, pool_size=3, secret=bytes(32), beacon=bytes(32)
        ),
        ev.SegmentChallenged(
            **change(State.DRAWN, State.CHALLENGED, 1, 8), challenger=OFFER.client, dispute_id=b"d" * 32, segment=6,
            input_root=StateRoot(b"i" * 32), output_root=StateRoot(b"o" * 32), claimed_root=StateRoot(b"c" * 32),
            bond=TokenUnits(20_000_000),
        ),
        ev.DisputeClosed(
            **place(9), dispute_id=b"d" * 32, ruling=ev.Ruling.WORKER_WRONG, finder_earned=True, match_refuted=True,
            majority=(),
        ),
        ev.JobSlashed(
            **change(State.CHALLENGED, State.SLASHED, 1, 10), segment=6, finder=OFFER.client, challenger=OFFER.client,
            panel=(), to_client=TokenUnits(300_000), escrow_returned=TokenUnits(500_000),
            to_panel=TokenUnits(1_000_000), to_finder=TokenUnits(2_000_000), burned=TokenUnits(1_700_000),
            challenge_bond_returned=TokenUnits(0),
        ),
    ]  # fmt: skip


def test_ledger_collects_a_job_with_its_dispute() -> None:
    ledger = Ledger(DOMAIN, story(), 10)
    log = ledger.jobs[JOB]
    assert len(log.events) == 10 and log.state is State.SLASHED
    assert log.roots == (b"w" * 32, b"x" * 32)


def test_show_of_anybodys_job_tells_its_profile_by_the_class_on_chain() -> None:
    log = Ledger(DOMAIN, story(), 10).jobs[JOB]
    assert present.job(log, None, Money()).profile == "exact-fp32/1"
    assert OFFER is not None
    pinned = dataclasses.replace(log, offer=dataclasses.replace(OFFER, class_id=ClassId(b"k" * 32)))
    assert present.job(pinned, None, Money()).profile == "pinned"


def test_ledger_find_by_prefix_and_its_refusals() -> None:
    ledger = Ledger(DOMAIN, story(), 10)
    assert ledger.find(JOB.hex()[:6]) == JOB == ledger.find("0x" + JOB.hex())
    twin = JobId(JOB[:3] + bytes(29))
    with pytest.raises(ConfigError, match="2 jobs begin"):
        ledger.find(JOB.hex()[:6], also=[twin])
    with pytest.raises(ConfigError, match="no job begins with 'ffffffff'"):
        ledger.find("ffffffff")
    for nothing in ("", "0x"):
        with pytest.raises(ConfigError, match="a job's id or its beginning is due"):
            ledger.find(nothing)


async def test_withdraw_of_what_is_locked_advises_no_withdrawal_of_nothing() -> None:
    def market(free: int) -> AsyncMarket:
        reader = SimpleNamespace(account=lambda _who: (free, 5_000_000))
        return AsyncMarket(cast(Access, SimpleNamespace(money=Money(), reader=reader, account="0x" + "11" * 20)))

    for free, fix in ((0, "tolsey ps: "), (1_500_000, "tolsey wallet withdraw 1.500000")):
        with pytest.raises(InsufficientFunds) as caught:
            await market(free).withdraw("2")
        assert (caught.value.fix or "").startswith(fix)


def test_nobody_heard_tells_an_empty_market_from_a_missing_address(tmp_path: Path) -> None:
    def of(*events: ev.Event) -> NoOffer:
        return buying.nobody_heard(tmp_path / "network.toml", Ledger(DOMAIN, events, 10))

    assert OFFER is not None
    there = ev.WorkerRegistered(
        **place(1), account=OFFER.worker, bond=TokenUnits(1), peer_id=PeerId("p"), peer_signature=b""
    )
    gone = ev.WorkerExitRequested(**place(2), account=OFFER.worker, bond_free_at=9)
    assert of().message == of(there, gone).message == "no worker is registered on this market"
    assert (
        "1 worker is registered on chain, none was heard: put a peer's address into bootstrap of" in of(there).message
    )
    assert "bootstrap = [" in (of(there).fix or "")
    (tmp_path / "keeper.log").touch()
    assert (of(there).fix or "").startswith("tolsey status")


def test_pinned_job_goes_to_the_class_with_most_verifiers_then_most_workers() -> None:
    def listings(*classes: bytes) -> list[Listing]:
        return [dataclasses.replace(candidate(n, 1).listing, class_id=ClassId(c)) for n, c in enumerate(classes)]

    def chosen(verifiers: dict[bytes, int], *classes: bytes) -> bytes:
        ledger = SimpleNamespace(verifier_peers=lambda class_id: range(verifiers.get(class_id, 0)))
        return buying.choose_class(listings(*classes), cast(Ledger, ledger))

    few, many = b"f" * 32, b"m" * 32
    assert chosen({few: 2, many: 1}, few, many, many) == few
    assert chosen({few: 1, many: 1}, few, many, many) == many


def test_job_for_workers_that_nobody_is_finds_no_offer_in_either_profile() -> None:
    sellers = [candidate(1, 1).listing, candidate(2, 1).listing]
    named = dataclasses.replace(TERMS, on=frozenset({sellers[1].account.lower()[:8]}))
    assert buying.among(sellers, named) == [sellers[1]]
    with pytest.raises(NoOffer, match="2 listings heard, none of a worker that --on names"):
        buying.among(sellers, dataclasses.replace(TERMS, on=frozenset({"0xdeadbeef"})))


def test_flows_add_up_what_each_side_got() -> None:
    flows = timeline.flows(story())
    assert (flows.paid_worker, flows.paid_verifiers, flows.refunded) == (250_000, 50_000, 500_000)
    assert (flows.compensated, flows.bond_lost) == (300_000, 5_000_000)


def test_entries_tell_every_event_in_words() -> None:
    found = timeline.entries(story(), Money())
    text = "\n".join(entry.text for entry in found)
    for words in (
        "0.80 USD in escrow, bond 5.00 USD at risk", "drawn with the client's secret",
        "drawn without the client's secret", "match, paid 0.05 USD", "window 0 settled: worker paid 0.25 USD",
        "challenges segment 6", "ruling: worker wrong",
        "worker slashed over segment 6: client 0.30 USD from the bond and 0.50 USD escrow back",
    ):  # fmt: skip
        assert words in text, words
    assert [(e.before, e.after) for e in found][-1] == ("challenged", "slashed")


def test_unvouched_names_paid_windows_without_a_match() -> None:
    events = story()
    assert timeline.unvouched(events, 2) == ()
    abstained = [
        dataclasses.replace(e, kind=4) if isinstance(e, ev.VerdictRevealed) else e  # type: ignore[call-arg]
        for e in events
    ]
    assert timeline.unvouched(abstained, 2) == (0,)


def trace_of(window: int) -> Trace:
    assert OFFER is not None
    roots = [StateRoot(OFFER.initial_root), *(StateRoot(bytes([i + 1]) * 32) for i in range(10))]
    entries = tuple(
        TraceEntry(index=i, input_root=roots[i], output_root=roots[i + 1], checkpoint=ContentId(bytes(32)))
        for i in OFFER.window_segments(window)
    )
    return Trace(spec=SPEC.encode(), window_start=None, entries=entries)


def root_of(trace: Trace) -> WindowRoot:
    assert OFFER is not None
    return WindowRoot(merkle.root(fetch.leaves_of(trace.entries, offer=OFFER, domain=DOMAIN, job_id=JOB)))


def checked(trace: Trace, window: int, root: WindowRoot) -> None:
    assert OFFER is not None
    fetch.check_trace(trace, offer=OFFER, domain=DOMAIN, job_id=JOB, window=window, root=root)


def test_trace_that_hashes_to_the_root_is_accepted() -> None:
    for window in (0, 1):
        checked(trace_of(window), window, root_of(trace_of(window)))


def test_trace_with_one_other_root_is_refused() -> None:
    honest = trace_of(1)
    last = dataclasses.replace(honest.entries[-1], output_root=StateRoot(b"!" * 32))
    forged = dataclasses.replace(honest, entries=(*honest.entries[:-1], last))
    with pytest.raises(ProofInvalid, match="hashes to"):
        checked(forged, 1, root_of(honest))


def test_trace_broken_between_segments_is_refused_even_with_its_own_root() -> None:
    honest = trace_of(0)
    torn = dataclasses.replace(honest.entries[2], input_root=StateRoot(b"!" * 32))
    forged = dataclasses.replace(honest, entries=(*honest.entries[:2], torn, *honest.entries[3:]))
    with pytest.raises(ProofInvalid, match="segment 2 starts at"):
        checked(forged, 0, root_of(forged))


def test_trace_of_another_window_or_start_is_refused() -> None:
    with pytest.raises(ProofInvalid, match="due are others"):
        checked(trace_of(0), 1, root_of(trace_of(0)))
    honest = trace_of(0)
    first = dataclasses.replace(honest.entries[0], input_root=StateRoot(b"!" * 32))
    forged = dataclasses.replace(honest, entries=(first, *honest.entries[1:]))
    with pytest.raises(ProofInvalid, match="not at the initial state"):
        checked(forged, 0, root_of(forged))


def checkpoint(path: Path) -> dict[str, np.ndarray]:
    tensors = {"param.b": np.arange(6, dtype=np.float32).reshape(2, 3), "param.a": np.arange(70_000, dtype=np.int64)}
    save_file(tensors, path, metadata={"step": "30", "cursor": "480"})
    return tensors


def test_state_of_a_file_is_the_state_root(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = checkpoint(path)
    expected = state_root(
        [TensorBytes(name=n, dtype=str(t.dtype), shape=t.shape, raw=t.tobytes()) for n, t in tensors.items()],
        step=30, cursor=480, profile="pinned",
    )  # fmt: skip
    found = fetch.read_state(path, "pinned")
    assert (found.root, found.step, found.cursor) == (expected, 30, 480)
    assert fetch.read_state(path, "exact").root != expected


@pytest.mark.parametrize("damage", ["cut", "grown", "header", "empty", "flipped"])
def test_state_of_a_damaged_file_is_another_or_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint(path)
    honest, raw = fetch.read_state(path, "pinned").root, path.read_bytes()
    path.write_bytes(
        {
            "cut": raw[:-8],
            "grown": raw + b"\0",
            "header": (1 << 60).to_bytes(8, "little") + raw[8:],
            "empty": b"",
            "flipped": raw[:-1] + bytes([raw[-1] ^ 1]),
        }[damage]
    )
    try:
        found = fetch.read_state(path, "pinned").root
    except ProofInvalid:
        assert damage != "flipped"
    else:
        assert damage == "flipped" and found != honest


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"I64"', b'"F16"', "it needs 140000"),
        (b'"param.a"', b'"param.b"', "twice"),
        (b'"30"', b'"3_"', "step '3_'"),
        (b'"dtype":"F32"', b'"dtypo":"F32"', "not exactly dtype"),
    ],
)
def test_state_of_a_file_with_a_lying_header_is_refused_by_name(
    tmp_path: Path, old: bytes, new: bytes, reason: str
) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint(path)
    raw = path.read_bytes()
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, new))
    with pytest.raises(ProofInvalid, match=reason):
        fetch.read_state(path, "pinned")


def test_choose_segments_bounds() -> None:
    assert audit.choose_segments(4, segment=None, sample=None, full=True) == [0, 1, 2, 3]
    assert audit.choose_segments(4, segment=2, sample=None, full=False) == [2]
    assert len(audit.choose_segments(4, segment=None, sample=9, full=False)) == 4
    assert len(audit.choose_segments(4, segment=None, sample=None, full=False)) == 1
    for wrong in ({"segment": 4, "sample": None}, {"segment": -1, "sample": None}, {"segment": None, "sample": 0}):
        with pytest.raises(ConfigError):
            audit.choose_segments(4, full=False, **wrong)


def test_curve_in_blocks_and_png(tmp_path: Path) -> None:
    curve = [(step, 5.0 - step / 40) for step in range(160)]
    lines = plots.block_curve(curve, width=40, height=5)
    assert len(lines) == 6 and lines[0].startswith("  4.9") and lines[-1].rstrip().endswith("159")
    assert all(len(line) <= 40 + 12 for line in lines)
    assert plots.block_curve([]) == [] and plots.block_curve([(0, 1.0)])
    plots.write_png(tmp_path / "loss.png", curve, title="loss")
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


async def test_purchases_survive_and_take_turns(tmp_path: Path) -> None:
    assert OFFER is not None
    table = records.Purchases(tmp_path / "deep" / "client.sqlite")
    made = [
        records.Purchase(
            seal=seal_chain(bytes([n]) * 32, 2)[-1], secret=bytes([n]) * 32, peer_key=bytes([n]) * 32, listen="/ip4/1",
            spec=SPEC, initial_root=StateRoot(b"r" * 32), created_at=n,
        )
        for n in range(3)
    ]  # fmt: skip
    async with trio.open_nursery() as nursery:
        for purchase in made:
            nursery.start_soon(table.keep, purchase)
    assert await table.all() == []  # nothing chosen yet
    await table.choose(made[1].seal, JOB, OFFER, b"x" * 65, "peer")
    late = dataclasses.replace(made[0], created_at=records.FORGET_S + 2)
    await table.keep(late)  # again, and so late that the third is given up; the chosen one never is
    assert [p.seal for p in await table.all()] == [made[1].seal]
    progress = Progress(
        phase="training", step=1, steps=100, window=0, losses=((0, "5.5"),), step_s="0.1", message="segment 0"
    )
    await table.note_progress(JOB, progress)
    found = await records.Purchases(tmp_path / "deep" / "client.sqlite").of_job(JOB)
    assert found is not None
    assert (found.secret, found.offer, found.signature) == (made[1].secret, OFFER, b"x" * 65)
    assert found.progress == progress and found.worker_peer_id == "peer"
    assert "secret" not in repr(found)
    assert await table.of_job(JobId(bytes(32))) is None
