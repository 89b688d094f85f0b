"""The money of a worker or a verifier from the command line: in, out, and the bond back.

Each call looks at the chain, sends what is due without a memory and says how the account stands; doing it twice is seen
on the chain. It may run beside the worker or verifier: the sender of either finds out when the other has used a nonce.
Next in the flow: actions.py.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eth_utils.address import is_checksum_formatted_address, to_checksum_address

from tolsey.contracts.actions import Action
from tolsey.contracts.amounts import dollars
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.sender import Sender
from tolsey.contracts.views import Registration
from tolsey.contracts.wallet import Keystore, read_passphrase
from tolsey.errors import ChainError, ConfigError, InsufficientFunds
from tolsey.protocol.units import Account, TokenUnits

Role = Literal["worker", "verifier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the account stands after a call; these names are the keys of `--json`.

    Attributes:
        free, locked: token units in the market.
        bond: locked by registrations; 0 where there is none any more.
        bond_free_at: unix seconds of block time from which all of it can be taken; null unless it is leaving.
        message: what was done, for people.
    """

    account: Account
    free: int
    locked: int
    bond: int
    bond_free_at: int | None
    message: str


class Purse:
    """The account of one home.

    Raises:
        ConfigError: no keys, or a wrong passphrase. ChainUnavailable: no chain, or another one.
    """

    def __init__(self, network: Path, home: Path, passphrase_file: Path | None, role: Role) -> None:
        if not Keystore.exists(home / "keys"):
            raise ConfigError(f"{home} has no keys yet", fix=f"tolsey {role} start makes them")
        self._keys = Keystore.open(home / "keys", read_passphrase(passphrase_file))
        self._gateway = Gateway(NetworkFile.load(network), self._keys.wallet)
        self._gateway.check_chain()
        self._account, self._role = self._keys.wallet.account, role

    def deposit(self, amount: TokenUnits) -> Outcome:
        """Moves tokens of the account into the market.

        Raises:
            InsufficientFunds: it holds less.
        """
        held = self._gateway.token_balance(self._account)
        if held < amount:
            raise InsufficientFunds(
                f"account {self._account} holds {dollars(held)}, asked to deposit {dollars(amount)}",
                fix=f"send {dollars(amount - held)} of token {self._gateway.network.token} to {self._account}",
            )
        self._send(self._gateway.action.deposit(amount))
        free, _ = self._gateway.account(self._account)
        return self._outcome(f"{self._account} has {dollars(free)} free in the market")

    def withdraw(self, amount: TokenUnits, to: str | None) -> Outcome:
        """Sends free units out as tokens.

        Raises:
            ConfigError: `to` is no account. InsufficientFunds: less is free; the rest is locked as bonds.
        """
        receiver = self._account if to is None else account_of(to)
        free, locked = self._gateway.account(self._account)
        if free < amount:
            raise InsufficientFunds(
                f"{dollars(free)} are free, asked to withdraw {dollars(amount)}; {dollars(locked)} are locked as bonds",
                fix=f"tolsey {self._role} withdraw {dollars(free)}",
            )
        self._send(self._gateway.action.withdraw(amount, receiver))
        stay, _ = self._gateway.account(self._account)
        return self._outcome(f"{dollars(amount)} sent to {receiver}; {dollars(stay)} stay free in the market")

    def leave(self) -> Outcome:
        """Takes the next step out of the market: the exit request, or the bond once it is free."""
        places = list(self._places())
        if not places:
            return self._outcome(f"{self._account} is not registered as {self._role}")
        taken, unbonding_s = 0, self._gateway.params().unbonding_s
        for place, request_exit, take_bond in places:
            if not place.leaving_since:
                self._send(request_exit)
            elif self._gateway.now_ts() >= place.leaving_since + unbonding_s:
                self._send(take_bond)
                taken += place.bond
        outcome = self._outcome("")
        message = ""
        if taken or outcome.bond_free_at is None:
            message = f"the bond of {dollars(taken)} is free in the market; tolsey {self._role} withdraw takes it out"
        else:
            when = datetime.datetime.fromtimestamp(outcome.bond_free_at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
            begun = {"worker": "no new offers are taken, running jobs go on", "verifier": "duties it has go on"}
            message = f"{self._account} is leaving: {begun[self._role]}; the bond is free at {when}"
        return self._outcome(message)

    def _places(self) -> Iterator[tuple[Registration, Action, Action]]:
        """Each registration of the account, and the calls that end it: a verifier has one in every class it joined."""
        gateway, account = self._gateway, self._account
        if self._role == "worker":
            if (found := gateway.worker(account)) is not None:
                yield found, gateway.action.request_worker_exit(), gateway.action.withdraw_worker_bond()
            return
        for class_id, found in gateway.joined(account).items():
            leave = gateway.action.request_verifier_exit(class_id, self._keys.verifier_secret)
            yield found, leave, gateway.action.withdraw_verifier_bond(class_id)

    def _send(self, action: Action) -> None:
        Sender(self._gateway, None).send_now(action)

    def _outcome(self, message: str) -> Outcome:
        free, locked = self._gateway.account(self._account)
        places = [place for place, _, _ in self._places()]
        leaving = [place.leaving_since for place in places]
        return Outcome(
            account=self._account,
            free=free,
            locked=locked,
            bond=sum(place.bond for place in places),
            bond_free_at=max(leaving) + self._gateway.params().unbonding_s if leaving and all(leaving) else None,
            message=message,
        )


def money_of(network: Path, account: str | None) -> dict[str, int] | None:
    """What an account has free, locked and as tokens, token units; None where the chain cannot be asked."""
    if account is None:
        return None
    gateway = Gateway(NetworkFile.load(network), None)
    try:
        free, locked = gateway.account(Account(account))
        return {"free": free, "locked": locked, "tokens": gateway.token_balance(Account(account))}
    except ChainError:
        return None


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
