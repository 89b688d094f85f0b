"""Eight dishonest workers, side by side on one market with two verifiers as they ship: what each lie costs.

The chain, the contracts, libp2p, the training children and both verifiers are the real ones; only the buyers are
scripted, and the clock of the chain is moved on where everybody waits for nothing else. The ninth and the tenth way to
cheat, `forge` and `reorder`, have their own days in tests/verifier/test_day_of_a_verifier.py. The day is lived once for
all tests of this file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.node.scripted_client import ScriptedClient, open_client

from tolsey.contracts import events as ev
from tolsey.contracts.gateway import Phase
from tolsey.node import executor
from tolsey.node import service as worker_service
from tolsey.node.config import WorkerConfig
from tolsey.protocol.encoding import keccak256
from tolsey.protocol.lifecycle import FINAL, State, Vote
from tolsey.protocol.offer import Clocks, Offer, seal_chain
from tolsey.protocol.sampling import dispute_id
from tolsey.protocol.units import Account, JobId, Seconds, TokenUnits
from tolsey.runtime import child_client
from tolsey.testing.chain import DOLLAR, FAST_TERMS, MarketWorld
from tolsey.testing.dishonest import MODES
from tolsey.verifier import bench
from tolsey.verifier import service as verifier_service
from tolsey.verifier.compare import NOBODY_SERVES
from tolsey.verifier.config import VerifierConfig
from tolsey.verifier.judging import CHALLENGE_TRANSACTIONS, margin_s

pytestmark = pytest.mark.slow

CLOCKS = Clocks(
    commit_window_s=Seconds(560),
    reveal_window_s=Seconds(560),
    verdict_window_s=Seconds(60),
    challenge_window_s=Seconds(150),
)
"""Wide where somebody works, because the machine may be slow; nobody works in what is left of a deadline."""
PANEL_WINDOW_S = Seconds(60)
EXPIRY_GRACE_S = 70
"""Verifiers poke an overdue worker this long after its deadline at the latest (verifier/pokes.py)."""
DAY_S = 540
CHALLENGE_PURSE = TokenUnits(200 * DOLLAR)
"""Tokens in each verifier's wallet beside what it enrols with, enough for all challenges of the day at once."""

WRONG_BITS = ("skip-steps", "stale-checkpoint", "wrong-data")
HIDDEN = ("withhold", "hide", "garbage")
LIES = (*WRONG_BITS, *HIDDEN, "discontinuous", "silent")


@dataclass(kw_only=True)
class Deal:
    """One buyer, one cheat, one job.

    Attributes:
        buyer_before, worker_before: free and locked token units of each before the job was accepted.
        buyer_after, worker_after: the same at the end of the day. state: of the job then.
    """

    mode: str
    buyer: str
    offer: Offer
    job_id: JobId
    secrets: list[bytes]
    buyer_before: int
    worker_before: int
    buyer_after: int = 0
    worker_after: int = 0
    state: State = State.NONE


@dataclass(frozen=True, kw_only=True)
class Day:
    """What the day left behind.

    Attributes:
        verifiers_gained: token units that both verifiers have more than before.
    """

    deals: dict[str, Deal]
    logs: tuple[ev.Event, ...]
    verifiers_gained: int

    def events(self, mode: str, kind: type[Any]) -> list[Any]:
        """The logs of one kind that belong to the job of one cheat."""
        return [log for log in self.logs if isinstance(log, kind) and log.job_id == self.deals[mode].job_id]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("day")
    terms = replace(FAST_TERMS, panel_window_s=PANEL_WINDOW_S)
    with MarketWorld.open(folder, block_time_s=0.5, terms=terms) as world:
        world.network.save(folder / "network.toml")
        with pytest.MonkeyPatch.context() as patch:
            # They all sit on this machine: it is measured once and not ten times.
            class_of = _once(child_client.class_of)
            patch.setattr(executor, "class_of", class_of)
            patch.setattr(bench, "class_of", class_of)
            patch.setattr(executor, "speed_of", _once(child_client.speed_of))
            lived = trio.run(_live, world, folder)
        yield lived


def _once(measure: Callable[[str], Awaitable[Any]]) -> Callable[[str], Awaitable[Any]]:
    found: dict[str, Any] = {}

    async def measured(device: str) -> Any:
        if device not in found:
            found[device] = await measure(device)
        return found[device]

    return measured


@pytest.mark.parametrize("mode", WRONG_BITS)
def test_wrong_bits_are_challenged_and_slashed_by_a_panel(day: Day, mode: str) -> None:
    _assert_slashed(day, mode)
    (challenge,) = day.events(mode, ev.SegmentChallenged)
    assert challenge.claimed_root not in (NOBODY_SERVES, challenge.output_root), "a replay of its own contradicts"
    votes = [log.vote for log in day.logs if isinstance(log, ev.VoteRevealed) and log.dispute_id == _dispute(challenge)]
    assert set(votes) == {Vote.CHALLENGER}


def test_withheld_trace_is_demanded_and_the_silence_slashed(day: Day) -> None:
    _assert_slashed(day, "withhold")
    assert len(day.events("withhold", ev.SegmentDemanded)) == 1
    assert day.events("withhold", ev.SegmentChallenged) == []


def test_hidden_trace_is_opened_on_demand_and_challenged_as_unavailable(day: Day) -> None:
    tenths = sum(answer.to_worker for answer in day.events("hide", ev.SegmentAnswered))
    assert tenths > 0, "it answered"
    _assert_slashed(day, "hide", earned=tenths)
    (challenge,) = day.events("hide", ev.SegmentChallenged)
    assert challenge.claimed_root == NOBODY_SERVES
    votes = [log.vote for log in day.logs if isinstance(log, ev.VoteRevealed) and log.dispute_id == _dispute(challenge)]
    assert set(votes) == {Vote.UNAVAILABLE}


def test_garbage_served_as_checkpoint_is_no_checkpoint_to_anybody(day: Day) -> None:
    _assert_slashed(day, "garbage")
    (challenge,) = day.events("garbage", ev.SegmentChallenged)
    assert challenge.claimed_root == NOBODY_SERVES
    votes = [log.vote for log in day.logs if isinstance(log, ev.VoteRevealed) and log.dispute_id == _dispute(challenge)]
    assert set(votes) == {Vote.UNAVAILABLE}


def test_discontinuous_segments_are_proven_without_a_panel(day: Day) -> None:
    _assert_slashed(day, "discontinuous")
    assert day.events("discontinuous", ev.SegmentChallenged) == []
    assert day.events("discontinuous", ev.SegmentDemanded) == []


def test_silent_worker_expires_and_its_forfeit_is_the_buyers(day: Day) -> None:
    deal = day.deals["silent"]
    assert deal.state is State.EXPIRED
    assert deal.offer.forfeit > 0
    assert deal.buyer_after == deal.buyer_before + deal.offer.forfeit
    assert deal.worker_after == deal.worker_before - deal.offer.forfeit


def test_catching_pays_the_verifiers(day: Day) -> None:
    assert day.verifiers_gained > 0


def test_every_mode_has_its_test() -> None:
    assert {*LIES, "forge", "reorder"} == set(MODES)


def _assert_slashed(day: Day, mode: str, *, earned: int = 0) -> None:
    """The worker's whole bond is gone, and the buyer is where it was before it bought."""
    deal = day.deals[mode]
    assert deal.state is State.SLASHED
    assert deal.worker_after == deal.worker_before - deal.offer.bond + earned
    assert deal.buyer_after == deal.buyer_before
    assert day.events(mode, ev.WindowSettled) == [], "no window of a liar is paid"


def _dispute(challenge: ev.SegmentChallenged) -> bytes:
    return challenge.dispute_id


# the day


async def _live(world: MarketWorld, folder: Path) -> Day:
    """Opens the market, buys from each cheat, and returns when every job is final or the day is over."""
    async with AsyncExitStack() as stack:
        workers = {mode: await stack.enter_async_context(_worker(folder, mode)) for mode in LIES}
        addrs = tuple(addr for ready in workers.values() for addr in ready.addrs)
        verifiers = [await stack.enter_async_context(_verifier(folder, name, addrs)) for name in ("vera", "viktor")]
        for ready in verifiers:  # several liars are challenged at once, each with a bond
            world.send("patron", world.as_("patron").action.mint(CHALLENGE_PURSE, ready.account))
        before = sum(_worth(world, ready.account) for ready in verifiers)
        client = await stack.enter_async_context(open_client(world, folder))
        deals = [await _deal(world, client, mode, ready) for mode, ready in workers.items()]
        with trio.move_on_after(DAY_S):
            await _until_final(world, deals)
        for deal in deals:
            deal.state = world.gateway.job(deal.job_id).state
            deal.buyer_after = _worth(world, deal.offer.client)
            deal.worker_after = _worth(world, deal.offer.worker)
        return Day(
            deals={deal.mode: deal for deal in deals},
            logs=tuple(world.gateway.logs(0, world.gateway.block_number())),
            verifiers_gained=sum(_worth(world, ready.account) for ready in verifiers) - before,
        )


@asynccontextmanager
async def _running(run: Callable[..., Any], config: Any, parts: Any = None) -> AsyncIterator[Any]:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
            await run(config, "open sesame", stop=stop, parts=parts, task_status=task_status)

        yield await nursery.start(serve)
        stop.set()


def _worker(folder: Path, mode: str) -> Any:
    config = WorkerConfig(network=str(folder / "network.toml"), home=folder / mode, disk_spare_bytes=0)
    return _running(worker_service.run, config, MODES[mode])


def _verifier(folder: Path, name: str, addrs: tuple[str, ...]) -> Any:
    config = VerifierConfig(network=str(folder / "network.toml"), home=folder / name, bootstrap=addrs)
    return _running(verifier_service.run, config)


async def _deal(world: MarketWorld, client: ScriptedClient, mode: str, ready: worker_service.Ready) -> Deal:
    """Buys the client's job from one cheat, for a buyer of its own."""
    buyer = f"buyer of {mode}"
    gateway = await trio.to_thread.run_sync(world.as_, buyer)
    secrets = seal_chain(keccak256(mode.encode()), client.spec.window_count)
    request = dataclasses.replace(
        client.request(CLOCKS), client=world.account(buyer), client_seal=secrets[-1], sample_count=2
    )
    reply = await client.ask(ready.addrs[0], request, buyer=buyer)
    assert reply.offer is not None, f"{mode}: {reply.refusal}"
    before = _worth(world, reply.offer.client), _worth(world, reply.offer.worker)
    await trio.to_thread.run_sync(world.send, buyer, gateway.action.accept(reply.offer, reply.signature))
    return Deal(
        mode=mode, buyer=buyer, offer=reply.offer, job_id=reply.offer.job_id(world.network.domain), secrets=secrets,
        buyer_before=before[0], worker_before=before[1],
    )  # fmt: skip


async def _until_final(world: MarketWorld, deals: list[Deal]) -> None:
    """Reveals the buyers' secrets, and moves the clock to the nearest moment once everybody waits for one."""
    while live := [deal for deal in deals if world.gateway.job(deal.job_id).state not in FINAL]:
        await trio.to_thread.run_sync(_draw_next, world, live)
        moments = [await trio.to_thread.run_sync(_awaited, world, deal) for deal in live]
        if all(moment is not None for moment in moments):
            await trio.to_thread.run_sync(world.pass_until, min(moment for moment in moments if moment is not None))
        await trio.sleep(0.2)


def _draw_next(world: MarketWorld, live: list[Deal]) -> None:
    """Draws what is committed; of jobs that must be replayed one at a time, for this is one machine."""
    states = {deal.mode: world.gateway.job(deal.job_id).state for deal in live}
    is_replaying = any(states.get(mode) is State.DRAWN for mode in WRONG_BITS)
    for deal in live:
        if states[deal.mode] is not State.COMMITTED or (deal.mode in WRONG_BITS and is_replaying):
            continue
        secret = deal.secrets[world.gateway.job(deal.job_id).window]
        world.send(deal.buyer, world.as_(deal.buyer).action.draw(deal.offer, secret))
        is_replaying = is_replaying or deal.mode in WRONG_BITS


def _awaited(world: MarketWorld, deal: Deal) -> int | None:
    """The moment that the job waits for; None while somebody has work to do on it."""
    view = world.gateway.job(deal.job_id)
    now_ts = world.now_ts()
    if deal.mode == "silent":
        return int(view.deadline) + EXPIRY_GRACE_S
    if deal.mode == "hide" and view.state is State.DRAWN and now_ts > view.drawn_at + CLOCKS.verdict_window_s:
        return int(view.deadline) - CHALLENGE_TRANSACTIONS * margin_s(CLOCKS.verdict_window_s)
    if deal.mode != "hide" and view.state is State.DEMANDED:
        return int(view.deadline) if view.deadline >= now_ts else None
    if view.state is State.CHALLENGED:
        dispute = world.gateway.dispute(deal.job_id)
        assert dispute is not None, "a challenged job has a dispute"
        subject = dispute_id(deal.job_id, dispute.segment)
        case = world.gateway.case(subject)
        votes = [world.gateway.vote(subject, case.round, account) for account in world.gateway.panel(subject)]
        until = int(case.phase_since) + PANEL_WINDOW_S
        if case.phase is Phase.VOTING and until >= now_ts and all(any(seal) for seal, _ in votes):
            return until
    return None


def _worth(world: MarketWorld, account: Account) -> int:
    """Token units of an account: free, locked, and in its wallet."""
    return sum(world.gateway.account(account)) + world.gateway.token_balance(account)
