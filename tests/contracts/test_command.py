"""`tolsey chain` from outside: real processes, what they print, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tolsey.contracts.command import app, default_folder, scaled, units
from tolsey.contracts.deploy import LOCAL_TERMS
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.network_file import NetworkFile
from tolsey.errors import ConfigError, TolseyError
from tolsey.testing.chain import MarketWorld


def tolsey(*args: str, code: int = 0) -> str:
    """Runs `tolsey chain ...` in this process and gives what it printed, or what it refused with."""
    done = CliRunner().invoke(app, args)
    if isinstance(done.exception, TolseyError):
        assert done.exception.exit_code == code, done.exception.diagnostics()
        return done.exception.diagnostics()
    assert done.exit_code == code == 0, done.output
    return done.stdout


def spoken(*args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tolsey(*args, "--json"))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "market"
    tolsey("down", "--data", str(tmp_path / "market"))


def test_up_detached_status_down_and_up_again_keeps_the_market(folder: Path) -> None:
    data = ("--data", str(folder))
    assert spoken("status", *data) == {"running": False, "folder": str(folder)}
    ready = spoken("up", "--detach", "--port", "0", *data)
    network = NetworkFile.load(folder / "network.toml")
    Gateway(network, None).check_chain()
    assert ready["event"] == "ready" and ready["market"] == network.market
    assert spoken("status", *data)["market"] == network.market
    assert "is in use by process" in tolsey("up", "--port", "0", *data, code=10)
    assert spoken("down", *data) == {"stopped": True} and spoken("down", *data) == {"stopped": False}
    again = spoken("up", "--detach", "--port", "0", *data)
    assert again["market"] == network.market and again["block"] >= ready["block"]


def test_up_foreground_serves_until_the_signal(folder: Path) -> None:
    command = [sys.executable, "-m", "tolsey.contracts.command", "up", "--json", "--port", "0", "--data", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert json.loads(process.stdout.readline())["event"] == "ready"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert spoken("status", "--data", str(folder))["running"] is False


@pytest.mark.slow
def test_down_after_the_keeper_was_killed_ends_the_chain_too(folder: Path) -> None:
    data = ("--data", str(folder))
    ready = spoken("up", "--detach", "--port", "0", *data)
    os.kill(ready["pid"], signal.SIGKILL)
    tolsey("down", *data)
    assert spoken("status", *data)["running"] is False


def test_deploy_on_a_running_chain_writes_the_file(tmp_path: Path) -> None:
    with MarketWorld.open(tmp_path / "world") as world:
        out = tmp_path / "two.toml"
        said = spoken("deploy", "--rpc", world.chain.url, "--out", str(out), "--name", "two", "--worker-bond", "5.5")
        network = NetworkFile.load(out)
        assert (said["market"], said["network_file"]) == (network.market, str(out)) and network.name == "two"
        assert Gateway(network, None).params().worker_bond == 5_500_000
        assert network.market != world.network.market
        before = world.gateway.block_number()
        refused = CliRunner().invoke(app, ("deploy", "--rpc", world.chain.url, "--out", str(out), "--fee-bps", "500"))
        assert refused.exit_code == 2 and "--fee-bps" in refused.output and "200" in refused.output
        assert world.gateway.block_number() == before, "refused before anything is deployed"


def test_unknown_engine_is_refused(tmp_path: Path) -> None:
    assert "auto, anvil or embedded" in tolsey("up", "--engine", "geth", "--data", str(tmp_path), code=2)


def test_deploy_endpoint_down_is_named(tmp_path: Path) -> None:
    assert "no connection" in tolsey("deploy", "--rpc", "http://127.0.0.1:9", code=6)


@pytest.mark.parametrize(
    ("text", "decimals", "expected"), [("1", 6, 10**6), ("0.000001", 6, 1), ("2.5", 18, 25 * 10**17)]
)
def test_units_of_whole_tokens(text: str, decimals: int, expected: int) -> None:
    assert units(text, decimals, "bond") == expected


@pytest.mark.parametrize("text", ["-1", "0.0000001", "many", "1e40", "NaN", ""])
def test_units_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="bond"):
        units(text, 6, "bond")


def test_terms_scale_with_the_tokens_decimals() -> None:
    assert scaled(LOCAL_TERMS, 6) == LOCAL_TERMS
    assert scaled(LOCAL_TERMS, 18) == replace(
        LOCAL_TERMS,
        **{
            name: getattr(LOCAL_TERMS, name) * 10**12
            for name in ("worker_bond", "verifier_bond", "challenge_bond", "panel_fee", "min_job_bond")
        },
    )


def test_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "tolsey" / "local"
