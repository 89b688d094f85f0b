"""Vectors for docs/numerics/reductions.md: operations as programs name them, inputs and outputs as bits.

    python -P tests/numerics/reduction_vectors.py        # writes tests/vectors/numerics/reductions.json anew

A case is {"op", "args", "outputs"}. The arguments are those of docs/ops.md, in its order: a tensor is {"type", "shape",
"words"} (words in hex, separated by spaces: binary32 patterns, NaN canonical in outputs; int64 as two's complement), a
number that is no integer the 16 hex digits of its binary64, everything else as in a program. An output that is not
wanted is null. The slow twins write the outputs.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import lookups, losses, norms, pooling, reductions, softmax
from tolsey.numerics.library import Library
from tolsey.numerics.reference import draws
from tolsey.numerics.reference import lookups as slow_lookups
from tolsey.numerics.reference import losses as slow_losses
from tolsey.numerics.reference import norms as slow_norms
from tolsey.numerics.reference import pooling as slow_pooling
from tolsey.numerics.reference import reductions as slow_reductions
from tolsey.numerics.reference import softmax as slow_softmax
from tolsey.runtime.ops import float_hex, float_of_hex

FILE: Final = Path(__file__).resolve().parents[1] / "vectors" / "numerics" / "reductions.json"
Case = dict[str, Any]
Array = NDArray[Any]

FAST: Final = (reductions, softmax, norms, losses, lookups, pooling)
SLOW: Final = (slow_reductions, slow_softmax, slow_norms, slow_losses, slow_lookups, slow_pooling)
COPIES: Final = ("embedding", "gather", "index_select")
"""No kernel of ours computes them."""

OURS: Final[dict[str, Callable[..., tuple[Any, ...]]]] = {
    "softmax": lambda x, dim, wide: (x, dim),
    "log_softmax": lambda x, dim, wide: (x, dim),
    "softmax_backward": lambda grad, y, dim, dtype: (grad, y, dim),
    "log_softmax_backward": lambda grad, y, dim, dtype: (grad, y, dim),
    "layer_norm_backward": lambda *args: (*args[:6], args[7]),
    "group_norm": lambda *args: (*args[:3], *args[6:]),
    "group_norm_backward": lambda *args: (*args[:5], *args[8:]),
    "max_pool2d_backward": lambda *args: (args[0], args[1], args[7]),
}
"""Which of a program's arguments our functions take, where not all."""

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


def computed(given: Case, lib: Library | None) -> list[Any]:
    """The outputs: of a build, or of the slow twin."""
    op, args = given["op"], [read(arg) for arg in given["args"]]
    own = OURS.get(op, lambda *args: args)(*args)
    name = op.replace("nll_loss2d", "nll_loss")
    result = named(SLOW if lib is None else FAST, name)(*(() if lib is None else (lib,)), *own)
    results = result if isinstance(result, tuple) else (result,)
    return [None if one is None else tensor(one, canonical=True) for one in results]


def named(families: tuple[ModuleType, ...], name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = next(getattr(family, name) for family in families if hasattr(family, name))
    return found


def number(value: float) -> int | str:
    """As programs write it."""
    return value if isinstance(value, int) else float_hex(value)


def tensor(array: Array, *, canonical: bool = False) -> dict[str, Any]:
    """A tensor as bits; row-major."""
    flat = numpy.array(array).reshape(-1)
    words = flat.view(f"u{flat.dtype.itemsize}")
    if canonical and flat.dtype == numpy.float32:
        words[numpy.isnan(flat)] = 0x7FC00000
    text = " ".join(f"{int(word):0{2 * flat.dtype.itemsize}x}" for word in words)
    return {"type": flat.dtype.name, "shape": list(numpy.shape(array)), "words": text}


def read(arg: Any) -> Any:
    """What `tensor` and `number` wrote."""
    if isinstance(arg, dict):
        dtype = numpy.dtype(arg["type"])
        words = numpy.array([int(word, 16) for word in arg["words"].split()], f"u{dtype.itemsize}")
        return words.view(dtype).reshape(arg["shape"])
    return float_of_hex(arg) if isinstance(arg, str) and len(arg) == 16 else arg


def ordinary(count: int, seed: int = 0) -> NDArray[numpy.float32]:
    """Numbers of both signs between 2^-3 and 2^2, evenly in their logarithm."""
    words = draws.words(seed, domain=0, stream=1, first_index=0, count=count)
    return ((words & 0x80FFFFFF) + 0x3E000000 + ((words >> 24 & 3) << 23)).astype(numpy.uint32).view(numpy.float32)


def some(count: int, seed: int = 0) -> NDArray[numpy.float32]:
    """Ordinary numbers with subnormal ones and zeros of both signs among them."""
    numbers = ordinary(count, seed)
    numbers[1::11], numbers[2::13], numbers[3::17] = -0.0, 1e-40, 0.0
    return numbers


def indices(size: int, count: int, seed: int) -> NDArray[numpy.int64]:
    return (draws.words(seed, domain=0, stream=2, first_index=0, count=count) % size).astype(numpy.int64)


def main() -> None:
    FILE.parent.mkdir(exist_ok=True)
    rows = [json.dumps({**given, "outputs": computed(given, None)}) for given in cases()]
    FILE.write_text('{"cases": [\n' + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
