"""The SDK: what a buyer can type, as methods of the same names; the commands only ask, print and exit.

    import tolsey

    with tolsey.Market.open() as market:                     # the local market (Market.up() starts it)
        bought = market.run("job.toml", max_cost="5.00")     # waits until the job is final
        market.get(bought.job_id, out="model.safetensors")

`Market` is for ordinary code. `Market.aio` is the same market for code under trio (`await market.aio.run(…)`): every
verb has the same name, arguments, results and errors. A method returns what `--json` prints (views.py).
Next in the flow: commands/, which call this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from tolsey.client import audit, fetch, plots, present, timeline, world, world_view
from tolsey.client import spec as specs
from tolsey.client.access import Access, checksummed
from tolsey.client.buying import Shop, Wishes, nobody_heard, open_shop
from tolsey.client.config import LOCAL_PASSPHRASE, Settings, market_folder
from tolsey.client.exit_codes import BY_STATE
from tolsey.client.ledger import JobLog, Ledger
from tolsey.client.local_market import DOLLAR, LOCAL_SCRYPT_N, give_gas, mint
from tolsey.client.peers import Peers, open_peers
from tolsey.client.plan import Plan
from tolsey.client.processes import note_follower
from tolsey.client.records import Purchase
from tolsey.client.serve import Following, Update, Watcher, in_thread, pause_of
from tolsey.client.views import (
    AuditView,
    CancelView,
    DownView,
    FetchView,
    JobLine,
    JobView,
    LedgerAudit,
    ListingView,
    PlanView,
    ProgressView,
    RunView,
    StatusView,
    WalletView,
)
from tolsey.contracts.actions import Action
from tolsey.contracts.sender import Sender
from tolsey.contracts.sending import send_and_wait
from tolsey.contracts.wallet import Keystore, read_passphrase
from tolsey.errors import ConfigError, InsufficientFunds, NetworkError, NoOffer
from tolsey.network.identity import Identity
from tolsey.protocol.lifecycle import FINAL, State
from tolsey.protocol.units import JobId, TokenUnits

LOCAL_CHAIN_IDS = frozenset({31_337, 1_337})
FAUCET_DOLLARS = 100
KEEP = "checkpoint"

T = TypeVar("T")
Decide = Callable[[Plan], bool]
Tell = Callable[[str, Any], None]


def yes(_plan: Plan) -> bool:
    """Buys whatever the plan says; the caps in the terms still hold."""
    return True


def silent(_update: Update) -> None:
    """Watches nothing."""


class AsyncMarket:
    """One client on one market, for code under trio."""

    def __init__(self, access: Access) -> None:
        self.access = access

    # a market on this machine

    @classmethod
    async def up(
        cls,
        *,
        home: Path | str | None = None,
        workers: int = 3,
        verifiers: int = 3,
        engine: str = "auto",
        say: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """Starts a whole local market, which outlives this process, and opens it; `down` stops it.

        Args:
            home: the market's folder; where `tolsey up` has it by default. say: told what has come up, a line each.

        Raises:
            ConfigError, KeeperFailed: it did not come up, or one runs there.
        """
        folder = (Path(home) if home else market_folder()).resolve()
        start = partial(world.start, folder, workers=workers, verifiers=verifiers, engine=engine, say=say)
        return cls(Access(await trio.to_thread.run_sync(start)))

    async def down(self) -> DownView:
        """Stops the local market that this is."""
        return await trio.to_thread.run_sync(world.stop, self.access.settings.network_path.parent)

    async def status(self) -> StatusView:
        """The local market that this is: processes, chain head, listings, jobs."""
        settings = self.access.settings
        view, _money = await trio.to_thread.run_sync(world_view.status, settings, settings.network_path.parent)
        return view

    # looking

    async def offers(self) -> list[ListingView]:
        """What workers sell now."""
        ledger = await in_thread(Ledger.read, self.access)
        async with open_peers(self.access, ledger=ledger) as peers:
            return [present.listing(listing) for listing in await peers.sellers()]

    async def silence(self) -> NoOffer:
        """Why `offers` may be empty, as far as the chain knows, and what to do: for showing, not for raising."""
        ledger = await in_thread(Ledger.read, self.access)
        return nobody_heard(self.access.settings.network_path, ledger)

    async def plan(self, job: Path | str, **wishes: Any) -> PlanView:
        """What a job would cost, without buying it; arguments as `run`."""
        wanted = _wishes(wishes)
        async with open_shop(self.access, specs.read_request(Path(job)), wanted) as shop:
            return present.plan(shop.plan)

    async def ps(self, *, everybody: bool = False) -> list[JobLine]:
        """My jobs, or all jobs of the market; the newest last."""
        ledger = await in_thread(Ledger.read, self.access)
        mine = {p.job_id: p for p in await self._purchases()}
        wanted = [log for log in ledger.jobs.values() if everybody or log.job_id in mine or self._is_mine(log)]
        return [present.job_line(log, mine.get(log.job_id)) for log in wanted]

    async def show(self, job: str) -> JobView:
        """One job's timeline and money, from the chain's logs."""
        log, purchase = await self._find(job)
        return present.job(log, purchase, self.access.money)

    async def logs(self, job: str, *, follow: bool = False, on_step: Callable[[ProgressView], None]) -> None:
        """Calls `on_step` for each step that the worker tells of; with `follow` until the job is final."""
        log, purchase = await self._find(job)
        seen = -1
        ledger = await in_thread(Ledger.read, self.access)
        async with open_peers(self.access, ledger=ledger) as peers:
            while True:
                view = await in_thread(self.access.reader.job, log.job_id)
                progress = purchase.progress if purchase else None
                try:
                    peer_id, _addrs = await peers.locate(log.offer.worker)
                    progress = await peers.progress(peer_id, log.job_id)
                except NetworkError:
                    if progress is None and not follow:
                        raise
                for step, loss in progress.losses if progress else ():
                    if step > seen:
                        seen = step
                        on_step(ProgressView(step=step, loss=loss))
                if not follow or view.state in FINAL:
                    return
                await trio.sleep(pause_of(log.offer))

    # buying

    async def run(
        self,
        job: Path | str,
        *,
        decide: Decide = yes,
        watch: Watcher = silent,
        tell: Tell = lambda _event, _value: None,
        detach: bool = False,
        out: Path | str | None = None,
        **wishes: Any,
    ) -> RunView | None:
        """Buys a job and follows it to its end; None where `decide` said no.

        Args:
            job: `.toml` or `.py` file (spec.py).
            decide: sees the plan before anything is signed.
            watch: told how it goes. tell: told "locking" before the escrow is locked, "accepted" with the job id after
                it, and "detached" with the process id.
            detach: leave the following to a process of its own and return at once.
            out: download the final checkpoint there.
            wishes: data, max_cost, verifiers, samples, on (buying.Wishes).

        Raises:
            NoOffer, InsufficientFunds, SpecInvalid, Reverted: nothing was bought.
            ConfigError: the same; also where there is no folder for `out`.

        Cancelled while `decide` thinks, it leaves at once; its thread is left to end by itself.
        """
        started = time.monotonic()
        _check_folder(out)
        wanted = _wishes(wishes)
        request = specs.read_request(Path(job))
        first = _FirstStep(watch, started)
        async with AsyncExitStack() as stack:
            shop: Shop = await stack.enter_async_context(open_shop(self.access, request, wanted))
            if not await trio.to_thread.run_sync(decide, shop.plan, abandon_on_cancel=True):
                return None
            tell("locking", None)
            purchase, sender = await shop.accept()
            job_id = _job_id(purchase)
            tell("accepted", job_id.hex())
            if not detach:
                state = await self._followed(sender, shop.peers, purchase, first)
                log = (await in_thread(Ledger.read, self.access)).jobs[job_id]
                path = None
                if out is not None and state is State.COMPLETED:
                    path = (await self._fetched(shop.peers, log, purchase, Path(out))).path
                return _run_view(log, state, first_step_s=first.seconds, checkpoint=path)
        pid = await trio.to_thread.run_sync(self._detach, job_id)
        tell("detached", pid)
        log = (await in_thread(Ledger.read, self.access)).jobs[job_id]
        return _run_view(log, State.ACCEPTED, pid=pid)

    async def follow(self, job: str, *, watch: Watcher = silent) -> RunView:
        """Serves a job's inputs and takes the client's turns until it is final.

        Raises:
            ConfigError: this client did not buy that job. StorageError: another process follows it.
        """
        purchase = await self._purchase(job)
        ledger = await in_thread(Ledger.read, self.access)
        key = purchase.peer_key
        with self.access.blobs_of(key) as blobs, self.access.outbox_of(key) as database:
            gateway = await trio.to_thread.run_sync(lambda: self.access.writer, abandon_on_cancel=True)
            sender = Sender(gateway, database)
            await sender.recover()
            async with open_peers(
                self.access, ledger=ledger, identity=Identity(key), listen=purchase.listen, store=blobs
            ) as peers:
                if purchase.offer is not None:
                    try:
                        await peers.locate(purchase.offer.worker)
                    except NetworkError:
                        pass  # it knows where we are; serving goes on
                state = await self._followed(sender, peers, purchase, watch)
        log = (await in_thread(Ledger.read, self.access)).jobs[_job_id(purchase)]
        return _run_view(log, state)

    async def wait(self, job: str, *, timeout_s: float | None = None, watch: Watcher = silent) -> RunView:
        """Waits until a job is final, whoever follows it.

        Args:
            watch: told how it goes, as far as the follower of a job of ours has written it down.

        Raises:
            trio.TooSlowError: `timeout_s` ran out; the job goes on.
        """
        log, _ = await self._find(job)
        with trio.fail_after(timeout_s if timeout_s is not None else float("inf")):
            while True:
                view = await in_thread(self.access.reader.job, log.job_id)
                now_ts = await in_thread(self.access.reader.now_ts)
                purchase = await self.access.purchases.of_job(log.job_id)
                watch(Update(view=view, progress=purchase.progress if purchase else None, now_ts=now_ts))
                if view.state in FINAL:
                    return _run_view((await self._find(log.job_id.hex()))[0], view.state)
                await trio.sleep(pause_of(log.offer))

    async def cancel(self, job: str) -> CancelView:
        """Cancels a job before its worker commits; the forfeit goes to the worker, the rest comes back.

        Raises:
            Reverted: it is not in a state to be cancelled.
        """
        log, _ = await self._find(job)
        await self._send(self.access.writer.action.cancel(log.offer))
        log = (await in_thread(Ledger.read, self.access)).jobs[log.job_id]
        flows = timeline.flows(log.events)
        return CancelView(
            job_id=log.job_id.hex(), state=log.state.name.lower(), forfeit=flows.forfeited, returned=flows.refunded
        )

    # the result, and doubting it

    async def get(self, job: str, *, out: Path | str | None = None, plot: Path | str | None = None) -> FetchView:
        """Downloads the last paid checkpoint and checks it against the root on chain.

        Raises:
            ConfigError: no window was paid, or there is no folder for `out` or `plot`.
            CheckpointUnavailable: nobody serves it now.
            ProofInvalid: what is served is not what was committed; nothing is left on disk.
        """
        _check_folder(out)
        _check_folder(plot)
        log, purchase = await self._find(job)
        ledger = await in_thread(Ledger.read, self.access)
        async with open_peers(self.access, ledger=ledger) as peers:
            found = await self._fetched(peers, log, purchase, Path(out) if out else None)
            if plot is None:
                return found
            progress = purchase.progress if purchase else None
            try:
                peer_id, _addrs = await peers.locate(log.offer.worker)
                progress = await peers.progress(peer_id, log.job_id)
            except NetworkError:
                if progress is None:
                    raise
        points = present.curve(progress)
        title = f"{found.job_id[:10]}: loss as the worker tells it"
        await trio.to_thread.run_sync(partial(plots.write_png, Path(plot), points, title=title))
        return present.with_plot(found, str(plot))

    async def audit(
        self, job: str, *, segment: int | None = None, sample: int | None = None, full: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> AuditView:  # fmt: skip
        """Re-runs segments of a job on this machine and compares with what the worker committed.

        Args:
            segment: one by index. sample: so many, drawn at random. full: all of them; the default is one at random.
        """
        log, _ = await self._find(job)
        ledger = await in_thread(Ledger.read, self.access)
        async with open_peers(self.access, ledger=ledger) as peers:
            return await audit.replay_job(
                self.access, peers, ledger, log, segment=segment, sample=sample, full=full, tell=tell
            )

    async def audit_all(self) -> LedgerAudit:
        """Rebuilds every balance, state and verdict from the logs and compares with the contract's storage."""
        return await in_thread(audit.replay_ledger, self.access)

    # money

    async def wallet(self) -> WalletView:
        """What the client has, where."""
        return await in_thread(self._wallet_now)

    async def wallet_create(self) -> WalletView:
        """Makes the client's keys; the passphrase is read as everywhere (contracts/wallet.py).

        Raises:
            ConfigError: there is a wallet already.
        """
        access = self.access
        if Keystore.exists(access.keys_folder):
            raise ConfigError(f"there is a wallet in {access.keys_folder} already", fix="tolsey wallet show")
        passphrase = await in_thread(lambda: read_passphrase(access.settings.passphrase_file, confirm=True))
        cost = {"scrypt_n": LOCAL_SCRYPT_N} if passphrase == LOCAL_PASSPHRASE else {}
        await trio.to_thread.run_sync(partial(Keystore.open, access.keys_folder, passphrase, **cost))
        return await self.wallet()

    async def deposit(self, amount: str) -> WalletView:
        """Moves tokens from the wallet into the market, by a signed permit."""
        access = self.access
        units = access.money.parse(amount)
        held = await in_thread(access.reader.token_balance, access.account)
        if held < units:
            raise InsufficientFunds(
                f"{access.account} holds {access.money.text(held)}, {access.money.text(units)} are to be deposited",
                fix="tolsey wallet faucet (local chains), or send some to that account",
            )
        await self._send(await in_thread(lambda: access.writer.action.deposit(units)))
        return await self.wallet()

    async def withdraw(self, amount: str, *, to: str | None = None) -> WalletView:
        """Moves free money out of the market, to the wallet or to another account."""
        access = self.access
        units = access.money.parse(amount)
        free, _locked = await in_thread(access.reader.account, access.account)
        if free < units:
            raise InsufficientFunds(
                f"{access.money.text(free)} are free, {access.money.text(units)} are to be withdrawn",
                fix=f"tolsey wallet withdraw {free / 10**access.money.decimals:.{access.money.decimals}f}"
                if free
                else "tolsey ps: what live jobs lock comes free as they end",
            )
        await self._send(access.writer.action.withdraw(units, checksummed(to) if to else None))
        return await self.wallet()

    async def faucet(self) -> WalletView:
        """Gives test dollars and gas on a local chain.

        Raises:
            ConfigError: money is real there.
        """
        access = self.access
        if access.network.chain_id not in LOCAL_CHAIN_IDS:
            raise ConfigError(f"chain {access.network.chain_id} has no faucet: its money is not ours to make")
        await in_thread(give_gas, access.network, access.account)
        await in_thread(lambda: mint(access.writer, TokenUnits(FAUCET_DOLLARS * DOLLAR)))
        return await self.wallet()

    # inside

    async def _purchases(self) -> list[Purchase]:
        if not (self.access.home / "client.sqlite").exists():
            return []
        return await self.access.purchases.all()

    async def _purchase(self, job: str) -> Purchase:
        mine = await self._purchases()
        wanted = job.lower().removeprefix("0x")
        found = [p for p in mine if wanted and _job_id(p).hex().startswith(wanted)]
        if len(found) != 1:
            raise ConfigError(f"{len(found)} of my jobs begin with {job!r}", fix="tolsey ps")
        return found[0]

    async def _find(self, job: str) -> tuple[JobLog, Purchase | None]:
        ledger = await in_thread(Ledger.read, self.access)
        job_id = ledger.find(job)
        mine = {p.job_id: p for p in await self._purchases()}
        return ledger.jobs[job_id], mine.get(job_id)

    def _is_mine(self, log: JobLog) -> bool:
        try:
            return log.offer.client.lower() == self.access.account.lower()
        except ConfigError:
            return False

    async def _followed(self, sender: Sender, peers: Peers, purchase: Purchase, watch: Watcher) -> State:
        following = Following(self.access.writer, sender, peers, purchase, self.access.purchases, watch)
        return await following.run()

    async def _fetched(self, peers: Peers, log: JobLog, purchase: Purchase | None, out: Path | None) -> FetchView:
        offer, domain = log.offer, self.access.network.domain
        paid = sum(1 for event in log.events if timeline.is_payment(event))
        if paid == 0:
            raise ConfigError(
                f"no window of job {log.job_id.hex()[:12]} was paid, so there is no verified checkpoint",
                fix=f"tolsey show {log.job_id.hex()[:12]}",
            )
        window = paid - 1
        peer_id, _addrs = await peers.locate(offer.worker)
        trace = await fetch.checked_trace(
            peers, [peer_id], offer=offer, domain=domain, job_id=log.job_id, window=window, root=log.roots[window]
        )
        entry = trace.entries[-1]
        into = out or Path(f"{log.job_id.hex()[:12]}.safetensors")
        spec = specs.decoded(trace.spec, offer.spec_hash)
        state = await fetch.fetch_checkpoint(peers, fetch.sources_of(peers, [peer_id]), entry, spec.profile, into)
        return FetchView(
            job_id=log.job_id.hex(),
            path=str(into),
            size_bytes=(await trio.Path(into).stat()).st_size,
            content_id=entry.checkpoint.hex(),
            state_root=state.root.hex(),
            segment=entry.index,
            window=window,
            window_root=log.roots[window].hex(),
            step=state.step,
            plot=None,
        )

    def _detach(self, job_id: JobId) -> int:
        """Starts `tolsey follow` in a session of its own; it reads the passphrase from the environment or file."""
        settings = self.access.settings
        log_path = self.access.home / "logs" / f"follow-{job_id.hex()[:12]}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "tolsey.client.cli", "--verbose", "follow", job_id.hex(), "--json",
            "--network", str(settings.network_path), "--home", str(settings.home),
        ]  # fmt: skip
        if settings.passphrase_file is not None:
            command += ["--passphrase-file", str(settings.passphrase_file)]
        environment = {**os.environ, "NO_COLOR": "1"}
        environment |= self.access.passphrase_environment()
        with log_path.open("ab") as log_file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, env=environment,
                start_new_session=True,
            )  # fmt: skip
        note_follower(self.access.home, job_id.hex()[:12], process.pid)
        return process.pid

    def _wallet_now(self) -> WalletView:
        access = self.access
        account = access.account
        free, locked = access.reader.account(account)
        return WalletView(
            account=account,
            network=access.network.name,
            free=free,
            locked=locked,
            token=access.reader.token_balance(account),
            gas_wei=access.reader.eth_balance(account),
        )

    async def _send(self, action: Action) -> None:
        gateway = self.access.writer
        confirmations = gateway.network.confirmations
        await trio.to_thread.run_sync(partial(send_and_wait, gateway.transactions, action, confirmations=confirmations))


class Market:
    """One client on one market, for ordinary code; `aio` is the same for code under trio.

    Every method is that of AsyncMarket and blocks until it is done. A context manager, so that a later version may
    hold connections open.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self.aio = AsyncMarket(access)

    @classmethod
    def open(
        cls,
        *,
        network: Path | str | None = None,
        home: Path | str | None = None,
        passphrase_file: Path | str | None = None,
    ) -> Market:
        """The market of a network file; without one $TOLSEY_NETWORK, else the local market of this machine.

        Raises:
            ConfigError: no such file, or it cannot be read.
        """
        paths = [Path(given) if given is not None else None for given in (network, home, passphrase_file)]
        return cls(Access(Settings.find(network=paths[0], home=paths[1], passphrase_file=paths[2])))

    @classmethod
    def up(cls, **options: Any) -> Self:
        return cls(trio.run(partial(AsyncMarket.up, **options)).access)

    def down(self) -> DownView:
        return trio.run(self.aio.down)

    def status(self) -> StatusView:
        return trio.run(self.aio.status)

    def offers(self) -> list[ListingView]:
        return trio.run(self.aio.offers)

    def silence(self) -> NoOffer:
        return trio.run(self.aio.silence)

    def plan(self, job: Path | str, **wishes: Any) -> PlanView:
        return trio.run(partial(self.aio.plan, job, **wishes))

    def run(self, job: Path | str, **options: Any) -> RunView | None:
        return trio.run(partial(self.aio.run, job, **options))

    def follow(self, job: str, *, watch: Watcher = silent) -> RunView:
        return trio.run(partial(self.aio.follow, job, watch=watch))

    def ps(self, *, everybody: bool = False) -> list[JobLine]:
        return trio.run(partial(self.aio.ps, everybody=everybody))

    def show(self, job: str) -> JobView:
        return trio.run(self.aio.show, job)

    def logs(self, job: str, *, follow: bool = False, on_step: Callable[[ProgressView], None]) -> None:
        trio.run(partial(self.aio.logs, job, follow=follow, on_step=on_step))

    def wait(self, job: str, *, timeout_s: float | None = None, watch: Watcher = silent) -> RunView:
        return trio.run(partial(self.aio.wait, job, timeout_s=timeout_s, watch=watch))

    def get(self, job: str, *, out: Path | str | None = None, plot: Path | str | None = None) -> FetchView:
        return trio.run(partial(self.aio.get, job, out=out, plot=plot))

    def cancel(self, job: str) -> CancelView:
        return trio.run(self.aio.cancel, job)

    def audit(self, job: str, **which: Any) -> AuditView:
        return trio.run(partial(self.aio.audit, job, **which))

    def audit_all(self) -> LedgerAudit:
        return trio.run(self.aio.audit_all)

    def wallet(self) -> WalletView:
        return trio.run(self.aio.wallet)

    def wallet_create(self) -> WalletView:
        return trio.run(self.aio.wallet_create)

    def deposit(self, amount: str) -> WalletView:
        return trio.run(self.aio.deposit, amount)

    def withdraw(self, amount: str, *, to: str | None = None) -> WalletView:
        return trio.run(partial(self.aio.withdraw, amount, to=to))

    def faucet(self) -> WalletView:
        return trio.run(self.aio.faucet)

    def __enter__(self) -> Market:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _FirstStep:
    """Passes updates on and notes when the first step was told of."""

    def __init__(self, watch: Watcher, started: float) -> None:
        self._watch, self._started = watch, started
        self.seconds: float | None = None

    def __call__(self, update: Update) -> None:
        if self.seconds is None and update.progress is not None and update.progress.step > 0:
            self.seconds = time.monotonic() - self._started
        self._watch(update)


def _wishes(given: dict[str, Any]) -> Wishes:
    """Keyword arguments of `run` and `plan` as wishes."""
    cleaned = {name: value for name, value in given.items() if value is not None}
    if "data" in cleaned:
        cleaned["data"] = Path(cleaned["data"])
    if "on" in cleaned:
        on: str | Sequence[str] = cleaned["on"]
        cleaned["on"] = tuple(on.split(",")) if isinstance(on, str) else tuple(on)
    return Wishes(**cleaned)


def _check_folder(path: Path | str | None) -> None:
    """Refuses a file whose folder is not there, before anything is bought or fetched for it."""
    if path is None:
        return
    if not Path(path).parent.is_dir():
        raise ConfigError(f"there is no folder {Path(path).parent} for {path}", fix=f"mkdir -p {Path(path).parent}")
    if Path(path).is_dir():
        raise ConfigError(
            f"{path} is a folder; a file is due", fix=f"name a file in it: {Path(path) / 'model.safetensors'}"
        )


def _job_id(purchase: Purchase) -> JobId:
    if purchase.job_id is None:
        raise ConfigError("this purchase was not made", fix="tolsey run SPEC")
    return purchase.job_id


def _run_view(
    log: JobLog,
    state: State,
    *,
    first_step_s: float | None = None,
    checkpoint: str | None = None,
    pid: int | None = None,
) -> RunView:
    return RunView(
        job_id=log.job_id.hex(),
        state=state.name.lower(),
        exit_code=BY_STATE.get(state, 0),
        first_step_s=None if first_step_s is None else round(first_step_s, 3),
        checkpoint=checkpoint,
        pid=pid,
        unvouched=timeline.unvouched(log.events, log.offer.window_count),
    )
