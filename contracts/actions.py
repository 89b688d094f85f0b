"""Every transaction anybody sends, as an unsent value: to whom, which bytes, and what it is for.

Making an action asks nothing of the chain (but `deposit`, which needs the token's permit nonce); simulate it, estimate
it and send it with gateway.py and sender.py. One method for each call of docs/protocol.md section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tolsey.contracts.abi import interface
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.permit import Call, permit_signature
from tolsey.contracts.views import SegmentOpening
from tolsey.contracts.wallet import Wallet
from tolsey.errors import ConfigError
from tolsey.protocol.offer import Offer
from tolsey.protocol.units import Account, ClassId, JobId, PeerId, StateRoot, TokenUnits, WindowRoot

MAX_UINT256 = (1 << 256) - 1
"""Deadline of a permit. It may stay good for ever: only its signer can make the market take the tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A transaction not yet sent.

    Attributes:
        to: the contract, or None to create one from `data`.
        description: finishes the sentence "cannot …".
    """

    to: Account | None
    data: bytes
    description: str


class Actions:
    """Makes actions for one market; the wallet's account is the sender of each.

    Args:
        call: asks the token for its permit nonce (gateway.Gateway.call).
    """

    def __init__(self, network: NetworkFile, wallet: Wallet | None, call: Call) -> None:
        self._network, self._wallet, self._call = network, wallet, call

    # the client and the worker agree

    def accept(self, offer: Offer, signature: bytes) -> Action:
        """Row 1; by the client. `signature` is the worker's over the job id."""
        return self._job("accept the offer", offer, "accept", signature)

    def revoke_offer(self, offer: Offer) -> Action:
        """Row 2; by the worker."""
        return self._job("revoke the offer", offer, "revokeOffer")

    # a window's work

    def commit(self, offer: Offer, root: WindowRoot) -> Action:
        """Row 3; by the worker."""
        return self._job("commit the window", offer, "commit", root)

    def draw(self, offer: Offer, secret: bytes) -> Action:
        """Row 7; `secret` is element `window` of the client's seal chain, or 32 zero bytes past the deadline."""
        return self._job("draw the sample", offer, "draw", secret)

    def settle(self, offer: Offer) -> Action:
        """Row 9; by anyone past the deadline."""
        return self._job("settle the window", offer, "settle")

    # early ends

    def cancel(self, offer: Offer) -> Action:
        """Row 4; by the client."""
        return self._job("cancel the job", offer, "cancel")

    def resign(self, offer: Offer) -> Action:
        """Row 5; by the worker."""
        return self._job("resign from the job", offer, "resign")

    def expire(self, offer: Offer) -> Action:
        """Row 6; by anyone past the deadline."""
        return self._job("let the job expire", offer, "expire")

    # drawn verifiers

    def seal_verdict(self, offer: Offer, seal: bytes) -> Action:
        """Row 8; `seal` from protocol/sampling.py `verdict_seal`."""
        return self._job("seal the verdict", offer, "sealVerdict", seal)

    def reveal_verdict(self, offer: Offer, kind: int, segment: int, salt: int) -> Action:
        """Row 8; the values that were sealed."""
        return self._job("reveal the verdict", offer, "revealVerdict", kind, segment, salt)

    def penalize_silence(self, offer: Offer, verifier: Account) -> Action:
        """Docs 3.2; by anyone once the time to reveal is over."""
        return self._job("penalize the silent verifier", offer, "penalizeSilence", verifier)

    def penalize_false_match(self, offer: Offer, verifier: Account) -> Action:
        """Docs 3.2; by anyone once the job is slashed."""
        return self._job("penalize the false match", offer, "penalizeFalseMatch", verifier)

    def penalize_false_salt(self, offer: Offer, window: int, verifier: Account) -> Action:
        """Docs 3.2; by anyone once the verifier's secret is public."""
        return self._job("penalize the false salt", offer, "penalizeFalseSalt", window, verifier)

    # disputes

    def seal_challenge(self, seal: bytes) -> Action:
        """A block or more before `challenge`; `seal` from protocol/sampling.py `challenge_seal`."""
        return self._at_market("seal the challenge", "sealChallenge", seal)

    def challenge(self, offer: Offer, opening: SegmentOpening, claimed_root: StateRoot, salt: bytes) -> Action:
        """Row 10; `claimed_root` is 32 zero bytes where nobody serves the segment's checkpoints."""
        return self._job("challenge the segment", offer, "challenge", _opening(opening), claimed_root, salt)

    def demand(self, offer: Offer, segment: int) -> Action:
        """Row 11."""
        return self._job("demand the segment", offer, "demand", segment)

    def answer(self, offer: Offer, opening: SegmentOpening) -> Action:
        """Row 12."""
        return self._job("answer the demand", offer, "answer", _opening(opening))

    def prove_discontinuity(self, offer: Offer, before: SegmentOpening | None, at: SegmentOpening) -> Action:
        """Row 14; `before` is None where `at` is segment 0."""
        first = (0, bytes(32), bytes(32), ()) if before is None else _opening(before)
        return self._job("prove the discontinuity", offer, "proveDiscontinuity", first, _opening(at))

    def resolve(self, offer: Offer) -> Action:
        """Rows 13, 15 to 17; by anyone."""
        return self._job("resolve the dispute", offer, "resolve")

    # money

    def deposit(self, amount: TokenUnits) -> Action:
        """Moves tokens of the wallet into its free units, by a signed permit, so without a transaction to approve.

        Raises:
            ConfigError: the token knows no permit; then send `approve` and `deposit_approved`.
        """
        market = self._network.market
        v, r, s = permit_signature(self._call, self._network, self._opened(), market, amount, MAX_UINT256)
        return self._at_market("deposit", "depositWithPermit", amount, MAX_UINT256, v, r, s)

    def approve(self, amount: TokenUnits) -> Action:
        """Lets the market take `amount` of the wallet's tokens: for a token without permits."""
        data = interface("TestDollar").call("approve", self._network.market, amount)
        return Action(to=self._network.token, data=data, description="approve the deposit")

    def deposit_approved(self, amount: TokenUnits) -> Action:
        """`deposit` of what was approved before."""
        return self._at_market("deposit", "deposit", amount)

    def withdraw(self, amount: TokenUnits, to: Account | None = None) -> Action:
        """Sends free units out as tokens, to the wallet's own account unless told otherwise."""
        return self._at_market("withdraw", "withdraw", amount, to or self._opened().account)

    def mint(self, amount: TokenUnits, to: Account | None = None) -> Action:
        """Makes test dollars, on local chains."""
        data = interface("TestDollar").call("mint", to or self._opened().account, amount)
        return Action(to=self._network.token, data=data, description="mint test dollars")

    # registrations

    def register_worker(self, peer_id: PeerId, peer_signature: bytes) -> Action:
        """Locks the worker bond; the signature is the peer's over bindings.binding_digest."""
        return self._at_market("register as worker", "registerWorker", peer_id.encode("ascii"), peer_signature)

    def request_worker_exit(self) -> Action:
        return self._at_market("leave as worker", "requestWorkerExit")

    def withdraw_worker_bond(self) -> Action:
        return self._at_market("take the worker bond back", "withdrawWorkerBond")

    def register_verifier(
        self, class_id: ClassId, secret_hash: bytes, peer_id: PeerId, peer_signature: bytes
    ) -> Action:
        """Locks the verifier bond; `secret_hash` is H(secret) of docs/protocol.md section 2."""
        peer = peer_id.encode("ascii")
        return self._at_market("register as verifier", "registerVerifier", class_id, secret_hash, peer, peer_signature)

    def request_verifier_exit(self, class_id: ClassId, secret: bytes) -> Action:
        """Makes the verifier's secret public."""
        return self._at_market("leave as verifier", "requestVerifierExit", class_id, secret)

    def withdraw_verifier_bond(self, class_id: ClassId) -> Action:
        return self._at_market("take the verifier bond back", "withdrawVerifierBond", class_id)

    # the panel judge

    def draw_panel(self, dispute_id: bytes) -> Action:
        """By anyone, in a later block than the round began."""
        return self._at_judge("draw the panel", "drawPanel", dispute_id)

    def seal_vote(self, dispute_id: bytes, seal: bytes) -> Action:
        """`seal` from protocol/sampling.py `vote_seal`."""
        return self._at_judge("seal the vote", "sealVote", dispute_id, seal)

    def reveal_vote(self, dispute_id: bytes, vote: int, salt: bytes) -> Action:
        return self._at_judge("reveal the vote", "revealVote", dispute_id, vote, salt)

    def close_panel(self, dispute_id: bytes) -> Action:
        """By anyone, once the round's time is over or all have revealed."""
        return self._at_judge("close the round", "close", dispute_id)

    # inside

    def _opened(self) -> Wallet:
        if self._wallet is None:
            raise ConfigError("this needs a wallet, and none is open", fix="tolsey wallet create")
        return self._wallet

    def _job(self, description: str, offer: Offer, function: str, *args: Any) -> Action:
        job_id: JobId = offer.job_id(self._network.domain)
        return self._at_market(f"{description} of job {job_id.hex()[:12]}", function, offer.to_tuple(), *args)

    def _at_market(self, description: str, function: str, *args: Any) -> Action:
        return Action(
            to=self._network.market, data=interface("JobMarket").call(function, *args), description=description
        )

    def _at_judge(self, description: str, function: str, *args: Any) -> Action:
        return Action(
            to=self._network.judge, data=interface("PanelJudge").call(function, *args), description=description
        )


def _opening(opening: SegmentOpening) -> tuple[int, bytes, bytes, tuple[bytes, ...]]:
    return opening.segment, opening.input_root, opening.output_root, tuple(opening.siblings)
