"""Random words and masks: every build equals the law of one block, in any order and over every carry."""

from __future__ import annotations

import numpy
import pytest

from tolsey.numerics import elementwise
from tolsey.numerics.library import Library
from tolsey.numerics.reference import draws
from tolsey.protocol import philox
from tolsey.runtime import random

SEED = 0x0123456789ABCDEF


@pytest.mark.parametrize("first_index", [0, 5, (1 << 32) - 3, (7 << 32) | 0xFFFFFFF9, (1 << 64) - 9])
def test_words_of_each_build_equal_the_law(lib: Library, first_index: int) -> None:
    name = {"domain": philox.DOMAIN_INIT, "stream": 0xFEDCBA98, "first_index": first_index}
    for count in (0, 1, 3, 4, 63, 64, 65, 301):
        found = elementwise.words(lib, SEED, count=count, **name)
        assert found.tolist() == draws.words(SEED, count=count, **name).tolist()


def test_words_are_split_among_threads_at_whole_blocks(lib: Library) -> None:
    name = {"domain": philox.DOMAIN_MASK, "stream": 3}
    whole = elementwise.words(lib, SEED, count=100_001, first_index=0, **name)
    for block in (0, 4_095, 4_096, 8_192, 24_999):
        part = elementwise.words(lib, SEED, count=4, first_index=block, **name)
        assert whole[4 * block : 4 * block + 4].tolist() == part.tolist()
        assert part.tolist() == list(philox.block(SEED, 3, block, domain=philox.DOMAIN_MASK))


@pytest.mark.parametrize("kind", [numpy.float32, numpy.uint8])
@pytest.mark.parametrize("threshold", [0, 1, 1 << 23, 15_099_494, (1 << 24) - 1, 1 << 24])
def test_mask_of_each_build_equals_the_law(lib: Library, threshold: int, kind: type) -> None:
    name = {"stream": 2, "position": 77, "threshold": threshold}
    found = elementwise.keep_mask(lib, SEED, count=1_001, kind=kind, **name)
    assert found.dtype == kind
    assert found.tolist() == draws.keep_mask(SEED, count=1_001, **name).tolist()


def test_mask_equals_the_one_that_programs_have_drawn_until_now(lib: Library) -> None:
    found = elementwise.keep_mask(lib, SEED, stream=1, position=12, threshold=13_421_772, count=70_000)
    before = random.keep_masks(SEED, stream=1, position=12, shape=[70_000], threshold=13_421_772)[0]
    assert numpy.array_equal(found, before.numpy())
    assert abs(found.mean() - 0.8) < 0.01


@pytest.mark.parametrize("threshold", [(1 << 24) + 1, (1 << 32) - 1])
def test_mask_threshold_above_certainty_is_refused(lib: Library, threshold: int) -> None:
    with pytest.raises(ValueError, match="tolsey_keep_mask refused"):
        elementwise.keep_mask(lib, SEED, stream=0, position=0, threshold=threshold, count=4)
