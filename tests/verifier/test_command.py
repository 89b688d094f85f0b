"""The command line as a user meets it: processes, signals, one line when ready."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tolsey.contracts.amounts import dollars
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.network_file import NetworkFile
from tolsey.errors import ConfigError
from tolsey.protocol.job import EXACT_FP32, PINNED
from tolsey.storage.process import running_pid
from tolsey.testing.chain import MarketWorld
from tolsey.verifier.config import VerifierConfig
from tolsey.verifier.service import measured_bench

RUN = [sys.executable, "-c", "from tolsey.verifier.command import app; app()"]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Path]:
    with MarketWorld.open(tmp_path, block_time_s=0.5) as world:
        world.network.save(tmp_path / "network.toml")
        yield tmp_path / "network.toml"


def tolsey(*args: str) -> str:
    environment = os.environ | {"TOLSEY_PASSPHRASE": "open sesame"}
    return subprocess.run([*RUN, *args], env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


def start(network: Path, home: Path) -> tuple[subprocess.Popen[str], dict[str, object]]:
    process = subprocess.Popen(
        [*RUN, "start", "--network", str(network), "--home", str(home), "--json"],
        env=os.environ | {"TOLSEY_PASSPHRASE": "open sesame"}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


@pytest.mark.slow
def test_start_registers_status_shows_stop_ends_and_a_kill_leaves_no_trace(network: Path, tmp_path: Path) -> None:
    home = tmp_path / "vera"
    process, ready = start(network, home)
    try:
        gateway = Gateway(NetworkFile.load(network), None)
        registration = gateway.verifier(bytes.fromhex(str(ready["class_id"])), str(ready["account"]))  # type: ignore[arg-type]
        assert registration is not None and registration.bond == gateway.params().verifier_bond
        assert running_pid(home, "verifier") == process.pid == ready["pid"]
        status = json.loads(tolsey("status", "--network", str(network), "--home", str(home), "--json"))
        assert (status["running"], status["account"]) == (True, ready["account"])
        assert status["money"]["free"] >= gateway.params().challenge_bond
        assert "running" in tolsey("status", "--network", str(network), "--home", str(home))
        assert "stopped" in tolsey("stop", "--network", str(network), "--home", str(home))
        assert process.wait(10) == 0
    finally:
        process.kill()
    # The same home again: no second registration; killed the hard way, its files claim nothing.
    process, again = start(network, home)
    try:
        assert again["account"] == ready["account"]
        assert gateway.verifier(bytes.fromhex(str(ready["class_id"])), str(ready["account"])) == registration  # type: ignore[arg-type]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert running_pid(home, "verifier") is None
    assert "no verifier runs" in tolsey("stop", "--network", str(network), "--home", str(home))


@pytest.mark.slow
def test_leave_gives_the_bond_back_and_withdraw_takes_it_out(tmp_path: Path) -> None:
    with MarketWorld.open(tmp_path, block_time_s=0.5) as world:
        network, home = tmp_path / "network.toml", tmp_path / "vera"
        world.network.save(network)
        where = ["--network", str(network), "--home", str(home)]
        process, ready = start(network, home)
        process.terminate()
        assert process.wait(30) == 0
        account, class_id = str(ready["account"]), bytes.fromhex(str(ready["class_id"]))

        leaving = json.loads(tolsey("leave", *where, "--json"))
        registration = world.gateway.verifier(class_id, account)  # type: ignore[arg-type]
        assert registration is not None and registration.leaving_since
        free_at = registration.leaving_since + world.gateway.params().unbonding_s
        assert (leaving["bond"], leaving["bond_free_at"]) == (registration.bond, free_at)
        assert "is leaving: duties it has go on" in tolsey("leave", *where)
        world.pass_until(free_at)
        assert "is free in the market" in tolsey("leave", *where)
        assert world.gateway.verifier(class_id, account) is None  # type: ignore[arg-type]
        assert "is not registered as verifier" in tolsey("leave", *where)

        free, locked = world.gateway.account(account)  # type: ignore[arg-type]
        assert locked == 0 and free >= registration.bond
        assert "sent to" in tolsey("withdraw", dollars(free), *where)
        assert world.gateway.account(account) == (0, 0)  # type: ignore[arg-type]


async def test_machine_without_kernels_is_no_verifier_of_the_exact_profile_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLSEY_ISA", "of-no-machine")
    with pytest.raises(ConfigError, match="of-no-machine names no build") as caught:
        await measured_bench(VerifierConfig(network="n", home=tmp_path, profile=EXACT_FP32))
    assert caught.value.fix == "unset TOLSEY_ISA"
    assert (await measured_bench(VerifierConfig(network="n", home=tmp_path, profile=PINNED))).profiles == (PINNED,)


@pytest.mark.parametrize(
    "change",
    [
        {"profile": "exact"},
        {"device": "tpu"},
        {"memory_bytes": 1},
        {"watch_samples": 0},
        {"max_duties": 0},
        {"disk_quota_bytes": 5},
    ],
)
def test_config_out_of_range_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        VerifierConfig(network="n", home=tmp_path, **change)  # type: ignore[arg-type]
