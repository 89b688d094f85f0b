"""Money for people: token units to text and back, exactly.

Everything inside counts whole token units (protocol/units.py); only here do decimals exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tolsey.errors import ConfigError
from tolsey.protocol.units import TokenUnits

_DECIMAL = re.compile(r"(\d{1,18})(?:\.(\d{1,18}))?")


@dataclass(frozen=True, slots=True)
class Money:
    """How this market's token is written.

    Attributes:
        decimals: digits after the point, 6 for a test dollar.
        symbol: put behind the number.
    """

    decimals: int = 6
    symbol: str = "USD"

    def text(self, units: int) -> str:
        """`1.25 USD`: at least two digits after the point, no more than needed."""
        sign, units = ("-", -units) if units < 0 else ("", units)
        whole, rest = divmod(units, 10**self.decimals)
        digits = f"{rest:0{self.decimals}d}".rstrip("0").ljust(2, "0") if self.decimals else ""
        return f"{sign}{whole:,}{'.' if digits else ''}{digits} {self.symbol}"

    def parse(self, text: str, *, name: str = "amount") -> TokenUnits:
        """Token units of a decimal such as `1.25`.

        Raises:
            ConfigError: not a decimal, or finer than the token.
        """
        found = _DECIMAL.fullmatch(text.strip().removesuffix(self.symbol).strip())
        if found is None:
            raise ConfigError(f"{name} {text!r} is no amount of money", fix="write it as 1.25")
        whole, rest = found[1], found[2] or ""
        if len(rest) > self.decimals and rest[self.decimals :].strip("0"):
            raise ConfigError(f"{name} {text} is finer than {self.symbol} with {self.decimals} decimals")
        return TokenUnits(int(whole) * 10**self.decimals + int(rest[: self.decimals].ljust(self.decimals, "0") or 0))
