"""Who this node is on the network: an Ed25519 key, its peer id, and signatures that others can check by the id alone.

The key is never the wallet's: it sits in a hot process and signs handshakes that peers choose. The binding of peer id
and account is protocol's business; this file only signs and verifies bytes. Next in the flow: host.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEY_BYTES = 32
# Identity multihash (0x00, length 36) of the protobuf PublicKey{Type: Ed25519 (1), Data: 32 bytes}.
# Source: libp2p specs, peer-ids/peer-ids.md.
_PREFIX = bytes.fromhex("0024080112 20".replace(" ", ""))


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's key pair.

    Attributes:
        key: the 32-byte Ed25519 seed; secret, and never printed.
    """

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"an Ed25519 key has {KEY_BYTES} bytes, this has {len(self.key)}")

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @classmethod
    def generate(cls) -> Identity:
        """A new key from the system's random source."""
        return cls(os.urandom(KEY_BYTES))

    @property
    def peer_id(self) -> str:
        """The base58 libp2p peer id, `12D3Koo…`."""
        public = Ed25519PrivateKey.from_private_bytes(self.key).public_key()
        return base58.b58encode(_PREFIX + public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()

    def sign(self, raw: bytes) -> bytes:
        """A 64-byte Ed25519 signature over `raw`; the caller puts a domain tag in front."""
        return Ed25519PrivateKey.from_private_bytes(self.key).sign(raw)


def verify_peer_signature(peer_id: str, raw: bytes, signature: bytes) -> bool:
    """Whether the Ed25519 key inside `peer_id` signed `raw`; False for anything malformed."""
    public = _public_key(peer_id)
    if public is None or len(signature) != 64:
        return False
    try:
        public.verify(signature, raw)
    except InvalidSignature:
        return False
    return True


def is_peer_id(text: str) -> bool:
    """Whether `text` is the base58 id of an Ed25519 key."""
    return _public_key(text) is not None


def _public_key(peer_id: str) -> Ed25519PublicKey | None:
    if len(peer_id) > 64:
        return None
    try:
        raw = base58.b58decode(peer_id)
    except ValueError:
        return None
    if len(raw) != len(_PREFIX) + 32 or not raw.startswith(_PREFIX):
        return None
    return Ed25519PublicKey.from_public_bytes(raw[len(_PREFIX) :])
