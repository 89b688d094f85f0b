"""Ties a chain account to a libp2p peer: the digest that the peer's Ed25519 key signs at registration.

The account signs by sending the registering transaction, the peer by this digest; a later `setPeer` with a new
signature replaces the old pair. Anybody may then check both directions from the log alone (docs/protocol.md section
2). Signing and checking Ed25519 is network/identity.py's affair. Next in the flow: gateway.py (`register_worker`).
"""

from __future__ import annotations

from tolsey.protocol.encoding import TAG_BINDING, address_word, keccak256, tag, word
from tolsey.protocol.offer import Domain
from tolsey.protocol.units import Account, PeerId


def binding_digest(domain: Domain, account: Account, peer_id: PeerId) -> bytes:
    """The 32 bytes a peer signs to say that it belongs to `account` on this market."""
    return keccak256(
        tag(TAG_BINDING),
        word(domain.chain_id),
        address_word(domain.market),
        address_word(account),
        keccak256(peer_id.encode()),
    )
