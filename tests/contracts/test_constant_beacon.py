"""On a chain whose randomness is constant the secrets alone must keep the draw from the worker.

Stock eth-tester is such a chain: inside its transactions `prevrandao` is always 0. So the market is deployed there as
it is, and two runs that differ in nothing but the client's secret are compared.
"""

from __future__ import annotations

import secrets as randomness
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rlp
from eth_tester import EthereumTester, PyEVMBackend
from web3 import EthereumTesterProvider, Web3

from tolsey.contracts.artifacts import artifact
from tolsey.contracts.deploy import LOCAL_TERMS
from tolsey.contracts.wallet import Wallet
from tolsey.protocol import sampling
from tolsey.protocol.encoding import keccak256
from tolsey.protocol.offer import Domain, Offer, seal_chain
from tolsey.protocol.units import Account, ClassId, Seconds, SpecHash, StateRoot, TokenUnits, WindowRoot

NOBODY = "0x" + "00" * 20
ROOT = WindowRoot(keccak256(b"the same window root in every run"))
SEGMENTS = 64


class StockChain:
    """The market on eth-tester as it is shipped."""

    def __init__(self) -> None:
        self.tester = EthereumTester(PyEVMBackend())
        self.w3 = Web3(EthereumTesterProvider(self.tester))
        self.deployer, self.client, self.funder = self.w3.eth.accounts[:3]
        self.worker = Wallet.from_private_key(keccak256(b"worker"))
        self._pay(self.funder, {"to": self.worker.account, "value": 10**20})
        self.token = self._create("TestDollar")
        beacon = self._create("PrevrandaoBeacon")
        nonce = self.w3.eth.get_transaction_count(self.deployer) + 1
        raw = bytes.fromhex(self.deployer[2:])
        judge = Web3.to_checksum_address(keccak256(rlp.encode([raw, nonce]))[12:])
        t = LOCAL_TERMS
        self.market = self._create("JobMarket", (
            self.token.address, NOBODY, t.fee_bps, t.worker_bond, t.verifier_bond, t.challenge_bond, t.panel_fee,
            t.min_job_bond, t.least_unbonding_s, t.max_window_s, t.min_verdict_window_s, t.panel_window_s,
            beacon.address, judge,
        ))  # fmt: skip
        assert self._create("PanelJudge", self.market.address).address == judge
        self.domain = Domain(chain_id=self.w3.eth.chain_id, market=Account(self.market.address))
        self._fund(self.client, lambda call: call.transact({"from": self.client}))
        self._fund(self.worker.account, self.as_worker)
        self.as_worker(self.market.functions.registerWorker(bytes(38), bytes(64)))

    def as_worker(self, call: Any) -> Any:
        """Sends a call signed by the worker's key."""
        fields = call.build_transaction(
            {"from": self.worker.account, "nonce": self.w3.eth.get_transaction_count(self.worker.account)}
        )
        fields.pop("from")
        return self.w3.eth.send_raw_transaction(self.worker.sign_transaction(fields))

    def drawn_log(self, secret: bytes, *, silent: bool = False) -> tuple[Offer, Any]:
        """Accept, commit, draw with this secret (or, late, with none); the offer and what the log Drawn says."""
        offer = Offer(
            spec_hash=SpecHash(keccak256(b"spec")), class_id=ClassId(keccak256(b"class")),
            initial_root=StateRoot(keccak256(b"start")), client_seal=seal_chain(secret, 1)[-1],
            client=Account(self.client), worker=self.worker.account, price=TokenUnits(10**8), bond=TokenUnits(10**8),
            forfeit=TokenUnits(0), verdict_fee=TokenUnits(0), segment_count=SEGMENTS, segments_per_window=SEGMENTS,
            verifier_count=0, sample_count=4, commit_window_s=Seconds(600), reveal_window_s=Seconds(5),
            verdict_window_s=Seconds(20), challenge_window_s=Seconds(45), nonce=int.from_bytes(secret[:4], "big"),
            expires_at=self.w3.eth.get_block("latest")["timestamp"] + 600,
        )  # fmt: skip
        signature = self.worker.sign_digest(offer.job_id(self.domain))
        functions, me = self.market.functions, {"from": self.client}
        functions.accept(offer.to_tuple(), signature).transact(me)
        self.as_worker(functions.commit(offer.to_tuple(), ROOT))
        if silent:
            self.tester.time_travel(self.w3.eth.get_block("latest")["timestamp"] + 10)
        sent = functions.draw(offer.to_tuple(), bytes(32) if silent else secret).transact(me)
        receipt = self.w3.eth.get_transaction_receipt(sent)
        return offer, self.market.events.Drawn().process_receipt(receipt)[0]["args"]

    def _create(self, name: str, *args: Any) -> Any:
        made = artifact(name)
        kind = self.w3.eth.contract(abi=list(made.abi), bytecode=made.bytecode)
        receipt = self.w3.eth.get_transaction_receipt(kind.constructor(*args).transact({"from": self.deployer}))
        return self.w3.eth.contract(address=receipt["contractAddress"], abi=list(made.abi))

    def _fund(self, account: str, send: Callable[[Any], Any]) -> None:
        amount = 10**12
        send(self.token.functions.mint(account, amount))
        send(self.token.functions.approve(self.market.address, amount))
        send(self.market.functions.deposit(amount))

    def _pay(self, sender: str, fields: dict[str, Any]) -> None:
        self.w3.eth.send_transaction({"from": sender, "gas": 21_000, **fields})


@pytest.fixture(scope="module")
def chain() -> Iterator[StockChain]:
    yield StockChain()


def test_draw_beacon_is_constant_on_this_chain(chain: StockChain) -> None:
    beacons = {bytes(chain.drawn_log(randomness.token_bytes(32))[1]["beacon"]) for _ in range(3)}
    assert beacons == {bytes(32)}


def test_draw_other_client_secret_gives_other_seed_and_other_samples(chain: StockChain) -> None:
    seeds = [chain.drawn_log(randomness.token_bytes(32))[1]["seed"] for _ in range(4)]
    assert len(set(seeds)) == 4
    samples = {tuple(sampling.verifier_sample(seed, 7, SEGMENTS, 4)) for seed in seeds}
    assert len(samples) == 4  # 4 of 64 places: two equal ones by chance are rarer than 1 in 100,000


def test_draw_seed_equals_the_python_law(chain: StockChain) -> None:
    secret = randomness.token_bytes(32)
    offer, log = chain.drawn_log(secret)
    assert log["seed"] == sampling.window_seed(offer.job_id(chain.domain), 0, ROOT, secret, 0)


def test_draw_silent_client_leaves_only_the_verifiers_secrets(chain: StockChain) -> None:
    offer, log = chain.drawn_log(randomness.token_bytes(32), silent=True)
    job_id = offer.job_id(chain.domain)
    # The worker can compute this seed beforehand: nothing in it is secret on such a chain ...
    assert log["seed"] == sampling.window_seed(job_id, 0, ROOT, bytes(32), 0)
    # ... but not where each verifier looks, for which its registered secret is needed.
    salts = [sampling.verifier_salt(keccak256(b"verifier", bytes([n])), job_id, 0) for n in range(4)]
    assert len({tuple(sampling.verifier_sample(log["seed"], salt, SEGMENTS, 4)) for salt in salts}) == 4
