"""What a buyer may get wrong, typed as a buyer types it: the cause and the next step are named, and nothing is lost.

One chain, one honest worker and one buyer, all of their own processes. Mistakes that need no market are tested where
they are found out (docs/attacks.md says where); here is what only the whole shows.
"""

from __future__ import annotations

import json
import os
import random
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tolsey.contracts.network_file import NetworkFile
from tolsey.errors import ChainUnavailable, InsufficientFunds, NoOffer, SpecInvalid, UnsupportedOp
from tolsey.protocol.offer import LOCAL_CLOCKS
from tolsey.protocol.units import Account
from tolsey.testing.chain import ETHER_WEI, MarketWorld

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "tolsey.client.cli")
PASSPHRASE = "open sesame"  # of keys that hold test money
STRANGER = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
JOB = """\
import numpy
import torch
from torch import nn
from tolsey.runtime import author


class Model(nn.Linear):
    def forward(self, x):
        return {forward}


job = author.Job(
    name="tiny", model=lambda: Model(2, 1), loss="mse",
    data=author.arrays(x=numpy.ones((8, 2), "f4"), y=numpy.ones((8, 1), "f4")),
    lr="0.1", batch_size=4, steps=4, steps_per_segment=2,
)
"""


@dataclass
class Buyer:
    """A person with a wallet, some gas and no tokens."""

    world: MarketWorld
    folder: Path
    network: Path
    account: Account

    def type(self, *words: str, network: Path | None = None) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TOLSEY_") or k == "TOLSEY_ANVIL"}
        return subprocess.run(
            [*COMMAND, *words, "--network", str(network or self.network), "--home", str(self.folder / "buyer")],
            env=kept | {"TOLSEY_PASSPHRASE": PASSPHRASE, "NO_COLOR": "1"},
            capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def job(self, toml: str = "", *, forward: str = "super().forward(x)") -> Path:
        """A job file of four steps; `toml` follows its [job] table."""
        (self.folder / "job.py").write_text(JOB.format(forward=forward))
        path = self.folder / "job.toml"
        path.write_text(f'[job]\nfile = "job.py"\n{toml}')
        return path

    def belongings(self) -> dict[str, Any]:
        """Everything that could be lost: money in three places, transactions sent, keys, jobs."""
        account, gateway = self.account, self.world.gateway
        keys = self.folder / "buyer" / "keys"
        return {
            "market": gateway.account(account),
            "tokens": gateway.token_balance(account),
            "gas": gateway.eth_balance(account),
            "sent": gateway.rpc.number("eth_getTransactionCount", account, "latest"),
            "keys": {path.name: path.read_bytes() for path in sorted(keys.rglob("*")) if path.is_file()},
            "jobs": json.loads(self.type("ps", "--json").stdout),
        }


@pytest.fixture(scope="module")
def buyer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buyer]:
    folder = tmp_path_factory.mktemp("bad-input")
    network = folder / "network.toml"
    with MarketWorld.open(folder, block_time_s=0.5, clocks=LOCAL_CLOCKS) as world:
        world.network.save(network)
        with _worker(folder, network) as ready:
            replace(world.network, bootstrap=tuple(ready["addrs"])).save(network)
            buyer = Buyer(world, folder, network, Account(""))
            made = buyer.type("wallet", "create", "--json")
            assert made.returncode == 0, made.stderr
            buyer.account = json.loads(made.stdout)["account"]
            world.rpc("anvil_setBalance", buyer.account, hex(ETHER_WEI))
            yield buyer


@contextmanager
def _worker(folder: Path, network: Path) -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        [*COMMAND, "worker", "start", "--json", "--network", str(network), "--home", str(folder / "worker")],
        env=os.environ | {"TOLSEY_PASSPHRASE": PASSPHRASE}, stdout=subprocess.PIPE,
        stderr=(folder / "worker.log").open("w"), text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "worker.log").read_text()[-2000:]
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def nothing_lost(buyer: Buyer) -> Iterator[None]:
    before = buyer.belongings()
    yield
    assert buyer.belongings() == before


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Exit code, nothing on standard output, every word on standard error, a next step, no traceback."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("nothing_lost")
def test_run_unknown_key_quotes_line_and_likely_key(buyer: Buyer) -> None:
    done = buyer.type("run", str(buyer.job("stepz = 4\n")), "--yes", "--json")
    refused(done, SpecInvalid.exit_code, "job.toml line 3", "stepz = 4", "try: steps")


@pytest.mark.usefixtures("nothing_lost")
def test_run_unsupported_operation_names_it_and_the_models_line(buyer: Buyer) -> None:
    path = buyer.job(forward="super().forward(x) + torch.fft.rfft(x).real.sum()")
    done = buyer.type("run", str(path), "--yes", "--json")
    refused(done, UnsupportedOp.exit_code, "fft_r2c", "job.py", "torch.fft.rfft(x)", "try: ")


@pytest.mark.usefixtures("nothing_lost")
def test_run_data_of_another_hash_names_both(buyer: Buyer) -> None:
    wanted = "ab" * 32
    done = buyer.type("run", str(buyer.job(f'data_content = "{wanted}"\n')), "--yes", "--json")
    refused(done, SpecInvalid.exit_code, wanted, "the data set has content id", "try: ")


@pytest.mark.usefixtures("nothing_lost")
def test_run_too_dear_for_the_cap_says_who_was_dropped_why(buyer: Buyer) -> None:
    done = buyer.type("run", str(buyer.job()), "--yes", "--json", "--max-cost", "0.01")
    refused(done, NoOffer.exit_code, "needs an escrow of", "your cap is 10000", "try: raise --max-cost")


@pytest.mark.usefixtures("nothing_lost")
def test_run_nobody_of_that_name_says_so(buyer: Buyer) -> None:
    done = buyer.type("run", str(buyer.job()), "--yes", "--json", "--on", "0xdeadbeef")
    refused(done, NoOffer.exit_code, "--on names (0xdeadbeef)", "try: ")


@pytest.mark.usefixtures("nothing_lost")
def test_run_too_little_money_says_how_much_is_missing(buyer: Buyer) -> None:
    done = buyer.type("run", str(buyer.job()), "--yes", "--json")
    refused(done, InsufficientFunds.exit_code, "the escrow is", "in the wallet", "try: tolsey wallet faucet")


@pytest.mark.usefixtures("nothing_lost")
def test_run_after_a_plan_of_another_job_finds_the_place_free(buyer: Buyer) -> None:
    planned = buyer.type("plan", str(buyer.job("seed = 5\n")), "--json")
    assert planned.returncode == 0, planned.stderr
    done = buyer.type("run", str(buyer.job("seed = 6\n")), "--yes", "--json")
    refused(done, InsufficientFunds.exit_code, "the escrow is")  # an offer was found; only the money was not


@pytest.mark.usefixtures("nothing_lost")
def test_run_chain_down_names_the_endpoint(buyer: Buyer) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    network = _changed(buyer, "down.toml", rpc_url=url)
    done = buyer.type("run", str(buyer.job()), "--yes", "--json", network=network)
    refused(done, ChainUnavailable.exit_code, url, "try: ")


@pytest.mark.usefixtures("nothing_lost")
def test_run_endpoint_of_another_chain_names_both(buyer: Buyer) -> None:
    network = _changed(buyer, "other.toml", chain_id=31_338)
    done = buyer.type("run", str(buyer.job()), "--yes", "--json", network=network)
    refused(done, ChainUnavailable.exit_code, "31337", "31338", "try: ")


@pytest.mark.usefixtures("nothing_lost")
def test_run_only_peer_sends_garbage_finds_no_offer(buyer: Buyer) -> None:
    with _garbage_peer() as addr:
        network = _changed(buyer, "garbage.toml", bootstrap=(addr,))
        done = buyer.type("run", str(buyer.job()), "--yes", "--json", network=network)
    refused(done, NoOffer.exit_code, "try: ")


def _changed(buyer: Buyer, name: str, **fields: Any) -> Path:
    path = buyer.folder / name
    replace(NetworkFile.load(buyer.network), **fields).save(path)
    return path


@contextmanager
def _garbage_peer() -> Iterator[str]:
    """A multiaddr at which every visitor gets random bytes instead of a handshake."""

    class Babbler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                self.request.sendall(random.Random(1).randbytes(1 << 16))
                self.request.recv(1 << 16)
            except OSError:
                pass  # the visitor has had enough

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Babbler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"/ip4/127.0.0.1/tcp/{server.server_address[1]}/p2p/{STRANGER}"
        server.shutdown()
