"""Makes this worker known to the market: money, a bond, and the tie between its account and its peer id.

Each step looks at the chain first and does only what is missing, so that it can run at every start. On a local chain
the faucet pays; anywhere else a missing amount is said with the account to send it to. Amounts are token units.
Next in the flow: service.py.
"""

from __future__ import annotations

import logging

from tolsey.contracts.bindings import binding_digest
from tolsey.contracts.chain import Chain
from tolsey.errors import ConfigError, InsufficientFunds
from tolsey.network.identity import Identity
from tolsey.node.config import WorkerConfig, dollars
from tolsey.protocol.units import Account, PeerId

LOCAL_CHAIN_ID = 31_337
GAS_WEI = 10**17
"""What a worker should hold for transactions: a job of ten windows is about 30 of them at 100,000 gas each."""
FLOAT_BONDS = 20
"""Smallest jobs whose bonds a faucet's gift should cover, beside the registration."""

_log = logging.getLogger(__name__)


async def enrol(chain: Chain, identity: Identity, config: WorkerConfig) -> Account:
    """The worker's account: funded, registered with its bond and tied to this peer id.

    Raises:
        InsufficientFunds: money is missing and no faucet may give it; says how much and where to.
        ConfigError: the registration is leaving.
    """
    gateway = chain.gateway
    account = gateway.account
    registration = await chain.run(gateway.worker, account)
    params = await chain.run(gateway.params)
    bond_due = params.worker_bond if registration is None else 0
    await _fund(chain, account, config, bond_due + params.min_job_bond)
    if registration is not None and registration.is_leaving:
        raise ConfigError(
            f"worker {account} has asked to leave the market", fix="tolsey worker start with a new --home"
        )
    peer_id = PeerId(identity.peer_id)
    if registration is None or registration.peer_id != peer_id:
        signature = identity.sign(binding_digest(gateway.domain, account, peer_id))
        await chain.sender.send(
            gateway.action.register_worker(peer_id, signature), action_id=f"register:{account}:{peer_id}"
        )
        _log.info("registered %s as worker, peer %s", account, peer_id)
    return account


async def _fund(chain: Chain, account: Account, config: WorkerConfig, due: int) -> None:
    """Brings the ledger's free balance to `due` at least, from the wallet or the faucet."""
    gateway = chain.gateway
    local = gateway.domain.chain_id == LOCAL_CHAIN_ID
    if await chain.run(gateway.eth_balance, account) < GAS_WEI // 10:
        if not local:
            raise InsufficientFunds(
                f"account {account} holds too little gas money", fix=f"send about 0.1 ether to {account}"
            )
        await chain.run(gateway.give_gas, account, 10 * GAS_WEI)
    free, _ = await chain.run(gateway.account_balance, account)
    if free >= due:
        return
    held = await chain.run(gateway.token_balance, account)
    wanted = due - free
    if held < wanted and (local or config.faucet):
        await chain.sender.send(
            gateway.action.mint(account, wanted * FLOAT_BONDS), action_id=f"mint:{account}:{held}:{free}"
        )
        held = await chain.run(gateway.token_balance, account)
    if held < wanted:
        raise InsufficientFunds(
            f"the bond needs {dollars(due)}: {dollars(free)} are deposited and account {account} holds {dollars(held)}",
            fix=f"send {dollars(wanted - held)} of token {gateway.network.token} to {account}",
        )
    await chain.sender.send(gateway.action.deposit(held), action_id=f"deposit:{account}:{held}:{free}")
