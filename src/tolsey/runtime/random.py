"""Philox many at a time: the same bits as protocol/philox.py on any device, and numbers made of them.

Everything here is integer work and single IEEE-754 operations (add, multiply, divide, square root), each a tensor
operation of its own, so nothing is contracted and no mathematical library is asked: equal bits on every machine.

- `uniforms`: upper 24 bits of a word times 2^-24.
- `normals`: inverse-CDF: p = (word + 1/2) * 2^-32, then Wichura's AS 241 (PPND16) rational functions in float64, the
  logarithm of the tail by an atanh series of ours. Against exact quantiles the relative error stays below 1e-14
  (tests/runtime/test_random.py); then one rounding to the element type. |z| <= 6.34, and each z is one of 2^32.
- `keep_masks`: dropout, integer comparison only.
- `permutation`: the data order.

It refuses to hold state: no generator object, no global seed. Next in the flow: initial.py, ops.py, dataset.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy
import torch

from tolsey.protocol import philox

BLOCKS_AT_ONCE: Final = 1 << 14
"""Blocks computed together: six rows of 128 KiB stay in the second-level cache."""


def words(
    seed: int, *, domain: int, stream: int, count: int, first_index: int = 0, device: torch.device | None = None
) -> torch.Tensor:
    """`count` u32 words as int64 [count]: blocks first_index, first_index + 1, … one after another."""
    out = torch.empty((-(-count // 4), 4), dtype=torch.int64, device=device)
    for start in range(0, len(out), BLOCKS_AT_ONCE):
        part = out[start : start + BLOCKS_AT_ONCE]
        if _on_host(device):
            index = numpy.arange(first_index + start, first_index + start + len(part), dtype=numpy.uint64)
            drawn = philox_numpy(index & _MASK32, index >> _SHIFT32, stream, domain, seed)
            numpy.stack(drawn, axis=1, out=part.numpy().view(numpy.uint64))
        else:
            low = torch.arange(start, start + len(part), dtype=torch.int64, device=device)
            low += first_index & philox.MASK32
            high = (low >> 32) + (first_index >> 32)
            torch.stack(philox_torch(low & philox.MASK32, high, stream, domain, seed), dim=1, out=part)
    return out.reshape(-1)[:count]


def uniforms(
    seed: int, *, domain: int, stream: int, count: int, first_index: int = 0, device: torch.device | None = None
) -> torch.Tensor:
    """float64 [count] in [0, 1): multiples of 2^-24, exact in float32 too."""
    drawn = words(seed, domain=domain, stream=stream, count=count, first_index=first_index, device=device)
    return (drawn >> 8).double() * 2.0**-24


def normals(
    seed: int, *, domain: int, stream: int, count: int, first_index: int = 0, device: torch.device | None = None
) -> torch.Tensor:
    """float64 [count] of the standard normal distribution."""
    out = words(seed, domain=domain, stream=stream, count=count, first_index=first_index, device=device).double()
    for part in torch.split(out, 1 << 18):
        part.copy_(normal_quantile((part + 0.5) * 2.0**-32))
    return out


def keep_masks(
    seed: int,
    *,
    stream: int,
    position: int,
    ahead: int = 1,
    shape: Sequence[int],
    threshold: int,
    device: torch.device | None = None,
) -> torch.Tensor:
    """bool [ahead, *shape] for `position` and the positions after it: True where an element is kept.

    Args:
        stream: place of the dropout in the graph.
        position: step * micro_batches + micro-batch, below 2^32.
        ahead: at least 1; many small masks at once cost little more than one.
        threshold: floor(keep probability * 2^24). A word is kept where word >> 8 is below it.
    """
    count = math.prod(shape)
    kept = torch.empty((ahead, -(-count // 4), 4), dtype=torch.bool, device=device)
    limit = threshold << 8
    for start in range(0, kept.shape[1], BLOCKS_AT_ONCE):
        part = kept[:, start : start + BLOCKS_AT_ONCE]
        stop = start + part.shape[1]
        if _on_host(device):
            low, high = numpy.meshgrid(
                numpy.arange(start, stop, dtype=numpy.uint64),
                numpy.arange(position, position + ahead, dtype=numpy.uint64),
            )
            below = [word < limit for word in philox_numpy(low, high, stream, philox.DOMAIN_MASK, seed)]
            numpy.stack(below, axis=2, out=part.numpy())
        else:
            rows = torch.arange(position, position + ahead, device=device)
            c1, c0 = torch.meshgrid(rows, torch.arange(start, stop, device=device), indexing="ij")
            words = philox_torch(c0, c1, stream, philox.DOMAIN_MASK, seed)
            torch.stack([word < limit for word in words], dim=2, out=part)
    return kept.reshape(ahead, -1)[:, :count].reshape(ahead, *shape)


def masks_at_once(shape: Sequence[int]) -> int:
    """How many masks of a shape are drawn for the price of the calls: as many as fit BLOCKS_AT_ONCE."""
    return max(1, 4 * BLOCKS_AT_ONCE // max(1, math.prod(shape)))


def permutation(seed: int, *, epoch: int | numpy.ndarray, positions: numpy.ndarray, count: int) -> numpy.ndarray:
    """Where each position of an epoch (one for all, or one each) points: int64, equal to `philox.permute` of each."""
    half = numpy.uint64(philox.half_bits(count))
    mask = (numpy.uint64(1) << half) - numpy.uint64(1)
    values = positions.astype(numpy.uint64)
    streams = numpy.broadcast_to(epoch, values.shape).astype(numpy.uint64) & _MASK32
    todo = numpy.arange(len(values))
    while len(todo):
        left, right = values[todo] >> half, values[todo] & mask
        for round_ in range(philox.FEISTEL_ROUNDS):
            high = numpy.full_like(right, round_)
            drawn = philox_numpy(right.copy(), high, streams[todo], philox.DOMAIN_ORDER, seed)[0]
            left, right = right, left ^ (drawn & mask)
        values[todo] = (left << half) | right
        todo = todo[values[todo] >= count]
    return values.astype(numpy.int64)


def normal_quantile(p: torch.Tensor) -> torch.Tensor:
    """The standard normal quantile of p in [2^-33, 1 - 2^-33], float64; values outside are moved to the border."""
    p = p.clamp(2.0**-33, 1 - 2.0**-33)
    q = p - 0.5
    r = 0.180625 - q * q
    centre = q * (_horner(_A, r) / _horner(_B, r))
    tail = _sqrt(-_log(torch.minimum(p, 1.0 - p))) - 1.6
    outer = _horner(_C, tail) / _horner(_D, tail)
    return torch.where(q.abs() <= 0.425, centre, torch.where(q < 0, -outer, outer))


def philox_numpy(
    c0: numpy.ndarray, c1: numpy.ndarray, stream: int | numpy.ndarray, domain: int, seed: int
) -> tuple[numpy.ndarray, ...]:
    """Ten rounds over counters (c0, c1, stream, domain), uint64 of one shape each below 2^32: the four words of each.

    The counters given are used up. Everything is in place: small draws cost calls, large ones memory passes.
    """
    c2, c3 = numpy.full_like(c0, stream), numpy.full_like(c0, domain)
    k0, k1 = seed & philox.MASK32, seed >> 32
    product0, product1 = numpy.empty_like(c0), numpy.empty_like(c0)
    for _ in range(philox.ROUNDS):
        numpy.multiply(c0, _MULTIPLIER_0, out=product0)
        numpy.multiply(c2, _MULTIPLIER_1, out=product1)
        numpy.right_shift(product1, _SHIFT32, out=c0)
        numpy.bitwise_xor(c0, c1, out=c0)
        numpy.bitwise_xor(c0, numpy.uint64(k0), out=c0)
        numpy.right_shift(product0, _SHIFT32, out=c2)
        numpy.bitwise_xor(c2, c3, out=c2)
        numpy.bitwise_xor(c2, numpy.uint64(k1), out=c2)
        numpy.bitwise_and(product1, _MASK32, out=c1)
        numpy.bitwise_and(product0, _MASK32, out=c3)
        k0, k1 = (k0 + philox.WEYL_0) & philox.MASK32, (k1 + philox.WEYL_1) & philox.MASK32
    return c0, c1, c2, c3


def philox_torch(c0: torch.Tensor, c1: torch.Tensor, stream: int, domain: int, seed: int) -> tuple[torch.Tensor, ...]:
    """The same on any device, in int64.

    Products of two u32 wrap in int64; their upper halves come out right because the shift's copies of the sign bit
    are masked away.
    """
    mask = philox.MASK32
    c2, c3 = torch.full_like(c0, stream), torch.full_like(c0, domain)
    k0, k1 = seed & mask, seed >> 32
    for _ in range(philox.ROUNDS):
        product0, product1 = c0 * philox.MULTIPLIER_0, c2 * philox.MULTIPLIER_1
        c0 = (product1 >> 32).bitwise_and_(mask).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (product0 >> 32).bitwise_and_(mask).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = product1.bitwise_and_(mask), product0.bitwise_and_(mask)
        k0, k1 = (k0 + philox.WEYL_0) & mask, (k1 + philox.WEYL_1) & mask
    return c0, c1, c2, c3


def _on_host(device: torch.device | None) -> bool:
    return device is None or device.type == "cpu"


_MASK32 = numpy.uint64(philox.MASK32)
_SHIFT32 = numpy.uint64(32)
_MULTIPLIER_0 = numpy.uint64(philox.MULTIPLIER_0)
_MULTIPLIER_1 = numpy.uint64(philox.MULTIPLIER_1)


def _sqrt(x: torch.Tensor) -> torch.Tensor:
    """The root rounded as IEEE has it: on a CPU PyTorch asks a library that rounds one in a hundred float64 wrongly."""
    return torch.from_numpy(numpy.sqrt(x.numpy())) if _on_host(x.device) else torch.sqrt(x)


def _log(x: torch.Tensor) -> torch.Tensor:
    """Natural logarithm of normal positive float64, by exponent bits and the atanh series; within 2 ULP."""
    bits = x.view(torch.int64)
    exponent = (bits >> 52) - 1023
    mantissa = ((bits & ((1 << 52) - 1)) | (1023 << 52)).view(torch.float64)
    upper = mantissa > 1.4142135623730951
    mantissa = torch.where(upper, mantissa * 0.5, mantissa)
    exponent = (exponent + upper.long()).double()
    s = (mantissa - 1.0) / (mantissa + 1.0)
    series = _horner(_ATANH, s * s)
    return exponent * _LN2_HIGH + (2.0 * s * series + exponent * _LN2_LOW)


def _horner(coefficients: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    """The polynomial with these coefficients, constant first: a multiplication and an addition per step."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


_ATANH = tuple(1.0 / (2 * k + 1) for k in range(13))
_LN2_HIGH = 0.6931471803691238
"""ln 2 with the last 20 bits cleared, so that a product with an exponent is exact (fdlibm's split)."""
_LN2_LOW = 1.9082149292705877e-10

# M. J. Wichura, "Algorithm AS 241: The percentage points of the normal distribution", Applied Statistics 37 (1988),
# routine PPND16. Its third region (p < 1.4e-11) cannot be reached from 32-bit words.
_A = (
    3.3871328727963666080e0,
    1.3314166789178437745e2,
    1.9715909503065514427e3,
    1.3731693765509461125e4,
    4.5921953931549871457e4,
    6.7265770927008700853e4,
    3.3430575583588128105e4,
    2.5090809287301226727e3,
)
_B = (
    1.0,
    4.2313330701600911252e1,
    6.8718700749205790830e2,
    5.3941960214247511077e3,
    2.1213794301586595867e4,
    3.9307895800092710610e4,
    2.8729085735721942674e4,
    5.2264952788528545610e3,
)
_C = (
    1.42343711074968357734e0,
    4.63033784615654529590e0,
    5.76949722146069140550e0,
    3.64784832476320460504e0,
    1.27045825245236838258e0,
    2.41780725177450611770e-1,
    2.27238449892691845833e-2,
    7.74545014278341407640e-4,
)
_D = (
    1.0,
    2.05319162663775882187e0,
    1.67638483018380384940e0,
    6.89767334985100004550e-1,
    1.48103976427480074590e-1,
    1.51986665636164571966e-2,
    5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)
