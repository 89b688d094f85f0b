"""A worker's money from the command line: in, out, and the registration bond back.

Each call looks at the chain, sends one transaction without a memory and says what happened; doing it twice is seen on
the chain. It may run beside the worker: the sender of either finds out when the other has used a nonce.
Next in the flow: contracts/actions.py.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from eth_utils.address import is_checksum_formatted_address, to_checksum_address

from tolsey.contracts.gateway import Gateway
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.sender import Sender
from tolsey.contracts.wallet import Keystore, read_passphrase
from tolsey.errors import ConfigError, InsufficientFunds
from tolsey.node.config import dollars
from tolsey.protocol.units import Account, TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the account stands after a call; these names are the keys of `--json`.

    Attributes:
        free, locked: token units in the market.
        bond: locked by the registration; 0 where there is none any more.
        bond_free_at: unix seconds of block time from which the bond can be taken; null unless it is leaving.
        message: what was done, for people.
    """

    account: Account
    free: int
    locked: int
    bond: int
    bond_free_at: int | None
    message: str


def deposit_now(network: Path, home: Path, passphrase_file: Path | None, amount: TokenUnits) -> Outcome:
    """Moves tokens of the worker's account into the market.

    Raises:
        InsufficientFunds: it holds less.
    """
    gateway, account = _open(network, home, passphrase_file)
    held = gateway.token_balance(account)
    if held < amount:
        raise InsufficientFunds(
            f"account {account} holds {dollars(held)}, asked to deposit {dollars(amount)}",
            fix=f"send {dollars(amount - held)} of token {gateway.network.token} to {account}",
        )
    Sender(gateway, None).send_now(gateway.action.deposit(amount))
    return _outcome(gateway, account, f"{account} has {dollars(gateway.account(account)[0])} free in the market")


def withdraw_now(
    network: Path, home: Path, passphrase_file: Path | None, amount: TokenUnits, to: str | None
) -> Outcome:
    """Sends free units out as tokens.

    Raises:
        ConfigError: `to` is no account. InsufficientFunds: less is free; the rest is locked as bonds.
    """
    gateway, account = _open(network, home, passphrase_file)
    receiver = account if to is None else account_of(to)
    free, locked = gateway.account(account)
    if free < amount:
        raise InsufficientFunds(
            f"{dollars(free)} are free, asked to withdraw {dollars(amount)}; {dollars(locked)} are locked as bonds",
            fix=f"tolsey worker withdraw {dollars(free)}",
        )
    Sender(gateway, None).send_now(gateway.action.withdraw(amount, receiver))
    stay = dollars(gateway.account(account)[0])
    return _outcome(gateway, account, f"{dollars(amount)} sent to {receiver}; {stay} stay free in the market")


def leave_now(network: Path, home: Path, passphrase_file: Path | None) -> Outcome:
    """Takes the next step out of the market: the exit request, or the bond once it is free."""
    gateway, account = _open(network, home, passphrase_file)
    registration = gateway.worker(account)
    if registration is None:
        return _outcome(gateway, account, f"{account} is not registered as worker")
    free_at = registration.leaving_since + gateway.params().unbonding_s
    if not registration.leaving_since:
        Sender(gateway, None).send_now(gateway.action.request_worker_exit())
        free_at = gateway.now_ts() + gateway.params().unbonding_s
    elif gateway.now_ts() >= free_at:
        Sender(gateway, None).send_now(gateway.action.withdraw_worker_bond())
        bond = dollars(registration.bond)
        return _outcome(
            gateway, account, f"the bond of {bond} is free in the market; tolsey worker withdraw takes it out"
        )
    when = datetime.datetime.fromtimestamp(free_at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return _outcome(
        gateway,
        account,
        f"{account} is leaving: no new offers are taken, running jobs go on; the bond is free at {when}",
    )


def _outcome(gateway: Gateway, account: Account, message: str) -> Outcome:
    free, locked = gateway.account(account)
    found = gateway.worker(account)
    leaving = found is not None and found.leaving_since
    return Outcome(
        account=account,
        free=free,
        locked=locked,
        bond=0 if found is None else found.bond,
        bond_free_at=leaving + gateway.params().unbonding_s if leaving else None,
        message=message,
    )


def account_of(text: str) -> Account:
    """The checksummed account in what a person typed.

    Raises:
        ConfigError: no account, or its checksum says that a letter is wrong.
    """
    try:
        account = str(to_checksum_address(text))
    except ValueError as error:
        raise ConfigError(f"{text!r} is no account", fix="--to 0x followed by 40 hex digits") from error
    if is_checksum_formatted_address(text) and text != account:
        raise ConfigError(f"{text} has a wrong letter or digit: its checksum does not fit")
    return Account(account)


def _open(network: Path, home: Path, passphrase_file: Path | None) -> tuple[Gateway, Account]:
    if not Keystore.exists(home / "keys"):
        raise ConfigError(f"{home} has no keys yet", fix="tolsey worker start makes them")
    wallet = Keystore.open(home / "keys", read_passphrase(passphrase_file)).wallet
    gateway = Gateway(NetworkFile.load(network), wallet)
    gateway.check_chain()
    return gateway, wallet.account
