"""A market on this machine as commands and SDK start it: what the keeper says becomes a market or an error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tolsey.client import local_market, world
from tolsey.client.market import Market
from tolsey.errors import ConfigError

from .test_command_line import NETWORK


class Keeper:
    """Stands where the keeper process would: says `lines`, and notes what it was started with and how it ended."""

    def __init__(self, *lines: dict[str, object]) -> None:
        self.lines, self.arguments, self.is_stopped = lines, list[str](), False

    @contextmanager
    def started(self, folder: Path, arguments: Sequence[str]) -> Iterator[Iterator[bytes]]:
        folder.mkdir(parents=True)
        self.arguments = list(arguments)
        (folder / "network.toml").write_text(NETWORK)
        try:
            yield (json.dumps(line).encode() for line in self.lines)
        except BaseException:
            self.is_stopped = True
            raise


def test_sdk_up_gives_the_market_that_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, said = Keeper({"say": "chain serves"}, {"event": "ready"}, {"say": "never read"}), list[str]()
    monkeypatch.setattr(local_market, "started_keeper", keeper.started)
    with Market.up(home=tmp_path / "m", workers=2, verifiers=1, engine="embedded", say=said.append) as market:
        assert market.access.settings.network_path == tmp_path / "m" / "network.toml"
    assert said == ["chain serves"] and not keeper.is_stopped
    assert keeper.arguments == ["--workers", "2", "--verifiers", "1", "--engine", "embedded"]


def test_up_that_fails_says_what_the_keeper_said_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper({"error": "no anvil here", "fix": "--engine embedded", "code": 6})
    monkeypatch.setattr(local_market, "started_keeper", keeper.started)
    with pytest.raises(world.KeeperFailed) as caught:
        Market.up(home=tmp_path / "m")
    assert (caught.value.message, caught.value.fix, caught.value.exit_code) == ("no anvil here", "--engine embedded", 6)
    assert keeper.is_stopped


def test_up_keeper_that_ends_without_a_word_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_market, "started_keeper", Keeper().started)
    with pytest.raises(ConfigError, match="the market did not come up") as caught:
        Market.up(home=tmp_path / "m")
    assert caught.value.fix == f"less {tmp_path / 'm' / 'keeper.log'}"


def test_up_unknown_engine_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="engine is 'geth'"):
        Market.up(home=tmp_path / "m", engine="geth")
    assert not (tmp_path / "m").exists()


def test_sdk_down_and_status_of_a_market_that_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "network.toml").write_text(NETWORK)
    market = Market.open(network=tmp_path / "network.toml")
    assert market.down().stopped is False
    found = market.status()
    assert found.block is None and found.processes == () and found.chain_id == 31_337
