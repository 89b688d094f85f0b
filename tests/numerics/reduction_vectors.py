"""Vectors for docs/numerics/reductions.md: operations as programs name them, inputs and outputs as bits.

    python -P tests/numerics/reduction_vectors.py        # writes reductions.json of the package's vectors anew

The cases stand here and the slow twins write their outputs; selftest.py, which reads them, says what a case is.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import selftest
from tolsey.numerics.reference import draws
from tolsey.numerics.reference import lookups as slow_lookups
from tolsey.numerics.reference import losses as slow_losses
from tolsey.numerics.reference import norms as slow_norms
from tolsey.numerics.reference import pooling as slow_pooling
from tolsey.numerics.reference import reductions as slow_reductions
from tolsey.numerics.reference import softmax as slow_softmax
from tolsey.numerics.selftest import VECTORS, Case, tensor
from tolsey.runtime.ops import float_hex

FILE: Final = VECTORS / "reductions.json"
SLOW: Final[tuple[ModuleType, ...]] = (
    slow_reductions,
    slow_softmax,
    slow_norms,
    slow_losses,
    slow_lookups,
    slow_pooling,
)

EPS: Final = 1e-5
BOTH: Final = (True, True, True)


def cases() -> Iterator[Case]:
    """Every case without its outputs."""
    for size in (0, 1, 2, 31, 32, 33, 100):
        yield case("sum", some(size), [], False)
    for name in ("sum", "mean"):
        yield case(name, some(4097, 1), [0], True)
        for dims in ([0], [1], [2], [0, 2], [2, 1], []):
            yield case(name, some(5 * 3 * 4, 2).reshape(5, 3, 4), dims, False)
    yield case("sum", some(4100 * 2, 3).reshape(4100, 2), [0], False)
    for correction in (1, 0, 400, 0.5):
        yield case("variance", ordinary(600, 4).reshape(300, 2), [0], number(correction), False)
    for name in ("amax", "amin"):
        yield case(name, some(120, 5).reshape(8, 15), [1], False)
        yield case(name, numpy.array([[-0.0, 0.0], [-0.0, -0.0]], numpy.float32), [1], True)
    ties = numpy.round(ordinary(60, 6)).reshape(6, 10)
    ties[1, 3] = ties[1, 7] = numpy.nan
    for dim, keepdim in ((1, False), (0, True), (None, False)):
        yield case("argmax", ties, dim, keepdim)
    for order in (2, 1, 0, math.inf, -math.inf, 3, 0.5, -1):
        yield case("vector_norm", ordinary(70, 7).reshape(35, 2), number(order), [0], False)
    yield case("vector_norm", ordinary(4130, 8), 2, [0], False)
    for dim in (0, 1):
        yield case("cumsum", some(60, 9).reshape(6, 10), dim)
    yield from softmax_cases()
    yield from norm_cases()
    yield from loss_cases()
    yield from lookup_cases()
    yield from pooling_cases()


def softmax_cases() -> Iterator[Case]:
    x = ordinary(90, 10).reshape(2, 5, 9)
    masked = x.copy()
    masked[0, :, :4] = -numpy.inf
    masked[1, 2] = -numpy.inf
    masked[1, 3, 2], masked[1, 4, 1] = numpy.nan, numpy.inf
    for given, dim in itertools.product((x, masked), (1, 2)):
        yield case("softmax", given, dim, False)
        yield case("safe_softmax", given, dim)
        yield case("log_softmax", given, dim, False)
    grad = ordinary(90, 11).reshape(2, 5, 9)
    for dim in (1, 2):
        yield case("softmax_backward", grad, slow_softmax.softmax(x, dim), dim, "float32")
        yield case("log_softmax_backward", grad, slow_softmax.log_softmax(x, dim), dim, "float32")


def norm_cases() -> Iterator[Case]:
    x, grad = ordinary(180, 12).reshape(3, 6, 2, 5), ordinary(180, 13).reshape(3, 6, 2, 5)
    weight, bias = ordinary(10, 14).reshape(2, 5), ordinary(10, 15).reshape(2, 5)
    channels = [ordinary(6, seed) for seed in (16, 17, 18)]
    spread = numpy.abs(ordinary(6, 19))
    for w, b in ((weight, bias), (weight, None), (None, bias), (None, None)):
        yield case("layer_norm", x, [2, 5], w, b, number(EPS))
    _, mean, rstd = slow_norms.layer_norm(x, (2, 5), weight, bias, EPS)
    for w, wanted in ((weight, BOTH), (weight, (False, True, False)), (None, (True, False, False))):
        yield case("layer_norm_backward", grad, x, [2, 5], mean, rstd, w, w, list(wanted))
    sizes = (3, 6, 10, 2)
    yield case("group_norm", x, channels[0], channels[1], *sizes, number(EPS))
    yield case("group_norm", x, None, None, *sizes, number(EPS))
    _, mean, rstd = slow_norms.group_norm(x, channels[0], None, 2, EPS)
    for w, wanted in ((channels[0], BOTH), (None, (True, False, False))):
        yield case("group_norm_backward", grad, x, mean, rstd, w, *sizes, list(wanted))
    for training in (True, False):
        running = channels[2], spread, training
        yield case("batch_norm", x, channels[0], channels[1], *running, number(0.1), number(EPS))
        yield case("batch_norm", x[:, :, 0, 0], None, None, *running, number(0.1), number(EPS))
        _, mean, rstd, _, _ = slow_norms.batch_norm(x, None, None, *running, 0.1, EPS)
        for w, wanted in ((channels[0], BOTH), (None, (True, False, False))):
            saved = mean, rstd, training
            yield case("batch_norm_backward", grad, x, w, *running[:2], *saved, number(EPS), list(wanted))


def loss_cases() -> Iterator[Case]:
    for name, shape in (("nll_loss", (9, 4)), ("nll_loss2d", (3, 4, 2, 3))):
        x, places = ordinary(math.prod(shape), 20).reshape(shape), (shape[0], *shape[2:])
        target = indices(4, math.prod(places), 21).reshape(places)
        target.reshape(-1)[::4] = -100
        for weight, reduction in itertools.product((ordinary(4, 22), None), (0, 1, 2)):
            yield case(name, x, target, weight, reduction, -100)
            grad = ordinary(target.size, 23).reshape(places) if reduction == 0 else ordinary(1, 23).reshape(())
            _, total = slow_losses.nll_loss(x, target, weight, reduction, -100)
            yield case(f"{name}_backward", grad, x, target, weight, reduction, -100, total)
    x, target = ordinary(40, 24).reshape(8, 5), ordinary(40, 25).reshape(8, 5)
    for reduction in (0, 1, 2):
        yield case("mse_loss", x, target, reduction)
        grad = ordinary(40, 26).reshape(8, 5) if reduction == 0 else ordinary(1, 26).reshape(())
        yield case("mse_loss_backward", grad, x, target, reduction)


def lookup_cases() -> Iterator[Case]:
    yield case("embedding", some(21, 27).reshape(7, 3), indices(7, 6, 28).reshape(2, 3))
    for padding, scale in ((-1, False), (2, True)):
        grad = ordinary(60, 29).reshape(4, 5, 3)
        yield case("embedding_backward", grad, indices(4, 20, 30).reshape(4, 5), 4, padding, scale)
    x = some(24, 31).reshape(4, 6)
    yield case("gather", x, 1, indices(6, 8, 32).reshape(4, 2))
    yield case("index_select", x, 0, indices(4, 5, 33))
    for dim, shape in ((0, (9, 5)), (1, (4, 9))):
        index = indices(x.shape[dim], math.prod(shape), 34).reshape(shape)
        yield case("scatter_add", x, dim, index, ordinary(math.prod(shape), 35).reshape(shape))


def pooling_cases() -> Iterator[Case]:
    x = numpy.round(ordinary(2 * 7 * 6, 36) * 2).reshape(1, 2, 7, 6)
    x[0, 0, 0, :2], x[0, 1, 2, 2] = numpy.nan, -0.0
    for window in (([2, 2], [2, 2], [0, 0]), ([3, 2], [2, 1], [1, 1]), ([3], [], [1])):
        for ceil_mode in (False, True):
            given = *window, [1, 1], ceil_mode
            yield case("max_pool2d", x, *given)
            y, places = slow_pooling.max_pool2d(x, *given)
            grad = ordinary(y.size, 37).reshape(y.shape)
            yield case("max_pool2d_backward", grad, x, *given, places)
            for rest in ((True, None), (False, None), (True, 7)):
                yield case("avg_pool2d", x, *window, ceil_mode, *rest)
                yield case("avg_pool2d_backward", grad, x, *window, ceil_mode, *rest)
    yield case("max_pool2d", x, [2, 3], [1, 2], [0, 0], [3, 2], False)
    for size in ([1, 1], [3, 4], [8, 2]):
        yield case("adaptive_avg_pool2d", x, size)
        yield case("adaptive_avg_pool2d_backward", ordinary(2 * math.prod(size), 38).reshape(1, 2, *size), x)


def case(op: str, *args: Any) -> Case:
    return {"op": op, "args": [tensor(arg) if isinstance(arg, numpy.ndarray) else arg for arg in args]}


def expected(given: Case) -> list[Any]:
    """The outputs by the slow twins, as arrays; None for one that is not wanted."""
    args = [selftest.read(arg, words) for arg in given["args"]]
    name = given["op"].replace("nll_loss2d", "nll_loss")
    twin = next(getattr(family, name) for family in SLOW if hasattr(family, name))
    result = twin(*selftest.own_arguments(given["op"], args))
    return list(result) if isinstance(result, tuple) else [result]


def number(value: float) -> int | str:
    """As programs write it."""
    return value if isinstance(value, int) else float_hex(value)


def words(seed: int, count: int) -> NDArray[numpy.uint32]:
    return draws.words(seed, domain=0, stream=1, first_index=0, count=count)


def ordinary(count: int, seed: int = 0) -> NDArray[numpy.float32]:
    """Numbers of both signs between 2^-3 and 2^2, evenly in their logarithm."""
    return selftest.ordinary(words(seed, count))


def some(count: int, seed: int = 0) -> NDArray[numpy.float32]:
    """Ordinary numbers with subnormal ones and zeros of both signs among them."""
    numbers = ordinary(count, seed)
    numbers[1::11], numbers[2::13], numbers[3::17] = -0.0, 1e-40, 0.0
    return numbers


def indices(size: int, count: int, seed: int) -> NDArray[numpy.int64]:
    return (draws.words(seed, domain=0, stream=2, first_index=0, count=count) % size).astype(numpy.int64)


def main() -> None:
    rows = [json.dumps({**given, "outputs": selftest.written(given, expected(given))}) for given in cases()]
    FILE.write_text('{"cases": [\n' + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
