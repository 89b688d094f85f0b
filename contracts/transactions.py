"""The parts of which a transaction is made: nonce, gas, fees, signature; and its receipt.

Each step is one function without memory; sender.py puts them together and remembers. Fees are EIP-1559: twice the base
fee (it can rise by an eighth a block, so this lasts about six full blocks) plus the tip that the node suggests; what
is not needed is not charged. Next in the flow: sender.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes

from tolsey.contracts.actions import Action
from tolsey.contracts.blocks import Blocks
from tolsey.contracts.events import Event
from tolsey.contracts.reverts import from_revert_data
from tolsey.contracts.rpc import Rpc, RpcRefused
from tolsey.contracts.wallet import Wallet
from tolsey.errors import ChainError, ChainUnavailable, ConfigError, InsufficientFunds, Reverted
from tolsey.protocol.encoding import keccak256
from tolsey.protocol.units import Account

GAS_MARGIN_PERCENT = 20
"""Above the estimate: state may change before the block (a first write costs 17,100 gas more than a second)."""
BUMP_PERCENT = 25
"""By how much a replacement pays more; nodes ask for 10 (geth) to 12.5."""
DEFAULT_TIP_WEI = 10**9
_MINED_ALREADY = ("nonce too low", "already been used", "nonce is too low")
_KNOWN = ("already known", "already imported", "known transaction", "transaction already")
_UNDERPRICED = ("underpriced", "fee too low", "max fee per gas less than")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """EIP-1559 fees, wei per gas."""

    max_fee_wei: int
    tip_wei: int

    def bumped(self, current: Fees) -> Fees:
        """Enough to replace a transaction that paid `self`, and enough for now."""
        return Fees(
            max_fee_wei=max(self.max_fee_wei * (100 + BUMP_PERCENT) // 100 + 1, current.max_fee_wei),
            tip_wei=max(self.tip_wei * (100 + BUMP_PERCENT) // 100 + 1, current.tip_wei),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A transaction ready to be sent."""

    raw: bytes
    tx_hash: bytes
    nonce: int
    gas: int
    fees: Fees


@dataclass(frozen=True, slots=True, kw_only=True)
class TxReceipt:
    """A mined transaction of ours.

    Attributes:
        succeeded: False where it was mined and reverted. fee_wei: what it cost in the chain's coin.
        contract: what it created, or None. events: our contracts' logs in it.
    """

    tx_hash: bytes
    block_number: int
    block_hash: bytes
    succeeded: bool
    gas_used: int
    fee_wei: int
    contract: Account | None
    events: tuple[Event, ...]


class NonceTaken(Exception):
    """Another transaction of this account with this nonce is mined already."""


class Underpriced(Exception):
    """The node wants more for this nonce: a waiting transaction pays nearly as much."""


class Transactions:
    """Makes, sends and looks up transactions of one wallet; safe for threads."""

    def __init__(self, rpc: Rpc, blocks: Blocks, chain_id: int, wallet: Wallet | None) -> None:
        self._rpc, self._blocks, self._chain_id, self._wallet = rpc, blocks, chain_id, wallet

    @property
    def wallet(self) -> Wallet:
        """Who signs.

        Raises:
            ConfigError: nobody does.
        """
        if self._wallet is None:
            raise ConfigError("sending needs a wallet, and none is open", fix="tolsey wallet create")
        return self._wallet

    def mined_nonce(self, depth: int = 0) -> int:
        """The nonce after all transactions of the wallet in blocks with `depth` others on top."""
        at = "latest" if depth == 0 else hex(max(0, self._blocks.newest().number - depth))
        return self._rpc.number("eth_getTransactionCount", self.wallet.account, at)

    def next_nonce(self) -> int:
        """The nonce after all transactions that the node knows, waiting ones included."""
        return self._rpc.number("eth_getTransactionCount", self.wallet.account, "pending")

    def fees(self) -> Fees:
        """What to pay now."""
        base = self._blocks.newest().base_fee_wei
        if base is None:
            raise ChainUnavailable(f"{self._rpc.url} has no base fee: chains before EIP-1559 are not supported")
        try:
            tip = self._rpc.number("eth_maxPriorityFeePerGas")
        except RpcRefused:
            tip = DEFAULT_TIP_WEI
        return Fees(max_fee_wei=2 * base + tip, tip_wei=tip)

    def simulate(self, action: Action) -> None:
        """Runs the action on the next block without sending it.

        Raises:
            Reverted: it would be refused.
        """
        try:
            self._rpc.call("eth_call", self._form(action), "pending")
        except RpcRefused as error:
            raise self._why(error, action) from error

    def estimate(self, action: Action) -> int:
        """The gas limit to give it.

        Raises:
            Reverted: it would be refused.
        """
        try:
            gas = self._rpc.number("eth_estimateGas", self._form(action), "pending")
        except RpcRefused as error:
            raise self._why(error, action) from error
        return gas * (100 + GAS_MARGIN_PERCENT) // 100

    def sign(self, action: Action, *, nonce: int, gas: int, fees: Fees) -> Signed:
        """The signed transaction; its hash is fixed from here on.

        Raises:
            InsufficientFunds: the account cannot pay for that gas at that fee.
        """
        self._require_ether(gas * fees.max_fee_wei, action)
        fields: dict[str, Any] = {
            "chainId": self._chain_id,
            "nonce": nonce,
            "gas": gas,
            "maxFeePerGas": fees.max_fee_wei,
            "maxPriorityFeePerGas": fees.tip_wei,
            "data": action.data,
            "value": 0,
        }
        if action.to is not None:
            fields["to"] = action.to
        raw = self.wallet.sign_transaction(fields)
        return Signed(raw=raw, tx_hash=keccak256(raw), nonce=nonce, gas=gas, fees=fees)

    def broadcast(self, raw: bytes) -> None:
        """Hands signed bytes to the node; sending the same bytes twice is harmless.

        Raises:
            NonceTaken, Underpriced: see there. ChainError: any other refusal.
        """
        try:
            self._rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
        except RpcRefused as error:
            words = error.message.lower()
            if any(known in words for known in _KNOWN):
                return
            if any(low in words for low in _MINED_ALREADY):
                raise NonceTaken(error.message) from error
            if any(low in words for low in _UNDERPRICED):
                raise Underpriced(error.message) from error
            if "insufficient funds" in words:
                raise self._no_ether(error.message) from error
            raise ChainError(f"the node refuses the transaction: {error.message}") from error

    def is_known(self, tx_hash: bytes) -> bool:
        """Whether the node has the transaction, waiting or mined."""
        return self._rpc.call("eth_getTransactionByHash", "0x" + tx_hash.hex()) is not None

    def receipt(self, tx_hash: bytes) -> TxReceipt | None:
        """The receipt once it is mined, else None."""
        found = self._rpc.call("eth_getTransactionReceipt", "0x" + tx_hash.hex())
        if found is None:
            return None
        try:
            gas_used = int(found["gasUsed"], 16)
            made = found.get("contractAddress")
            return TxReceipt(
                tx_hash=tx_hash,
                block_number=int(found["blockNumber"], 16),
                block_hash=bytes.fromhex(found["blockHash"][2:]),
                succeeded=int(found["status"], 16) == 1,
                gas_used=gas_used,
                fee_wei=gas_used * int(found["effectiveGasPrice"], 16),
                contract=None if made is None else Account(str(to_checksum_address(made))),
                events=tuple(self._blocks.decode(found["logs"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ChainUnavailable(f"{self._rpc.url} gives a receipt that cannot be read: {error!r}") from error

    def depth(self, receipt: TxReceipt) -> int:
        """Blocks on top of the receipt's own; -1 where its block is not the chain's any more."""
        at = self._blocks.at(receipt.block_number)
        if at is None or at.hash != receipt.block_hash:
            return -1
        return self._blocks.newest().number - receipt.block_number

    def ether(self, account: Account) -> int:
        """Wei that the account holds, for fees."""
        return self._rpc.number("eth_getBalance", account, "latest")

    def why_failed(self, action: Action, receipt: TxReceipt) -> ChainError:
        """Why a mined transaction reverted, found by running it again around its block."""
        for block in (receipt.block_number - 1, receipt.block_number):
            try:
                self._rpc.call("eth_call", self._form(action), hex(block))
            except RpcRefused as error:
                return self._why(error, action)
        return Reverted(f"cannot {action.description}: mined and refused, for a reason that is gone by now")

    def _form(self, action: Action) -> dict[str, str]:
        form = {"data": "0x" + action.data.hex()}
        if action.to is not None:
            form["to"] = action.to
        if self._wallet is not None:
            form["from"] = self._wallet.account
        return form

    def _why(self, error: RpcRefused, action: Action) -> ChainError:
        if error.revert_data is not None:
            return from_revert_data(error.revert_data, action=action.description)
        return ChainError(f"cannot {action.description}: {error.message}")

    def _require_ether(self, needed_wei: int, action: Action) -> None:
        held = self.ether(self.wallet.account)
        if held < needed_wei:
            raise self._no_ether(
                f"{self.wallet.account} holds {held / 1e18:.6f} ETH, fees of up to {needed_wei / 1e18:.6f} are needed "
                f"to {action.description}"
            )

    def _no_ether(self, message: str) -> InsufficientFunds:
        return InsufficientFunds(message, fix=f"send ETH to {self.wallet.account} on chain {self._chain_id}")


def gas_and_fees(raw: bytes) -> tuple[int, Fees]:
    """Gas limit and fees of signed bytes that `Transactions.sign` made."""
    fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    return fields["gas"], Fees(max_fee_wei=fields["maxFeePerGas"], tip_wei=fields["maxPriorityFeePerGas"])
