"""`tolsey worker` as a person or a supervisor sees it: real processes, exit codes, one ready line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tolsey.contracts.amounts import dollars
from tolsey.errors import ConfigError
from tolsey.node.config import WorkerConfig
from tolsey.protocol.job import PROFILES
from tolsey.testing.chain import MarketWorld

TOLSEY = [sys.executable, "-c", "from tolsey.client.cli import main; main()", "worker"]
END_S = 60


@pytest.mark.parametrize(
    "changes", [{"capacity": 0}, {"memory_bytes": 1}, {"device": "tpu"}, {"bond_bps": -1}, {"forfeit_bps": 10_001}]
)
def test_config_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        WorkerConfig(network="local", home=Path("/nowhere"), **changes)


class Cli:
    """`tolsey worker` against one market."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "worker"
        self.where = ["--network", str(folder / "network.toml"), "--home", str(self.home)]
        self.start = [*TOLSEY, "start"]
        self.environment = os.environ | {"TOLSEY_PASSPHRASE": "open sesame"}

    @contextmanager
    def started(self, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
        """A running worker and its ready line; killed at the end if it still runs."""
        process = subprocess.Popen(
            [*self.start, *self.where, "--json", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read().decode()[-2000:]
            yield process, json.loads(line)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*TOLSEY, *words, *self.where],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=END_S,
            check=False,
        )


@pytest.mark.slow
def test_start_status_stop_and_start_again(tmp_path: Path) -> None:
    with MarketWorld.open(tmp_path, block_time_s=0.5) as world:
        world.network.save(tmp_path / "network.toml")
        cli = Cli(tmp_path)
        with cli.started("--price-per-petaflop", "2.5", "--json-logs") as (process, ready):
            assert ready["event"] == "ready" and ready["pid"] == process.pid
            registration = world.gateway.worker(ready["account"])
            assert registration is not None and not registration.leaving_since

            second = cli.run("start")
            assert second.returncode == 10 and "in use" in second.stderr

            status = json.loads(cli.run("status", "--json").stdout)
            assert (status["running"], status["account"], status["jobs"]) == (True, ready["account"], [])
            assert status["money"]["free"] > 0
            assert status["profiles"] == ready["profiles"] == [*PROFILES]
            assert f"sells {', '.join(PROFILES)} on" in cli.run("status").stdout

            assert "stopped" in cli.run("stop").stdout
            assert process.wait(END_S) == 0
        after = json.loads(cli.run("status", "--json").stdout)
        assert (after["running"], after["account"]) == (False, ready["account"])
        assert "no worker runs" in cli.run("stop").stdout

        with cli.started() as (process, again):
            assert (again["account"], again["peer_id"]) == (ready["account"], ready["peer_id"])
            assert world.gateway.worker(ready["account"]) == registration, "no second bond"
            assert world.gateway.account(ready["account"])[1] == registration.bond
            process.send_signal(signal.SIGINT)
            assert process.wait(END_S) == 0


@pytest.mark.slow
def test_money_goes_out_and_in_and_the_bond_comes_back(tmp_path: Path) -> None:
    with MarketWorld.open(tmp_path, block_time_s=0.5) as world:
        world.network.save(tmp_path / "network.toml")
        cli = Cli(tmp_path)
        assert "no keys yet" in cli.run("withdraw", "1").stderr
        with cli.started() as (process, ready):
            process.terminate()
            assert process.wait(END_S) == 0
        account = ready["account"]
        free, _ = world.gateway.account(account)
        assert cli.run("withdraw", dollars(free + 1)).returncode == 3
        assert "sent to" in cli.run("withdraw", dollars(free), "--to", world.account("dora").lower()).stdout
        assert world.gateway.token_balance(world.account("dora")) == free
        assert "has a wrong letter" in cli.run(
            "withdraw", "0", "--to", account[:-1] + account[-1].swapcase()
        ).stderr or (account[-1].isdigit())
        assert cli.run("deposit", "1").returncode == 3

        assert "is leaving" in cli.run("leave").stdout
        registration = world.gateway.worker(account)
        assert registration is not None
        world.pass_until(registration.leaving_since + world.gateway.params().unbonding_s)
        assert "is free in the market" in cli.run("leave").stdout
        assert world.gateway.account(account) == (registration.bond, 0)


@pytest.mark.slow
def test_dishonest_worker_starts_by_its_own_entry_only(tmp_path: Path) -> None:
    with MarketWorld.open(tmp_path, block_time_s=0.5) as world:
        world.network.save(tmp_path / "network.toml")
        cli = Cli(tmp_path)
        assert "No such option" in cli.run("start", "--mode", "skip-steps").stderr
        cli.start = [sys.executable, "-m", "tolsey.testing.dishonest_worker", "--mode", "skip-steps"]
        with cli.started() as (process, ready):
            assert ready["event"] == "ready"
            process.terminate()
            assert process.wait(END_S) == 0


@pytest.mark.slow
def test_start_without_chain_names_the_endpoint_and_exits_6(tmp_path: Path) -> None:
    with MarketWorld.open(tmp_path) as world:
        world.network.save(tmp_path / "network.toml")
    refused = Cli(tmp_path).run("start")
    assert refused.returncode == 6
    assert world.network.rpc_url in refused.stderr and "Traceback" not in refused.stderr
