"""What every verb of the client works with: the network file, the chain, the keys, the tables, the contents.

Each is opened when first asked for, because most verbs need few of them: `tolsey offers` needs no passphrase,
`tolsey audit --all` no database. It refuses a chain that is not the one in the network file before anything else is
done. Next in the flow: market.py.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

from tolsey.client.config import Settings
from tolsey.client.money import Money
from tolsey.client.records import Purchases
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.wallet import Keystore, Wallet, read_passphrase
from tolsey.errors import ConfigError
from tolsey.protocol.units import Account
from tolsey.storage.blobs import BlobStore

RPC_TIMEOUT_S = 10
QUOTA_BYTES = 64 << 30
"""Of the client's own contents: inputs that it serves and checkpoints that it fetched."""


class Access:
    """Opened lazily; holds nothing that must be closed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.network = NetworkFile.load(settings.network_path)
        self.money = Money()

    @property
    def home(self) -> Path:
        """The client's folder."""
        return self.settings.home

    @cached_property
    def reader(self) -> Gateway:
        """The chain without a wallet: reads only.

        Raises:
            ChainUnavailable: the endpoint is down, on another chain, or without our contracts.
        """
        gateway = Gateway(self.network, None, timeout_s=RPC_TIMEOUT_S)
        gateway.check_chain()
        return gateway

    @property
    def keys_folder(self) -> Path:
        """Where the wallet lies."""
        return self.home / "keys"

    @cached_property
    def account(self) -> Account:
        """The client's account, read from the key file without opening it.

        Raises:
            ConfigError: there is no wallet yet.
        """
        path = self.keys_folder / "wallet.json"
        try:
            address = json.loads(path.read_text())["address"]
        except FileNotFoundError as cause:
            raise ConfigError(f"no wallet in {self.keys_folder}", fix="tolsey wallet create") from cause
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ConfigError(f"{path} is no key file: {cause}") from cause
        return Account(Gateway.checksummed(address))

    @cached_property
    def wallet(self) -> Wallet:
        """The unlocked account; asks for the passphrase once.

        Raises:
            ConfigError: there is no wallet, or the passphrase is another one.
        """
        if not Keystore.exists(self.keys_folder):
            raise ConfigError(f"no wallet in {self.keys_folder}", fix="tolsey wallet create")
        return Wallet.load(self.keys_folder / "wallet.json", read_passphrase(self.settings.passphrase_file))

    @cached_property
    def writer(self) -> Gateway:
        """The chain with the wallet."""
        self.reader  # noqa: B018  # checks the chain before a passphrase is asked for
        return Gateway(self.network, self.wallet, timeout_s=RPC_TIMEOUT_S)

    @cached_property
    def purchases(self) -> Purchases:
        """The buyer's table."""
        return Purchases(self.home / "client.sqlite")

    @cached_property
    def blobs(self) -> BlobStore:
        """Inputs to serve and checkpoints fetched."""
        return BlobStore(self.home / "blobs", quota_bytes=QUOTA_BYTES)
