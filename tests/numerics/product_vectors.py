"""Vectors for docs/numerics/products.md, hand-sized, and large ones of all families for what only size brings out.

    python -m tests.numerics.product_vectors        # writes products.json and large.json of the package's vectors anew

The cases stand here and the slow twins write their outputs; selftest.py, which reads them, says what a case is.
Large ones cross slices of k, chunks of sums and the shares of threads: their inputs are given by seeds, their outputs
by a SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from tolsey.numerics import elementwise, selftest
from tolsey.numerics.products import Geometry
from tolsey.numerics.reference import activations, functions, products, reductions
from tolsey.numerics.selftest import VECTORS, Case

from .reduction_vectors import case, ordinary, some, words
from .reduction_vectors import expected as reduced

PRODUCTS: Final = VECTORS / "products.json"
LARGE: Final = VECTORS / "large.json"
F32 = NDArray[numpy.float32]
ALL: Final = [True, True, True]


def cases() -> Iterator[Case]:
    """Every case of products.json without its outputs."""
    # One chain: of no terms, of one, of an odd number, of many; then tiles that are cut.
    for m, n, k in ((1, 1, 0), (2, 3, 0), (0, 2, 3), (1, 1, 1), (3, 2, 1), (3, 5, 7), (1, 1, 1500), (2, 2, 515)):
        yield case("mm", *pair(m, n, k, some))
    for m, n, k in ((17, 9, 20), (5, 35, 4)):
        yield case("mm", *pair(m, n, k, ordinary))
    yield case("mm", *broken(4, 6, 11))
    yield case("mm", *undone(3, 4, 40))
    # The accumulator begins at +0, so that -0 times 1 is +0.
    yield case("mm", numpy.full((2, 3), -0.0, numpy.float32), numpy.ones((3, 2), numpy.float32))
    yield case("bmm", some(3 * 4 * 6, 5).reshape(3, 4, 6), ordinary(3 * 6 * 5, 6).reshape(3, 6, 5))
    yield case("bmm", some(2 * 3, 7).reshape(2, 3, 1), ordinary(2 * 9, 8).reshape(2, 1, 9))
    a, b = undone(3, 5, 20)
    for shape in ((5,), (1, 5), (3, 1), (3, 5), ()):
        yield case("addmm", ordinary(int(numpy.prod(shape)), 9).reshape(shape), a, b)
    yield case("addmm", ordinary(3, 10), *undone(2, 3, 516))
    yield case("addmm", numpy.full(2, -0.0, numpy.float32), *pair(2, 2, 0, some))
    yield from convolution_cases()


def convolution_cases() -> Iterator[Case]:
    """In 1 to 3 dimensions; stride, padding, dilation, groups; transposed; each with all gradients."""
    for transposed, x, weight, *settings in (
        (False, (2, 3, 9), (4, 3, 3), [1], [1], [1], [0], 1),
        (False, (1, 4, 11), (6, 2, 2), [3], [2], [2], [0], 2),
        (False, (2, 2, 5, 6), (3, 2, 3, 3), [1, 1], [1, 1], [1, 1], [0, 0], 1),
        (False, (1, 3, 7, 6), (3, 1, 3, 2), [2, 1], [0, 1], [1, 2], [0, 0], 3),
        (False, (2, 5, 4, 3), (2, 5, 1, 1), [2, 2], [0, 0], [1, 1], [0, 0], 1),
        (False, (1, 2, 3, 4, 3), (2, 2, 2, 2, 3), [1, 2, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0], 1),
        (True, (2, 3, 5), (3, 2, 3), [2], [1], [1], [1], 1),
        (True, (1, 4, 3, 4), (4, 2, 2, 3), [1, 2], [0, 1], [2, 1], [0, 0], 2),
    ):
        stride, padding, dilation, more, groups = settings
        given = stride, padding, dilation, transposed, more, groups
        images, filters = tensor(x, some, 11), tensor(weight, ordinary, 12)
        bias = ordinary(weight[1] * groups if transposed else weight[0], 13)
        for added in (bias, None):
            yield case("convolution", images, filters, added, *given)
        grad = tensor(convolve("convolution", [images, filters, None, *given]).shape, ordinary, 14)
        yield case("convolution_backward", grad, images, filters, [bias.size], *given, ALL)
    given = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    grad, images, filters = (
        tensor((1, 2, 3, 3), ordinary, 15),
        tensor((1, 1, 3, 3), some, 16),
        tensor((2, 1, 3, 3), some, 17),
    )
    for wanted in ([True, False, False], [False, True, False], [False, False, True]):
        yield case("convolution_backward", grad, images, filters, [2], *given, wanted)
    # What lies in the padding takes part as +0: an infinite weight makes NaN of it.
    filters[0, 0, 0, 0], filters[1, 0, 2, 2] = numpy.inf, numpy.nan
    yield case("convolution", images, filters, None, *given)
    yield case("convolution_backward", grad, images, filters, [2], *given, ALL)


def large_cases() -> Iterator[Case]:
    """Every case of large.json without its digest."""
    yield case("mm", seed(1, 150, 700), seed(2, 700, 210))
    yield case("mm", seed(3, 7, 5000), seed(4, 5000, 9))
    yield case("addmm", seed(5, 90), seed(6, 60, 650), seed(7, 650, 90))
    yield case("bmm", seed(8, 24, 33, 40), seed(9, 24, 40, 50))
    for x, weight, given in (
        ((6, 8, 20, 19), (24, 8, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
        ((3, 12, 17, 16), (12, 1, 3, 3), ([2, 2], [1, 1], [1, 1], False, [0, 0], 12)),
        ((3, 16, 9, 8), (16, 10, 4, 4), ([2, 2], [1, 1], [1, 1], True, [0, 0], 1)),
    ):
        out = convolve("convolution", [numpy.zeros(x, numpy.float32), numpy.zeros(weight, numpy.float32), None, *given])
        yield case("convolution", seed(10, *x), seed(11, *weight), seed(12, out.shape[1]), *given)
        yield case("convolution_backward", seed(13, *out.shape), seed(10, *x), seed(11, *weight), None, *given, ALL)
    for dims in ([0], [1], [0, 1]):
        yield case("sum", seed(14, 300, 333), dims, False)
    yield case("sum", seed(14, 200_000), [], False)
    yield case("vector_norm", seed(14, 100_000), 2, [], False)
    yield case("softmax", seed(15, 40, 1500), 1, False)
    yield case("log_softmax", seed(15, 1500, 40), 0, False)
    yield case("layer_norm", seed(16, 200, 300), [300], seed(17, 300), seed(18, 300), 1)
    yield case("cumsum", seed(19, 100, 300), 1)
    for name in elementwise.UNARY:
        yield case(name, seed(20, 50_000))


def expected(given: Case) -> list[Any]:
    """The outputs by the slow twins, as arrays."""
    op, args = given["op"], [selftest.read(arg, words) for arg in given["args"]]
    if op in ("mm", "bmm"):
        return [products.gemm(*args)]
    if op == "addmm":
        return [products.gemm(args[1], args[2], args[0])]
    if op.startswith("convolution"):
        result = convolve(op, args)
        return list(result) if isinstance(result, tuple) else [result]
    if op in elementwise.UNARY:
        twin = next(getattr(module, op) for module in (functions, activations) if hasattr(module, op))
        return [twin(*args)]
    return reduced(given)


class SlowDirections:
    """selftest.Directions by a slow twin: that of the chain, or another with the same functions and more options."""

    def __init__(self, twin: Any = products, **options: Any) -> None:
        self._twin, self._options = twin, options

    def forward(self, shape: Geometry, x: F32, weight: F32, bias: F32 | None) -> F32:
        return self._asked("convolution", shape, x, weight, bias)

    def backward_input(self, shape: Geometry, grad: F32, weight: F32, bias: F32 | None) -> F32:
        return self._asked("convolution_backward_input", shape, grad, weight, bias, shape.size)

    def backward_weight(self, shape: Geometry, grad: F32, x: F32) -> F32:
        return self._asked("convolution_backward_weight", shape, grad, x, shape.kernel)

    def _asked(self, name: str, shape: Geometry, *given: Any) -> F32:
        settings = shape.stride, shape.padding, shape.dilation, shape.groups
        found: F32 = getattr(self._twin, name)(*given, *settings, **self._options)
        return found

    def total(self, grad: F32) -> F32:
        return reductions.sum(grad, [d for d in range(grad.ndim) if d != 1])


def convolve(op: str, args: Sequence[Any]) -> Any:
    return selftest.convolved(SlowDirections(), op, args)


def seed(number: int, *shape: int) -> dict[str, Any]:
    """A tensor of ordinary numbers, by what they are drawn from."""
    return {"type": "float32", "shape": list(shape), "seed": number}


def tensor(shape: Sequence[int], draw: Any, number: int) -> F32:
    made: F32 = draw(int(numpy.prod(shape)), number).reshape(shape)
    return made


def pair(m: int, n: int, k: int, draw: Any) -> tuple[F32, F32]:
    return tensor((m, k), draw, 1), tensor((k, n), draw, 2)


def broken(m: int, n: int, k: int) -> tuple[F32, F32]:
    """Rows and columns with NaN, infinities, zeros of both signs, subnormals and the largest numbers."""
    a, b = pair(m, n, k, ordinary)
    a[0, 3], a[1, 2], a[1, 5], a[2, :] = numpy.nan, numpy.inf, -numpy.inf, a[2, :] * numpy.float32(2.0**-130)
    b[2, 1], b[5, 2], b[:, 3], b[:, 4] = 0.0, -numpy.inf, b[:, 3] * numpy.float32(2.0**126), -0.0
    return a, b


def undone(m: int, n: int, k: int) -> tuple[F32, F32]:
    """Terms that nearly cancel each other, so that each rounding shows."""
    a, b = pair(m, n, k, ordinary)
    a[:, 1::2], b[1::2] = -a[:, ::2] * numpy.float32(1 + 2.0**-22), b[::2]
    return a, b


def main() -> None:
    rows = [{**given, "outputs": selftest.written(given, expected(given))} for given in cases()]
    PRODUCTS.write_text('{"cases": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]}\n")
    rows = [{**given, "sha256": selftest.digest(expected(given))} for given in large_cases()]
    LARGE.write_text('{"cases": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]}\n")


if __name__ == "__main__":
    main()
