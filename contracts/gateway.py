"""The one door to the chain: what the contracts answer, and the way to what can be sent.

Synchronous and safe for threads; trio code goes through chain.py (`await chain.run(gateway.job, job_id)`). It keeps no
state but caches of what never changes. Reads ask for the newest block; what must be final waits for confirmations in
sender.py and follower.py. Every refusal of a contract comes out as `Reverted` with a sentence.

Next in the flow: actions.py (what can be sent), sender.py (sending it), follower.py (what happened).
"""

from __future__ import annotations

import copy
from typing import Any

from tolsey.contracts.abi import interface
from tolsey.contracts.actions import Action, Actions
from tolsey.contracts.blocks import Blocks, Header
from tolsey.contracts.events import Claim, Event, Ruling, VerifierRegistered, to_claim
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.reverts import Phase, from_revert_data
from tolsey.contracts.rpc import Rpc, RpcRefused
from tolsey.contracts.transactions import Transactions, TxReceipt
from tolsey.contracts.views import (
    BURN,
    NOBODY,
    CaseView,
    DisputeView,
    JobView,
    Opening,
    Params,
    Registration,
    SegmentOpening,
    VerdictView,
)
from tolsey.contracts.wallet import Wallet
from tolsey.errors import ChainUnavailable, Reverted
from tolsey.protocol.lifecycle import State
from tolsey.protocol.offer import Domain, Offer
from tolsey.protocol.units import Account, BasisPoints, ClassId, JobId, Seconds, TokenUnits, WindowRoot

__all__ = [
    "BURN",
    "NOBODY",
    "Action",
    "CaseView",
    "Claim",
    "DisputeView",
    "Gateway",
    "Header",
    "JobView",
    "Opening",
    "Params",
    "Phase",
    "Registration",
    "SegmentOpening",
    "TxReceipt",
    "VerdictView",
]


class Gateway:
    """One market on one chain, as seen from one wallet (or from none: then it only reads).

    Attributes:
        network: what it talks to. wallet: who signs, or None. action: makes unsent transactions.
        blocks, transactions, rpc: the parts, for the rooms of this package.
    """

    def __init__(self, network: NetworkFile, wallet: Wallet | None, *, timeout_s: float = 10) -> None:
        self.network = network
        self.wallet = wallet
        self.rpc = Rpc(network.rpc_url, timeout_s=timeout_s)
        self.blocks = Blocks(self.rpc, network.market, network.judge)
        self.transactions = Transactions(self.rpc, self.blocks, network.chain_id, wallet)
        self.action = Actions(network, wallet, self.call)
        self._params: Params | None = None
        self._block = "latest"

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of the market."""
        return self.network.domain

    def check_chain(self) -> None:
        """Accepts an endpoint that answers, is on the right chain, and has our market there.

        Raises:
            ChainUnavailable: it is not so; the message names both values.
        """
        url, network = self.rpc.url, self.network
        found = self.rpc.number("eth_chainId")
        if found != network.chain_id:
            raise ChainUnavailable(
                f"{url} is chain {found}, network {network.name} is chain {network.chain_id}",
                fix="another rpc_url in the network file",
            )
        for role in ("market", "judge", "token", "beacon"):
            address = getattr(network, role)
            if self.rpc.call("eth_getCode", address, "latest") in ("0x", "0x0", "", None):
                raise ChainUnavailable(
                    f"there is no contract at {address}, where network {network.name} has its {role}",
                    fix="tolsey chain up, which deploys anew, or the network file of this chain",
                )
        try:
            params = self.params()
        except Reverted as error:
            raise ChainUnavailable(
                f"the contract at {network.market} is no market of this version",
                fix="compare the network file with the one of the deployment",
            ) from error
        for role in ("judge", "token", "beacon"):
            if getattr(params, role) != getattr(network, role):
                raise ChainUnavailable(
                    f"the market's {role} is {getattr(params, role)}, the network file says {getattr(network, role)}"
                )

    def at_block(self, number: int) -> Gateway:
        """The same door on the state after block `number`, so that several reads fit together."""
        other = copy.copy(self)
        other._block = hex(number)
        return other

    # the chain itself

    def now_ts(self) -> int:
        """Time of the newest block, unix seconds."""
        return self.blocks.newest().ts

    def block_number(self) -> int:
        """Number of the newest block."""
        return self.rpc.number("eth_blockNumber")

    def eth_balance(self, account: Account) -> int:
        """Wei of the chain's coin, for fees."""
        return self.transactions.ether(account)

    def logs(self, from_block: int, to_block: int) -> list[Event]:
        """Our contracts' events in these blocks, both ends included, in order.

        Raises:
            Reorged: a block of the answer is gone already; ask again.
        """
        return self.blocks.logs(from_block, to_block)

    def simulate(self, action: Action) -> None:
        """Runs the action as the wallet would on the next block, without sending it.

        Raises:
            Reverted: the contract would refuse, with its reason.
        """
        self.transactions.simulate(action)

    def call(self, to: Account, data: bytes, description: str) -> bytes:
        """Asks a contract; what it returns.

        Raises:
            Reverted: it refused. ChainUnavailable: the node did.
        """
        form = {"to": to, "data": "0x" + data.hex()}
        try:
            answer = self.rpc.call("eth_call", form, self._block)
        except RpcRefused as error:
            if error.revert_data is not None:
                raise from_revert_data(error.revert_data, action=description) from error
            raise ChainUnavailable(f"{self.rpc.url} refuses to {description}: {error.message}") from error
        try:
            return bytes.fromhex(answer.removeprefix("0x"))
        except (AttributeError, ValueError) as error:
            raise ChainUnavailable(f"{self.rpc.url} answered eth_call with {str(answer)[:80]!r}") from error

    # money

    def account(self, who: Account) -> tuple[TokenUnits, TokenUnits]:
        """(free, locked) units in the market."""
        found = self._market("account", who)
        return TokenUnits(found["free"]), TokenUnits(found["locked"])

    def token_balance(self, who: Account) -> TokenUnits:
        """Tokens outside the market."""
        return TokenUnits(self._ask("TestDollar", self.network.token, "balanceOf", who))

    def token_name(self) -> tuple[str, int]:
        """(symbol, decimals) of the market's token, for people."""
        token = self.network.token
        return self._ask("TestDollar", token, "symbol"), self._ask("TestDollar", token, "decimals")

    def params(self) -> Params:
        """What the deployment was made with; asked once."""
        if self._params is None:
            found = self._market("params")
            self._params = Params(
                token=found["token"],
                treasury=found["treasury"],
                fee_bps=BasisPoints(found["feeBps"]),
                worker_bond=TokenUnits(found["workerBond"]),
                verifier_bond=TokenUnits(found["verifierBond"]),
                challenge_bond=TokenUnits(found["challengeBond"]),
                panel_fee=TokenUnits(found["panelFee"]),
                min_job_bond=TokenUnits(found["minJobBond"]),
                unbonding_s=Seconds(found["unbondingS"]),
                max_window_s=Seconds(found["maxWindowS"]),
                min_verdict_window_s=Seconds(found["minVerdictWindowS"]),
                panel_window_s=Seconds(found["panelWindowS"]),
                beacon=found["beacon"],
                judge=found["judge"],
            )
        return self._params

    # jobs

    def job(self, job_id: JobId) -> JobView:
        """Where the job stands; State.NONE for an id that nobody accepted."""
        found = self._market("job", job_id)
        return JobView(
            state=State(found["state"]),
            window=found["window"],
            drawn_at=found["drawnAt"],
            deadline=found["deadline"],
            pool_size=found["poolSize"],
            verdicts_paid=found["verdictsPaid"],
            seed=found["seed"],
        )

    def job_id(self, offer: Offer) -> JobId:
        """The id that the contract gives the offer; equal to `offer.job_id(domain)`, which costs no call."""
        return JobId(self._market("jobId", offer.to_tuple()))

    def window_root(self, job_id: JobId, window: int) -> WindowRoot | None:
        """The root committed for a window, or None."""
        root = self._market("windowRoot", job_id, window)
        return WindowRoot(root) if any(root) else None

    def escrow_left(self, offer: Offer) -> TokenUnits:
        """The client's units that are still locked for the job."""
        return TokenUnits(self._market("escrowLeft", offer.to_tuple()))

    def dispute(self, job_id: JobId) -> DisputeView | None:
        """The last demand or challenge of the job, or None where there was none."""
        found = self._market("dispute", job_id)
        if found["challenger"] == NOBODY and not found["segment"] and not found["matchRefuted"]:
            return None
        return DisputeView(
            challenger=found["challenger"],
            segment=found["segment"],
            time_left_s=Seconds(found["timeLeftS"]),
            match_refuted=found["matchRefuted"],
        )

    def drawn_verifiers(self, offer: Offer) -> list[Account]:
        """Who was drawn in the job's last draw; places empty now, or taken since, are left out."""
        return list(self._market("drawnVerifiers", offer.to_tuple()))

    def sample(self, offer: Offer, window: int, verifier: Account) -> list[int]:
        """Places in the window that the verifier drew, by the salt it revealed."""
        return list(self._market("sample", offer.to_tuple(), window, verifier))

    def verdict(self, job_id: JobId, window: int, verifier: Account) -> VerdictView:
        """The verifier's word on the window; kind 0 where there is none yet."""
        found = self._market("verdict", job_id, window, verifier)
        return VerdictView(
            seal=found["seal"],
            kind=found["kind"],
            segment=found["segment"],
            salt=found["salt"],
            revealed_at=found["revealedAt"],
        )

    # registrations

    def worker(self, who: Account) -> Registration | None:
        """The worker's registration, or None for a stranger."""
        return _registration(who, self._market("worker", who))

    def verifier(self, class_id: ClassId, who: Account) -> Registration | None:
        """The verifier's registration in that class, or None for a stranger."""
        return _registration(who, self._market("verifier", class_id, who))

    def joined(self, who: Account) -> dict[ClassId, Registration]:
        """The verifier's registration in each class that it has one in, oldest first; reads the log from its start."""
        events = self.logs(self.network.deployed_block, self.block_number())
        classes = dict.fromkeys(e.class_id for e in events if isinstance(e, VerifierRegistered) and e.account == who)
        found = {class_id: self.verifier(class_id, who) for class_id in classes}
        return {class_id: place for class_id, place in found.items() if place is not None}

    def pool(self, class_id: ClassId) -> list[Account]:
        """The class pool: place i holds the verifier of id i, NOBODY where the place is empty."""
        return [self._market("verifierAt", class_id, i) for i in range(self._market("poolSize", class_id))]

    # the panel judge

    def case(self, dispute_id: bytes) -> CaseView:
        """Where a dispute stands before the panel; Phase.NONE for an unknown id."""
        found = self._judge("caseOf", dispute_id)
        return CaseView(
            phase=Phase(found["phase"]),
            round=found["round"],
            pool_size=found["poolSize"],
            phase_since=found["phaseSince"],
            phase_block=found["phaseBlock"],
            ruling=Ruling(found["ruling"]),
            finder_earned=found["finderEarned"],
            match_refuted=found["matchRefuted"],
        )

    def claim(self, dispute_id: bytes) -> Claim:
        """What a dispute is about."""
        return to_claim(self._judge("claimOf", dispute_id))

    def panel(self, dispute_id: bytes) -> list[Account]:
        """Who sits on the current round's panel; empty before it is drawn."""
        return list(self._judge("panelOf", dispute_id))

    def vote(self, dispute_id: bytes, round_: int, voter: Account) -> tuple[bytes, int]:
        """(seal, vote) of a member in a round; zeros before."""
        seal, vote = self._judge("voteOf", dispute_id, round_, voter)
        return seal, vote

    # inside

    def _market(self, function: str, *args: Any) -> Any:
        return self._ask("JobMarket", self.network.market, function, *args)

    def _judge(self, function: str, *args: Any) -> Any:
        return self._ask("PanelJudge", self.network.judge, function, *args)

    def _ask(self, contract: str, address: Account, function: str, *args: Any) -> Any:
        door = interface(contract)
        raw = self.call(address, door.call(function, *args), f"read {function} of {contract}")
        return door.result(function, raw)


def _registration(who: Account, found: dict[str, Any]) -> Registration | None:
    if not found["registeredAt"]:
        return None
    return Registration(
        account=who,
        bond=TokenUnits(found["bond"]),
        registered_at=found["registeredAt"],
        leaving_since=found["leavingSince"],
        id=found.get("id", 0),
        secret=found.get("secret", b""),
    )
