"""A verifier's place in the market: which pool it is drawn from, and that no start binds a bond unasked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tolsey.contracts.chain import Chain
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.wallet import Keystore
from tolsey.errors import ConfigError
from tolsey.protocol.job import EXACT_CLASSES, EXACT_FP32, EXACT_INT8, PINNED, class_of_profile
from tolsey.protocol.units import ClassId
from tolsey.testing.chain import MarketWorld
from tolsey.verifier.config import VerifierConfig
from tolsey.verifier.enrolment import enrol, profile_of

THIS_MACHINE, ANOTHER = ClassId(b"\x11" * 32), ClassId(b"\x22" * 32)


class Home:
    """A verifier's keys and chain, started again and again."""

    def __init__(self, world: MarketWorld, folder: Path) -> None:
        self.keys = Keystore.open(folder / "keys", "open sesame", scrypt_n=2)
        self.gateway = Gateway(world.network, self.keys.wallet)
        self._chain, self._folder = Chain(self.gateway), folder

    async def start(self, profile: str | None = None, machine: ClassId = THIS_MACHINE) -> str:
        """As service.run does it; the profile that it is drawn for."""
        config = VerifierConfig(network="n", home=self._folder, profile=profile)
        taken = await profile_of(self._chain, self.keys.wallet.account, config)
        await enrol(self._chain, self.keys, class_of_profile(taken) or machine, config)
        return taken

    @property
    def pools(self) -> list[ClassId]:
        return list(self.gateway.joined(self.keys.wallet.account))

    @property
    def bound(self) -> int:
        """Bonds that are locked."""
        _, locked = self.gateway.account(self.keys.wallet.account)
        return locked // self.gateway.params().verifier_bond


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with MarketWorld.open(tmp_path) as world:
        yield Home(world, tmp_path / "vera")


async def test_start_without_a_profile_joins_one_pool_once(home: Home) -> None:
    assert [await home.start() for _ in range(2)] == [EXACT_FP32, EXACT_FP32]
    assert (home.pools, home.bound) == ([EXACT_CLASSES[EXACT_FP32]], 1)


@pytest.mark.parametrize("profile", [PINNED, EXACT_INT8])
async def test_start_again_without_a_profile_stays_in_the_pool_it_has_joined(home: Home, profile: str) -> None:
    assert await home.start(profile) == profile
    assert await home.start() == profile
    assert (home.pools, home.bound) == ([class_of_profile(profile) or THIS_MACHINE], 1)


async def test_start_with_another_profile_joins_a_second_pool_as_asked(home: Home) -> None:
    await home.start(PINNED)
    assert await home.start(EXACT_FP32) == EXACT_FP32
    assert (home.pools, home.bound) == ([THIS_MACHINE, EXACT_CLASSES[EXACT_FP32]], 2)


@pytest.mark.parametrize("profile", [PINNED, None])
async def test_start_on_a_machine_of_another_class_is_refused_before_a_bond(home: Home, profile: str | None) -> None:
    await home.start(PINNED)
    with pytest.raises(
        ConfigError, match=f"registered for pinned jobs of class {'11' * 8}, .* of class {'22' * 8}"
    ) as no:
        await home.start(profile, ANOTHER)
    assert no.value.fix is not None and "tolsey verifier leave" in no.value.fix
    assert (home.pools, home.bound) == ([THIS_MACHINE], 1)
