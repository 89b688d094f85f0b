"""A whole market on a fresh local chain for a test: contracts, funded actors by name, and a clock that obeys.

    with MarketWorld.open(tmp_path) as world:
        job = world.paper_job(client="carol", worker="wim", windows=2)
        world.accept(job)
        world.commit(job)
        world.pass_time(5)

Actors are made when first named; their keys follow from their names, so a failing test fails again. Money and time are
free here, everything else is the real thing: real contracts, real transactions, real logs. The chain is anvil where it
is found ($TOLSEY_ANVIL, PATH, node_modules), else the embedded one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tolsey.contracts.actions import Action
from tolsey.contracts.bindings import binding_digest
from tolsey.contracts.deploy import LOCAL_TERMS, Terms, deploy
from tolsey.contracts.devchain.genesis import dev_keys
from tolsey.contracts.gateway import Gateway, JobView, Opening, TxReceipt
from tolsey.contracts.local_chain import Engine, LocalChain, start_chain_now
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.sending import send_and_wait
from tolsey.contracts.wallet import Wallet
from tolsey.network.identity import Identity
from tolsey.protocol import merkle
from tolsey.protocol.checkpoint import segment_leaf
from tolsey.protocol.encoding import TAG_SEAL, keccak256, tag
from tolsey.protocol.job import EXACT_CLASSES, EXACT_FP32
from tolsey.protocol.lifecycle import State
from tolsey.protocol.offer import Clocks, Offer, seal_chain
from tolsey.protocol.units import (
    Account,
    ClassId,
    JobId,
    PeerId,
    Seconds,
    SpecHash,
    StateRoot,
    TokenUnits,
    WindowRoot,
)

DOLLAR = 1_000_000
CLASS_ID = EXACT_CLASSES[EXACT_FP32]
"""Of the ordinary paper job and its verifiers: any machine may judge it."""
PINNED_CLASS_ID = ClassId(keccak256(b"a numerics class for tests"))
"""Of a paper job of profile `pinned`: the machines of one fingerprint."""
FAST_CLOCKS = Clocks(
    commit_window_s=Seconds(60),
    reveal_window_s=Seconds(2),
    verdict_window_s=Seconds(3),
    challenge_window_s=Seconds(8),
)
CALM_CLOCKS = Clocks(
    commit_window_s=Seconds(200),
    reveal_window_s=Seconds(40),
    verdict_window_s=Seconds(60),
    challenge_window_s=Seconds(200),
)
"""For tests that move the chain's clock themselves: a slow machine must not let a deadline pass by accident."""
CALM_TERMS = replace(
    LOCAL_TERMS, max_window_s=Seconds(600), min_verdict_window_s=Seconds(1), panel_window_s=Seconds(60)
)
FAST_TERMS = replace(LOCAL_TERMS, max_window_s=Seconds(600), min_verdict_window_s=Seconds(1), panel_window_s=Seconds(4))
PURSE = TokenUnits(1_000_000 * DOLLAR)
"""What a new actor has free in the market, token units."""
ETHER_WEI = 1_000 * 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperJob:
    """A job of invented checkpoints: all roots are made up, none is computed, and the chain cannot tell.

    Attributes:
        secrets: the client's seal chain; element w is revealed for window w.
        roots: state root before each segment and after the last (segment_count + 1).
        broken: segments that do not start where the one before them ended.
    """

    offer: Offer
    signature: bytes
    job_id: JobId
    secrets: tuple[bytes, ...]
    roots: tuple[StateRoot, ...]
    chain_id: int
    market: Account
    broken: frozenset[int] = frozenset()

    def input_root(self, segment: int) -> StateRoot:
        """What the worker's leaf says the segment starts from: for a broken one not where the last one ended."""
        return StateRoot(keccak256(b"broken", self.roots[segment])) if segment in self.broken else self.roots[segment]

    def leaves(self, window: int) -> list[bytes]:
        """The leaves that the worker commits for a window."""
        return [
            segment_leaf(
                chain_id=self.chain_id, market=self.market, job_id=self.job_id, worker=self.offer.worker, index=index,
                input_root=self.input_root(index), output_root=self.roots[index + 1],
            )
            for index in self.offer.window_segments(window)
        ]  # fmt: skip

    def root(self, window: int) -> WindowRoot:
        """The root that the worker commits for a window."""
        return WindowRoot(merkle.root(self.leaves(window)))

    def opening(self, segment: int) -> Opening:
        """The opening of a segment against its window's root."""
        window = segment // self.offer.segments_per_window
        place = segment - self.offer.window_segments(window).start
        return Opening(
            segment=segment,
            input_root=self.input_root(segment),
            output_root=self.roots[segment + 1],
            siblings=tuple(merkle.proof(self.leaves(window), place)),
        )


class MarketWorld:
    """See the file's docstring. Made by `open`.

    Attributes:
        chain: the running chain. network: the deployed market. gateway: a reader without a wallet.
    """

    def __init__(self, chain: LocalChain, network: NetworkFile) -> None:
        self.chain = chain
        self.network = network
        self.gateway = Gateway(network, None)
        self._gateways: dict[str, Gateway] = {}
        self._jobs = 0

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, folder: Path, *, engine: Engine = "auto", terms: Terms | None = None, clocks: Clocks | None = None,
        block_time_s: float = 0,
    ) -> Iterator[MarketWorld]:  # fmt: skip
        """A fresh chain in `folder` with a market on it; stopped at the end.

        Args:
            terms, clocks: None takes the fast ones where blocks come by themselves, else the calm ones.
            block_time_s: mine a block at least so often, for code that waits for real time; 0 mines when sent to.
        """
        terms = terms or (FAST_TERMS if block_time_s else CALM_TERMS)
        clocks = clocks or (FAST_CLOCKS if block_time_s else CALM_CLOCKS)
        with start_chain_now(folder / "chain", engine=engine, block_time_s=block_time_s) as chain:
            deployer = Wallet.from_private_key(dev_keys()[0])
            yield cls(chain, deploy(chain.url, deployer, terms, name="test", clocks=clocks))

    # actors

    def wallet(self, name: str) -> Wallet:
        """The actor's account, without funding it."""
        return Wallet.from_private_key(keccak256(b"tolsey test actor ", name.encode()))

    def account(self, name: str) -> Account:
        """The actor's address."""
        return self.wallet(name).account

    def identity(self, name: str) -> Identity:
        """The actor's libp2p identity."""
        return Identity(keccak256(b"tolsey test peer ", name.encode()))

    def verifier_secret(self, name: str) -> bytes:
        """The secret behind the actor's registered hash (32 bytes)."""
        return keccak256(b"tolsey test verifier ", name.encode())

    def as_(self, name: str, *, purse: TokenUnits = PURSE) -> Gateway:
        """The actor's gateway; at first use the actor gets ETH for fees and `purse` free units in the market."""
        if name not in self._gateways:
            gateway = Gateway(self.network, self.wallet(name))
            self.rpc("anvil_setBalance", self.account(name), hex(ETHER_WEI))
            self._gateways[name] = gateway
            if purse:
                self.send(name, gateway.action.mint(purse))
                self.send(name, gateway.action.deposit(purse))
        return self._gateways[name]

    def send(self, name: str, action: Action) -> TxReceipt:
        """Sends an action as the actor and waits until it is mined.

        Raises:
            Reverted: the contract refuses.
        """
        return send_and_wait(self._gateways[name].transactions, action, timeout_s=30)

    def register_worker(self, name: str) -> TxReceipt:
        """Makes the actor a worker under its own peer id."""
        peer_id, signature = self._binding(name)
        return self.send(name, self.as_(name).action.register_worker(peer_id, signature))

    def register_verifier(self, name: str, class_id: ClassId = CLASS_ID) -> TxReceipt:
        """Puts the actor into a class pool under its own peer id and secret; draws from now on may meet it."""
        peer_id, signature = self._binding(name)
        secret_hash = keccak256(tag(TAG_SEAL), self.verifier_secret(name))
        action = self.as_(name).action.register_verifier(class_id, secret_hash, peer_id, signature)
        receipt = self.send(name, action)
        self.pass_time(1)  # a draw in the second of the registration passes it over
        return receipt

    # the chain

    def rpc(self, method: str, *params: Any) -> Any:
        """A raw JSON-RPC call, for what only test chains know."""
        return self.gateway.rpc.call(method, *params)

    def now_ts(self) -> int:
        """Time of the newest block."""
        return self.gateway.now_ts()

    def mine(self, blocks: int = 1) -> None:
        """Mines empty blocks."""
        self.rpc("anvil_mine", hex(blocks))

    def pass_time(self, seconds: int) -> None:
        """Moves the chain's clock and mines a block there."""
        self.rpc("evm_increaseTime", hex(seconds))
        self.rpc("evm_mine")

    def pass_until(self, ts: int) -> None:
        """Mines a block later than `ts` (unix seconds); nothing where one is there already."""
        while (left := ts - self.now_ts()) >= 0:
            self.pass_time(left + 1)

    def snapshot(self) -> str:
        """Remembers the chain as it is; for `revert`."""
        return str(self.rpc("evm_snapshot"))

    def revert(self, snapshot: str) -> None:
        """Takes the chain back, as a reorganisation would; a snapshot serves once."""
        if not self.rpc("evm_revert", snapshot):
            raise AssertionError(f"no snapshot {snapshot}")

    # jobs

    def paper_job(
        self, *, client: str = "carol", worker: str = "wim", windows: int = 1,
        broken: frozenset[int] = frozenset(), **terms: Any,
    ) -> PaperJob:  # fmt: skip
        """A signed offer for an invented job; registers the worker where it is not.

        Args:
            broken: see PaperJob. terms: fields of Offer that shall differ from the usual ones.
        """
        self._jobs += 1
        for name in (client, worker):
            self.as_(name)
        if self.gateway.worker(self.account(worker)) is None:
            self.register_worker(worker)
        label = f"{client} {worker} {self._jobs}".encode()
        per_window = terms.get("segments_per_window", 4)
        segment_count = terms.get("segment_count", windows * per_window)
        roots = tuple(StateRoot(keccak256(b"state", label, bytes([n]))) for n in range(segment_count + 1))
        secrets = seal_chain(keccak256(b"secret", label), -(-segment_count // per_window))
        clocks = self.network.clocks
        usual: dict[str, Any] = {
            "spec_hash": SpecHash(keccak256(b"spec", label)),
            "class_id": CLASS_ID,
            "initial_root": roots[0],
            "client_seal": secrets[-1],
            "client": self.account(client),
            "worker": self.account(worker),
            "price": TokenUnits(100 * DOLLAR + 1),
            "bond": TokenUnits(50 * DOLLAR + 3),
            "forfeit": TokenUnits(5 * DOLLAR),
            "verdict_fee": TokenUnits(2 * DOLLAR),
            "segment_count": segment_count,
            "segments_per_window": per_window,
            "verifier_count": 2,
            "sample_count": 2,
            "commit_window_s": clocks.commit_window_s,
            "reveal_window_s": clocks.reveal_window_s,
            "verdict_window_s": clocks.verdict_window_s,
            "challenge_window_s": clocks.challenge_window_s,
            "nonce": self._jobs,
            "expires_at": self.now_ts() + 86_400,
        }
        offer = Offer(**(usual | terms))
        job_id = offer.job_id(self.network.domain)
        return PaperJob(
            offer=offer,
            signature=self.wallet(worker).sign_digest(job_id),
            job_id=job_id,
            secrets=tuple(secrets),
            roots=roots,
            chain_id=self.network.chain_id,
            market=self.network.market,
            broken=broken,
        )

    def job(self, job: PaperJob) -> JobView:
        """Where the job stands on chain."""
        return self.gateway.job(job.job_id)

    def name_of(self, account: Account) -> str:
        """The actor behind an account."""
        return next(name for name in self._gateways if self.account(name) == account)

    def accept(self, job: PaperJob) -> TxReceipt:
        """Row 1, by the job's client."""
        return self._as(job.offer.client, "accept", job.offer, job.signature)

    def commit(self, job: PaperJob) -> TxReceipt:
        """Row 3, by the worker, for the window in work."""
        return self._as(job.offer.worker, "commit", job.offer, job.root(self.job(job).window))

    def draw(self, job: PaperJob) -> TxReceipt:
        """Row 7, by the client with its secret for the window in work."""
        return self._as(job.offer.client, "draw", job.offer, job.secrets[self.job(job).window])

    def settle(self, job: PaperJob) -> TxReceipt:
        """Row 9, by the worker, after letting the deadline pass."""
        self.pass_until(self.job(job).deadline)
        return self._as(job.offer.worker, "settle", job.offer)

    def complete(self, job: PaperJob) -> None:
        """Takes an accepted job through all its windows, with no verifier at work."""
        while self.job(job).state is State.ACCEPTED:
            self.commit(job)
            self.draw(job)
            self.settle(job)

    def _as(self, account: Account, method: str, *args: Any) -> TxReceipt:
        name = self.name_of(account)
        return self.send(name, getattr(self.as_(name).action, method)(*args))

    def _binding(self, name: str) -> tuple[PeerId, bytes]:
        identity = self.identity(name)
        peer_id = PeerId(identity.peer_id)
        return peer_id, identity.sign(binding_digest(self.network.domain, self.account(name), peer_id))
