"""How each kernel of the C interface runs on a GPU: which kernels of *.cu, over how many blocks, with which memory.

A function here has the name and the arguments of the C function that it stands for (`library.declare`), as integers:
the addresses of numbers are the device's, those of sizes (`host` names their places) are this machine's. It queues
launches on a `Device` and, where an input can be wrong, waits for them and looks. Grids decide speed and never bits:
kernels walk what is to be done in strides.

What is refused is what C refuses (ValueError, IndexError), and lists of more than 2^24 numbers in softmax and norms,
for which there is no kernel yet. Next in the flow: library.py.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy

from tolsey.errors import ConfigError
from tolsey.numerics import elementwise, exact_sum, int8, library, probe

CHUNK: Final = 4096
LANES: Final = 32
MAX_RANK: Final = 8
MAX_LIST: Final = CHUNK * CHUNK
KEPT_LIST: Final = 32 * LANES
"""Numbers of a list that a warp keeps in registers (warps.h, TEAM_KERNELS)."""
GEMM_THREADS: Final = 128
GEMM_TILES: Final = (("gemm_128", 128, 128), ("gemm_64", 64, 64), ("gemm_32", 32, 64))
"""Kernels of gemm.cu, and rows and columns of their tiles."""
SORT_BLOCK: Final = 256
TEAM_BLOCK: Final = 512
MAX_GRID_Z: Final = 65535
REMEMBERED: Final = 1 << 12
"""Sizes for which something is known: more than a program has, fewer than anybody would miss the memory of."""


class Device(Protocol):
    """Where kernels run. Launches are queued in order; reading waits for them.

    Args:
        multiprocessors: blocks beyond a few for each of them bring nothing.
        threads_a_block: of kernels that do not care; a multiple of 32.
    """

    multiprocessors: int
    threads_a_block: int

    def launch(self, kernel: str, grid: Sequence[int], block: Sequence[int], *arguments: Any) -> None: ...

    def launch_prepared(
        self, kernel: str, grid: Sequence[int], block: Sequence[int], addresses: ctypes.Array[ctypes.c_void_p]
    ) -> None:
        """The same, given where the arguments lie."""

    def room(self, size_bytes: int) -> int:
        """An address of memory, aligned to 256 bytes, that lasts until the call that asked for it has run."""

    def zero(self, address: int, size_bytes: int) -> None: ...

    def fill(self, address: int, number: int, count: int) -> None:
        """Writes a 32-bit integer so many times."""

    def copy(self, to: int, source: int, size_bytes: int) -> None: ...

    def read(self, address: int, size_bytes: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Launch:
    """A function of device and arguments, and which arguments are addresses of this machine."""

    run: Callable[..., None]
    host: tuple[int, ...] = ()


LAUNCHES: Final[dict[str, Launch]] = {}


def _launch(name: str, *, host: Sequence[int] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def known(run: Callable[..., None]) -> Callable[..., None]:
        LAUNCHES[f"tolsey_{name}"] = Launch(run, tuple(host))
        return run

    return known


# arguments


def _at(address: int | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(address)


_i64 = ctypes.c_int64
_i32 = ctypes.c_int32
_f32 = ctypes.c_float
_BY_VALUE: Final[dict[str, type[Any]]] = {
    "f32": ctypes.c_float,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
}


def _host(address: int, count: int) -> list[int]:
    """Integers in this machine's memory."""
    return list((ctypes.c_int64 * count).from_address(address)) if count else []


def _prepared(types: Sequence[type[Any]]) -> tuple[Callable[..., None], ctypes.Array[ctypes.c_void_p]]:
    """Sets a kernel's arguments, and where they lie: memory that one launch after another fills, since each copies what
    it is given. For the launching thread alone, as a context is."""
    fields = [(f"argument{place}", kind) for place, kind in enumerate(types)]
    record = type("_Arguments", (ctypes.Structure,), {"_fields_": fields})()
    places = (getattr(type(record), name).offset for name, _ in fields)
    addresses = (ctypes.c_void_p * len(fields))(*(ctypes.addressof(record) + place for place in places))
    return record.__init__, addresses


def _fl(number: float) -> float:
    return float(_f32(number).value)


def _not_negative(*sizes: int) -> None:
    if min(sizes) < 0:
        raise ValueError(f"a size of {min(sizes)}")


@contextmanager
def _flag(device: Device, error: Exception | type[Exception]) -> Iterator[ctypes.c_void_p]:
    """The address of a number that kernels raise where an input is wrong; then the error is raised here."""
    address = device.room(4)
    device.zero(address, 4)
    yield _at(address)
    if device.read(address, 4) != bytes(4):
        raise error


# single places


def _blocks(device: Device, count: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and block over places, one for each thread while threads last."""
    block = device.threads_a_block
    return (min(-(-count // block), device.multiprocessors * 16), 1, 1), (block, 1, 1)


def _flat(device: Device, kernel: str, count: int, *arguments: Any) -> None:
    """A kernel over places."""
    if count > 0:
        device.launch(kernel, *_blocks(device, count), *arguments)


def _places(name: str) -> None:
    words = library.declared()[name]
    length = len(words) - 1 - words[::-1].index("i64")
    fill, addresses = _prepared([_BY_VALUE.get(word, ctypes.c_void_p) for word in words])
    check = _CHECKS.get(name.removesuffix("_u8"))

    def run(device: Device, *given: Any) -> None:
        count = given[length]
        if check is not None:
            check(*given)
        if count > 0:
            fill(*given)
            device.launch_prepared(name, *_blocks(device, count), addresses)
        else:
            _not_negative(count)

    LAUNCHES[name] = Launch(run)


def _check_mask(seed: int, stream: int, position: int, threshold: int, mask: int, n: int) -> None:
    if n > 4 << 32 or threshold > 1 << 24:
        raise ValueError(f"a mask of {n} elements, threshold {threshold}")


def _check_probe(operation: int, *rest: Any) -> None:
    if not 0 <= operation < len(probe.OPERATIONS):
        raise ValueError(f"operation {operation}")


_CHECKS: Final[dict[str, Callable[..., None]]] = {"tolsey_keep_mask": _check_mask, "tolsey_probe": _check_probe}
"""What else some of them refuse."""

for _name in (*elementwise.SIGNATURES, *exact_sum.SIGNATURES, "tolsey_probe"):
    _places(_name)


# products


class _Product(ctypes.Structure):
    """gemm.cu's `product_of`: sizes, and for a, b, the bias and c an address and three steps."""

    _fields_ = [
        *((name, _i64) for name in ("batch", "m", "n", "k")),
        *(
            (f"{matrix}_{what}", ctypes.c_void_p if what == "first" else _i64)
            for matrix in ("a", "b", "bias", "c")
            for what in ("first", "batch", "row", "column")
        ),
    ]


@lru_cache(REMEMBERED)
def _tiles(m: int, n: int, batch: int, *, wanted: float) -> tuple[str, int]:
    """The kernel for a product, and how many tiles it makes of one: large ones do the most with what they fetch, small
    ones keep all multiprocessors busy."""
    for name, rows, columns in GEMM_TILES:
        tiles = -(-m // rows) * -(-n // columns)
        if tiles * batch >= wanted:
            return name, tiles
    return name, tiles


@_launch("gemm")
def _gemm(device: Device, batch: int, m: int, n: int, k: int, *rest: int | None) -> None:
    _not_negative(batch, m, n, k)
    if not batch * m * n:
        return
    if k >= 1 << 31:
        raise ConfigError(f"a product over {k} terms has no GPU kernel yet; there is one for less than 2^31")
    name, tiles = _tiles(m, n, batch, wanted=1.5 * device.multiprocessors)
    grid = (min(tiles, 1 << 20), 1, min(batch, MAX_GRID_Z))
    device.launch(name, grid, (GEMM_THREADS, 1, 1), _Product(batch, m, n, k, *rest))


class _Window(ctypes.Structure):
    """conv.cu's `window`."""

    _fields_ = [
        *((name, _i64) for name in ("images", "groups", "channels_up", "channels_down")),
        *((name, _i64 * 3) for name in ("size", "grid", "step", "taps", "first", "apart")),
        *((name, _i64 * 3) for name in ("kernel", "tap_first", "tap_apart", "out", "out_first", "out_apart")),
    ]


@dataclass(frozen=True, slots=True)
class _Geometry:
    """products.Geometry, in three dimensions."""

    images: int
    groups: int
    channels_in: int
    channels_out: int
    size: list[int]
    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    out: list[int]

    @classmethod
    def at(cls, address: int) -> _Geometry:
        numbers = _host(address, 22)
        parts = [numbers[4 + 3 * part : 7 + 3 * part] for part in range(6)]
        images, groups, channels_in, channels_out = numbers[:4]
        found = cls(images, groups, channels_in, channels_out, *parts)
        _not_negative(*numbers[:4], *found.size, *found.padding, *found.out)
        if min(*found.kernel, *found.stride, *found.dilation) < 1:
            raise ValueError(f"a window of {found.kernel}, stride {found.stride}, dilation {found.dilation}")
        if max(found.images * math.prod(sizes) for sizes in (found.size, found.out)) >= 1 << 31:
            raise ConfigError("a convolution over 2^31 places or more has no GPU kernel yet", fix="use a smaller batch")
        if max(found.channels_in, found.channels_out) * math.prod(found.kernel) >= 1 << 31:
            raise ConfigError("a convolution with 2^31 taps or more has no GPU kernel yet")
        return found


def _products(
    device: Device, kernel: str, window: _Window, rows: int, columns: int, *addresses: int | None, side: int = 64
) -> None:
    """A block for each tile of so many rows and columns."""
    if window.groups * rows * columns:
        tiles = -(-rows // side) * -(-columns // side)
        grid = (min(tiles, 1 << 20), 1, min(window.groups, MAX_GRID_Z))
        device.launch(kernel, grid, (GEMM_THREADS, 1, 1), window, *map(_at, addresses))


def _seen(shape: _Geometry, **more: Any) -> _Window:
    """The input as the outputs see it."""
    return _Window(
        **{"images": shape.images, "groups": shape.groups},
        **{"channels_up": shape.channels_out, "channels_down": shape.channels_in},
        **{"size": (*shape.size,), "grid": (*shape.out,), "step": (*shape.stride,), "taps": (*shape.kernel,)},
        **{"first": tuple(-padding for padding in shape.padding), "apart": (*shape.dilation,)},
        **{"kernel": (*shape.kernel,), "tap_first": (0, 0, 0), "tap_apart": (1, 1, 1)},
        **{"out": (*shape.out,), "out_first": (0, 0, 0), "out_apart": (1, 1, 1)},
    )


@_launch("convolution", host=[0])
def _convolution(device: Device, geometry: int, x: int, weight: int, bias: int | None, y: int) -> None:
    shape = _Geometry.at(geometry)
    columns = shape.images * math.prod(shape.out)
    _products(device, "convolution", _seen(shape), shape.channels_out, columns, x, weight, bias, y)


@_launch("convolution_backward_weight", host=[0])
def _convolution_backward_weight(device: Device, geometry: int, grad: int, x: int, dw: int) -> None:
    shape = _Geometry.at(geometry)
    rows, columns = shape.channels_out, shape.channels_in * math.prod(shape.kernel)
    large = shape.groups * -(-rows // 64) * -(-columns // 64)
    side = 64 if large > device.multiprocessors else 16
    _products(device, f"convolution_backward_weight_{side}", _seen(shape), rows, columns, grad, x, dw, side=side)


@dataclass(frozen=True, slots=True)
class _Phase:
    """Places of one remainder along an axis of the input: place = start + stride * a, reached by the taps
    first_tap + tap_step * u, from place a + offset + u * apart of the output."""

    start: int
    places: int
    first_tap: int
    tap_step: int
    taps: int
    offset: int
    apart: int


def _phases(size: int, kernel: int, stride: int, padding: int, dilation: int) -> list[_Phase]:
    found = []
    for start in range(min(stride, size)):
        meeting = [tap for tap in range(kernel) if (start + padding - tap * dilation) % stride == 0]
        first, step = (meeting[0] if meeting else 0), (stride // math.gcd(stride, dilation))
        offset, apart = (start + padding - first * dilation) // stride, -(step * dilation // stride)
        places = (size - start + stride - 1) // stride
        found.append(_Phase(start, places, first, step, len(meeting), offset, apart))
    return found


def _phase_windows(shape: _Geometry) -> Iterator[_Window]:
    """The output's gradient as the places of each phase of the input see it."""
    sides = zip(shape.size, shape.kernel, shape.stride, shape.padding, shape.dilation, strict=True)
    for phase in itertools.product(*(_phases(*side) for side in sides)):
        yield _Window(
            **{"images": shape.images, "groups": shape.groups},
            **{"channels_up": shape.channels_in, "channels_down": shape.channels_out},
            **{"size": (*shape.out,), "grid": tuple(axis.places for axis in phase), "step": (1, 1, 1)},
            **{name: tuple(getattr(axis, of) for axis in phase) for name, of in _OF_PHASE.items()},
            **{"kernel": (*shape.kernel,), "out": (*shape.size,), "out_apart": (*shape.stride,)},
        )


_OF_PHASE: Final = {
    **{"taps": "taps", "first": "offset", "apart": "apart"},
    **{"tap_first": "first_tap", "tap_apart": "tap_step", "out_first": "start"},
}


@_launch("convolution_backward_input", host=[0])
def _convolution_backward_input(
    device: Device, geometry: int, grad: int, weight: int, bias: int | None, dx: int
) -> None:
    for window in _phase_windows(_Geometry.at(geometry)):
        columns = window.images * math.prod(window.grid)
        _products(device, "convolution_backward_input", window, window.channels_up, columns, grad, weight, bias, dx)


# products of whole numbers

DEPTH_AT_ONCE: Final = 1 << 16
"""Terms that are made into digits at once, at most; a block of int8.cu adds them in 32 bits, which hold 2^17 - 1."""
DEPTH_WORTH_A_BLOCK: Final = 1 << 10
"""Fewer are not shared out to blocks, whose sums would have to be added."""
DIGITS_BYTES: Final = 64 << 20
"""Of one side's digits at once, or of sums."""
ROWS_OF_SUMS, COLUMNS_OF_SUMS = 2048, 4096
DIGIT_LINES, DIGIT_KS, DIGIT_TILE_BYTES = 16, 32, 512
"""A tile of digits, and what it takes for each digit."""
WHOLE_TILES: Final = {2: (("int8_multiply_2_128", 128, 256), ("int8_multiply_2_64", 64, 128)),
                      3: (("int8_multiply_3_64", 64, 256),)}  # fmt: skip
"""By slices: kernels of int8.cu, rows and columns of their tiles, threads of their blocks."""


class _View(ctypes.Structure):
    """int8.cu's `view`."""

    _fields_ = [
        ("first", ctypes.c_void_p),
        *((name, _i64) for name in ("batch_step", "line_step", "k_step")),
        *((name, _i64 * 3) for name in ("line_sizes", "k_sizes", "corner", "line_apart", "k_apart", "size", "step")),
    ]

    @classmethod
    def of(cls, first: int, batch_step: int, line_step: int, k_step: int, **more: Any) -> _View:
        """A matrix for each number of the batch, but for what is said otherwise."""
        given: dict[str, Any] = {name: (1, 1, 1) for name in ("line_sizes", "k_sizes", "size")} | more
        return cls(first, batch_step, line_step, k_step, **{name: (*sizes,) for name, sizes in given.items()})


class _Portion(ctypes.Structure):
    """int8.cu's `portion`."""

    _fields_ = [
        *((name, _i64) for name in ("batch", "line", "lines", "k", "depth", "tiles", "steps")),
        *(("exponents", ctypes.c_void_p), ("exponents_step", _i64), ("slices", _i64), ("to", ctypes.c_void_p)),
    ]


class _WholeProduct(ctypes.Structure):
    """int8.cu's `product`."""

    _fields_ = [
        *((name, _i64) for name in ("batch", "rows", "columns", "column")),
        *(("c", ctypes.c_void_p), ("c_batch_step", _i64), ("c_row_step", _i64), ("c_column_step", _i64)),
        *(("column_sizes", _i64 * 3), ("column_apart", _i64 * 3)),
        *(("bias", ctypes.c_void_p), ("bias_batch_step", _i64), ("bias_row_step", _i64), ("bias_column_step", _i64)),
        *((name, ctypes.c_void_p) for name in ("row_exponents", "column_exponents")),
        *((name, _i64) for name in ("row_exponents_step", "column_exponents_step", "slices")),
        *(("sums", ctypes.c_void_p), ("sums_batch_step", _i64), ("sums_row_step", _i64)),
        *(("a", ctypes.c_void_p), ("b", ctypes.c_void_p)),
        *((name, _i64) for name in ("a_tiles", "b_tiles", "steps", "steps_a_block")),
    ]


@dataclass(frozen=True, slots=True)
class _Target:
    """C and its bias as `_WholeProduct` has them; of the bias its address, or None, and its steps."""

    c: int
    batch_step: int
    row_step: int
    column_step: int
    column_sizes: Sequence[int] = (1, 1, 1)
    column_apart: Sequence[int] = (0, 0, 0)
    bias: tuple[int | None, int, int, int] = (None, 0, 0, 0)

    def part(self, p: int, row: int, column: int) -> dict[str, Any]:
        """From a number of the batch and a row on; columns are counted from `column` on."""
        bias, *bias_steps = self.bias
        if bias is not None:
            bias += 4 * (p * bias_steps[0] + row * bias_steps[1])
        steps = ("batch_step", "row_step", "column_step")
        return {
            **{"c": self.c + 4 * (p * self.batch_step + row * self.row_step), "column": column, "bias": bias},
            **{f"c_{name}": getattr(self, name) for name in steps},
            **{f"bias_{name}": step for name, step in zip(steps, bias_steps, strict=True)},
            **{"column_sizes": (*self.column_sizes,), "column_apart": (*self.column_apart,)},
        }


def _pieces(count: int, most: int) -> Iterator[tuple[int, int]]:
    """Where each begins and how much it is; one of nothing where there is nothing."""
    for first in range(0, max(count, 1), most):
        yield first, min(most, count - first)


def _checked_slices(slices: int) -> None:
    if slices not in WHOLE_TILES:
        raise ValueError(f"{slices} slices")


def _checked_terms(k: int, *lines: int) -> None:
    if k > int8.MOST_TERMS:
        raise ValueError(f"a product of {k} terms")
    if max(lines) >= 1 << 31:
        raise ConfigError("a product with 2^31 rows or columns has no GPU kernel of whole numbers yet")


def _find_exponents(device: Device, view: _View, batch: int, lines: int, depth: int, to: int) -> None:
    """Of each line, [batch, lines]; `to` is filled with NOTHING before."""
    if batch * lines * depth:
        warps = device.threads_a_block // LANES
        grid = -(-depth // (1024 * warps)), min(-(-lines // DIGIT_LINES), MAX_GRID_Z), min(batch, MAX_GRID_Z)
        block = (device.threads_a_block, 1, 1)
        device.launch("int8_exponents", grid, block, view, _i64(batch), _i64(lines), _i64(depth), _at(to))


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a product: where it is, how many lines it has in each number of the batch, and the address of their
    exponents, [batch, lines]."""

    view: _View
    lines: int
    exponents: int

    def exponents_from(self, p: int, line: int) -> int:
        return self.exponents + 4 * (p * self.lines + line)


@dataclass(frozen=True, slots=True)
class _Cut:
    """How a product is cut to pieces.

    Args:
        kernel, tile, threads: of WHOLE_TILES.
        batch, rows, columns: that are digits at once.
        shares: how many blocks share the terms of one tile.
    """

    kernel: str
    tile: int
    threads: int
    batch: int
    rows: int
    columns: int
    shares: int

    @classmethod
    def of(cls, blocks: int, slices: int, batch: int, m: int, n: int, k: int) -> _Cut:
        """The largest tile that gives work to so many blocks; where none does, blocks share terms."""
        kinds = [(*kind, batch * -(-m // kind[1]) * -(-n // kind[1])) for kind in WHOLE_TILES[slices]]
        kernel, tile, threads, tiles = next((kind for kind in kinds if kind[-1] >= blocks), kinds[-1])
        depth = min(k, DEPTH_AT_ONCE)
        shares = max(min(2 * blocks // tiles, depth // DEPTH_WORTH_A_BLOCK), 1) if tiles < blocks else 1
        bytes_a_tile = max(_digits_bytes(slices, tile, depth), 1)
        most_tiles = max(DIGITS_BYTES // bytes_a_tile, 1)
        rows, columns = (min(most_tiles, -(-lines // tile)) * tile for lines in (m, n))
        if shares > 1 or k > depth:
            rows, columns = min(rows, ROWS_OF_SUMS), min(columns, COLUMNS_OF_SUMS)
        together = 1
        if rows >= m and columns >= n:
            together = DIGITS_BYTES // max(bytes_a_tile * (max(rows, columns) // tile), 8 * rows * columns)
        return cls(kernel, tile, threads, min(max(together, 1), batch), rows, columns, shares)


def _digits_bytes(slices: int, lines: int, depth: int) -> int:
    """Of lines that fill whole tiles of digits."""
    return lines // DIGIT_LINES * -(-depth // DIGIT_KS) * slices * DIGIT_TILE_BYTES


class _Digits:
    """Room for the digits of one side, and what they are at the moment.

    Args:
        tile: lines of a block's tile; portions are filled up to a multiple.
    """

    def __init__(
        self, device: Device, side: _Side, slices: int, *, tile: int, batch: int, lines: int, depth: int
    ) -> None:
        self._device, self._side, self._slices, self._tile = device, side, slices, tile
        self._holds: tuple[int, ...] = ()
        self.address = device.room(batch * _digits_bytes(slices, self._filled(lines), depth))

    def _filled(self, lines: int) -> int:
        return -(-lines // self._tile) * self._tile

    def tiles(self, lines: int) -> int:
        return self._filled(lines) // DIGIT_LINES

    def hold(self, p: int, batch: int, line: int, lines: int, k: int, depth: int) -> None:
        """Makes digits of these numbers, unless they are what is held."""
        wanted = (p, batch, line, lines, k, depth)
        if wanted == self._holds or not depth:
            return
        self._holds = wanted
        view, steps, tiles = _View.from_buffer_copy(self._side.view), -(-depth // DIGIT_KS), self.tiles(lines)
        view.first += 4 * p * view.batch_step
        exponents = self._side.exponents_from(p, line), self._side.lines
        portion = _Portion(batch, line, lines, k, depth, tiles, steps, *exponents, self._slices, self.address)
        threads = self._device.threads_a_block
        grid = -(-steps * LANES // threads), min(tiles, MAX_GRID_Z), min(batch, MAX_GRID_Z)
        self._device.launch("int8_digits", grid, (threads, 1, 1), view, portion)


def _whole_product(
    device: Device, slices: int, batch: int, k: int, a: tuple[_View, int], b: tuple[_View, int], target: _Target
) -> None:
    """C = A x B by the law of int8.md.

    Args:
        a, b: a side, and how many rows or columns it has.
    """
    (left, m), (right, n) = a, b
    if not batch * m * n:
        return
    _checked_terms(k, m, n)
    rows = device.room(4 * batch * (m + n))
    columns = rows + 4 * batch * m
    device.fill(rows, int8.NOTHING, batch * (m + n))
    _find_exponents(device, left, batch, m, k, rows)
    _find_exponents(device, right, batch, n, k, columns)
    _multiply(device, slices, batch, k, _Side(left, m, rows), _Side(right, n, columns), to=target)


def _multiply(
    device: Device, slices: int, batch: int, k: int, a: _Side, b: _Side, *, to: _Target | None, sums: int = 0
) -> None:
    """The product under known exponents: rounded into a target, or added to sums [m, n]."""
    m, n = a.lines, b.lines
    cut = _Cut.of(device.multiprocessors, slices, batch, m, n, k)
    depth = min(k, DEPTH_AT_ONCE)
    room = {"tile": cut.tile, "batch": cut.batch, "depth": depth}
    left = _Digits(device, a, slices, lines=min(cut.rows, m), **room)
    right = _Digits(device, b, slices, lines=min(cut.columns, n), **room)
    own_sums = to is not None and (cut.shares > 1 or k > depth)
    if own_sums:
        sums = device.room(8 * cut.batch * min(cut.rows, m) * min(cut.columns, n))
    for (p, members), (i, rows), (j, columns) in itertools.product(
        _pieces(batch, cut.batch), _pieces(m, cut.rows), _pieces(n, cut.columns)
    ):
        it = _WholeProduct(
            **{"batch": members, "rows": rows, "columns": columns, "slices": slices},
            **{"row_exponents": a.exponents_from(p, i), "row_exponents_step": m},
            **{"column_exponents": b.exponents_from(p, j), "column_exponents_step": n},
            **{"a": left.address, "a_tiles": left.tiles(rows), "b": right.address, "b_tiles": right.tiles(columns)},
            **({} if to is None else to.part(p, i, j)),
        )
        if own_sums:
            it.sums, it.sums_batch_step, it.sums_row_step = sums, rows * columns, columns
            device.zero(sums, 8 * members * rows * columns)
        elif sums:
            it.sums, it.sums_row_step = sums + 8 * (i * n + j), n
        tiles = -(-rows // cut.tile) * -(-columns // cut.tile)
        for first, count in _pieces(k, DEPTH_AT_ONCE):
            left.hold(p, members, i, rows, first, count)
            right.hold(p, members, j, columns, first, count)
            it.steps = -(-count // DIGIT_KS)
            it.steps_a_block = max(-(-it.steps // cut.shares), 1)
            shares = max(-(-it.steps // it.steps_a_block), 1)
            grid = min(tiles, 1 << 20), shares, min(members, MAX_GRID_Z)
            device.launch(cut.kernel, grid, (cut.threads, 1, 1), it)
        if own_sums:
            _round_sums(device, it)


def _round_sums(device: Device, it: _WholeProduct) -> None:
    threads = device.threads_a_block
    grid = min(-(-it.columns // threads), 1 << 20), min(it.rows, MAX_GRID_Z), min(it.batch, MAX_GRID_Z)
    device.launch("int8_round", grid, (threads, 1, 1), it)


@_launch("gemm_int8")
def _gemm_int8(device: Device, slices: int, batch: int, m: int, n: int, k: int, *rest: Any) -> None:
    _checked_slices(slices)
    _not_negative(batch, m, n, k)
    a, a_batch, a_row, a_column, b, b_batch, b_row, b_column, bias, *bias_steps, c, c_batch, c_row, c_column = rest
    left, right = _View.of(a, a_batch, a_row, a_column), _View.of(b, b_batch, b_column, b_row)
    target = _Target(c, c_batch, c_row, c_column, bias=(bias, *bias_steps))
    _whole_product(device, slices, batch, k, (left, m), (right, n), target)


def _weight_view(window: _Window, weight: int) -> _View:
    """A line is a channel up, k a channel down and a tap of the window."""
    window_volume = math.prod(window.kernel)
    by_channel = window.channels_up * window_volume
    of_taps = {"k_sizes": window.taps, "corner": window.tap_first, "k_apart": window.tap_apart}
    of_window = {"size": window.kernel, "step": _steps(window.kernel)}
    return _View.of(weight, window.channels_down * by_channel, window_volume, by_channel, **of_taps, **of_window)


def _seen_view(window: _Window, source: int, *, line_is_position: bool) -> _View:
    """Lines are positions and ks channels and taps, or the other way round."""
    volume = math.prod(window.size)
    position = window.groups * window.channels_down * volume, window.grid, window.step
    tap = volume, window.taps, window.apart
    line, along = (position, tap) if line_is_position else (tap, position)
    sizes = {"line_sizes": line[1], "k_sizes": along[1], "line_apart": line[2], "k_apart": along[2]}
    of_source = {"corner": window.first, "size": window.size, "step": _steps(window.size)}
    return _View.of(source, window.channels_down * volume, line[0], along[0], **sizes, **of_source)


def _image_target(window: _Window, result: int, bias: int | None) -> _Target:
    """Rows are channels of a group, columns positions."""
    volume, steps = math.prod(window.out), _steps(window.out)
    first = sum(at * step for at, step in zip(window.out_first, steps, strict=True))
    return _Target(
        *(result + 4 * first, window.channels_up * volume, volume, window.groups * window.channels_up * volume),
        column_sizes=window.grid,
        column_apart=[apart * step for apart, step in zip(window.out_apart, steps, strict=True)],
        bias=(bias, window.channels_up, 1, 0),
    )


def _whole_image(device: Device, slices: int, window: _Window, left: _View, source: int, target: _Target) -> None:
    """A product of weights and what positions see."""
    terms, columns = window.channels_down * math.prod(window.taps), window.images * math.prod(window.grid)
    right = _seen_view(window, source, line_is_position=True)
    _whole_product(device, slices, window.groups, terms, (left, window.channels_up), (right, columns), target)


@_launch("convolution_int8", host=[1])
def _convolution_int8(
    device: Device, slices: int, geometry: int, x: int, weight: int, bias: int | None, y: int
) -> None:
    _checked_slices(slices)
    window = _seen(_Geometry.at(geometry))
    terms = window.channels_down * math.prod(window.taps)
    left = _View.of(weight, window.channels_up * terms, terms, 1)
    _whole_image(device, slices, window, left, x, _image_target(window, y, bias))


@_launch("convolution_backward_input_int8", host=[1])
def _convolution_backward_input_int8(
    device: Device, slices: int, geometry: int, grad: int, weight: int, bias: int | None, dx: int
) -> None:
    _checked_slices(slices)
    for window in _phase_windows(_Geometry.at(geometry)):
        _whole_image(device, slices, window, _weight_view(window, weight), grad, _image_target(window, dx, bias))


@_launch("convolution_backward_weight_int8", host=[1])
def _convolution_backward_weight_int8(device: Device, slices: int, geometry: int, grad: int, x: int, dw: int) -> None:
    _checked_slices(slices)
    window = _seen(_Geometry.at(geometry))
    places, rows = math.prod(window.grid), window.channels_up
    columns = window.channels_down * math.prod(window.taps)
    along = {"k_sizes": (1, 1, places), "k_apart": (0, 0, 1), "size": (1, 1, places), "step": (0, 0, 1)}
    left = _View.of(grad, rows * places, places, window.groups * rows * places, **along)
    right = _seen_view(window, x, line_is_position=False)
    target = _Target(dw, rows * columns, columns, 1)
    _whole_product(device, slices, window.groups, window.images * places, (left, rows), (right, columns), target)


@_launch("int8_exponents")
def _int8_exponents(
    device: Device, lanes: int, depth: int, x: int, lane_step: int, depth_step: int, exponents: int
) -> None:
    _not_negative(lanes, depth)
    device.fill(exponents, int8.NOTHING, lanes)
    _find_exponents(device, _View.of(x, 0, lane_step, depth_step), 1, lanes, depth, exponents)


@_launch("int8_add_terms")
def _int8_add_terms(device: Device, slices: int, m: int, n: int, k: int, *rest: int) -> None:
    _checked_slices(slices)
    _not_negative(m, n, k)
    a, a_row, a_column, rows, b, b_row, b_column, columns, sums = rest
    _checked_terms(k, m, n)
    if m * n * k:
        left, right = _View.of(a, 0, a_row, a_column), _View.of(b, 0, b_column, b_row)
        _multiply(device, slices, 1, k, _Side(left, m, rows), _Side(right, n, columns), to=None, sums=sums)


@_launch("int8_round")
def _int8_round(device: Device, slices: int, m: int, n: int, rows: int, columns: int, sums: int, c: int) -> None:
    _checked_slices(slices)
    _not_negative(m, n)
    if m * n:
        target = _Target(c, 0, n, 1).part(0, 0, 0)
        exponents = {"row_exponents": rows, "column_exponents": columns}
        _round_sums(
            device,
            _WholeProduct(
                **target,
                **exponents,
                **{"batch": 1, "rows": m, "columns": n, "slices": slices},
                sums=sums,
                sums_row_step=n,
            ),
        )


# lists


class _Dim(ctypes.Structure):
    _fields_ = [("size", _i64), ("stride", _i64)]


class _Lists(ctypes.Structure):
    """warps.h's `lists`."""

    _fields_ = [
        *((name, _i64) for name in ("n", "kept", "width", "kept_dims", "reduced_dims")),
        *((name, _Dim * MAX_RANK) for name in ("kept_dim", "reduced_dim")),
    ]

    @property
    def count(self) -> int:
        return int(self.kept * self.width)


@lru_cache(REMEMBERED)
def _lists_over(sizes: tuple[int, ...], reduced: int) -> _Lists:
    """Of a row-major tensor; bit d of `reduced` is set where dim d is reduced. As native/lists.h does it."""
    if len(sizes) > MAX_RANK or reduced >> len(sizes):
        raise ValueError(f"a reduction of {len(sizes)} dims")
    joined: list[list[int]] = []  # size, stride, whether reduced; the last dim first
    stride = 1
    for dim in reversed(range(len(sizes))):
        kind = reduced >> dim & 1
        if sizes[dim] != 1:
            if joined and joined[-1][2] == kind:
                joined[-1][0] *= sizes[dim]
            else:
                joined.append([sizes[dim], stride, kind])
        stride *= max(sizes[dim], 1)
    reduced_dims = tuple((size, stride) for size, stride, kind in reversed(joined) if kind)
    width = joined[0][0] if joined and not joined[0][2] else 1
    beside = 1 if joined and not joined[0][2] else 0
    kept_dims = tuple((size, stride) for size, stride, kind in reversed(joined[beside:]) if not kind)
    return _lists(kept_dims, reduced_dims, width)


@lru_cache(REMEMBERED)
def _lists(kept: tuple[tuple[int, int], ...], reduced: tuple[tuple[int, int], ...], width: int = 1) -> _Lists:
    """Sizes and strides of the dims; whoever wants another one makes another: this one is shared."""
    found = _Lists(
        n=math.prod(size for size, _ in reduced),
        kept=math.prod(size for size, _ in kept),
        width=width,
        kept_dims=len(kept),
        reduced_dims=len(reduced),
    )
    for place, dim in enumerate(kept):
        found.kept_dim[place] = dim
    for place, dim in enumerate(reduced):
        found.reduced_dim[place] = dim
    return found


# passes of reduce.cu

_NOTHING, _DIVIDED, _ROOT = range(3)


class _Pass(ctypes.Structure):
    """reduce.cu's `pass`."""

    _fields_ = [
        ("lists", _Lists),
        *((name, ctypes.c_void_p) for name in ("x", "y", "mean", "rstd")),
        *((name, _i64) for name in ("stat_every", "stat_step", "stat_lists")),
        *(("power", _f32), ("finish", _i32), ("by", _f32), ("out", ctypes.c_void_p)),
    ]


_AGAIN: Final = {"largest_of": "largest_of", "largest_size": "largest_of"} | {
    name: "smallest_of" for name in ("smallest_of", "smallest_size")
}
"""What makes one of the chunks' results; a sum otherwise."""


def _reduce(
    device: Device, term: str, lists: _Lists, out: int, *, finish: int = _NOTHING, by: float = 0.0, **given: Any
) -> None:
    """out[list] = the lists' sums (or extremes) of a term of reduce.cu, finished; passes until one number is left."""
    if lists.count == 0:
        return
    chunks = max(1, -(-lists.n // CHUNK))
    to = out if chunks == 1 else device.room(4 * lists.count * chunks)
    one = _Pass(lists=lists, out=to, **({"stat_every": 1, "stat_lists": 1} | given))
    if chunks == 1:
        one.finish, one.by = finish, by
    if lists.width > 1:
        panels = -(-lists.width // LANES) * lists.kept * chunks
        grid, block = min(panels, device.multiprocessors * 8), (LANES, LANES, 1)
        device.launch(f"{term}_columns", (grid, 1, 1), block, one)
    else:
        _flat(device, f"{term}_rows", lists.count * chunks * LANES, one)
    if chunks > 1:
        rest = _lists(((lists.count, chunks),), ((chunks, 1),))
        _reduce(device, _AGAIN.get(term, "plain"), rest, out, finish=finish, by=by, x=to)


def _over(rank: int, sizes: int, reduced: int) -> _Lists:
    found = _host(sizes, rank)
    _not_negative(0, *found)
    return _lists_over(tuple(found), reduced)


@_launch("sum", host=[3])
def _sum(device: Device, x: int, y: int, rank: int, sizes: int, reduced: int) -> None:
    _reduce(device, "plain", _over(rank, sizes, reduced), y, x=x)


@_launch("mean", host=[3])
def _mean(device: Device, x: int, y: int, rank: int, sizes: int, reduced: int) -> None:
    lists = _over(rank, sizes, reduced)
    _reduce(device, "plain", lists, y, finish=_DIVIDED, by=_fl(lists.n), x=x)


@_launch("variance", host=[3])
def _variance(device: Device, x: int, y: int, rank: int, sizes: int, reduced: int, correction: float) -> None:
    lists = _over(rank, sizes, reduced)
    mean = device.room(4 * lists.count)
    _reduce(device, "plain", lists, mean, finish=_DIVIDED, by=_fl(lists.n), x=x)
    by = _fl(max(0.0, lists.n - correction))
    _reduce(device, "deviations", lists, y, finish=_DIVIDED, by=by, x=x, mean=mean)


def _extreme(device: Device, term: str, lists: _Lists, x: int, y: int) -> None:
    if lists.n == 0 and lists.count > 0:
        raise ValueError("nothing to choose from")
    _reduce(device, term, lists, y, x=x)


@_launch("amax", host=[3])
def _amax(device: Device, x: int, y: int, rank: int, sizes: int, reduced: int) -> None:
    _extreme(device, "largest_of", _over(rank, sizes, reduced), x, y)


@_launch("amin", host=[3])
def _amin(device: Device, x: int, y: int, rank: int, sizes: int, reduced: int) -> None:
    _extreme(device, "smallest_of", _over(rank, sizes, reduced), x, y)


@_launch("vector_norm", host=[3])
def _vector_norm(device: Device, x: int, y: int, rank: int, sizes: int, reduced: int, order: float) -> None:
    lists = _over(rank, sizes, reduced)
    if order == 2:
        _reduce(device, "squares", lists, y, finish=_ROOT, x=x)
    elif order == 1:
        _reduce(device, "sizes", lists, y, x=x)
    elif order == 0:
        _reduce(device, "not_zero", lists, y, x=x)
    elif math.isinf(order):
        _extreme(device, "largest_size" if order > 0 else "smallest_size", lists, x, y)
    else:
        if order < 0 and lists.n == 0 and lists.count > 0:
            raise ValueError("nothing to choose from")
        with numpy.errstate(all="ignore"):
            inverse = float(numpy.float32(1) / numpy.float32(order))
        _reduce(device, "powers", lists, y, x=x, power=_fl(order))
        _flat(device, "norm_of_powers", lists.count, _at(y), _f32(inverse), _i64(lists.count))


@_launch("argmax")
def _argmax(device: Device, x: int, place: int, before: int, n: int, after: int) -> None:
    _not_negative(before, n, after)
    if n == 0 and before * after > 0:
        raise ValueError("nothing to choose from")
    _flat(device, "argmax", before * after * LANES, _at(x), _at(place), _i64(before), _i64(n), _i64(after))


@_launch("cumsum")
def _cumsum(device: Device, x: int, y: int, before: int, n: int, after: int) -> None:
    _not_negative(before, n, after)
    _flat(device, "cumsum", before * after, _at(x), _at(y), _i64(before), _i64(n), _i64(after))


# teams: softmax and norms


def _teams(device: Device, kernel: str, lists: int, n: int, *arguments: Any, keeps: bool = False) -> None:
    """A warp for each list of one chunk, in registers if it `keeps` them and they fit; a block for each longer one."""
    if lists == 0:
        return
    if n <= CHUNK:
        _flat(device, f"{kernel}_{'kept' if keeps and n <= KEPT_LIST else 'warp'}", lists * LANES, *arguments)
        return
    if n > MAX_LIST:
        raise ConfigError(f"a list of {n} numbers: {kernel} has no GPU kernel for more than {MAX_LIST} yet")
    device.launch(f"{kernel}_block", (min(lists, device.multiprocessors * 4), 1, 1), (TEAM_BLOCK, 1, 1), *arguments)


_KINDS: Final = {"softmax": 0, "safe_softmax": 1, "log_softmax": 2}


def _softmaxes(name: str, kind: int) -> None:
    @_launch(name)
    def forward(device: Device, x: int, y: int, before: int, n: int, after: int) -> None:
        _not_negative(before, n, after)
        sizes = map(_i64, (before, n, after))
        _teams(device, "softmax", before * after if n else 0, n, _i32(kind), _at(x), _at(y), *sizes, keeps=True)

    if name == "safe_softmax":
        return

    @_launch(f"{name}_backward")
    def backward(device: Device, grad: int, y: int, dx: int, before: int, n: int, after: int) -> None:
        _not_negative(before, n, after)
        given = (_i32(kind), *map(_at, (grad, y, dx)), *map(_i64, (before, n, after)))
        _teams(device, "softmax_backward", before * after, n, *given, keeps=True)


for _name, _kind in _KINDS.items():
    _softmaxes(_name, _kind)


class _Norm(ctypes.Structure):
    """norms.cu's `norm`."""

    _fields_ = [
        ("lists", _Lists),
        *((name, _i64) for name in ("kinds", "of_kind", "run")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, _f32) for name in ("n", "n_less", "eps", "momentum", "keep")),
        *((name, ctypes.c_void_p) for name in ("running_mean", "running_variance", "new_mean", "new_variance")),
    ]


_BY_ELEMENT, _BY_LIST, _FIXED = range(3)


def _norm_of(lists: _Lists, **more: Any) -> _Norm:
    return _Norm(lists=lists, n=_fl(lists.n), n_less=_fl(lists.n - 1), **more)


def _rows_norm(rows: int, n: int, **more: Any) -> _Norm:
    return _norm_of(_lists(((rows, n),), ((n, 1),)), kinds=1, of_kind=0, run=1, **more)


def _groups_norm(examples: int, channels: int, places: int, groups: int, **more: Any) -> _Norm:
    each = channels // groups
    lists = _lists(((examples * groups, each * places),), ((each * places, 1),))
    return _norm_of(lists, kinds=groups, of_kind=each, run=max(places, 1), **more)


def _channels_norm(examples: int, channels: int, places: int, **more: Any) -> _Norm:
    lists = _by_channel(examples, channels, places)
    return _norm_of(lists, kinds=max(channels, 1), of_kind=1, run=max(lists.n, 1), **more)


def _by_channel(examples: int, channels: int, places: int) -> _Lists:
    return _lists(((channels, places),), ((examples, channels * places), (places, 1)))


@_launch("layer_norm")
def _layer_norm(
    device: Device, x: int, weight: int, bias: int, y: int, mean: int, rstd: int, rows: int, n: int, eps: float
) -> None:
    _not_negative(rows, n)
    norm = _rows_norm(rows, n, weight=weight, bias=bias, eps=_fl(eps))
    _teams(device, "norm_forward", rows, n, norm, _i32(1), *map(_at, (x, y, mean, rstd)), keeps=True)


@_launch("layer_norm_backward")
def _layer_norm_backward(
    device: Device,
    grad: int,
    x: int,
    mean: int,
    rstd: int,
    weight: int | None,
    dx: int | None,
    dweight: int | None,
    dbias: int | None,
    rows: int,
    n: int,
) -> None:
    _not_negative(rows, n)
    if dx is not None:
        norm = _rows_norm(rows, n, weight=weight)
        given = (norm, _i32(_BY_ELEMENT), *map(_at, (grad, x, mean, rstd, dx)))
        _teams(device, "norm_backward", rows, n, *given, keeps=True)
    lists = _lists((), ((rows, n),), n)
    stats = {"mean": mean, "rstd": rstd, "stat_step": 1, "stat_lists": max(n, 1)}
    _norm_weights(device, lists, grad, x, dweight, dbias, stats)


def _norm_weights(
    device: Device, lists: _Lists, grad: int, x: int, dweight: int | None, dbias: int | None, stats: dict[str, int]
) -> None:
    """D(grad, h) and S(grad) of lists; h from the statistics."""
    if dweight is not None:
        _reduce(device, "with_normalised", lists, dweight, x=grad, y=x, **stats)
    if dbias is not None:
        _reduce(device, "plain", lists, dbias, x=grad)


@_launch("group_norm")
def _group_norm(
    device: Device,
    x: int,
    weight: int | None,
    bias: int | None,
    y: int,
    mean: int,
    rstd: int,
    examples: int,
    channels: int,
    places: int,
    groups: int,
    eps: float,
) -> None:
    _check_groups(examples, channels, places, groups)
    norm = _groups_norm(examples, channels, places, groups, weight=weight, bias=bias, eps=_fl(eps))
    _teams(device, "norm_forward", norm.lists.count, norm.lists.n, norm, _i32(1), *map(_at, (x, y, mean, rstd)))


def _check_groups(examples: int, channels: int, places: int, groups: int) -> None:
    _not_negative(examples, channels, places)
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels in {groups} groups")


@_launch("group_norm_backward")
def _group_norm_backward(
    device: Device,
    grad: int,
    x: int,
    mean: int,
    rstd: int,
    weight: int | None,
    dx: int | None,
    dweight: int | None,
    dbias: int | None,
    examples: int,
    channels: int,
    places: int,
    groups: int,
) -> None:
    _check_groups(examples, channels, places, groups)
    if dx is not None:
        norm = _groups_norm(examples, channels, places, groups, weight=weight)
        addresses = map(_at, (grad, x, mean, rstd, dx))
        _teams(device, "norm_backward", norm.lists.count, norm.lists.n, norm, _i32(_BY_ELEMENT), *addresses)
    lists = _by_channel(examples, channels, places)
    stats = {"mean": mean, "rstd": rstd, "stat_step": groups}
    stats |= {"stat_every": max(places, 1), "stat_lists": max(channels // groups, 1)}
    _norm_weights(device, lists, grad, x, dweight, dbias, stats)


@_launch("batch_norm")
def _batch_norm(
    device: Device,
    x: int,
    weight: int | None,
    bias: int | None,
    mean: int,
    variance: int,
    y: int,
    saved_mean: int,
    saved_rstd: int,
    new_mean: int,
    new_variance: int,
    examples: int,
    channels: int,
    places: int,
    training: int,
    momentum: float,
    eps: float,
) -> None:
    _not_negative(examples, channels, places)
    more: dict[str, Any] = {"weight": weight, "bias": bias, "eps": _fl(eps)}
    if training:
        more |= {"momentum": _fl(momentum), "keep": _fl(1 - momentum), "running_mean": mean}
        more |= {"running_variance": variance, "new_mean": new_mean, "new_variance": new_variance}
        of_mean, of_rstd = saved_mean, saved_rstd
    else:
        device.copy(new_mean, mean, 4 * channels)
        device.copy(new_variance, variance, 4 * channels)
        of_mean, of_rstd = mean, _spread(device, variance, eps, channels)
    norm = _channels_norm(examples, channels, places, **more)
    addresses = map(_at, (x, y, of_mean, of_rstd))
    _teams(device, "norm_forward", channels, norm.lists.n, norm, _i32(training), *addresses)


def _spread(device: Device, variance: int, eps: float, channels: int) -> int:
    rstd = device.room(4 * channels)
    _flat(device, "spread", channels, _at(variance), _f32(_fl(eps)), _at(rstd), _i64(channels))
    return rstd


@_launch("batch_norm_backward")
def _batch_norm_backward(
    device: Device,
    grad: int,
    x: int,
    weight: int | None,
    mean: int,
    spread: int,
    dx: int | None,
    dweight: int | None,
    dbias: int | None,
    examples: int,
    channels: int,
    places: int,
    training: int,
    eps: float,
) -> None:
    _not_negative(examples, channels, places)
    rstd = spread if training else _spread(device, spread, eps, channels)
    norm = _channels_norm(examples, channels, places, weight=weight)
    if dx is not None:
        direction = _i32(_BY_LIST if training else _FIXED)
        addresses = map(_at, (grad, x, mean, rstd, dx))
        _teams(device, "norm_backward", channels, norm.lists.n, norm, direction, *addresses)
    stats = {"mean": mean, "rstd": rstd, "stat_every": max(norm.lists.n, 1)}
    _norm_weights(device, norm.lists, grad, x, dweight, dbias, stats)


# losses

_NONE, _MEAN, _SUM = range(3)


def _check_reduction(reduction: int) -> None:
    if not _NONE <= reduction <= _SUM:
        raise ValueError(f"reduction {reduction}")


class _Likelihood(ctypes.Structure):
    """losses.cu's `likelihood`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("target", "weight")),
        *((name, _i64) for name in ("examples", "classes", "places", "ignored")),
        *(("reduction", _i32), ("wrong", ctypes.c_void_p)),
    ]


def _likelihood(
    target: int, weight: int | None, sizes: Sequence[int], reduction: int, ignored: int, wrong: ctypes.c_void_p
) -> _Likelihood:
    _not_negative(*sizes)
    _check_reduction(reduction)
    return _Likelihood(target, weight, *sizes, ignored, reduction, wrong.value)


@_launch("nll_loss")
def _nll_loss(
    device: Device,
    x: int,
    target: int,
    weight: int | None,
    loss: int,
    total: int,
    examples: int,
    classes: int,
    places: int,
    reduction: int,
    ignored: int,
) -> None:
    n = examples * places
    with _flag(device, IndexError) as wrong:
        it = _likelihood(target, weight, (examples, classes, places), reduction, ignored, wrong)
        parts, weights = loss if reduction == _NONE else device.room(4 * n), device.room(4 * n)
        _flat(device, "nll_terms", n, it, _at(x), _at(parts), _at(weights))
        if reduction == _NONE:
            device.zero(total, 4)
            return
        flat = _lists((), ((n, 1),))
        _reduce(device, "plain", flat, loss, x=parts)
        _reduce(device, "plain", flat, total, x=weights)
        if reduction == _MEAN:
            _flat(device, "nll_mean", 1, _at(loss), _at(total))


@_launch("nll_loss_backward")
def _nll_loss_backward(
    device: Device,
    grad: int,
    target: int,
    weight: int | None,
    total: int,
    dx: int,
    examples: int,
    classes: int,
    places: int,
    reduction: int,
    ignored: int,
) -> None:
    with _flag(device, IndexError) as wrong:
        it = _likelihood(target, weight, (examples, classes, places), reduction, ignored, wrong)
        _flat(device, "nll_backward", examples * classes * places, it, _at(grad), _at(total), _at(dx))


@_launch("mse_loss")
def _mse_loss(device: Device, x: int, target: int, y: int, n: int, reduction: int) -> None:
    _not_negative(n)
    _check_reduction(reduction)
    if reduction == _NONE:
        _flat(device, "mse_places", n, _at(x), _at(target), _at(y), _i64(n))
        return
    finish = _DIVIDED if reduction == _MEAN else _NOTHING
    _reduce(device, "differences", _lists((), ((n, 1),)), y, finish=finish, by=_fl(n), x=x, y=target)


@_launch("mse_loss_backward")
def _mse_loss_backward(device: Device, grad: int, x: int, target: int, dx: int, n: int, reduction: int) -> None:
    _not_negative(n)
    _check_reduction(reduction)
    with numpy.errstate(all="ignore"):
        factor = float(numpy.float32(2) / numpy.float32(n)) if reduction == _MEAN else 2.0
    addresses = map(_at, (grad, x, target, dx))
    _flat(device, "mse_backward", n, *addresses, _i64(n), _i32(reduction), _f32(factor))


# look-ups


def _sorted(device: Device, place: int, position: int, n: int, past: int) -> tuple[int, int]:
    """Addresses of places and positions by ascending place (below `past`), in the order in which they stood."""
    blocks = -(-n // SORT_BLOCK)
    counts = device.room(4 * 256 * blocks)
    there = device.room(8 * n), device.room(8 * n)
    here = place, position
    grid, block = (min(blocks, device.multiprocessors * 8), 1, 1), (SORT_BLOCK, 1, 1)
    for shift in range(0, max(past - 1, 1).bit_length(), 8):
        device.launch("sort_count", grid, block, _at(here[0]), _i64(n), _i32(shift), _at(counts), _i64(blocks))
        device.launch("sort_offsets", (1, 1, 1), block, _at(counts), _i64(256 * blocks))
        addresses = map(_at, (*here, *there))
        device.launch("sort_move", grid, block, *addresses, _i64(n), _i32(shift), _at(counts), _i64(blocks))
        here, there = there, here
    return here


def _add_runs(
    device: Device, places: tuple[int, int], value: int, y: int, n: int, width: int, nowhere: int, scale: int
) -> None:
    """Adds values to what y holds, those of one place in order; `places` are sorted."""
    if not width:
        return
    across = min(1 << (width - 1).bit_length(), device.threads_a_block)
    block = (across, device.threads_a_block // across, 1)
    grid = (min(-(-n // block[1]), device.multiprocessors * 64), 1, 1)
    addresses = map(_at, (*places, value, y))
    device.launch("add_runs", grid, block, *addresses, _i64(n), _i64(width), _i64(nowhere), _i32(scale))


def _scatter(
    device: Device,
    kernel: str,
    arguments: Sequence[Any],
    value: int,
    y: int,
    n: int,
    *,
    width: int = 1,
    nowhere: int,
    scale: int = 0,
    after: Sequence[Any] = (),
) -> None:
    """Places by a kernel of lookups.cu, sorted, added.

    Raises:
        IndexError: the kernel found an index outside.
    """
    if not n:
        return
    place, position = device.room(8 * n), device.room(8 * n)
    with _flag(device, IndexError) as wrong:
        _flat(device, kernel, n, *arguments, _at(place), _at(position), _i64(n), *after, wrong)
    _add_runs(device, _sorted(device, place, position, n, nowhere + 1), value, y, n, width, nowhere, scale)


@_launch("embedding_backward")
def _embedding_backward(
    device: Device, grad: int, index: int, dweight: int, positions: int, rows: int, width: int, padding: int, scale: int
) -> None:
    _not_negative(positions, rows, width)
    device.zero(dweight, 4 * rows * width)
    after = [_i64(rows), _i64(padding)]
    it = [_at(index)]
    _scatter(
        device, "embedding_places", it, grad, dweight, positions, width=width, nowhere=rows, scale=scale, after=after
    )


class _Scatter(ctypes.Structure):
    """lookups.cu's `scatter`."""

    _fields_ = [
        *((name, _i64) for name in ("rank", "dim", "nowhere")),
        *((name, _i64 * MAX_RANK) for name in ("walked", "source_step", "step")),
        ("bound", _i64),
    ]


def _steps(sizes: Sequence[int]) -> list[int]:
    """Strides of a row-major tensor."""
    return [math.prod(sizes[dim + 1 :]) for dim in range(len(sizes))]


@_launch("scatter_add", host=[5, 6, 7])
def _scatter_add(
    device: Device,
    x: int,
    index: int,
    source: int,
    y: int,
    rank: int,
    sizes: int,
    of_index: int,
    of_source: int,
    dim: int,
) -> None:
    if not 1 <= rank <= MAX_RANK or not 0 <= dim < rank:
        raise ValueError(f"a scatter along dim {dim} of {rank}")
    to, walked, given = (_host(address, rank) for address in (sizes, of_index, of_source))
    for place, (size, walk, there) in enumerate(zip(to, walked, given, strict=True)):
        if min(size, walk) < 0 or walk > there or (place != dim and walk > size):
            raise ValueError(f"an index of {walked} for {to} from {given}")
    total = math.prod(to)
    if x != y:
        device.copy(y, x, 4 * total)
    it = _Scatter(rank=rank, dim=dim, nowhere=total, bound=to[dim])
    for place in range(rank):
        it.walked[place] = walked[place]
        it.source_step[place] = _steps(given)[place]
        it.step[place] = _steps(to)[place]
    _scatter(device, "scatter_places", [it, _at(index)], source, y, math.prod(walked), nowhere=total)


# pooling


class _Planes(ctypes.Structure):
    """pooling.cu's `planes`."""

    _fields_ = [
        *((name, _i64) for name in ("count", "height", "width", "out_height", "out_width")),
        *((name, _i64 * 2) for name in ("kernel", "stride", "padding", "dilation")),
        *(("fitting", _i32), ("count_padding", _i32), ("divisor", _i64)),
    ]


def _planes(sizes: Sequence[int], windows: Sequence[int] = (), **more: int) -> _Planes:
    """Sizes as pooling.py's PLANES; windows: addresses of kernel, stride, padding, dilation as far as given."""
    _not_negative(*sizes)
    it = _Planes(*sizes, **more)
    for name, address in zip(("kernel", "stride", "padding", "dilation"), windows, strict=False):
        setattr(it, name, (_i64 * 2)(*_host(address, 2)))
    if windows and min(*it.kernel, *it.stride, *(it.dilation if len(windows) > 3 else (1,)), 1 + min(it.padding)) < 1:
        raise ValueError(f"windows of {list(it.kernel)}, stride {list(it.stride)}, padding {list(it.padding)}")
    return it


@_launch("max_pool2d", host=[8, 9, 10, 11])
def _max_pool2d(device: Device, x: int, y: int, places: int, *given: int) -> None:
    sizes, windows = given[:5], given[5:]
    outs = sizes[0] * sizes[3] * sizes[4]
    with _flag(device, ValueError("a window without element")) as wrong:
        _flat(device, "max_pool2d", outs, _planes(sizes, windows), *map(_at, (x, y, places)), wrong)


@_launch("max_pool2d_backward")
def _max_pool2d_backward(device: Device, grad: int, places: int, dx: int, *sizes: int) -> None:
    _not_negative(*sizes)
    count, height, width, out_height, out_width = sizes
    total, outs = count * height * width, out_height * out_width
    device.zero(dx, 4 * total)
    after = [_i64(outs), _i64(height * width), _i64(total)]
    _scatter(device, "pooled_places", [_at(places)], grad, dx, count * outs, nowhere=total, after=after)


@_launch("avg_pool2d", host=[7, 8, 9])
def _avg_pool2d(device: Device, x: int, y: int, *given: int) -> None:
    it = _planes(given[:5], given[5:8], count_padding=given[8], divisor=given[9])
    _flat(device, "avg_pool2d", it.count * it.out_height * it.out_width, it, _at(x), _at(y))


@_launch("avg_pool2d_backward", host=[7, 8, 9])
def _avg_pool2d_backward(device: Device, grad: int, dx: int, *given: int) -> None:
    it = _planes(given[:5], given[5:8], count_padding=given[8], divisor=given[9])
    _flat(device, "avg_pool2d_backward", it.count * it.height * it.width, it, _at(grad), _at(dx))


@_launch("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(device: Device, x: int, y: int, *sizes: int) -> None:
    it = _planes(sizes, fitting=1)
    _flat(device, "avg_pool2d", it.count * it.out_height * it.out_width, it, _at(x), _at(y))


@_launch("adaptive_avg_pool2d_backward")
def _adaptive_avg_pool2d_backward(device: Device, grad: int, dx: int, *sizes: int) -> None:
    it = _planes(sizes, fitting=1)
    _flat(device, "avg_pool2d_backward", it.count * it.height * it.width, it, _at(grad), _at(dx))


def missing() -> list[str]:
    """Kernels of the C interface that a GPU does not have yet."""
    return sorted(name for name in library.declared() if name not in LAUNCHES)
