"""The command line's edges: what it refuses, how it says so, what it exits with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tolsey.client import cli
from tolsey.client.access import Access
from tolsey.client.commands import shared
from tolsey.client.market import Market
from tolsey.client.money import Money
from tolsey.client.views import CancelView
from tolsey.errors import ChainUnavailable, ConfigError, LocalViolation, NoOffer

HEAVY = ("torch", "web3", "libp2p", "sqlalchemy", "matplotlib")
NETWORK = """\
name = "nowhere"
chain_id = 31337
rpc_url = "http://127.0.0.1:9"
market = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"
judge = "0xCf7Ed3AccA5a467e9e704C703E8D87F634fB0Fc9"
token = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
beacon = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
deployed_block = 3
confirmations = 0
bootstrap = []

[clocks]
commit_window_s = 600
reveal_window_s = 5
verdict_window_s = 20
challenge_window_s = 45
"""


@pytest.fixture(autouse=True)
def empty_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    for name in ("TOLSEY_NETWORK", "TOLSEY_HOME", "TOLSEY_PASSPHRASE", "TOLSEY_VERBOSE"):
        monkeypatch.delenv(name, raising=False)


def typed(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tolsey.client.cli", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "NO_COLOR": "1"}, timeout=60, check=False,
    )  # fmt: skip


def test_help_lists_own_and_foreign_commands_without_loading_them() -> None:
    code = "import sys; from tolsey.client import cli; from typer.testing import CliRunner as R\n"
    code += f"print(R().invoke(cli.app, ['--help']).stdout); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    for name in (*cli.COMMANDS, "worker", "verifier", "chain"):
        assert f" {name} " in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_import_tolsey_needs_no_heavy_library() -> None:
    code = f"import sys, tolsey; print(tolsey.__version__, [m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_import_tolsey_gives_its_public_names() -> None:
    code = "import tolsey; print(tolsey.Market.__module__, tolsey.errors.NoOffer.exit_code, hasattr(tolsey, 'nothing'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["tolsey.client.market", "9", "False"]


def test_misspelt_command_is_corrected() -> None:
    result = CliRunner().invoke(cli.app, ["ofers"])
    assert result.exit_code == 2
    assert "Did you mean 'offers'" in result.output


def test_no_market_names_the_file_and_the_next_command(tmp_path: Path) -> None:
    done = typed("ps")
    assert done.returncode == ConfigError.exit_code
    assert str(tmp_path / "share" / "tolsey" / "local" / "network.toml") in done.stderr
    assert "try: tolsey up" in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize("command", [("offers",), ("ps",), ("show", "ab"), ("audit", "--all"), ("get", "ab")])
def test_chain_down_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    network = tmp_path / "network.toml"
    network.write_text(NETWORK)
    result = CliRunner().invoke(cli.app, [*command, "--network", str(network)])
    assert isinstance(result.exception, ChainUnavailable)
    assert "http://127.0.0.1:9" in result.exception.message


def test_chain_down_of_a_local_market_says_how_to_start_it_again(tmp_path: Path) -> None:
    for folder, fix in (
        (tmp_path / "share" / "tolsey" / "local", "tolsey up"),
        (tmp_path / "other", f"tolsey up --home {tmp_path / 'other'}"),
    ):
        folder.mkdir(parents=True)
        (folder / "network.toml").write_text(NETWORK)
        (folder / "keeper.log").touch()
        result = CliRunner().invoke(cli.app, ["ps", "--network", str(folder / "network.toml")])
        assert isinstance(result.exception, ChainUnavailable) and result.exception.fix == fix


def test_offers_of_nobody_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "network.toml").write_text(NETWORK)
    monkeypatch.setattr(Access, "money", Money())
    monkeypatch.setattr(Market, "offers", lambda _market: [])
    monkeypatch.setattr(Market, "silence", lambda _market: NoOffer("2 workers are registered, none was heard", fix="x"))
    result = CliRunner().invoke(cli.app, ["offers", "--network", str(tmp_path / "network.toml")])
    assert "2 workers are registered, none was heard" in result.stderr and result.stdout == ""
    result = CliRunner().invoke(cli.app, ["offers", "--json", "--network", str(tmp_path / "network.toml")])
    assert json.loads(result.stdout) == []


def test_chain_down_exit_code_and_traceback_on_demand(tmp_path: Path) -> None:
    network = tmp_path / "network.toml"
    network.write_text(NETWORK)
    done = typed("--verbose", "ps", "--network", str(network))
    assert done.returncode == ChainUnavailable.exit_code
    assert "Traceback" in done.stderr and "error: http://127.0.0.1:9" in done.stderr


def test_network_file_with_a_typo_quotes_the_line(tmp_path: Path) -> None:
    network = tmp_path / "network.toml"
    network.write_text(NETWORK.replace("rpc_url", "rpc_ulr"))
    result = CliRunner().invoke(cli.app, ["ps", "--network", str(network)])
    assert isinstance(result.exception, ConfigError) and "rpc_ulr" in result.exception.message


def test_run_without_terminal_refuses_to_lock_money(tmp_path: Path) -> None:
    network = tmp_path / "network.toml"
    network.write_text(NETWORK)
    job = tmp_path / "job.py"
    job.write_text("")
    done = typed("run", str(job), "--network", str(network))
    assert done.returncode == ConfigError.exit_code
    assert "--yes" in done.stderr


class Cancelling:
    """A job that costs a quarter to cancel, and whether it was."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cancelled: list[str] = []
        (tmp_path / "network.toml").write_text(NETWORK)
        self._network = str(tmp_path / "network.toml")
        shown = SimpleNamespace(job=SimpleNamespace(job_id="ab" * 32), forfeit=250_000)
        monkeypatch.setattr(Access, "money", Money())
        monkeypatch.setattr(Market, "show", lambda _market, _job: shown)
        monkeypatch.setattr(Market, "cancel", self._cancel)

    def _cancel(self, job: str) -> CancelView:
        self.cancelled.append(job)
        return CancelView(job_id=job, state="cancelled", forfeit=250_000, returned=550_000)

    def type(self, *words: str) -> Result:
        return CliRunner().invoke(cli.app, ["cancel", "ab", *words, "--network", self._network])


def test_cancel_without_terminal_or_yes_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Cancelling(tmp_path, monkeypatch)
    result = world.type()
    assert isinstance(result.exception, ConfigError) and result.exception.fix == "add --yes"
    assert world.cancelled == []


@pytest.mark.parametrize(("answer", "code", "is_cancelled"), [(False, 1, False), (True, 0, True)])
def test_cancel_asks_and_names_the_forfeit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bool, code: int, is_cancelled: bool
) -> None:
    world, asked = Cancelling(tmp_path, monkeypatch), []
    monkeypatch.setattr(shared, "is_interactive", lambda: True)
    monkeypatch.setattr(shared, "agreed", lambda question: asked.append(question) or answer)
    assert world.type().exit_code == code
    assert len(asked) == 1 and "At most 0.25 USD of its escrow go to the worker" in asked[0]
    assert bool(world.cancelled) is is_cancelled


def test_cancel_says_what_was_lost_and_what_came_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Cancelling(tmp_path, monkeypatch)
    assert "forfeit 0.25 USD to the worker, 0.55 USD back" in " ".join(world.type("--yes").stdout.split())
    assert json.loads(world.type("--yes", "--json").stdout)["returned"] == 550_000


def test_wallet_missing_names_the_command(tmp_path: Path) -> None:
    network = tmp_path / "network.toml"
    network.write_text(NETWORK)
    result = CliRunner().invoke(cli.app, ["wallet", "address", "--network", str(network)])
    assert isinstance(result.exception, ConfigError) and result.exception.fix == "tolsey wallet create"


def test_audit_wants_a_job_or_all(tmp_path: Path) -> None:
    network = tmp_path / "network.toml"
    network.write_text(NETWORK)
    for words in (["audit"], ["audit", "ab", "--all"]):
        result = CliRunner().invoke(cli.app, [*words, "--network", str(network)])
        assert isinstance(result.exception, ConfigError) and "--all" in result.exception.message


def test_status_and_down_without_a_market() -> None:
    result = CliRunner().invoke(cli.app, ["status"])
    assert isinstance(result.exception, ConfigError) and result.exception.fix == "tolsey up"
    assert CliRunner().invoke(cli.app, ["down"]).exit_code == 0


def test_report_picks_the_error_out_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    error = NoOffer("nobody sells", fix="tolsey offers")
    assert cli.report(BaseExceptionGroup("x", [ExceptionGroup("y", [error])])) == 9
    assert capsys.readouterr().err == "error: nobody sells\n  try: tolsey offers\n"


def test_report_bug_beside_an_error_wins(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.report(ExceptionGroup("x", [NoOffer("a"), ZeroDivisionError("b")])) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert cli.report(LocalViolation("c")) == 70
    assert cli.report(BaseExceptionGroup("x", [KeyboardInterrupt(), NoOffer("a")])) == 130


def test_foreign_command_that_cannot_be_loaded_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def load(self) -> None:
            raise ImportError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, "_foreign", lambda: {"worker": Absent()})
    with pytest.raises(ConfigError) as caught:
        cli.load("worker")
    assert caught.value.fix == "pip install 'tolsey[torch]'"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--samples", "0", "samples is 0, allowed are 1 to 1024"),
        ("--samples", "1025", "samples is 1025, allowed are 1 to 1024"),
        ("--verifiers", "9", "verifiers is 9, allowed are 0 to 7"),
        ("--verifiers", "-1", "verifiers is -1, allowed are 0 to 7"),
    ],
)
def test_plan_impossible_number_is_refused_before_anybody_is_asked(
    tmp_path: Path, option: str, value: str, words: str
) -> None:
    (tmp_path / "network.toml").write_text(NETWORK)
    result = CliRunner().invoke(
        cli.app, ["plan", str(tmp_path / "job.py"), option, value, "--network", str(tmp_path / "network.toml")]
    )
    assert isinstance(result.exception, ConfigError) and result.exception.message == words
    assert result.exception.exit_code == 2


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_get_into_a_folder_that_is_not_there_is_refused_before_the_chain_is_asked(tmp_path: Path, option: str) -> None:
    network = tmp_path / "network.toml"
    network.write_text(NETWORK)
    for path, words in ((tmp_path / "absent" / "l.png", "there is no folder"), (tmp_path, "is a folder")):
        result = CliRunner().invoke(cli.app, ["get", "ab", option, str(path), "--network", str(network)])
        assert isinstance(result.exception, ConfigError) and words in result.exception.message
    assert not (tmp_path / "absent").exists()


def test_run_out_into_a_folder_that_is_not_there_is_refused_before_anything_is_bought(tmp_path: Path) -> None:
    (tmp_path / "network.toml").write_text(NETWORK)
    market = Market.open(network=tmp_path / "network.toml")
    with pytest.raises(ConfigError, match="there is no folder"):
        market.run(tmp_path / "job.py", out=tmp_path / "absent" / "x")


def test_json_errors_leave_standard_output_empty(tmp_path: Path) -> None:
    network = tmp_path / "network.toml"
    network.write_text(NETWORK)
    done = typed("ps", "--json", "--network", str(network))
    with pytest.raises(ValueError):
        json.loads(done.stdout)
    assert done.stdout == "" and done.returncode == 6
