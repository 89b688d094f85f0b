"""Random numbers of plain PyTorch code, from Philox: what exact_mode.py answers `dropout`, `rand`, `init.*` with.

A *draw* is one call that asks for random numbers. PyTorch's generator object (the default one, or the one handed over)
is not asked for numbers; it only counts. Where a generator was seeded with s and has answered n draws since, a draw is
the words of protocol/philox.py with

    key     = the seed of `tolsey.exact`
    counter = (block, s mod 2^32, n + s div 2^32, domain)

and block = 0, 1, 2, … Because the count lives in the generator, `manual_seed`, `fork_rng`, `get_rng_state` and so
activation checkpointing mean what they always mean. Inside `tolsey.exact` the default generator begins with s = 0.

The domains are those of jobs, and so are the numbers (docs/graph.md, sections 4 and 5): with `manual_seed(step)` before
a step, the n-th dropout of the step has the mask of a job's n-th dropout in that step; and the n-th `init.uniform_` or
`normal_` of a model has the values of a job's n-th.

It refuses generators of other devices. Next in the flow: exact_mode.py.
"""

from __future__ import annotations

import math
from typing import Final

import numpy
import torch
from numpy.typing import NDArray

from tolsey.errors import UnsupportedOp
from tolsey.numerics import elementwise
from tolsey.numerics.library import Library
from tolsey.protocol.philox import DOMAIN_INIT, DOMAIN_RAW, MASK32
from tolsey.runtime import random

_ONE_DRAW: Final = 1 << 32
"""What a draw adds to a generator's seed: seeds that people choose lie below it."""
_MANY: Final = (1 << 64) - 1


class Draws:
    """The random numbers of one seed.

    Args:
        lib: the kernels.
        seed: a u64.
    """

    def __init__(self, lib: Library, seed: int) -> None:
        self._lib = lib
        self._seed = seed

    def uniform(self, shape: torch.Size, low: float, high: float, generator: torch.Generator | None) -> torch.Tensor:
        """float32 in [low, high]: multiples of 2^-24, scaled in float64, rounded once."""
        position, stream = _next(generator)
        numbers = random.uniforms(
            self._seed, domain=DOMAIN_INIT, stream=stream, count=math.prod(shape), first_index=position << 32
        )
        return (numbers * (high - low) + low).float().reshape(shape)

    def normal(self, shape: torch.Size, mean: float, std: float, generator: torch.Generator | None) -> torch.Tensor:
        """float32: standard normal quantiles, scaled in float64, rounded once."""
        position, stream = _next(generator)
        numbers = random.normals(
            self._seed, domain=DOMAIN_INIT, stream=stream, count=math.prod(shape), first_index=position << 32
        )
        return (numbers * std + mean).float().reshape(shape)

    def mask(self, shape: torch.Size, keep: float, generator: torch.Generator | None) -> torch.Tensor:
        """float32: 1 with probability `keep`, cut to a multiple of 2^-24, else 0."""
        position, stream = _next(generator)
        mask = elementwise.keep_mask(
            self._lib,
            self._seed,
            stream=stream,
            position=position,
            threshold=math.floor(keep * (1 << 24)),
            count=math.prod(shape),
        )
        return torch.from_numpy(mask).reshape(shape)

    def integers(self, shape: torch.Size, low: int, high: int, generator: torch.Generator | None) -> torch.Tensor:
        """int64 in [low, high): a u64 modulo high - low, added to low."""
        wide = self._wide(math.prod(shape), generator) % numpy.uint64(high - low)
        return torch.from_numpy(wide.astype(numpy.int64) + low).reshape(shape)

    def permutation(self, count: int, generator: torch.Generator | None) -> torch.Tensor:
        """int64 [count]: the places of `count` u64 in ascending order, of equal ones the first first."""
        return torch.from_numpy(numpy.argsort(self._wide(count, generator), kind="stable"))

    def _wide(self, count: int, generator: torch.Generator | None) -> NDArray[numpy.uint64]:
        """Pairs of words, the first the low half."""
        position, stream = _next(generator)
        words = elementwise.words(
            self._lib, self._seed, domain=DOMAIN_RAW, stream=stream, first_index=position << 32, count=2 * count
        )
        return words.view(numpy.uint64)


def _next(generator: torch.Generator | None) -> tuple[int, int]:
    """Position and stream of the next draw, which the generator then counts.

    Raises:
        UnsupportedOp: a generator of another device.
    """
    chosen = torch.default_generator if generator is None else generator
    if chosen.device.type != "cpu":
        raise UnsupportedOp(f"a generator of {chosen.device} was handed over", fix="pass torch.Generator()")
    state = chosen.initial_seed() & _MANY
    chosen.manual_seed(state + _ONE_DRAW & _MANY)
    return state & MASK32, state >> 32
