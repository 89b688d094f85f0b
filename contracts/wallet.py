"""The keys of one participant: its chain account, its peer key and its verifier secret, encrypted at rest.

- `Wallet` signs transactions and EIP-712 digests; it lies on disk as the usual V3 key file (scrypt), so that any other
  wallet can open it.
- `Keystore` is a folder with such a wallet and one sealed file for the two secrets that are not chain keys.

It refuses signatures that a contract would refuse (length, high s, v), never prints a key, and never asks twice for a
passphrase. Next in the flow: gateway.py.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from eth_account import Account as EthAccount
from eth_account.signers.local import LocalAccount
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_typing import Hash32
from eth_utils.exceptions import ValidationError

from tolsey.errors import ConfigError, RemoteViolation
from tolsey.protocol.units import Account

SCRYPT_N = 1 << 17
"""Cost of a guess: 128 MiB and about half a second (OWASP password storage sheet, scrypt: N = 2^17, r = 8, p = 1)."""
MAX_KEY_FILE_BYTES = 16_384
PASSPHRASE_VARIABLE = "TOLSEY_PASSPHRASE"
_HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2
_WALLET_NAME, _SECRETS_NAME = "wallet.json", "secrets.json"


class Wallet:
    """An unlocked chain account; safe to share between threads.

    Attributes:
        account: its checksummed address.
    """

    def __init__(self, key: LocalAccount) -> None:
        self._key = key
        self.account = Account(str(key.address))

    def sign_digest(self, digest: bytes) -> bytes:
        """65 bytes r ‖ s ‖ v over a 32-byte digest; v is 27 or 28 and s is low, as OpenZeppelin's ECDSA demands."""
        if len(digest) != 32:
            raise ValueError(f"a digest has 32 bytes, not {len(digest)}")
        return bytes(self._key.unsafe_sign_hash(Hash32(digest)).signature)

    def sign_transaction(self, fields: dict[str, Any]) -> bytes:
        """The raw signed transaction for complete web3-style fields (nonce, gas, fees and chainId included)."""
        return bytes(self._key.sign_transaction(fields).raw_transaction)

    @staticmethod
    def from_private_key(private_key: bytes) -> Wallet:
        """The wallet of a 32-byte secp256k1 key."""
        return Wallet(EthAccount.from_key(private_key))

    @staticmethod
    def create(path: Path, passphrase: str, *, scrypt_n: int = SCRYPT_N) -> Wallet:
        """A new account, stored at `path` (mode 0600).

        Raises:
            ConfigError: the file exists already.
        """
        key = EthAccount.create()
        content = EthAccount.encrypt(key.key, passphrase, kdf="scrypt", iterations=scrypt_n)
        _write_new(path, json.dumps(content, indent=1).encode() + b"\n")
        return Wallet(key)

    @staticmethod
    def load(path: Path, passphrase: str) -> Wallet:
        """The account in a V3 key file.

        Raises:
            ConfigError: no such file, no key file, or the passphrase is another one.
        """
        content = _read_json(path)
        try:
            key = EthAccount.decrypt(content, passphrase)
        except ValueError as error:
            if "MAC" in str(error):
                raise _wrong_passphrase(path) from error
            raise ConfigError(f"{path} is no V3 key file: {error}") from error
        except (KeyError, TypeError, NotImplementedError) as error:
            raise ConfigError(f"{path} is no V3 key file: {error}") from error
        return Wallet(EthAccount.from_key(key))


def recover(digest: bytes, signature: bytes) -> Account:
    """The account that made this signature over `digest`.

    Raises:
        RemoteViolation: not 65 bytes, v is not 27 or 28, s is high, or no key fits.
    """
    if len(signature) != 65:
        raise RemoteViolation(f"signature of {len(signature)} bytes, 65 are due", evidence=signature[:256])
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    if v not in (27, 28):
        raise RemoteViolation(f"signature with v = {v}, 27 or 28 is due", evidence=signature)
    if s > _HALF_ORDER:
        raise RemoteViolation("signature with a high s (it has a twin)", evidence=signature)
    try:
        key = Signature(vrs=(v - 27, r, s)).recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError, ValueError) as error:
        raise RemoteViolation(f"no key made this signature: {error}", evidence=signature) from error
    return Account(key.to_checksum_address())


@dataclass(frozen=True, slots=True)
class Keystore:
    """All keys of one participant.

    Attributes:
        folder: where they lie.
        wallet: the chain account.
        peer_key: 32-byte Ed25519 seed of the libp2p identity.
        verifier_secret: 32 bytes; its hash is registered, all verifier salts follow from it.
    """

    folder: Path
    wallet: Wallet
    peer_key: bytes
    verifier_secret: bytes

    @staticmethod
    def open(folder: Path, passphrase: str, *, scrypt_n: int = SCRYPT_N) -> Keystore:
        """The keys in `folder`, made on first use.

        Args:
            scrypt_n: cost for files made now; existing files say their own.

        Raises:
            ConfigError: wrong passphrase, or a file that is not ours.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        wallet_path, secrets_path = folder / _WALLET_NAME, folder / _SECRETS_NAME
        if wallet_path.exists():
            wallet = Wallet.load(wallet_path, passphrase)
        elif secrets_path.exists():
            raise ConfigError(
                f"{folder} holds {_SECRETS_NAME} but no {_WALLET_NAME}", fix="restore it from your backup"
            )
        else:
            wallet = Wallet.create(wallet_path, passphrase, scrypt_n=scrypt_n)
        if not secrets_path.exists():
            _write_new(secrets_path, _seal(secrets.token_bytes(64), passphrase, scrypt_n))
        opened = _unseal(secrets_path, passphrase)
        return Keystore(folder, wallet, opened[:32], opened[32:])

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether `open` would find keys and not make them."""
        return (folder / _WALLET_NAME).exists()

    def with_new_verifier_secret(self, passphrase: str, *, scrypt_n: int = SCRYPT_N) -> Keystore:
        """The same keys with a fresh verifier secret: an exit reveals the old one, so it never serves again.

        The old file stays beside the new one under the first free number.
        """
        path = self.folder / _SECRETS_NAME
        fresh = secrets.token_bytes(32)
        number = 1
        while (old := path.with_suffix(f".{number}.json")).exists():
            number += 1
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        _write_new(part, _seal(self.peer_key + fresh, passphrase, scrypt_n))
        os.link(path, old)
        os.replace(part, path)
        return Keystore(self.folder, self.wallet, self.peer_key, fresh)


def read_passphrase(file: Path | None = None, *, confirm: bool = False) -> str:
    """The passphrase from $TOLSEY_PASSPHRASE, else the first line of `file`, else asked for at the terminal.

    Args:
        confirm: ask twice, for a key that is about to be made.

    Raises:
        ConfigError: nothing is set and there is no terminal, the file is unreadable, or the two entries differ.
    """
    from_environment = os.environ.get(PASSPHRASE_VARIABLE)
    if from_environment is not None:
        return from_environment
    if file is not None:
        try:
            return file.read_text().split("\n", 1)[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"passphrase file {file} cannot be read: {error}") from error
    if not sys.stdin.isatty():
        raise ConfigError("no passphrase: there is no terminal to ask at", fix=f"export {PASSPHRASE_VARIABLE}=...")
    passphrase = getpass.getpass("passphrase: ")
    if confirm and getpass.getpass("once more: ") != passphrase:
        raise ConfigError("the two passphrases differ")
    return passphrase


def _seal(plain: bytes, passphrase: str, scrypt_n: int) -> bytes:
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    key = Scrypt(salt=salt, length=32, n=scrypt_n, r=8, p=1).derive(passphrase.encode())
    sealed = AESGCM(key).encrypt(nonce, plain, b"tolsey/secrets/1")
    content = {
        "version": 1,
        "kdf": {"name": "scrypt", "n": scrypt_n, "r": 8, "p": 1, "salt": salt.hex()},
        "cipher": {"name": "aes-256-gcm", "nonce": nonce.hex(), "text": sealed.hex()},
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def _unseal(path: Path, passphrase: str) -> bytes:
    content = _read_json(path)
    try:
        if content["version"] != 1:
            raise ConfigError(f"{path} has version {content['version']}, this program reads 1")
        kdf, cipher = content["kdf"], content["cipher"]
        n = int(kdf["n"])
        if not 1 < n <= 1 << 20:
            raise ConfigError(f"{path} asks for scrypt n = {n}, at most 2^20 is accepted")
        key = Scrypt(salt=bytes.fromhex(kdf["salt"]), length=32, n=n, r=8, p=1).derive(passphrase.encode())
        plain = AESGCM(key).decrypt(bytes.fromhex(cipher["nonce"]), bytes.fromhex(cipher["text"]), b"tolsey/secrets/1")
    except InvalidTag as error:
        raise _wrong_passphrase(path) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is no secrets file: {error!r}") from error
    if len(plain) != 64:
        raise ConfigError(f"{path} holds {len(plain)} bytes of secrets, 64 are due")
    return plain


def _wrong_passphrase(path: Path) -> ConfigError:
    return ConfigError(
        f"the passphrase does not open {path}",
        fix=f"set {PASSPHRASE_VARIABLE} to the one that the file was made with",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be read: {error.strerror}") from error
    try:
        content = json.loads(raw) if len(raw) <= MAX_KEY_FILE_BYTES else None
    except ValueError as error:
        raise ConfigError(f"key file {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"key file {path} is no JSON object of at most {MAX_KEY_FILE_BYTES} bytes")
    return content


def _write_new(path: Path, raw: bytes) -> None:
    """Writes a file that did not exist, readable by its owner only, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # fails where the name is taken, unlike rename
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already; a key is never overwritten") from error
    finally:
        part.unlink()
