"""ERC-2612: a signature in place of a transaction that approves.

The token's EIP-712 domain is made from its `name()` and `version()` and compared with its own DOMAIN_SEPARATOR before
anything is signed: a signature for another domain would cost a transaction to find out. Next: actions.py (`deposit`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eth_abi.exceptions import DecodingError
from eth_utils.abi import function_signature_to_4byte_selector

from tolsey.contracts.abi import decode
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.rpc import RpcRefused
from tolsey.contracts.wallet import Wallet
from tolsey.errors import ConfigError, Reverted
from tolsey.protocol.encoding import address_word, keccak256, word
from tolsey.protocol.offer import DOMAIN_TYPE
from tolsey.protocol.units import Account, TokenUnits

Call = Callable[[Account, bytes, str], bytes]
"""Asks a contract: address, calldata, what for; gives the bytes returned (gateway.Gateway.call)."""

PERMIT_TYPE = b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"


def permit_signature(
    call: Call, network: NetworkFile, wallet: Wallet, spender: Account, amount: TokenUnits, deadline: int
) -> tuple[int, bytes, bytes]:
    """(v, r, s) with which `spender` may take `amount` of the wallet's tokens until `deadline` (unix seconds).

    Raises:
        ConfigError: the token has no permit that we can sign for.
    """
    token = network.token
    try:
        nonce = _ask(call, token, "nonces(address)", "uint256", address_word(wallet.account))
        separator = _separator(call, network.chain_id, token)
    except (RpcRefused, Reverted) as error:
        raise ConfigError(
            f"token {token} takes no permits", fix="approve the market first (gateway.action.approve)"
        ) from error
    struct = keccak256(
        keccak256(PERMIT_TYPE),
        address_word(wallet.account),
        address_word(spender),
        word(amount),
        word(nonce),
        word(deadline),
    )
    signature = wallet.sign_digest(keccak256(b"\x19\x01", separator, struct))
    return signature[64], signature[:32], signature[32:64]


def _separator(call: Call, chain_id: int, token: Account) -> bytes:
    told: bytes = _ask(call, token, "DOMAIN_SEPARATOR()", "bytes32")
    name = _ask(call, token, "name()", "string")
    try:
        versions = [_ask(call, token, "version()", "string")]
    except (RpcRefused, Reverted):
        versions = ["1"]  # OpenZeppelin's ERC20Permit has no version() and signs for "1"
    for version in versions:
        made = keccak256(
            keccak256(DOMAIN_TYPE.encode()),
            keccak256(name.encode()),
            keccak256(version.encode()),
            word(chain_id),
            address_word(token),
        )
        if made == told:
            return made
    raise ConfigError(
        f"token {token} says domain {told.hex()[:16]}, its name {name!r} and version {versions[0]!r} give another",
        fix="approve the market first (gateway.action.approve)",
    )


def _ask(call: Call, token: Account, signature: str, kind: str, *words: bytes) -> Any:
    data = function_signature_to_4byte_selector(signature) + b"".join(words)
    raw = call(token, data, f"ask the token for {signature}")
    try:
        return decode([{"type": kind}], raw)[0]
    except (DecodingError, ValueError, OverflowError) as error:
        raise RpcRefused(-32000, f"{signature} is not answered", None) from error
