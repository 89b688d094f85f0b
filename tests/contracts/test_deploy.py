"""Deployments: what stands on the chain afterwards, and what is refused before anybody puts money in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tolsey.contracts import deploy as yard
from tolsey.contracts.actions import Action
from tolsey.contracts.deploy import LOCAL_TERMS, PUBLIC_TERMS, Terms, deploy
from tolsey.contracts.devchain.genesis import dev_keys
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.sending import send_and_wait
from tolsey.contracts.transactions import Transactions, TxReceipt
from tolsey.contracts.wallet import Wallet
from tolsey.errors import ChainError, ConfigError, InsufficientFunds, Reverted
from tolsey.protocol.offer import LOCAL_CLOCKS, PUBLIC_CLOCKS
from tolsey.protocol.units import Account, BasisPoints, Seconds, TokenUnits
from tolsey.testing.chain import MarketWorld

DEPLOYER = Wallet.from_private_key(dev_keys()[1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MarketWorld]:
    with MarketWorld.open(tmp_path_factory.mktemp("world")) as opened:
        yield opened


def test_deploy_gives_a_file_that_fits_the_chain(world: MarketWorld) -> None:
    lines: list[str] = []
    network = deploy(world.chain.url, DEPLOYER, LOCAL_TERMS, name="mine", log=lines.append)
    door = Gateway(network, None)
    door.check_chain()
    params = door.params()
    assert (params.judge, params.token, params.beacon) == (network.judge, network.token, network.beacon)
    assert [line.split(" ")[0] for line in lines] == ["TestDollar", "PrevrandaoBeacon", "JobMarket", "PanelJudge"]
    assert (network.confirmations, network.clocks) == (0, LOCAL_CLOCKS)
    assert params.unbonding_s == LOCAL_TERMS.least_unbonding_s and door.token_name() == ("TTD", 6)
    assert door.logs(0, network.deployed_block - 1) == []


def test_deploy_on_a_given_token_makes_none(world: MarketWorld) -> None:
    lines: list[str] = []
    network = deploy(world.chain.url, DEPLOYER, LOCAL_TERMS, name="mine", token=world.network.token, log=lines.append)
    assert network.token == world.network.token and not any(line.startswith("TestDollar") for line in lines)


def test_deploy_test_dollar_on_a_public_chain_refused(world: MarketWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yard, "LOCAL_CHAINS", frozenset({1}))
    before = world.gateway.block_number()
    with pytest.raises(ConfigError) as refusal:
        deploy(world.chain.url, DEPLOYER, PUBLIC_TERMS, name="mine")
    assert "--token" in refusal.value.diagnostics() and world.gateway.block_number() == before


def test_deploy_elsewhere_takes_public_clocks_and_confirmations(
    world: MarketWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yard, "LOCAL_CHAINS", frozenset({1}))
    network = deploy(world.chain.url, DEPLOYER, PUBLIC_TERMS, name="mine", token=world.network.token)
    assert (network.confirmations, network.clocks) == (12, PUBLIC_CLOCKS)


@pytest.mark.parametrize("terms", [LOCAL_TERMS, PUBLIC_TERMS])
def test_terms_hold_the_rules_of_the_contract(terms: Terms) -> None:
    unbonding_s = terms.unbonding_s or terms.least_unbonding_s
    assert unbonding_s >= terms.least_unbonding_s
    assert unbonding_s > 2 * terms.max_window_s + 3 * (2 * terms.panel_window_s + terms.max_window_s)
    assert min(terms.challenge_bond, terms.min_job_bond) >= 6 * terms.panel_fee
    assert terms.max_window_s > 2 * terms.min_verdict_window_s


@pytest.mark.parametrize(
    "change",
    [
        {"fee_bps": BasisPoints(201)},
        {"fee_bps": BasisPoints(10)},
        {"challenge_bond": TokenUnits(1)},
        {"unbonding_s": Seconds(100)},
        {"panel_window_s": Seconds(0)},
    ],
)
def test_deploy_terms_out_of_bounds_refused_by_name(world: MarketWorld, change: dict[str, int]) -> None:
    with pytest.raises(Reverted) as refusal:
        deploy(world.chain.url, DEPLOYER, replace(LOCAL_TERMS, **change), name="mine", token=world.network.token)
    assert refusal.value.name == "JobMarket_BadParameter" and "its bound is" in refusal.value.message


def test_deploy_without_ether_says_so(world: MarketWorld) -> None:
    poor = Wallet.from_private_key(b"\x31" * 32)
    with pytest.raises(InsufficientFunds, match="ETH"):
        deploy(world.chain.url, poor, LOCAL_TERMS, name="mine")


def test_deploy_transaction_in_between_is_noticed(world: MarketWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge would stand elsewhere than the market expects; such a market could never slash."""
    sent: list[Action] = []

    def interrupted(transactions: Transactions, action: Action, *, timeout_s: float) -> TxReceipt:
        sent.append(action)
        if action.description == "deploy PanelJudge":
            nobody = Account("0x" + "55" * 20)
            send_and_wait(transactions, Action(to=nobody, data=b"", description="do something else"))
        return send_and_wait(transactions, action, timeout_s=timeout_s)

    monkeypatch.setattr(yard, "send_and_wait", interrupted)
    with pytest.raises(ChainError, match="came between"):
        deploy(world.chain.url, DEPLOYER, LOCAL_TERMS, name="mine")
    assert len(sent) == 4
