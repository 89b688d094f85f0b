"""The JSON-RPC forms of headers, transactions and receipts (execution-apis, as anvil prints them).

Only shapes: no lookup, no decision. Quantities are hex without leading zeros, data is hex of full length. Next:
calls.py.
"""

from __future__ import annotations

from typing import Any

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

Json = dict[str, Any]
_NO_UNCLES = "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"


def data(raw: bytes) -> str:
    return "0x" + bytes(raw).hex()


def block_json(header: Any, transaction_hashes: list[bytes], *, pending: bool = False) -> Json:
    """A block with its transactions as hashes; a pending one has no hash yet."""
    return {
        "number": hex(header.block_number),
        "hash": None if pending else data(header.hash),
        "parentHash": data(header.parent_hash),
        "nonce": data(header.nonce.rjust(8, b"\0")),
        "sha3Uncles": _NO_UNCLES,
        "uncles": [],
        "miner": data(header.coinbase),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "mixHash": data(header.mix_hash),
        "extraData": data(header.extra_data),
        "stateRoot": data(header.state_root),
        "transactionsRoot": data(header.transaction_root),
        "receiptsRoot": data(header.receipt_root),
        "logsBloom": _bloom(header.bloom),
        "gasLimit": hex(header.gas_limit),
        "gasUsed": hex(header.gas_used),
        "timestamp": hex(header.timestamp),
        "baseFeePerGas": hex(header.base_fee_per_gas),
        "withdrawalsRoot": data(header.withdrawals_root),
        "withdrawals": [],
        "blobGasUsed": hex(header.blob_gas_used),
        "excessBlobGas": hex(header.excess_blob_gas),
        "parentBeaconBlockRoot": data(header.parent_beacon_block_root),
        "size": "0x0",
        "transactions": [data(tx_hash) for tx_hash in transaction_hashes],
    }


def type_of(transaction: Any) -> int:
    """EIP-2718 type: 0 legacy, 1 access list, 2 dynamic fee."""
    type_id = getattr(transaction, "type_id", None)
    return 0 if type_id is None else int(type_id)


def effective_price_wei(transaction: Any, base_fee_wei: int) -> int:
    """Wei per gas that the sender pays in a block with this base fee (EIP-1559)."""
    return int(min(transaction.max_fee_per_gas, base_fee_wei + transaction.max_priority_fee_per_gas))


def transaction_json(transaction: Any, header: Any | None, position: int = 0) -> Json:
    """A transaction; `header` None while it waits in the pool."""
    kind = type_of(transaction)
    form: Json = {
        "hash": data(transaction.hash),
        "type": hex(kind),
        "nonce": hex(transaction.nonce),
        "from": to_checksum_address(transaction.sender),
        "to": to_checksum_address(transaction.to) if transaction.to else None,
        "value": hex(transaction.value),
        "gas": hex(transaction.gas),
        "input": data(transaction.data),
        "chainId": hex(transaction.chain_id) if transaction.chain_id is not None else None,
        "r": hex(transaction.r),
        "s": hex(transaction.s),
        "v": hex(transaction.y_parity if kind else transaction.v),
        "blockHash": data(header.hash) if header else None,
        "blockNumber": hex(header.block_number) if header else None,
        "transactionIndex": hex(position) if header else None,
    }
    if kind:
        form["yParity"] = hex(transaction.y_parity)
        form["accessList"] = [
            {"address": to_checksum_address(address), "storageKeys": ["0x" + f"{key:064x}" for key in keys]}
            for address, keys in transaction.access_list
        ]
    if kind == 2:
        form["maxFeePerGas"] = hex(transaction.max_fee_per_gas)
        form["maxPriorityFeePerGas"] = hex(transaction.max_priority_fee_per_gas)
        price = effective_price_wei(transaction, header.base_fee_per_gas) if header else transaction.max_fee_per_gas
    else:
        price = transaction.gas_price
    form["gasPrice"] = hex(price)
    return form


def receipts_json(header: Any, transactions: list[Any], receipts: list[Any]) -> list[Json]:
    """The receipts of one block; log indices run through the block."""
    forms: list[Json] = []
    gas_before = log_index = 0
    for position, (transaction, receipt) in enumerate(zip(transactions, receipts, strict=True)):
        place = {
            "transactionHash": data(transaction.hash),
            "transactionIndex": hex(position),
            "blockHash": data(header.hash),
            "blockNumber": hex(header.block_number),
        }
        logs = []
        for log in receipt.logs:
            logs.append(
                {
                    "address": to_checksum_address(log.address),
                    "topics": ["0x" + f"{topic:064x}" for topic in log.topics],
                    "data": data(log.data),
                    "logIndex": hex(log_index),
                    "blockTimestamp": hex(header.timestamp),
                    "removed": False,
                    **place,
                }
            )
            log_index += 1
        created = None if transaction.to else to_checksum_address(created_address(transaction))
        forms.append(
            {
                **place,
                "type": hex(type_of(transaction)),
                "from": to_checksum_address(transaction.sender),
                "to": to_checksum_address(transaction.to) if transaction.to else None,
                "contractAddress": created,
                "status": "0x1" if receipt.state_root == b"\x01" else "0x0",
                "cumulativeGasUsed": hex(receipt.gas_used),
                "gasUsed": hex(receipt.gas_used - gas_before),
                "effectiveGasPrice": hex(effective_price_wei(transaction, header.base_fee_per_gas)),
                "logs": logs,
                "logsBloom": _bloom(receipt.bloom),
            }
        )
        gas_before = receipt.gas_used
    return forms


def created_address(transaction: Any) -> bytes:
    """The contract that a creation makes: keccak(rlp([sender, nonce])), last 20 bytes."""
    nonce = transaction.nonce.to_bytes((transaction.nonce.bit_length() + 7) // 8, "big")
    item = nonce if len(nonce) == 1 and nonce[0] < 0x80 else bytes([0x80 + len(nonce)]) + nonce
    body = b"\x94" + transaction.sender + item
    return keccak(bytes([0xC0 + len(body)]) + body)[12:]


def _bloom(bloom: int) -> str:
    return f"0x{bloom:0512x}"
