"""Event classes against the ABI, and logs that are not what they claim."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tolsey.contracts import events as ev
from tolsey.contracts.artifacts import artifact
from tolsey.contracts.book import _FOLDS
from tolsey.contracts.events import JUDGE_EVENTS, MARKET_EVENTS, EventDecoder, field_name, fields_of
from tolsey.errors import ChainUnavailable
from tolsey.testing.chain import MarketWorld


def flat(entry: dict[str, Any]) -> Iterator[str]:
    """Parameter names, with a struct of amounts laid flat."""
    for parameter in entry["inputs"]:
        if parameter["type"] == "tuple" and parameter["name"] not in ("offer", "claim"):
            yield from (part["name"] for part in parameter["components"])
        else:
            yield parameter["name"]


@pytest.mark.parametrize(("contract", "kinds"), [("JobMarket", MARKET_EVENTS), ("PanelJudge", JUDGE_EVENTS)])
def test_every_event_of_the_abi_has_its_class_with_its_fields(contract: str, kinds: Any) -> None:
    entries = {entry["name"]: entry for entry in artifact(contract).entries("event")}
    assert set(entries) - ev.IGNORED == set(kinds)
    for name, kind in kinds.items():
        assert {field_name(name, parameter) for parameter in flat(entries[name])} == fields_of(kind), name


def test_every_event_class_is_folded_into_the_book() -> None:
    assert set(_FOLDS) == {*MARKET_EVENTS.values(), *JUDGE_EVENTS.values()}


def test_claim_has_the_fields_of_the_struct() -> None:
    entry = next(e for e in artifact("PanelJudge").entries("event") if e["name"] == "DisputeOpened")
    claim = next(p for p in entry["inputs"] if p["name"] == "claim")
    assert {field_name("DisputeOpened", part["name"]) for part in claim["components"]} == set(ev.Claim.__slots__)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(decoder, raw log of an acceptance, the offer)."""
    with MarketWorld.open(tmp_path_factory.mktemp("world")) as world:
        job = world.paper_job()
        block = hex(world.accept(job).block_number)
        logs = world.rpc("eth_getLogs", {"fromBlock": block, "toBlock": block, "address": world.network.market})
        return EventDecoder(world.network.market, world.network.judge), logs[-1], job.offer


def test_decode_acceptance_gives_the_whole_offer(raw: Any) -> None:
    decoder, log, offer = raw
    event = decoder.decode(log, 77)
    assert isinstance(event, ev.JobAccepted) and event.offer == offer and event.ts == 77
    assert (event.client, event.worker) == (offer.client, offer.worker)


def test_decode_unknown_topic_is_left_out(raw: Any) -> None:
    decoder, log, _ = raw
    assert decoder.decode({**log, "topics": ["0x" + "ab" * 32]}, 0) is None
    assert decoder.decode({**log, "topics": []}, 0) is None


@pytest.mark.parametrize(
    "change",
    [
        {"data": "0x"},
        {"data": "0xzz"},
        {"data": "0x" + "ff" * 64},
        {"address": "0x" + "11" * 20},
        {"blockNumber": None},
        {"logIndex": "x"},
        {"transactionHash": None},
    ],
)
def test_decode_log_that_cannot_be_ours_is_refused(raw: Any, change: dict[str, Any]) -> None:
    decoder, log, _ = raw
    with pytest.raises(ChainUnavailable, match="not what our contracts write"):
        decoder.decode({**log, **change}, 0)


def test_decode_impossible_state_change_is_refused(raw: Any) -> None:
    decoder, log, _ = raw
    forged = copy.deepcopy(log)
    forged["data"] = "0x" + "00" * 31 + "06" + log["data"][66:]  # from Completed
    with pytest.raises(ChainUnavailable):
        decoder.decode(forged, 0)


def test_decode_topic_count_that_does_not_fit_is_refused(raw: Any) -> None:
    decoder, log, _ = raw
    with pytest.raises(ChainUnavailable):
        decoder.decode({**log, "topics": log["topics"][:-1]}, 0)
