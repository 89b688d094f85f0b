"""Keys at rest and signatures: what opens, what is refused, and that a contract would accept what we sign."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tolsey.contracts.bindings import binding_digest
from tolsey.contracts.wallet import Keystore, Wallet, read_passphrase, recover
from tolsey.errors import ConfigError, RemoteViolation
from tolsey.protocol.offer import Domain
from tolsey.protocol.units import Account, PeerId

LIGHT = 1 << 4
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
WALLET = Wallet.from_private_key(b"\x07" * 32)


@given(digest=st.binary(min_size=32, max_size=32))
@settings(max_examples=50, deadline=None)
def test_sign_digest_any_digest_recovers_to_the_account_with_low_s(digest: bytes) -> None:
    signature = WALLET.sign_digest(digest)
    assert len(signature) == 65 and signature[64] in (27, 28)
    assert int.from_bytes(signature[32:64], "big") <= ORDER // 2
    assert recover(digest, signature) == WALLET.account


def test_recover_twin_with_high_s_refused() -> None:
    digest = b"\x01" * 32
    good = WALLET.sign_digest(digest)
    twin_s = ORDER - int.from_bytes(good[32:64], "big")
    twin = good[:32] + twin_s.to_bytes(32, "big") + bytes([55 - good[64]])
    with pytest.raises(RemoteViolation, match="high s"):
        recover(digest, twin)


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"\x01" * 64,
        b"\x01" * 66,
        b"\x00" * 64 + b"\x1b",
        b"\x11" * 64 + b"\x00",
        b"\xff" * 32 + b"\x01" * 32 + b"\x1b",
    ],
)
def test_recover_malformed_refused(signature: bytes) -> None:
    with pytest.raises(RemoteViolation):
        recover(b"\x01" * 32, signature)


@given(signature=st.binary(min_size=65, max_size=65))
@settings(max_examples=100, deadline=None)
def test_recover_random_bytes_gives_another_account_or_a_violation(signature: bytes) -> None:
    try:
        assert recover(b"\x01" * 32, signature) != WALLET.account
    except RemoteViolation:
        pass


def test_sign_digest_wrong_length_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        WALLET.sign_digest(b"short")


def test_wallet_created_loads_with_the_same_account(tmp_path: Path) -> None:
    made = Wallet.create(tmp_path / "deep" / "w.json", "correct horse", scrypt_n=LIGHT)
    assert Wallet.load(tmp_path / "deep" / "w.json", "correct horse").account == made.account
    assert stat.S_IMODE(os.stat(tmp_path / "deep" / "w.json").st_mode) == 0o600


def test_wallet_wrong_passphrase_is_a_config_error(tmp_path: Path) -> None:
    Wallet.create(tmp_path / "w.json", "right", scrypt_n=LIGHT)
    with pytest.raises(ConfigError, match="does not open"):
        Wallet.load(tmp_path / "w.json", "wrong")


def test_wallet_create_never_overwrites(tmp_path: Path) -> None:
    Wallet.create(tmp_path / "w.json", "a", scrypt_n=LIGHT)
    before = (tmp_path / "w.json").read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        Wallet.create(tmp_path / "w.json", "a", scrypt_n=LIGHT)
    assert (tmp_path / "w.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 3, "crypto": {}}', '{"version": 9}', "x" * 20_000])
def test_wallet_file_that_is_no_key_file_is_a_config_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "w.json").write_text(content)
    with pytest.raises(ConfigError):
        Wallet.load(tmp_path / "w.json", "a")


def test_keystore_opened_twice_gives_the_same_keys(tmp_path: Path) -> None:
    assert not Keystore.exists(tmp_path)
    first = Keystore.open(tmp_path, "p", scrypt_n=LIGHT)
    again = Keystore.open(tmp_path, "p")
    assert Keystore.exists(tmp_path)
    assert (first.wallet.account, first.peer_key, first.verifier_secret) == (
        again.wallet.account,
        again.peer_key,
        again.verifier_secret,
    )
    assert len(first.peer_key) == len(first.verifier_secret) == 32 and first.peer_key != first.verifier_secret
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o600}
    assert first.peer_key.hex() not in (tmp_path / "secrets.json").read_text()


def test_keystore_wrong_passphrase_or_touched_file_refused(tmp_path: Path) -> None:
    Keystore.open(tmp_path, "p", scrypt_n=LIGHT)
    with pytest.raises(ConfigError, match="does not open"):
        Keystore.open(tmp_path, "q")
    content = json.loads((tmp_path / "secrets.json").read_text())
    content["cipher"]["text"] = f"{int(content['cipher']['text'][0], 16) ^ 1:x}" + content["cipher"]["text"][1:]
    (tmp_path / "secrets.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError):
        Keystore.open(tmp_path, "p")


def test_keystore_secrets_without_wallet_refused(tmp_path: Path) -> None:
    Keystore.open(tmp_path, "p", scrypt_n=LIGHT)
    (tmp_path / "wallet.json").unlink()
    with pytest.raises(ConfigError, match=r"no wallet\.json"):
        Keystore.open(tmp_path, "p")


def test_keystore_new_verifier_secret_keeps_the_old_file(tmp_path: Path) -> None:
    first = Keystore.open(tmp_path, "p", scrypt_n=LIGHT)
    second = first.with_new_verifier_secret("p", scrypt_n=LIGHT)
    assert second.peer_key == first.peer_key and second.verifier_secret != first.verifier_secret
    assert Keystore.open(tmp_path, "p").verifier_secret == second.verifier_secret
    third = second.with_new_verifier_secret("p", scrypt_n=LIGHT)
    assert len({first.verifier_secret, second.verifier_secret, third.verifier_secret}) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "secrets.1.json",
        "secrets.2.json",
        "secrets.json",
        "wallet.json",
    ]


def test_read_passphrase_environment_then_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pass").write_text("from file\nsecond line\n")
    monkeypatch.delenv("TOLSEY_PASSPHRASE", raising=False)
    assert read_passphrase(tmp_path / "pass") == "from file"
    monkeypatch.setenv("TOLSEY_PASSPHRASE", "from environment")
    assert read_passphrase(tmp_path / "pass") == "from environment"


def test_read_passphrase_nowhere_to_ask_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLSEY_PASSPHRASE", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(ConfigError, match="no terminal"):
        read_passphrase()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_passphrase(tmp_path / "missing")


def test_binding_digest_differs_with_each_part() -> None:
    market, other = Account("0x" + "11" * 20), Account("0x" + "22" * 20)
    digests = {
        binding_digest(Domain(chain_id=chain, market=market_), account, PeerId(peer))
        for chain in (1, 2)
        for market_ in (market, other)
        for account in (market, other)
        for peer in ("12D3KooA", "12D3KooB")
    }
    assert len(digests) == 16
