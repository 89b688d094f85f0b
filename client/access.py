"""What every verb of the client works with: the network file, the chain, the keys, the tables, the contents.

Each is opened when first asked for, because most verbs need few of them: `tolsey offers` needs no passphrase,
`tolsey audit --all` no database. It refuses a chain that is not the one in the network file before anything else is
done. Next in the flow: market.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from tolsey.client.config import Settings, up_again
from tolsey.client.money import Money
from tolsey.client.records import Purchases
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.wallet import PASSPHRASE_VARIABLE, Keystore, Wallet, read_passphrase
from tolsey.errors import ChainUnavailable, ConfigError, StorageError
from tolsey.network.identity import Identity
from tolsey.protocol.encoding import keccak256
from tolsey.protocol.units import Account
from tolsey.storage.blobs import BlobStore
from tolsey.storage.engine import Database

RPC_TIMEOUT_S = 10
QUOTA_BYTES = 64 << 30
"""Of one purchase: the inputs that it serves."""


class Access:
    """Opened lazily; holds nothing that must be closed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.network = NetworkFile.load(settings.network_path)

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
        try:
            gateway.check_chain()
        except ChainUnavailable as error:
            error.fix = up_again(self.settings.network_path) or error.fix
            raise
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
        return checksummed(address)

    @cached_property
    def wallet(self) -> Wallet:
        """The unlocked account; asks for the passphrase once.

        Raises:
            ConfigError: there is no wallet, or the passphrase is another one.
        """
        if not Keystore.exists(self.keys_folder):
            raise ConfigError(f"no wallet in {self.keys_folder}", fix="tolsey wallet create")
        passphrase = read_passphrase(self.settings.passphrase_file)
        opened = Wallet.load(self.keys_folder / "wallet.json", passphrase)
        self.__dict__["_passphrase"] = passphrase
        return opened

    def passphrase_environment(self) -> dict[str, str]:
        """What a child process needs to open the same keys without a terminal."""
        passphrase = self.__dict__.get("_passphrase")
        return {} if passphrase is None else {PASSPHRASE_VARIABLE: passphrase}

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
    def money(self) -> Money:
        """How the market's token is written."""
        symbol, decimals = self.reader.token_name()
        return Money(decimals=decimals, symbol=symbol[:8])

    def folder_of(self, peer_key: bytes) -> Path:
        """Where one purchase keeps its inputs and its outbox; one process at a time (storage/lock.py)."""
        return self.home / "purchases" / Identity(peer_key).peer_id[-16:]

    @contextmanager
    def blobs_of(self, peer_key: bytes) -> Iterator[BlobStore]:
        """The contents of one purchase.

        Raises:
            StorageError: another process serves them.
        """
        try:
            store = BlobStore(self.folder_of(peer_key) / "blobs", QUOTA_BYTES)
        except StorageError as cause:
            if "in use by" not in cause.message:
                raise
            raise StorageError(
                f"another process follows this job already: {cause.message}",
                fix="tolsey logs -f JOB, or tolsey wait JOB",
            ) from cause
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def outbox_of(self, peer_key: bytes) -> Iterator[Database]:
        """The transactions of one purchase.

        Raises:
            StorageError: another process follows this job.
        """
        database = Database.open(self.folder_of(peer_key) / "outbox.sqlite")
        try:
            yield database
        finally:
            database.close()


def checksummed(address: str) -> Account:
    """The EIP-55 form of an address with or without 0x.

    Raises:
        ConfigError: not 20 bytes of hex.
    """
    text = str(address).lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{40}", text):
        raise ConfigError(f"{address!r} is no account: 0x and 40 hex digits are due")
    digest = keccak256(text.encode()).hex()
    return Account("0x" + "".join(c.upper() if int(d, 16) > 7 else c for c, d in zip(text, digest, strict=False)))
