"""Randomness as a function: Philox4x32-10, and how a job's seed becomes bits, orders and masks.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the Random123
distribution holds its known answers) turns a 128-bit counter and a 64-bit key into 128 random bits without any state,
so the i-th number can be computed alone, on any device, in any order.

How we use it. A draw is named by (seed, domain, stream, index):

    key     = (seed mod 2^32, seed div 2^32)
    counter = (index mod 2^32, index div 2^32, stream, domain)

seed and index are u64, stream and domain u32. `domain` keeps uses apart (INIT, MASK, ORDER); `stream` is the place
inside a domain (which parameter, which dropout, which epoch). One draw, a *block*, gives four u32 words. A long list
of words is the blocks index = 0, 1, 2, … one after another, each in word order.

- **uniform**: the upper 24 bits of a word times 2^-24: in [0, 1), exact in float32.
- **keep mask** (dropout): element e of a mask is kept where (word e >> 8) < threshold, threshold = floor(keep * 2^24).
  Block b of the mask drawn in micro-batch m of step s has index = ((s * micro_batches + m) << 32) | b.
- **order**: `permute` below: a keyed bijection of {0 … n-1}, so that the k-th example of an epoch is computed, not
  stored.

This file is the reference on plain integers. Next in the flow: runtime/random.py, the same bits many at a time.
"""

from __future__ import annotations

DOMAIN_RAW = 0
DOMAIN_INIT = 1
DOMAIN_MASK = 2
DOMAIN_ORDER = 3

ROUNDS = 10
MULTIPLIER_0 = 0xD2511F53
MULTIPLIER_1 = 0xCD9E8D57
WEYL_0 = 0x9E3779B9
"""Golden ratio."""
WEYL_1 = 0xBB67AE85
"""sqrt(3) - 1."""
MASK32 = 0xFFFFFFFF

FEISTEL_ROUNDS = 8
"""Twice the four rounds at which a Feistel network over random functions is a strong pseudo-random permutation
(Luby and Rackoff 1988), because small data sets give it few bits."""

Block = tuple[int, int, int, int]


def philox4x32(counter: Block, key: tuple[int, int]) -> Block:
    """The four output words for a counter and a key; ten rounds."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & MASK32,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & MASK32,
        )
        k0, k1 = (k0 + WEYL_0) & MASK32, (k1 + WEYL_1) & MASK32
    return c0, c1, c2, c3


def block(seed: int, stream: int, index: int, *, domain: int = DOMAIN_RAW) -> Block:
    """The four u32 words of one draw.

    Raises:
        ValueError: seed or index outside u64, stream or domain outside u32.
    """
    if not (0 <= seed < 1 << 64 and 0 <= index < 1 << 64 and 0 <= stream < 1 << 32 and 0 <= domain < 1 << 32):
        raise ValueError(f"draw outside its range: seed {seed}, domain {domain}, stream {stream}, index {index}")
    return philox4x32((index & MASK32, index >> 32, stream, domain), (seed & MASK32, seed >> 32))


def half_bits(count: int) -> int:
    """Bits in each half of the Feistel network that covers {0 … count-1}; at least 1."""
    return max(1, ((count - 1).bit_length() + 1) // 2)


def permute(seed: int, epoch: int, position: int, count: int) -> int:
    """Where position `position` of epoch `epoch` points: a bijection of {0 … count-1} for each (seed, epoch).

    A balanced Feistel network over the smallest even number of bits that holds `count` values: the value's halves
    (left, right) become (right, left xor F(round, right)), eight times, where F(round, right) is word 0 of the block
    (seed, ORDER, stream = epoch mod 2^32, index = round << 32 | right) cut to half the bits. Results outside the
    range go through the network again (cycle walking) until they fall inside; on average fewer than four times.
    """
    if not 0 <= position < count <= 1 << 60:
        raise ValueError(f"position {position} of {count}")
    half = half_bits(count)
    mask = (1 << half) - 1
    value = position
    while True:
        left, right = value >> half, value & mask
        for round_ in range(FEISTEL_ROUNDS):
            word0 = block(seed, epoch & MASK32, (round_ << 32) | right, domain=DOMAIN_ORDER)[0]
            left, right = right, left ^ (word0 & mask)
        value = (left << half) | right
        if value < count:
            return value
