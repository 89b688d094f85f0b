"""Amounts as people write them: exact, or refused with the flag's name."""

from __future__ import annotations

import pytest

from tolsey.contracts.amounts import dollars, parse_dollars
from tolsey.errors import ConfigError


@pytest.mark.parametrize(("text", "units"), [("1.0", 1_000_000), ("0", 0), ("0.000001", 1), ("12.5", 12_500_000)])
def test_parse_dollars_gives_token_units_and_back(text: str, units: int) -> None:
    assert parse_dollars("--min-price", text) == units
    assert parse_dollars("--min-price", dollars(units)) == units


@pytest.mark.parametrize("text", ["", "-1", "0.0000001", "NaN", "Infinity", "1,5", "1e40"])
def test_parse_dollars_nonsense_names_the_flag(text: str) -> None:
    with pytest.raises(ConfigError, match="--min-price"):
        parse_dollars("--min-price", text)
