"""Amounts of the market's token as people write and read them: whole test dollars with at most six decimals.

Light on purpose: command lines read it before anything else is loaded. Next in the flow: purse.py.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from tolsey.errors import ConfigError
from tolsey.protocol.units import TokenUnits

DOLLAR_UNITS = 10**6
"""Token units in a test dollar; the market's token has six decimals like USDC."""


def parse_dollars(flag: str, text: str) -> TokenUnits:
    """Token units in a decimal amount of test dollars, at most six decimals.

    Raises:
        ConfigError: not an amount, negative, or finer than the token; names the flag.
    """
    try:
        units = Decimal(text) * DOLLAR_UNITS
    except InvalidOperation as error:
        raise ConfigError(f"{flag} is {text!r}, which is no amount", fix=f"{flag} 1.0") from error
    if not units.is_finite() or units < 0 or units >= 1 << 95 or units != units.to_integral_value():
        raise ConfigError(f"{flag} is {text}; amounts are 0 or more with at most six decimals", fix=f"{flag} 1.0")
    return TokenUnits(int(units))


def dollars(units: int) -> str:
    """A token amount for people."""
    return f"{Decimal(units) / DOLLAR_UNITS:.6f}".rstrip("0").rstrip(".")
