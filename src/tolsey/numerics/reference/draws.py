"""Words and masks, one Philox block at a time: protocol/philox.py is the law of a block."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

from tolsey.protocol import philox


def words(seed: int, *, domain: int, stream: int, first_index: int, count: int) -> NDArray[numpy.uint32]:
    """`count` words: blocks first_index, first_index + 1, … modulo 2^64, each in word order."""
    drawn: list[int] = []
    for place in range(-(-count // 4)):
        drawn += philox.block(seed, stream, (first_index + place) % (1 << 64), domain=domain)
    return numpy.array(drawn[:count], dtype=numpy.uint32)


def keep_mask(seed: int, *, stream: int, position: int, threshold: int, count: int) -> NDArray[numpy.uint8]:
    """1 where an element is kept, 0 where it is dropped."""
    drawn = words(seed, domain=philox.DOMAIN_MASK, stream=stream, first_index=position << 32, count=count)
    return ((drawn >> numpy.uint32(8)) < threshold).astype(numpy.uint8)
