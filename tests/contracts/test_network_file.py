"""The network file: what is written is read back, what is mistyped is refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tolsey.contracts.network_file import NetworkFile, network_path
from tolsey.errors import ConfigError
from tolsey.protocol.offer import PUBLIC_CLOCKS
from tolsey.protocol.units import Account

FILE = NetworkFile(
    name="local",
    chain_id=31337,
    rpc_url="http://127.0.0.1:8545",
    market=Account("0x5FbDB2315678afecb367f032d93F642f64180aa3"),
    judge=Account("0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"),
    token=Account("0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"),
    beacon=Account("0xCf7Ed3AccA5a467e9e704C703E8D87F634fB0Fc9"),
    deployed_block=4,
    confirmations=0,
    bootstrap=("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",),
    clocks=PUBLIC_CLOCKS,
)


def test_save_then_load_gives_the_same_value(tmp_path: Path) -> None:
    FILE.save(tmp_path / "a" / "local.toml")
    assert NetworkFile.load(tmp_path / "a" / "local.toml") == FILE
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["local.toml"]


def test_domain_is_that_of_the_market() -> None:
    assert (FILE.domain.chain_id, FILE.domain.market) == (31337, FILE.market)


@pytest.mark.parametrize(
    ("old", "new", "quoted"),
    [
        ('name = "local"', 'name = "Local Net"', 'name = "Local Net"'),
        ("chain_id = 31337", "chain_id = -1", "chain_id = -1"),
        ("chain_id = 31337", "chain_id = true", "chain_id = true"),
        ("chain_id = 31337", 'chain_id = "31337"', 'chain_id = "31337"'),
        ("http://127.0.0.1:8545", "ftp://x", 'rpc_url = "ftp://x"'),
        ("180aa3", "180aA3", "checksum"),
        ("180aa3", "180a", "40 hex digits"),
        ("confirmations = 0", "confirmation = 0", "confirmation = 0"),
        ("confirmations = 0\n", "", "lacks `confirmations`"),
        ("confirmations = 0", "confirmations = 5000", "confirmations = 5000"),
        ('"/ip4', '"ip4', "bootstrap = "),
        ("commit_window_s = 86400", "commit_window_s = 0", "commit_window_s = 0"),
        ("commit_window_s = 86400", "comit_window_s = 1", "comit_window_s = 1"),
        ("chain_id = 31337", "chain_id = = 1", "chain_id = = 1"),
    ],
)
def test_parse_mistake_quotes_the_line(old: str, new: str, quoted: str) -> None:
    text = FILE.to_toml()
    assert old in text
    with pytest.raises(ConfigError) as caught:
        NetworkFile.parse(text.replace(old, new), source="net.toml")
    assert "net.toml" in caught.value.message and quoted in caught.value.message


def test_parse_address_without_checksum_is_given_one() -> None:
    text = FILE.to_toml().replace(FILE.market, FILE.market.lower())
    assert NetworkFile.parse(text, source="x").market == FILE.market


def test_load_missing_file_proposes_a_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        NetworkFile.load(tmp_path / "none.toml")
    assert "tolsey chain up" in caught.value.diagnostics()


def test_network_path_unknown_name_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="no network file at"):
        network_path("atlantis")
    (tmp_path / "tolsey" / "atlantis").mkdir(parents=True)
    (tmp_path / "tolsey" / "atlantis" / "network.toml").write_text("")
    assert network_path("atlantis").name == "network.toml"
