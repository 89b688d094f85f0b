"""The door to the chain: what it reads is what the contracts hold, and what is wrong at the other end is named."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

import pytest

from tolsey.contracts import blocks as blocks_room
from tolsey.contracts.events import JobAccepted
from tolsey.contracts.gateway import NOBODY, Gateway, Phase
from tolsey.contracts.rpc import Rpc, RpcRefused
from tolsey.errors import ChainUnavailable, ConfigError, Reverted
from tolsey.protocol.encoding import TAG_SEAL, keccak256, tag
from tolsey.protocol.lifecycle import State, Verdict
from tolsey.protocol.sampling import challenge_seal, dispute_id, drawn_verifier_ids, verdict_seal, window_seed
from tolsey.protocol.units import Account, JobId, StateRoot, TokenUnits
from tolsey.testing.chain import CLASS_ID, PURSE, MarketWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MarketWorld]:
    with MarketWorld.open(tmp_path_factory.mktemp("world")) as opened:
        for name in ("vera", "vito", "vlad"):
            opened.register_verifier(name)
        opened.as_("pat")
        yield opened


def test_job_id_and_domain_are_those_of_the_contract(world: MarketWorld) -> None:
    job = world.paper_job()
    assert world.gateway.job_id(job.offer) == job.job_id == job.offer.job_id(world.gateway.domain)


def test_reads_follow_a_job_through_its_window(world: MarketWorld) -> None:
    job, door = world.paper_job(), world.gateway
    assert door.job(job.job_id).state is State.NONE and door.window_root(job.job_id, 0) is None
    receipt = world.accept(job)
    assert isinstance(receipt.events[0], JobAccepted) and receipt.events[0].offer == job.offer
    assert door.escrow_left(job.offer) == job.offer.escrow
    world.commit(job)
    assert door.window_root(job.job_id, 0) == job.root(0)
    drawn_event = world.draw(job).events[0]
    view = door.job(job.job_id)
    beacon = int.from_bytes(drawn_event.beacon, "big")  # type: ignore[attr-defined]
    assert view.seed == window_seed(job.job_id, 0, job.root(0), job.secrets[0], beacon)
    pool = door.pool(CLASS_ID)
    ids = drawn_verifier_ids(view.seed, view.pool_size, job.offer.verifier_count)
    assert door.drawn_verifiers(job.offer) == [pool[i] for i in ids]

    name = world.name_of(door.drawn_verifiers(job.offer)[0])
    who = world.account(name)
    seal = verdict_seal(job.job_id, 0, who, Verdict.MATCH, 0, 99)
    assert door.verdict(job.job_id, 0, who).kind == 0
    world.send(name, world.as_(name).action.seal_verdict(job.offer, seal))
    assert door.verdict(job.job_id, 0, who).seal == seal
    world.pass_until(view.drawn_at + job.offer.verdict_window_s)
    world.send(name, world.as_(name).action.reveal_verdict(job.offer, Verdict.MATCH, 0, 99))
    told = door.verdict(job.job_id, 0, who)
    assert (told.kind, told.salt, told.seal) == (Verdict.MATCH, 99, bytes(32)) and told.revealed_at > 0


def test_reads_of_registrations(world: MarketWorld) -> None:
    door, who = world.gateway, world.account("vera")
    found = door.verifier(CLASS_ID, who)
    assert found is not None and door.pool(CLASS_ID)[found.id] == who
    assert found.secret == keccak256(tag(TAG_SEAL), world.verifier_secret("vera"))
    assert found.bond == door.params().verifier_bond and found.leaving_since == 0
    assert door.worker(who) is None and door.verifier(CLASS_ID, NOBODY) is None


def test_reads_of_a_dispute(world: MarketWorld) -> None:
    job, door, pat = world.paper_job(), world.gateway, world.as_("pat").action
    world.accept(job)
    world.commit(job)
    world.draw(job)
    assert door.dispute(job.job_id) is None
    wrong, salt = StateRoot(b"\x09" * 32), b"\x01" * 32
    seal = challenge_seal(world.account("pat"), job.job_id, 1, wrong, salt)
    world.send("pat", pat.seal_challenge(seal))
    world.send("pat", pat.challenge(job.offer, job.opening(1), wrong, salt))
    dispute = dispute_id(job.job_id, 1)
    view = door.dispute(job.job_id)
    assert view is not None and (view.challenger, view.segment) == (world.account("pat"), 1)
    claim = door.claim(dispute)
    assert (claim.job_id, claim.claimed_root, claim.output_root) == (job.job_id, wrong, job.roots[2])
    assert door.case(dispute).phase is Phase.DRAWING and door.panel(dispute) == []
    world.send("pat", pat.draw_panel(dispute))
    assert len(door.panel(dispute)) == 3 and door.case(dispute).phase is Phase.VOTING
    assert door.vote(dispute, 0, door.panel(dispute)[0]) == (bytes(32), 0)
    assert door.case(b"\x00" * 32).phase is Phase.NONE


def test_simulate_refused_changes_nothing_and_says_why(world: MarketWorld) -> None:
    pat = world.as_("pat")
    before = pat.block_number()
    with pytest.raises(Reverted) as refusal:
        pat.simulate(pat.action.withdraw(TokenUnits(PURSE * 2)))
    assert refusal.value.name == "Ledger_InsufficientFree" and pat.block_number() == before
    job = world.paper_job()
    with pytest.raises(Reverted) as refusal:
        pat.simulate(pat.action.commit(job.offer, job.root(0)))
    assert refusal.value.name == "JobMarket_WrongState" and refusal.value.args_by_name["actual"] is State.NONE


def test_at_block_reads_the_past(world: MarketWorld) -> None:
    who, before = world.account("pat"), world.gateway.block_number()
    held = world.gateway.account(who)
    world.send("pat", world.as_("pat").action.withdraw(TokenUnits(11)))
    assert world.gateway.at_block(before).account(who) == held
    assert world.gateway.account(who) == (held[0] - 11, held[1])


def test_deposit_by_permit_and_by_approval(world: MarketWorld) -> None:
    pat, who = world.as_("pat"), world.account("pat")
    free = pat.account(who)[0]
    world.send("pat", pat.action.mint(TokenUnits(30)))
    world.send("pat", pat.action.deposit(TokenUnits(10)))
    world.send("pat", pat.action.approve(TokenUnits(20)))
    world.send("pat", pat.action.deposit_approved(TokenUnits(20)))
    assert pat.account(who)[0] == free + 30


def test_deposit_of_a_token_without_permit_proposes_approval(world: MarketWorld) -> None:
    other = Gateway(replace(world.network, token=world.network.beacon), world.wallet("pat"))
    with pytest.raises(ConfigError) as refusal:
        other.action.deposit(TokenUnits(1))
    assert "approve" in refusal.value.diagnostics()


def test_without_wallet_writing_is_refused(world: MarketWorld) -> None:
    with pytest.raises(ConfigError, match="wallet"):
        world.gateway.action.mint(TokenUnits(1))


def test_logs_in_small_ranges_are_the_same(world: MarketWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    last = world.gateway.block_number()
    whole = world.gateway.logs(0, last)
    monkeypatch.setattr(blocks_room, "LOG_RANGE", 3)
    assert world.gateway.logs(0, last) == whole and len(whole) > 10


def test_logs_range_refused_by_the_endpoint_is_halved(world: MarketWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    last = world.gateway.block_number()
    whole = world.gateway.logs(0, last)
    honest = Rpc.call

    def narrow(self: Rpc, method: str, *params: Any) -> Any:
        if method == "eth_getLogs" and int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) > 4:
            raise RpcRefused(-32005, "query returned more than 10000 results", None)
        return honest(self, method, *params)

    monkeypatch.setattr(Rpc, "call", narrow)
    assert world.gateway.logs(0, last) == whole


# Something is wrong at the other end.


def test_check_chain_accepts_its_own(world: MarketWorld) -> None:
    world.gateway.check_chain()


def test_check_chain_endpoint_down(world: MarketWorld) -> None:
    with pytest.raises(ChainUnavailable, match="no connection"):
        Gateway(replace(world.network, rpc_url="http://127.0.0.1:9"), None).check_chain()


def test_check_chain_other_chain_names_both(world: MarketWorld) -> None:
    with pytest.raises(ChainUnavailable, match=r"is chain 31337, network test is chain 5"):
        Gateway(replace(world.network, chain_id=5), None).check_chain()


def test_check_chain_no_contract_there(world: MarketWorld) -> None:
    empty = Account("0x" + "77" * 20)
    with pytest.raises(ChainUnavailable, match=f"no contract at {empty}"):
        Gateway(replace(world.network, market=empty), None).check_chain()


def test_check_chain_other_contract_there(world: MarketWorld) -> None:
    with pytest.raises(ChainUnavailable):
        Gateway(replace(world.network, market=world.network.token), None).check_chain()
    with pytest.raises(ChainUnavailable, match="judge"):
        Gateway(replace(world.network, judge=world.network.token), None).check_chain()


@pytest.fixture
def liar() -> Iterator[Callable[[bytes], str]]:
    """An endpoint that answers every request with the bytes it is given."""
    servers: list[HTTPServer] = []

    def start(body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"7", b'{"jsonrpc": "2.0", "id": 1}', b'{"id": 1, "result": "zz"}',
     b'{"id": 1, "result": null}', b'{"id": 1, "result": {"number": 5}}', b"\xff\xfe", b'{"id": 1, "result": []}'],
)  # fmt: skip
def test_answers_of_no_sense_are_the_endpoints_fault(
    world: MarketWorld, liar: Callable[[bytes], str], body: bytes
) -> None:
    door = Gateway(replace(world.network, rpc_url=liar(body)), None)
    questions: tuple[Callable[[], object], ...] = (
        door.block_number,
        door.now_ts,
        lambda: door.account(NOBODY),
        lambda: door.job(JobId(bytes(32))),
        lambda: door.eth_balance(NOBODY),
    )
    for question in questions:
        with pytest.raises(ChainUnavailable):
            question()


def test_forked_process_has_a_connection_of_its_own() -> None:
    seen: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.client_address[1])
            self.send_response(200)
            self.send_header("Content-Length", "36")
            self.end_headers()
            self.wfile.write(b'{"id":1,"jsonrpc":"2.0","result":""}')

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        rpc = Rpc(f"http://127.0.0.1:{server.server_port}")
        for _ in range(2):
            rpc.call("eth_blockNumber")
        child = os.fork()
        if child == 0:
            try:
                rpc.call("eth_blockNumber")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        rpc.call("eth_blockNumber")
        server.shutdown()
    ours, again, forked, last = seen
    assert ours == again == last != forked


def test_revert_data_is_found_wherever_the_node_puts_it(world: MarketWorld, liar: Callable[[bytes], str]) -> None:
    pat = world.as_("pat")
    with pytest.raises(Reverted) as first:
        pat.simulate(pat.action.withdraw(TokenUnits(PURSE * 2)))
    raw = "0x" + (first.value.selector + bytes(31) + b"\x01" + bytes(64)).hex()
    for data in (raw, {"data": raw}, f"Reverted {raw}"):
        answer = {"id": 1, "jsonrpc": "2.0", "error": {"code": 3, "message": "execution reverted", "data": data}}
        door = Gateway(replace(world.network, rpc_url=liar(json.dumps(answer).encode())), world.wallet("pat"))
        with pytest.raises(Reverted) as refusal:
            door.simulate(pat.action.withdraw(TokenUnits(1)))
        assert refusal.value.name == "Ledger_InsufficientFree"


def test_reads_from_many_threads_agree(world: MarketWorld) -> None:
    expected = world.gateway.params()
    found: list[object] = []
    door = Gateway(world.network, None)
    threads = [threading.Thread(target=lambda: found.append(door.params())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [expected] * 8
