"""How fast the kernels of this machine are: `tolsey bench kernels` and tests/bench/bench_kernels.py measure with this.

A contest is one piece of work with a figure of how much it is, in operations or in bytes that must move. Builds, and
rivals where somebody brings some (runtime/rivals.py brings PyTorch's own kernels), do it by turns in one process, so
that a busy machine hits all alike. A rate is that of the best round; a ratio is the median over rounds of (best rival's
time / ours): above 1 we are faster. On one thread, time is what the thread computed; on more, what passed on the wall.

It asserts nothing: time is no property of a result. No torch in here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy
from numpy.typing import NDArray

from tolsey.numerics import elementwise, norms, products, reductions, softmax  # noqa: F401  # they declare their kernels
from tolsey.numerics.library import Library
from tolsey.numerics.products import Geometry

F32 = NDArray[numpy.float32]
Work = Callable[[], object]
FLOP: Final = "GFLOP/s"
BYTES: Final = "GB/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """One piece of work.

    Attributes:
        what: for people.
        op, operands, settings: which operation on which arrays, results last; for rivals.
        amount, unit: floating-point operations (FLOP) or bytes read and written at least (BYTES).
        ours: the work of a build.
    """

    what: str
    op: str
    operands: tuple[F32, ...]
    settings: dict[str, Any]
    amount: float
    unit: str
    ours: Callable[[Library], Work]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one contestant did: `rate` in `unit`; `ratio` to the best rival, None for a rival or where there is none."""

    what: str
    who: str
    threads: int
    rate: float
    unit: str
    ratio: float | None


class Rivals(Protocol):
    """Others who can do the same work."""

    def set_threads(self, count: int) -> None: ...

    def works(self, contest: Contest) -> dict[str, Work]:
        """By name; empty where none does it."""


def measure(
    contest: Contest, libs: Sequence[Library], threads: int, rounds: int, rivals: Rivals | None = None
) -> list[Measured]:
    """Everybody who takes part, rivals first; `libs` are left on `threads` threads."""
    for lib in libs:
        lib.threads = threads
    others: dict[str, Work] = {}
    if rivals is not None:
        rivals.set_threads(threads)
        others = rivals.works(contest)
    taken = by_turns(others | {lib.isa: contest.ours(lib) for lib in libs}, rounds, threads)
    best_rival = [min(times) for times in zip(*(taken[name] for name in others), strict=True)]
    found = []
    for name, times in taken.items():
        pairs = zip(best_rival, times, strict=True) if others and name not in others else ()
        ratios = [theirs / own for theirs, own in pairs]
        found.append(
            Measured(
                what=contest.what,
                who=name,
                threads=threads,
                rate=contest.amount / min(times) / 1e9,
                unit=contest.unit,
                ratio=statistics.median(ratios) if ratios else None,
            )
        )
    return found


def by_turns(works: dict[str, Work], rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds of each work in each round."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            start = clock()
            work()
            if round_:  # the first warms up
                taken[name].append(clock() - start)
    return taken


# the contests


def contests(*, quick: bool) -> Iterator[tuple[Contest, int]]:
    """Every contest with how many rounds it is worth; `quick`: smaller sizes and fewer rounds."""
    sizes, rounds = ((256, 512), 8) if quick else ((256, 512, 1024, 2048), 40)
    for contest in square_products(sizes):
        yield contest, max(3, int(rounds * (2.0 * 512**3 / contest.amount) ** (2 / 3)))
    for contest in model_products():
        yield contest, rounds
    for contest in convolutions():
        yield contest, max(3, rounds // 4)
    for contest in passes_over_memory():
        yield contest, rounds


def square_products(sizes: Sequence[int]) -> Iterator[Contest]:
    """Matrices as a network multiplies them: forward, and both gradients."""
    for n in sizes:
        a, b, out = _some(n, n), _some(n, n), _some(n, n)
        for layout, left, right in (("NN", a, b), ("NT", a, b.T), ("TN", a.T, b)):
            yield product(f"{n} x {n} x {n} {layout}", left, right, out)


def model_products() -> Iterator[Contest]:
    """What a small transformer multiplies: tokens by width, few tokens, attention heads."""
    for m, n, k in ((1024, 768, 256), (1024, 256, 768), (256, 768, 1024), (1024, 256, 128), (8, 4096, 1024)):
        yield product(f"{m} x {n} x {k} NT", _some(m, k), _some(n, k).T, _some(m, n))
    for batch, m, n, k in ((64, 64, 64, 32), (64, 64, 32, 64), (32, 256, 64, 256)):
        operands = _some(batch, m, k), _some(batch, k, n), _some(batch, m, n)
        yield product(f"{batch} of {m} x {n} x {k}", *operands)


def product(what: str, a: F32, b: F32, out: F32) -> Contest:
    """A product of matrices, or of batches of them, of any strides."""
    batch = 1 if a.ndim == 2 else a.shape[0]
    m, n, k = a.shape[-2], b.shape[-1], a.shape[-1]
    steps = [[0] * (3 - x.ndim) + [stride // x.itemsize for stride in x.strides] for x in (a, b, out)]

    def ours(lib: Library) -> Work:
        given = a, *steps[0], b, *steps[1], None, 0, 0, 0, out, *steps[2]
        return _bound(lib, "tolsey_gemm", batch, m, n, k, *given)

    op = "mm" if a.ndim == 2 else "bmm"
    amount = 2.0 * batch * m * n * k
    return Contest(what=what, op=op, operands=(a, b, out), settings={}, amount=amount, unit=FLOP, ours=ours)


def convolutions() -> Iterator[Contest]:
    """Layers of ResNets for small and for large images, one depthwise; forward and both gradients."""
    for images, channels, size, channels_out, kernel, stride, groups in (
        (32, 64, 32, 64, 3, 1, 1),
        (32, 64, 32, 128, 3, 2, 1),
        (32, 512, 4, 512, 3, 1, 1),
        (8, 256, 14, 1024, 1, 1, 1),
        (16, 96, 28, 96, 3, 1, 96),
    ):
        x = _some(images, channels, size, size)
        weight = _some(channels_out, channels // groups, kernel, kernel)
        settings: dict[str, Any] = {
            "stride": [stride] * 2, "padding": [kernel // 2] * 2, "dilation": [1, 1], "groups": groups
        }  # fmt: skip
        shape = Geometry.of(x.shape, weight.shape, **settings)
        gradient = _some(*shape.output_shape)
        what = f"conv {images}x{channels}x{size}² to {channels_out}, {kernel}²/{stride}"
        what += f" g{groups}" if groups > 1 else ""
        for part, op, operands in (
            ("forward", "convolution", (x, weight, numpy.empty_like(gradient))),
            ("input", "convolution_backward_input", (gradient, weight, x, numpy.empty_like(x))),
            ("weight", "convolution_backward_weight", (gradient, x, weight, numpy.empty_like(weight))),
        ):
            yield Contest(
                what=f"{what} {part}",
                op=op,
                operands=operands,
                settings=settings,
                amount=2.0 * gradient.size * weight[0].size,
                unit=FLOP,
                ours=_convolution(op, shape, operands),
            )


def _convolution(op: str, shape: Geometry, operands: tuple[F32, ...]) -> Callable[[Library], Work]:
    packed = shape.packed()
    if op == "convolution_backward_weight":
        given: tuple[Any, ...] = (operands[0], operands[1], operands[3])
    else:  # neither has a bias here
        given = (operands[0], operands[1], None, operands[-1])
    return lambda lib: _bound(lib, f"tolsey_{op}", packed, *given)


def passes_over_memory(rows: int = 1024, width: int = 768) -> Iterator[Contest]:
    """What is limited by memory, or should be: functions, sums, norms, an optimiser's step."""
    x, y, totals, rstd = _some(rows, width), _some(rows, width), _some(rows), _some(rows)
    weight, bias, sizes = _some(width), _some(width), numpy.array(x.shape, numpy.int64)
    for name in ("exp", "tanh", "gelu"):
        yield _pass(name, (x, y), 2, x, y, x.size)
    yield _pass("sum", (x, totals), 1, x, totals, 2, sizes, 0b10)
    yield _pass("softmax", (x, y), 2, x, y, rows, width, 1)
    given = x, weight, bias, y, totals, rstd
    yield _pass("layer_norm", given, 2, *given, rows, width, 1e-5)
    moved = _some(rows, width), _some(rows, width), _some(rows, width), numpy.abs(_some(rows, width))
    param, _, first, second = moved
    rates = 1.0, 0.9999, 0.001, 1.0, 0.1, 0.95, 0.05, 1e-8
    yield _pass("adamw", moved, 7, *moved, param, first, second, param.size, *rates)


def _pass(op: str, operands: tuple[F32, ...], passes: int, *given: Any) -> Contest:
    """One call of a kernel with these arguments, which reads and writes so many arrays of the first one's size."""
    return Contest(
        what=f"{op} {' x '.join(map(str, operands[0].shape))}",
        op=op,
        operands=operands,
        settings={},
        amount=4.0 * operands[0].size * passes,
        unit=BYTES,
        ours=lambda lib: _bound(lib, f"tolsey_{op}", *given),
    )


def _bound(lib: Library, name: str, *given: Any) -> Work:
    """A kernel on arrays by their addresses, kept alive by what is returned."""
    kernel = lib.function(name)
    places = [one.ctypes.data if isinstance(one, numpy.ndarray) else one for one in given]
    return lambda: (kernel(*places), given)


def _some(*shape: int) -> F32:
    return numpy.random.default_rng(len(shape)).standard_normal(shape, dtype=numpy.float32)
