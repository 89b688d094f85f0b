"""Makes this worker known to the market: money, a bond, and the tie between its account and its peer id.

Each step looks at the chain first and does only what is missing, so that it runs at every start. On a local chain the
faucet pays; anywhere else a missing amount is said with the account to send it to. Amounts are token units.
Next in the flow: service.py.
"""

from __future__ import annotations

import logging

from tolsey.contracts.amounts import DOLLAR_UNITS, dollars
from tolsey.contracts.bindings import binding_digest
from tolsey.contracts.chain import Chain
from tolsey.contracts.deploy import LOCAL_CHAINS
from tolsey.contracts.wallet import Wallet
from tolsey.errors import ConfigError, InsufficientFunds
from tolsey.network.identity import Identity
from tolsey.node.config import WorkerConfig
from tolsey.node.registry import Registry
from tolsey.protocol.units import Account, PeerId, TokenUnits

GAS_FLOOR_WEI = 10**16
"""About 50 transactions of 100,000 gas at 2 gwei; a job of ten windows needs some 30."""
FAUCET_GAS_WEI = 10**20
FAUCET_UNITS = 10_000 * DOLLAR_UNITS
"""What a local chain's faucet gives at once: the registration bond and the bonds of many small jobs."""

_log = logging.getLogger(__name__)


async def enrol(chain: Chain, wallet: Wallet, identity: Identity, registry: Registry, config: WorkerConfig) -> bool:
    """Leaves the wallet's account funded, registered with its bond and tied to this peer id; whether it may offer.

    A worker that has asked to leave may not, but it must run to end the jobs it has.

    Raises:
        InsufficientFunds: money is missing and no faucet may give it; says how much and where to.
        ConfigError: the registration names another peer.
    """
    account, gateway, peer_id = wallet.account, chain.gateway, PeerId(identity.peer_id)
    registration = await chain.run(gateway.worker, account)
    if registration is not None and registration.leaving_since:
        _log.warning("%s has asked to leave the market: running jobs are ended, no new ones taken", account)
        return False
    params = await chain.run(gateway.params)
    registration_bond = params.worker_bond if registration is None else 0
    await _fund(chain, account, config, registration_bond + params.min_job_bond)
    if registration is None:
        signature = identity.sign(binding_digest(gateway.domain, account, peer_id))
        action = gateway.action.register_worker(peer_id, signature)
        await chain.sender.send(action, action_id=f"register-worker:{account}:{peer_id}")
        _log.info("registered %s as worker, peer %s", account, peer_id)
    elif (known := await registry.peer_of(account)) != peer_id:
        raise ConfigError(
            f"worker {account} is registered as peer {known}, the keys of this home give {peer_id}",
            fix="restore secrets.json of the time of registration, or start with a new --home",
        )
    return True


async def _fund(chain: Chain, account: Account, config: WorkerConfig, due: int) -> None:
    """Brings the account's free units in the market to `due` at least, from its own tokens or the faucet."""
    gateway = chain.gateway
    faucet = gateway.network.chain_id in LOCAL_CHAINS or config.faucet
    if await chain.run(gateway.eth_balance, account) < GAS_FLOOR_WEI:
        if gateway.network.chain_id not in LOCAL_CHAINS:
            raise InsufficientFunds(
                f"account {account} holds too little ETH for fees", fix=f"send about 0.1 ETH to {account}"
            )
        await chain.run(gateway.rpc.call, "anvil_setBalance", account, hex(FAUCET_GAS_WEI))
    free, _ = await chain.run(gateway.account, account)
    if free >= due:
        return
    held = await chain.run(gateway.token_balance, account)
    if free + held < due and faucet:
        await chain.run(chain.sender.send_now, gateway.action.mint(TokenUnits(FAUCET_UNITS)))
        held = await chain.run(gateway.token_balance, account)
    if free + held < due:
        raise InsufficientFunds(
            f"bonds need {dollars(due)}: account {account} has {dollars(free)} free in the market and holds "
            f"{dollars(held)}",
            fix=f"send {dollars(due - free - held)} of token {gateway.network.token} to {account}, and start again",
        )
    deposit = await chain.run(gateway.action.deposit, held)
    await chain.run(chain.sender.send_now, deposit)
    _log.info("deposited %s", dollars(held))
