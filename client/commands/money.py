"""`tolsey wallet`: the client's account and its money."""

from __future__ import annotations

from pathlib import Path

import typer

from tolsey.client import render, views
from tolsey.client.commands import shared
from tolsey.client.market import Market
from tolsey.client.views import AddressView, WalletView

app = typer.Typer()
wallet = typer.Typer(
    help="Create, show and fund the wallet; deposit to and withdraw from the market.", no_args_is_help=True
)
app.add_typer(wallet, name="wallet")


@app.callback()
def _group() -> None:
    """Keeps `wallet` a group of its own."""


@wallet.command("create")
def create(
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
    passphrase_file: Path | None = shared.PASSPHRASE_FILE,
) -> None:
    """Make the client's keys, encrypted with a passphrase."""
    market = shared.open_market(network, home, passphrase_file)
    _show(market, market.wallet_create(), json_output)


@wallet.command("show")
def show(
    json_output: bool = shared.JSON, network: Path | None = shared.NETWORK, home: Path | None = shared.HOME
) -> None:
    """Show the account and what it holds where."""
    market = shared.open_market(network, home)
    _show(market, market.wallet(), json_output)


@wallet.command("address")
def address(
    json_output: bool = shared.JSON, network: Path | None = shared.NETWORK, home: Path | None = shared.HOME
) -> None:
    """Print the account alone, for scripts."""
    account = shared.open_market(network, home).access.account
    print(views.dumps(AddressView(account=account)) if json_output else account)


@wallet.command("deposit")
def deposit(
    amount: str = typer.Argument(..., help="Such as 12.50."),
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
    passphrase_file: Path | None = shared.PASSPHRASE_FILE,
) -> None:
    """Move tokens from the wallet into the market (`run` does it by itself)."""
    market = shared.open_market(network, home, passphrase_file)
    _show(market, market.deposit(amount), json_output)


@wallet.command("withdraw")
def withdraw(
    amount: str = typer.Argument(..., help="Such as 12.50."),
    to: str | None = typer.Option(None, "--to", help="Another account; the wallet itself by default."),
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
    passphrase_file: Path | None = shared.PASSPHRASE_FILE,
) -> None:
    """Move free money out of the market."""
    market = shared.open_market(network, home, passphrase_file)
    _show(market, market.withdraw(amount, to=to), json_output)


@wallet.command("faucet")
def faucet(
    json_output: bool = shared.JSON,
    network: Path | None = shared.NETWORK,
    home: Path | None = shared.HOME,
    passphrase_file: Path | None = shared.PASSPHRASE_FILE,
) -> None:
    """Take test dollars and gas; local chains only."""
    market = shared.open_market(network, home, passphrase_file)
    _show(market, market.faucet(), json_output)


def _show(market: Market, view: WalletView, json_output: bool) -> None:
    shared.show(view, json_output, render.wallet(view, market.access.money))
