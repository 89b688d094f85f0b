"""The buyer's part after it has signed: be there for the worker, reveal, poke, and say how it goes.

The chain calls for little: for each committed window the secret that decides the draw, and, where the others sleep, a
call that anybody may make once a deadline has passed. The inputs are served all the while (peers.py), because a worker
may have to fetch them again.

    chain says   the client's turn
    Accepted     past the deadline: expire
    Committed    draw, with the secret of this window
    Drawn        past the deadline, and the worker has not: settle
    Demanded, Challenged   past the deadline, and nobody has: resolve
    final        done

It reads one word of the contract at every turn and keeps nothing in memory that matters, so that it can be killed and
started again at any moment, here or detached (`tolsey follow JOB`). A silent client loses nothing either: after the
reveal window anybody may draw without its secret. Next in the flow: fetch.py.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

import trio

from tolsey.client.peers import Peers
from tolsey.client.records import Purchase, Purchases
from tolsey.contracts.actions import Action
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.sender import Sender
from tolsey.contracts.views import JobView
from tolsey.errors import ChainUnavailable, ConfigError, NetworkError, RemoteViolation, Reorged, Reverted
from tolsey.protocol.lifecycle import FINAL, State
from tolsey.protocol.offer import Clocks, Offer, seal_chain
from tolsey.protocol.units import JobId
from tolsey.protocol.wire import Progress

FASTEST_S, SLOWEST_S = 0.4, 12.0
"""Between two looks at the chain: a tenth of the shortest clock within these bounds (a public block takes 12 s)."""
COURTESY_S = 3
"""How long after a deadline the client leaves the poke to those who earn by it."""
PROGRESS_S = 1.0
UNSEEN_GRACE_S = 60
"""How long after its offer expired a job may be unknown to the chain before it is given up."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_RPC_THREADS = trio.CapacityLimiter(4)
"""Questions to the endpoint at once, as in contracts/sender.py."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """How a job stands, for whoever watches.

    Attributes:
        view: what the chain says; None before the first look.
        progress: what the worker said last; None while it says nothing.
        now_ts: time of the newest block. note: why there is no news, or "".
    """

    view: JobView | None = None
    progress: Progress | None = None
    now_ts: int = 0
    note: str = ""


Watcher = Callable[[Update], None]


class Following:
    """Follows one job to its end; `run` gives the final state."""

    def __init__(
        self, gateway: Gateway, sender: Sender, peers: Peers, purchase: Purchase, table: Purchases, watch: Watcher
    ) -> None:
        if purchase.offer is None or purchase.job_id is None:
            raise ConfigError("this purchase has no accepted offer", fix="tolsey run SPEC")
        self._gateway, self._sender = gateway, sender
        self._peers, self._table, self._watch = peers, table, watch
        self._purchase = purchase
        self._offer: Offer = purchase.offer
        self._job_id: JobId = purchase.job_id
        self._secrets = seal_chain(purchase.secret, purchase.offer.window_count)
        self._update = Update(progress=purchase.progress)
        self._pause_s = pause_of(self._offer)

    async def run(self) -> State:
        """Takes the client's turns until the job is final; cancelling loses nothing."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            final = await self._turns()
            nursery.cancel_scope.cancel()
        await self._ask()
        return final

    async def _turns(self) -> State:
        wait_s, down = self._pause_s, ""
        while True:
            try:
                view = await in_thread(self._gateway.job, self._job_id)
                now_ts = await in_thread(self._gateway.now_ts)
                self._tell(view=view, now_ts=now_ts, note="")
                if view.state in FINAL:
                    return view.state
                self._check_known(view, now_ts)
                await self._turn(view, now_ts)
                wait_s, down = self._pause_s, ""
            except (ChainUnavailable, Reorged) as error:
                if error.message != down:
                    _log.info("job %s: %s; asking again", self._job_id.hex()[:12], error.message)
                self._tell(note=error.message)
                wait_s, down = min(2 * wait_s, SLOWEST_S), error.message
            await trio.sleep(wait_s)

    async def _turn(self, view: JobView, now_ts: int) -> None:
        action = self._gateway.action
        overdue_s = now_ts - view.deadline
        if view.state is State.ACCEPTED and overdue_s > 0:
            await self._send(action.expire(self._offer), "expire", view)
        elif view.state is State.COMMITTED:
            await self._send(action.draw(self._offer, self._secrets[view.window]), "draw", view)
        elif view.state is State.DRAWN and overdue_s > COURTESY_S:
            await self._send(action.settle(self._offer), "settle", view)
        elif view.state in (State.DEMANDED, State.CHALLENGED) and overdue_s > COURTESY_S:
            await self._send(action.resolve(self._offer), "resolve", view)

    async def _send(self, action: Action, what: str, view: JobView) -> None:
        """Sends once per state; what the contract refuses now is tried again at the next look."""
        try:
            await in_thread(self._gateway.simulate, action)
            action_id = f"{what}:{self._job_id.hex()}:{view.window}:{view.deadline}"
            await self._sender.send(action, action_id=action_id)
        except Reverted as error:
            _log.info("job %s: %s refused: %s", self._job_id.hex()[:12], what, error.message)

    def _check_known(self, view: JobView, now_ts: int) -> None:
        if view.state is State.NONE and now_ts > self._offer.expires_at + UNSEEN_GRACE_S:
            raise ConfigError(
                f"job {self._job_id.hex()[:12]} is not on the chain, and its offer expired at {self._offer.expires_at}",
                fix="nothing was paid; tolsey run again",
            )

    async def _listen(self) -> None:
        """Asks the worker how it goes, about once a second while it answers."""
        pause_s = PROGRESS_S
        while True:
            pause_s = PROGRESS_S if await self._ask() else min(2 * pause_s, SLOWEST_S)
            await trio.sleep(pause_s)

    async def _ask(self) -> bool:
        try:
            progress = await self._peers.progress(self._purchase.worker_peer_id, self._job_id)
        except (NetworkError, RemoteViolation) as error:
            _log.debug("progress of %s: %s", self._job_id.hex()[:12], error.message)
            return False
        if progress != self._update.progress:
            self._tell(progress=progress)
            await self._table.note_progress(self._job_id, progress)
        return True

    def _tell(self, **changed: Any) -> None:
        self._update = dataclasses.replace(self._update, **changed)
        self._watch(self._update)


async def in_thread(work: Callable[[*Ts], T], *args: *Ts) -> T:
    """Runs a blocking question to the chain in a thread; a cancelled one is left to end by itself."""
    return await trio.to_thread.run_sync(
        partial(work, *args),
        limiter=_RPC_THREADS,
        abandon_on_cancel=True,
    )


def pause_of(clocks: Offer | Clocks) -> float:
    """Seconds between two looks at the chain."""
    shortest = min(clocks.reveal_window_s, clocks.verdict_window_s)
    return max(FASTEST_S, min(SLOWEST_S, shortest / 10))
