"""Sizes of disk and memory as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

from tolsey.errors import ConfigError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB)?")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_size(flag: str, text: str) -> int:
    """Bytes in "4GiB", "512 MiB" or "1000".

    Raises:
        ConfigError: not a size; names the flag.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{flag} is {text!r}, which is no size", fix=f"{flag} 4GiB")
    return int(Decimal(found[1]) * _UNITS[found[2] or "B"])
