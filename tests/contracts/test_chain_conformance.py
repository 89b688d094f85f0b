"""One suite for both local chains: whatever the Python side relies on must hold on anvil and on the embedded one."""

from __future__ import annotations

import http.client
import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from eth_account import Account
from web3.exceptions import ContractCustomError, ContractLogicError, ContractPanicError

from tolsey.contracts.devchain import dev_keys
from tolsey.contracts.local_chain import start_chain, start_chain_now
from tolsey.errors import ChainUnavailable, ConfigError, StorageError

from .chains import ENGINES, SEED_ACCOUNT, Market, RpcError

STRANGER = "0x" + "42" * 20


@pytest.fixture(scope="module", params=ENGINES)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """One chain for all tests that leave it as they found it."""
    market = Market(tmp_path_factory.mktemp("chain"), request.param)
    yield market
    market.stop()


@pytest.fixture
def market(shared: Market) -> Iterator[Market]:
    snapshot = shared.rpc("evm_snapshot")
    yield shared
    shared.rpc("evm_setAutomine", True)
    assert shared.rpc("evm_revert", snapshot) is True


@pytest.fixture
def probe(market: Market) -> Any:
    return market.deploy()


# identity


def test_genesis_accounts_are_the_published_ones(market: Market) -> None:
    assert market.rpc("eth_chainId") == "0x7a69"
    assert market.rpc("net_version") == "31337"
    assert market.web3.eth.accounts == [Account.from_key(key).address for key in dev_keys()]
    assert market.web3.eth.get_balance(market.web3.eth.accounts[9]) == 10_000 * 10**18
    assert market.web3.eth.get_block("latest")["gasLimit"] == 30_000_000


def test_first_contract_address_same_on_every_engine(probe: Any) -> None:
    assert probe.address == "0x5FbDB2315678afecb367f032d93F642f64180aa3"


# randomness


def test_prevrandao_in_transaction_equals_header_and_changes(market: Market, probe: Any) -> None:
    seen = set()
    for tag in range(3):
        receipt = market.transact(probe.functions.see(tag))
        header = market.web3.eth.get_block(receipt["blockNumber"])
        stored = probe.functions.lastPrevrandao().call()
        logged = probe.events.Seen().process_log(receipt["logs"][0])["args"]["prevrandao"]
        assert stored == logged == int.from_bytes(header["mixHash"], "big")
        seen.add(stored)
    assert len(seen) == 3 and 0 not in seen


def test_blockhash_of_parent_matches_header(market: Market, probe: Any) -> None:
    market.rpc("evm_mine")
    number = market.web3.eth.block_number
    seen = probe.functions.parentHash().call(block_identifier=number)
    assert bytes(seen) == bytes(market.web3.eth.get_block(number)["parentHash"])


# errors


def test_custom_error_call_carries_its_data(market: Market, probe: Any) -> None:
    with pytest.raises(ContractCustomError) as caught:
        probe.functions.refuse(5).call()
    selector = market.web3.keccak(text="Probe_Refused(uint256,uint256)")[:4]
    assert bytes.fromhex(caught.value.data[2:]) == selector + (7).to_bytes(32, "big") + (5).to_bytes(32, "big")
    with pytest.raises(RpcError) as raw:
        market.rpc("eth_call", {"to": probe.address, "data": probe.encode_abi("refuse", [5])}, "latest")
    assert raw.value.code == 3 and raw.value.data == caught.value.data


def test_custom_error_estimate_carries_its_data(market: Market, probe: Any) -> None:
    with pytest.raises(RpcError) as raw:
        market.rpc("eth_estimateGas", {"to": probe.address, "data": probe.encode_abi("refuse", [5])})
    assert raw.value.code == 3 and raw.value.data is not None and raw.value.data.endswith("05")


def test_words_and_panics_reach_web3(probe: Any) -> None:
    with pytest.raises(ContractLogicError, match="in words"):
        probe.functions.refuseInWords().call()
    with pytest.raises(ContractPanicError):
        probe.functions.panic(0).call()


def test_reverting_transaction_is_mined_with_status_0(market: Market, probe: Any) -> None:
    nonce = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
    data = probe.encode_abi("refuse", [1])
    tx_hash = market.send(market.signed(nonce=nonce, to=probe.address, data=data, value=0, gas=200_000))
    receipt = market.mined(tx_hash)
    assert receipt["status"] == 0 and receipt["logs"] == [] and receipt["gasUsed"] < 200_000
    assert market.web3.eth.get_transaction_count(SEED_ACCOUNT.address) == nonce + 1
    assert probe.functions.counter().call() == 0


def test_unknown_method_is_refused_by_name(market: Market) -> None:
    with pytest.raises(RpcError) as caught:
        market.rpc("eth_doEverything")
    assert caught.value.code in (-32601, -32602)


# logs and history


def test_logs_over_history_filter_by_range_address_topic_and_hash(market: Market, probe: Any) -> None:
    first = market.web3.eth.block_number
    receipts = [market.transact(probe.functions.see(tag)) for tag in range(6)]
    logs = market.web3.eth.get_logs({"fromBlock": 0, "toBlock": "latest", "address": probe.address})
    assert [log["blockNumber"] for log in logs] == [receipt["blockNumber"] for receipt in receipts]
    wanted = ["0x" + f"{tag:064x}" for tag in (2, 4)]
    some = market.web3.eth.get_logs({"fromBlock": first, "topics": [None, None, wanted]})  # type: ignore[list-item]
    assert [int.from_bytes(log["topics"][2], "big") for log in some] == [2, 4]
    assert market.web3.eth.get_logs({"blockHash": receipts[3]["blockHash"]}) == receipts[3]["logs"]
    assert market.web3.eth.get_logs({"fromBlock": 0, "address": STRANGER}) == []  # type: ignore[typeddict-item]
    assert len(market.web3.eth.get_logs({"fromBlock": receipts[5]["blockNumber"]})) == 1


def test_log_indices_run_through_a_block(market: Market, probe: Any) -> None:
    market.rpc("evm_setAutomine", False)
    nonce = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
    data = probe.encode_abi("seeMany", [3])
    hashes = [
        market.send(market.signed(nonce=nonce + i, to=probe.address, data=data, value=0, gas=300_000)) for i in range(2)
    ]
    market.rpc("evm_mine")
    receipts = [market.mined(each) for each in hashes]
    assert receipts[0]["blockHash"] == receipts[1]["blockHash"]
    assert [log["logIndex"] for receipt in receipts for log in receipt["logs"]] == list(range(6))
    assert receipts[1]["transactionIndex"] == 1
    assert receipts[1]["cumulativeGasUsed"] == receipts[0]["gasUsed"] + receipts[1]["gasUsed"]


def test_state_at_an_old_block_can_be_read(market: Market, probe: Any) -> None:
    before = market.web3.eth.block_number
    balance = market.web3.eth.get_balance(SEED_ACCOUNT.address)
    market.transact(probe.functions.see(1))
    assert probe.functions.counter().call(block_identifier=before) == 0
    assert probe.functions.counter().call() == 1
    assert market.web3.eth.get_balance(SEED_ACCOUNT.address, before) == balance
    assert market.web3.eth.get_storage_at(probe.address, 2) == (1).to_bytes(32, "big")


# transactions


def test_raw_transaction_receipt_and_transaction_agree(market: Market) -> None:
    nonce = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
    raw = market.signed(nonce=nonce, value=12345)
    tx_hash = market.send(raw)
    assert tx_hash == market.web3.keccak(raw)
    receipt = market.mined(tx_hash)
    assert receipt["status"] == 1 and receipt["gasUsed"] == 21_000 and receipt["type"] == 2
    assert receipt["from"] == SEED_ACCOUNT.address and receipt["transactionHash"] == tx_hash
    found = market.web3.eth.get_transaction(tx_hash)  # type: ignore[arg-type]
    assert (found["nonce"], found["value"], found["blockNumber"]) == (nonce, 12345, receipt["blockNumber"])
    assert receipt["effectiveGasPrice"] == found["gasPrice"]
    block = market.web3.eth.get_block(receipt["blockNumber"], full_transactions=True)
    assert block["transactions"][0]["hash"] == tx_hash  # type: ignore[index]
    assert block["gasUsed"] == 21_000
    assert market.web3.eth.get_balance(STRANGER) == 12345  # type: ignore[arg-type]


def test_nonce_too_low_is_refused(market: Market) -> None:
    nonce = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
    market.mined(market.send(market.signed(nonce=nonce)))
    with pytest.raises(RpcError, match="nonce too low"):
        market.send(market.signed(nonce=nonce, value=2))


def test_nonce_gap_waits_until_it_is_filled(market: Market) -> None:
    nonce = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
    late = market.send(market.signed(nonce=nonce + 1))
    assert market.rpc("eth_getTransactionReceipt", "0x" + late.hex()) is None
    assert market.rpc("eth_getTransactionByHash", "0x" + late.hex())["blockNumber"] is None
    assert market.web3.eth.get_transaction_count(SEED_ACCOUNT.address, "pending") == nonce
    market.send(market.signed(nonce=nonce))
    assert market.mined(late)["status"] == 1
    assert market.web3.eth.get_transaction_count(SEED_ACCOUNT.address) == nonce + 2


def test_pending_nonce_counts_waiting_transactions(market: Market) -> None:
    nonce = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
    market.rpc("evm_setAutomine", False)
    hashes = [market.send(market.signed(nonce=nonce + i)) for i in range(2)]
    assert market.web3.eth.get_transaction_count(SEED_ACCOUNT.address, "pending") == nonce + 2
    assert market.web3.eth.get_transaction_count(SEED_ACCOUNT.address, "latest") == nonce
    market.rpc("evm_mine")
    assert {market.mined(each)["status"] for each in hashes} == {1}


def test_replacement_needs_a_higher_price(market: Market) -> None:
    nonce = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
    market.rpc("evm_setAutomine", False)
    first = market.send(market.signed(nonce=nonce))
    with pytest.raises(RpcError, match="underpriced"):
        market.send(market.signed(nonce=nonce, value=2))
    second = market.send(market.signed(nonce=nonce, value=2, tip_wei=2 * 10**9, maxFeePerGas=3 * 10**10))
    market.rpc("evm_mine")
    assert market.mined(second)["status"] == 1
    assert market.rpc("eth_getTransactionReceipt", "0x" + first.hex()) is None


def test_sending_the_same_bytes_twice_pays_once(market: Market) -> None:
    nonce = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
    raw = market.signed(nonce=nonce)
    tx_hash = market.send(raw)
    market.mined(tx_hash)
    with pytest.raises(RpcError):
        market.send(raw)
    assert market.web3.eth.get_transaction_count(SEED_ACCOUNT.address) == nonce + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chainId": 1}, "chain"),
        ({"value": 10**30}, "[Ii]nsufficient funds"),
        ({"gas": 20_999}, "intrinsic gas|too low"),
        ({"gas": 40_000_000}, "gas limit|gas_limit"),
    ],
)
def test_impossible_transaction_is_refused(market: Market, change: dict[str, int], words: str) -> None:
    nonce = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
    with pytest.raises(RpcError, match=words):
        market.send(market.signed(nonce=nonce, **change))
    with pytest.raises(RpcError):
        market.rpc("eth_sendRawTransaction", "0x02f8deadbeef")


def test_estimate_is_enough_and_one_less_is_not(market: Market, probe: Any) -> None:
    market.transact(probe.functions.fill(40))
    for function in (probe.functions.see(1), probe.functions.wipe(40), probe.functions.hungry()):
        call = {"from": SEED_ACCOUNT.address, "to": probe.address, "data": function._encode_transaction_data()}
        estimate = int(market.rpc("eth_estimateGas", call), 16)
        with pytest.raises(RpcError):
            market.rpc("eth_call", {**call, "gas": hex(estimate - 1)}, "latest")
        nonce = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
        raw = market.signed(nonce=nonce, to=probe.address, data=call["data"], value=0, gas=estimate)
        assert market.mined(market.send(raw))["status"] == 1


def test_gas_used_is_equal_on_every_engine(market: Market, probe: Any) -> None:
    used = [market.transact(function)["gasUsed"] for function in (probe.functions.fill(10), probe.functions.wipe(10))]
    assert used == [243_724, 58_088]  # measured on anvil 1.7.1 and py-evm 0.12.1b1


def test_fees_history_follows_eip1559(market: Market) -> None:
    for _ in range(3):
        market.rpc("evm_mine")
    head = market.web3.eth.get_block("latest")
    end = time.monotonic() + 10
    while True:  # anvil writes its history some time after the block, and tells of no moment when it is done
        history = market.web3.eth.fee_history(2, "latest", [50])
        if history["baseFeePerGas"][1:2] == [head["baseFeePerGas"]] or time.monotonic() > end:
            break
        time.sleep(0.02)
    assert len(history["baseFeePerGas"]) == 3 and len(history["reward"]) == 2
    assert history["baseFeePerGas"][1] == head["baseFeePerGas"]
    assert history["baseFeePerGas"][2] == history["baseFeePerGas"][1] - history["baseFeePerGas"][1] // 8
    assert market.web3.eth.gas_price >= head["baseFeePerGas"]
    assert market.web3.eth.max_priority_fee > 0


# time, snapshots, cheats


def test_timestamps_follow_the_wall_clock_and_never_fall(market: Market, probe: Any) -> None:
    market.transact(probe.functions.see(0))
    first = probe.functions.lastTimestamp().call()
    market.transact(probe.functions.see(1))
    second = probe.functions.lastTimestamp().call()
    assert first <= second
    ahead_s = market.web3.eth.get_block("latest")["timestamp"] - time.time()
    blocks = market.web3.eth.block_number
    assert -5 <= ahead_s <= blocks + 1  # py-evm adds a second per block where the wall clock has not moved


def test_increase_time_moves_pending_calls_and_blocks(market: Market, probe: Any) -> None:
    before = market.web3.eth.get_block("latest")["timestamp"]
    market.rpc("evm_increaseTime", 3600)
    assert probe.functions.now_().call(block_identifier="pending")[0] >= before + 3600
    market.rpc("evm_mine")
    assert before + 3600 <= market.web3.eth.get_block("latest")["timestamp"] <= before + 3660


def test_set_next_timestamp_is_exact_and_the_past_refused(market: Market, probe: Any) -> None:
    wanted = market.web3.eth.get_block("latest")["timestamp"] + 1000
    market.rpc("evm_setNextBlockTimestamp", wanted)
    market.transact(probe.functions.see(1))
    assert probe.functions.lastTimestamp().call() == wanted
    with pytest.raises(RpcError):
        market.rpc("evm_setNextBlockTimestamp", wanted - 1)
        market.rpc("evm_mine")
    market.rpc("evm_mine")
    assert wanted <= market.web3.eth.get_block("latest")["timestamp"] <= wanted + 60


def test_mine_many_blocks_at_once(market: Market) -> None:
    before = market.web3.eth.block_number
    market.rpc("anvil_mine", hex(5), hex(10))
    assert market.web3.eth.block_number == before + 5
    times = [market.web3.eth.get_block(before + 1 + i)["timestamp"] for i in range(5)]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [10] * 4


def test_revert_to_snapshot_forgets_and_forks(market: Market, probe: Any) -> None:
    snapshot = market.rpc("evm_snapshot")
    lost = market.transact(probe.functions.see(1))
    market.rpc("evm_increaseTime", 5000)
    assert market.rpc("evm_revert", snapshot) is True
    assert market.rpc("eth_getTransactionReceipt", "0x" + lost["transactionHash"].hex()) is None
    assert market.rpc("eth_getBlockByHash", "0x" + lost["blockHash"].hex(), False) is None
    assert probe.functions.counter().call() == 0
    again = market.transact(probe.functions.see(2))
    assert again["blockNumber"] == lost["blockNumber"] and again["blockHash"] != lost["blockHash"]
    assert len(market.web3.eth.get_logs({"fromBlock": 0, "address": probe.address})) == 1
    assert market.web3.eth.get_block("latest")["timestamp"] < time.time() + 4000


def test_cheats_set_balance_code_and_storage(market: Market, probe: Any) -> None:
    market.rpc("anvil_setBalance", STRANGER, hex(5 * 10**18))
    market.rpc("anvil_setStorageAt", probe.address, "0x2", "0x" + f"{99:064x}")
    market.rpc("anvil_setCode", STRANGER, "0x6001")
    assert market.web3.eth.get_balance(STRANGER) == 5 * 10**18  # type: ignore[arg-type]
    assert probe.functions.counter().call() == 99
    assert market.rpc("eth_getCode", STRANGER, "latest") == "0x6001"


def test_block_tags_name_the_newest_block(market: Market) -> None:
    for _ in range(4):
        market.rpc("evm_mine")
    head = market.web3.eth.block_number
    assert market.web3.eth.get_block("latest")["number"] == head
    assert head - 2 <= market.web3.eth.get_block("safe")["number"] <= head  # type: ignore[typeddict-item]
    assert head - 2 <= market.web3.eth.get_block("finalized")["number"] <= head
    assert market.rpc("eth_getBlockByNumber", "earliest", False)["number"] == "0x0"
    assert int(market.rpc("eth_getBlockByNumber", "pending", False)["number"], 16) == head + 1
    assert market.rpc("eth_getBlockByNumber", hex(head + 100), False) is None


# processes


@pytest.mark.parametrize("engine", ENGINES)
def test_restart_after_stop_keeps_everything(tmp_path: Path, engine: str) -> None:
    market = Market(tmp_path, engine)
    probe = market.deploy()
    receipts = [market.transact(probe.functions.see(tag)) for tag in range(3)]
    market.stop()
    market = Market(tmp_path, "auto")
    try:
        assert market.chain.engine == engine
        again = market.web3.eth.contract(address=probe.address, abi=probe.abi)
        assert again.functions.counter().call() == 3
        assert len(market.web3.eth.get_logs({"fromBlock": 0, "address": probe.address})) == 3
        assert market.mined(receipts[1]["transactionHash"])["blockHash"] == receipts[1]["blockHash"]
        assert market.transact(again.functions.see(9))["status"] == 1
    finally:
        market.stop()


def test_embedded_chain_killed_loses_no_answered_block(tmp_path: Path) -> None:
    for round_number in range(3):
        market = Market(tmp_path, "embedded")
        before = market.web3.eth.get_transaction_count(SEED_ACCOUNT.address)
        hashes = [market.send(market.signed(nonce=before + i)) for i in range(4 + round_number)]
        market.kill()
        market = Market(tmp_path, "embedded")
        assert market.web3.eth.get_transaction_count(SEED_ACCOUNT.address) == before + len(hashes)
        assert all(market.mined(each)["status"] == 1 for each in hashes)
        head = market.web3.eth.get_block("latest")
        assert market.web3.eth.get_block(head["number"] - 1)["hash"] == head["parentHash"]
        market.stop()


def test_start_folder_in_use_says_where(tmp_path: Path) -> None:
    with start_chain_now(tmp_path, engine="embedded") as chain, pytest.raises(StorageError, match=chain.url):
        start_chain_now(tmp_path, engine="embedded")
    with start_chain_now(tmp_path):
        pass


def test_start_port_taken_is_the_users_to_fix(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="port"):
            start_chain_now(tmp_path, port=taken.getsockname()[1], engine="embedded")


def test_start_other_engine_on_a_used_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chain.json").write_text(json.dumps({"engine": "anvil", "chain_id": 31337}))
    with pytest.raises(ConfigError, match="engine anvil"):
        start_chain_now(tmp_path, engine="embedded")


def test_start_program_that_dies_reports_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "anvil"
    script.write_text("#!/bin/sh\necho 'cannot do it' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("TOLSEY_ANVIL", str(script))
    with pytest.raises(ChainUnavailable, match=r"code 3.*cannot do it"):
        start_chain_now(tmp_path / "data", engine="anvil")


def test_start_embedded_without_its_packages_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="embedded chain") as refusal:
        start_chain_now(tmp_path, engine="embedded")
    assert "tolsey[chain]" in refusal.value.diagnostics()


async def test_start_chain_async_serves_and_ends_with_its_process(tmp_path: Path) -> None:
    with trio.fail_after(60):
        chain = await start_chain(tmp_path, engine="embedded", block_time_s=0.2)
        market = await trio.to_thread.run_sync(Market.attached, chain)
        await trio.to_thread.run_sync(market.await_block, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chain.wait)
            os.kill(chain.pid, signal.SIGTERM)
        assert await chain.stop() == 0


def test_embedded_chain_ends_when_its_starter_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tolsey.contracts.local_chain import start_chain_now;"
        "print(start_chain_now(Path(sys.argv[1]), engine='embedded').url, flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdout is not None and starter.stdout.readline().startswith(b"http")
    starter.kill()
    starter.communicate()
    deadline = time.monotonic() + 20
    while True:  # the orphan needs a moment to see the end of its input; the lock tells when it is gone
        try:
            start_chain_now(tmp_path, engine="embedded").stop_now()
            return
        except StorageError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


# the embedded server's bounds


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Market]:
    market = Market(tmp_path, "embedded")
    yield market
    market.stop()


def _post(market: Market, body: bytes, content_type: str = "application/json") -> tuple[int, Any]:
    connection = http.client.HTTPConnection(market.chain.url.removeprefix("http://"), timeout=10)
    connection.request("POST", "/", body, {"Content-Type": content_type})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_server_bounds_requests_batches_and_content_types(embedded: Market) -> None:
    ask = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
    assert _post(embedded, json.dumps([ask, ask]).encode())[1][1]["result"] == "0x7a69"
    assert "batch of 257" in _post(embedded, json.dumps([ask] * 257).encode())[1]["error"]["message"]
    assert _post(embedded, b"{" * 5000)[1]["error"]["code"] == -32700
    assert _post(embedded, b"[" * 100_000)[1]["error"]["code"] == -32700
    assert _post(embedded, json.dumps({**ask, "params": {"a": 1}}).encode())[1]["error"]["code"] == -32602
    assert _post(embedded, json.dumps(ask).encode(), "text/plain")[0] == 415
    with socket.create_connection(("127.0.0.1", int(embedded.chain.url.rsplit(":", 1)[1])), timeout=10) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n")
        assert b" 413 " in raw.recv(4096)
    assert embedded.rpc("eth_chainId") == "0x7a69"


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", ["0x12", "latest"]), ("eth_getBalance", [None]), ("eth_call", ["0x"]), ("eth_call", []),
        ("eth_getBlockByNumber", [[], False]), ("eth_getLogs", [{"topics": [["0x12"]]}]), ("eth_getLogs", [7]),
        ("evm_increaseTime", [2**300]), ("evm_increaseTime", [2**60]), ("anvil_mine", [10**9]),
        ("eth_getStorageAt", ["0x" + "00" * 20, "-1"]), ("evm_setAutomine", ["no"]), ("eth_feeHistory", [1]),
        ("eth_getLogs", [{"fromBlock": "0x5", "toBlock": "0x1"}]), ("eth_sendRawTransaction", ["0x"]),
        ("eth_estimateGas", [{"gas": hex(2**60)}]),
    ],
)  # fmt: skip
def test_server_bad_parameters_get_an_answer(embedded_shared: Market, method: str, params: list[Any]) -> None:
    with pytest.raises(RpcError) as caught:
        embedded_shared.rpc(method, *params)
    assert caught.value.code in (-32602, -32000), str(caught.value)
    assert embedded_shared.rpc("eth_blockNumber") == "0x0"


@pytest.fixture(scope="module")
def embedded_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = Market(tmp_path_factory.mktemp("bounds"), "embedded")
    yield market
    market.stop()


def test_logs_over_long_history_stay_cheap(embedded: Market) -> None:
    probe = embedded.deploy()
    for _ in range(3):
        embedded.transact(probe.functions.seeMany(50))
    embedded.rpc("anvil_mine", 400)
    started = time.perf_counter()
    logs = embedded.rpc("eth_getLogs", {"fromBlock": "0x0", "address": probe.address})
    assert len(logs) == 150
    assert time.perf_counter() - started < 2  # stock eth-tester needed 19 s of processor time for this
