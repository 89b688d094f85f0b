"""Makes this verifier known to the market: money, a bond in its profile's pool, and the tie between account and peer.

Each step looks at the chain first and does only what is missing, so that it can run at every start. On a local chain
the faucet pays; anywhere else a missing amount is said with the account to send it to. Amounts are token units. Next
in the flow: service.py.
"""

from __future__ import annotations

import logging

from tolsey.contracts.bindings import binding_digest
from tolsey.contracts.chain import Chain
from tolsey.contracts.deploy import LOCAL_CHAINS
from tolsey.contracts.wallet import Keystore
from tolsey.errors import ConfigError, InsufficientFunds
from tolsey.network.identity import Identity
from tolsey.protocol.encoding import TAG_SEAL, keccak256, tag
from tolsey.protocol.job import EXACT_CLASSES, EXACT_FP32, PINNED, profile_of_class
from tolsey.protocol.units import Account, ClassId, PeerId, TokenUnits
from tolsey.verifier.config import VerifierConfig

GAS_FLOOR_WEI = 10**16
"""Least ETH for fees: some twenty transactions of 200,000 gas at 2 gwei."""
FAUCET_GAS_WEI = 10**18
CHALLENGES = 2
"""Challenge bonds that should be free beside the registration: whoever cannot challenge is no threat to a cheat."""

_log = logging.getLogger(__name__)


async def profile_of(chain: Chain, account: Account, config: VerifierConfig) -> str:
    """The profile to be drawn for: the one that is asked for, else that of a pool which the account has joined, so that
    no start binds a second bond unasked; exact-fp32/1 where it has joined none."""
    if config.profile is not None:
        return config.profile
    for profile, class_id in EXACT_CLASSES.items():
        if await chain.run(chain.gateway.verifier, class_id, account) is not None:
            return profile
    return PINNED if await chain.run(chain.gateway.joined, account) else EXACT_FP32


async def enrol(chain: Chain, keys: Keystore, class_id: ClassId, config: VerifierConfig) -> None:
    """Leaves the wallet's account funded and in the pool of `class_id`, tied to this home's peer id and secret.

    Raises:
        InsufficientFunds: money is missing and no faucet may give it; says how much and where to.
        ConfigError: the registration is leaving, or was made with another secret, or by a machine of another class.
    """
    account, gateway = keys.wallet.account, chain.gateway
    registration = await chain.run(gateway.verifier, class_id, account)
    params = await chain.run(gateway.params)
    secret_hash = keccak256(tag(TAG_SEAL), keys.verifier_secret)
    if registration is not None and registration.leaving_since:
        raise ConfigError(
            f"verifier {account} has asked to leave class {class_id.hex()[:16]} at {registration.leaving_since}",
            fix="start with a new --home, which makes a new account",
        )
    if registration is not None and registration.secret != secret_hash:
        raise ConfigError(
            f"verifier {account} is registered with secret hash {registration.secret.hex()[:16]}, "
            f"the keys of this home give {secret_hash.hex()[:16]}",
            fix="restore the keys of the time of registration, or start with a new --home",
        )
    if registration is None and profile_of_class(class_id) == PINNED:
        await _refuse_two_machines(chain, account, class_id)
    bond = params.verifier_bond if registration is None else 0
    await fund(chain, account, config, bond + CHALLENGES * params.challenge_bond, needed=bond)
    if registration is None:
        identity = Identity(keys.peer_key)
        peer_id = PeerId(identity.peer_id)
        signature = identity.sign(binding_digest(gateway.domain, account, peer_id))
        action = gateway.action.register_verifier(class_id, secret_hash, peer_id, signature)
        await chain.run(chain.sender.send_now, action)
        _log.info("registered %s as verifier of class %s, peer %s", account, class_id.hex()[:16], peer_id)


async def _refuse_two_machines(chain: Chain, account: Account, class_id: ClassId) -> None:
    """Raises ConfigError where the account has bound a bond for `pinned` jobs of machines that this one is not."""
    joined = await chain.run(chain.gateway.joined, account)
    before = [known.hex()[:16] for known in joined if profile_of_class(known) == PINNED]
    if before:
        raise ConfigError(
            f"verifier {account} is registered for pinned jobs of class {', '.join(before)}, this machine is of class "
            f"{class_id.hex()[:16]}: PyTorch or the CPU is another one, and a second bond would be bound",
            fix="start it where it was registered, or tolsey verifier leave and start with a new --home",
        )


async def fund(chain: Chain, account: Account, config: VerifierConfig, wished: int, *, needed: int) -> None:
    """Brings the account's free units to `wished` if it can, at least to `needed`."""
    gateway = chain.gateway
    is_local = gateway.network.chain_id in LOCAL_CHAINS
    if await chain.run(gateway.eth_balance, account) < GAS_FLOOR_WEI:
        if not is_local:
            raise InsufficientFunds(
                f"account {account} holds too little ETH for fees", fix=f"send about 0.1 ETH to {account}"
            )
        await chain.run(gateway.rpc.call, "anvil_setBalance", account, hex(FAUCET_GAS_WEI))
    free, _ = await chain.run(gateway.account, account)
    if free >= wished:
        return
    held = await chain.run(gateway.token_balance, account)
    if free + held < wished and (is_local or config.faucet):
        await chain.run(chain.sender.send_now, gateway.action.mint(TokenUnits(wished - free - held)))
        held = await chain.run(gateway.token_balance, account)
    if free + held < needed:
        raise InsufficientFunds(
            f"the bond needs {needed} token units: account {account} has {free} free in the market and holds {held}",
            fix=f"send {needed - free - held} units of token {gateway.network.token} to {account}, and start again",
        )
    if held:
        amount = TokenUnits(min(held, wished - free))
        deposit = await chain.run(gateway.action.deposit, amount)
        await chain.run(chain.sender.send_now, deposit)
    if free + held < wished:
        _log.warning(
            "only %d token units for challenges, %d are wished for: faults may be found that cannot be challenged",
            free + held - needed, wished - needed,
        )  # fmt: skip
