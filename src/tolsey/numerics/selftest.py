"""The self-test: what a build computes, held to the vectors that the package brings in vectors/*.json.

Whoever writes the profile in another language, or only wonders about his own machine, has the same cases. A case names
an operation, its arguments, and what the law makes of them to the bit (docs/numerics.md, section "Vectors"). The slow
twins wrote them (tests/numerics/*_vectors.py); this file reads them and asks a build. Products are computed in every
layout of memory that a program can bring.

    check(library.current())      # a Verdict; `failed` is empty on a sound machine

It refuses nothing and repairs nothing. Next in the flow: `tolsey doctor` (client/doctor.py).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numpy
from numpy.typing import NDArray

from tolsey.numerics import elementwise, int8, lookups, losses, norms, pooling, products, reductions, softmax
from tolsey.numerics.exact_sum import ExactSum
from tolsey.numerics.library import Library
from tolsey.numerics.products import Geometry

VECTORS: Final = Path(__file__).parent / "vectors"
FAMILIES: Final = ("functions", "reductions", "products", "int8", "large")
"""Products of whole numbers are in int8: with it a build has shown every exact profile."""

Case = dict[str, Any]
Array = NDArray[Any]
F32 = NDArray[numpy.float32]
Draw = Callable[[int, int], NDArray[numpy.uint32]]

COPIES: Final = ("embedding", "gather", "index_select")
"""No kernel of ours computes them."""

CANONICAL_NAN: Final = 0x7FC00000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a build made of the vectors.

    Attributes:
        isa, threads: which build, and on how many threads.
        cases: how many were tried.
        failed: family and operation of each that came out otherwise.
    """

    isa: str
    threads: int
    cases: int
    failed: tuple[str, ...]


def check(lib: Library, families: Sequence[str] = FAMILIES) -> Verdict:
    """Every case of some families on a build, with as many threads as it is set to; well under a second or two."""
    tried = [(family, case) for family in families for case in cases(family) if case["op"] not in COPIES]
    failed = tuple(f"{family}: {case['op']}" for family, case in tried if not holds(lib, case))
    return Verdict(isa=lib.isa, threads=lib.threads, cases=len(tried), failed=failed)


@cache
def cases(family: str) -> list[Case]:
    """The cases of one file."""
    found: list[Case] = json.loads((VECTORS / f"{family}.json").read_text())["cases"]
    return found


def holds(lib: Library, case: Case) -> bool:
    """Whether a build gives the case's bits; one that refuses what the law allows does not."""
    try:
        outputs = computed(lib, case)
    except (ValueError, IndexError):
        return False
    return bool(digest(outputs) == case["sha256"] if "sha256" in case else written(case, outputs) == case["outputs"])


def computed(lib: Library, case: Case) -> list[Array | None]:
    """The outputs of a build; None for one that is not wanted."""

    def draw(seed: int, count: int) -> NDArray[numpy.uint32]:
        return elementwise.words(lib, seed, domain=0, stream=1, first_index=0, count=count)

    if "inputs" in case:
        result = _places(lib, case)
    elif "slices" in case:
        result = _whole_numbers(lib, case["op"], [read(arg, draw) for arg in case["args"]], case["slices"])
    else:
        result = _operation(lib, case["op"], [read(arg, draw) for arg in case["args"]])
    return list(result) if isinstance(result, tuple) else [result]


# the files' words


def written(case: Case, outputs: Sequence[Array | None]) -> list[Any]:
    """Outputs as the case's file has them."""
    if "inputs" in case:
        return [words(one, canonical=True) for one in outputs if one is not None]
    return [None if one is None else tensor(one, canonical=True) for one in outputs]


def digest(outputs: Sequence[Array | None]) -> str:
    """SHA-256 over the outputs' little-endian bytes, one after another."""
    found = hashlib.sha256()
    for one in outputs:
        if one is not None:
            found.update(bytes.fromhex(words(one, canonical=True, order="<")))
    return found.hexdigest()


def words(array: Array, *, canonical: bool = False, order: str = ">") -> str:
    """Elements as hex words separated by spaces; with `canonical`, every NaN is 7fc00000."""
    flat = numpy.array(array).reshape(-1)
    size = flat.dtype.itemsize
    bits = flat.view(f"u{size}")
    if canonical and flat.dtype == numpy.float32:
        bits[numpy.isnan(flat)] = CANONICAL_NAN
    return bits.astype(f"{order}u{size}").tobytes().hex(" ", size)


def array_of(text: str, kind: str) -> Array:
    """What `words` wrote."""
    dtype = numpy.dtype(kind)
    return numpy.frombuffer(bytes.fromhex(text), f">u{dtype.itemsize}").astype(f"u{dtype.itemsize}").view(dtype)


def tensor(array: Array, *, canonical: bool = False) -> dict[str, Any]:
    """A tensor as a file has it; row-major."""
    kind = array.dtype.name
    return {"type": kind, "shape": list(numpy.shape(array)), "words": words(array, canonical=canonical)}


def read(arg: Any, draw: Draw) -> Any:
    """An argument: a tensor by its words or by its seed, a number by the hex digits of its binary64, or as it stands.

    Args:
        draw: the first words of a seed's stream 1 in domain 0, so many.
    """
    if isinstance(arg, dict) and "seed" in arg:
        return ordinary(draw(arg["seed"], math.prod(arg["shape"]))).reshape(arg["shape"])
    if isinstance(arg, dict):
        return array_of(arg["words"], arg["type"]).reshape(arg["shape"])
    return struct.unpack(">d", bytes.fromhex(arg))[0] if isinstance(arg, str) and len(arg) == 16 else arg


def ordinary(drawn: NDArray[numpy.uint32]) -> F32:
    """Numbers of both signs between 2^-3 and 2^2, evenly in their logarithm, out of random words."""
    return ((drawn & 0x80FFFFFF) + 0x3E000000 + ((drawn >> 24 & 3) << 23)).astype(numpy.uint32).view(numpy.float32)


# what a build is asked


def _places(lib: Library, case: Case) -> Any:
    """A case of functions.json: numbers by name, arrays of one shape."""
    op, numbers = case["op"], dict(case["numbers"])
    inputs = [array_of(text, kind) for text, kind in zip(case["inputs"], case["types"], strict=True)]
    if op == "convert":
        return elementwise.convert(lib, inputs[0], numpy.dtype(numbers["target"]).type)
    if op == "keep_mask":
        return elementwise.keep_mask(lib, **numbers, kind=numpy.uint8)
    if op in elementwise.UNARY:
        return elementwise.unary(lib, op, *inputs)
    if op in elementwise.BINARY:
        return elementwise.binary(lib, op, *inputs)
    return getattr(elementwise, op)(lib, *inputs, **numbers)


def _whole_numbers(lib: Library, op: str, args: Sequence[Any], slices: int) -> Any:
    """An operation by docs/numerics/int8.md; after a matrix product the exponents of rows and columns, and the sums."""
    result = _operation(int8.kernels(lib, slices), op, args)
    if op != "mm":
        return result
    a, b = args
    rows, columns = int8.exponents(lib, a), int8.exponents(lib, b.T)
    sums = numpy.zeros(result.shape, numpy.int64)
    int8.add_terms(lib, a, b, rows, columns, sums, slices=slices)
    return result, rows, columns, sums


def _operation(lib: Library, op: str, args: Sequence[Any]) -> Any:
    """An operation of docs/ops.md, or the exact sum of several arrays."""
    if op in elementwise.UNARY:
        return elementwise.unary(lib, op, *args)
    if op == "exact_sum":
        return _summed(lib, args)
    if op in ("mm", "bmm", "addmm"):
        return _product(lib, *args) if op != "addmm" else _product(lib, args[1], args[2], args[0])
    if op.startswith("convolution"):
        return convolved(_Kernels(lib), op, args)
    name = op.replace("nll_loss2d", "nll_loss")
    family = next(module for module in _MODULES if hasattr(module, name))
    return getattr(family, name)(lib, *own_arguments(op, args))


def _summed(lib: Library, addends: Sequence[F32]) -> F32:
    total = ExactSum(lib, addends[0].shape)
    for addend in addends:
        total.add(addend)
    return total.rounded()


def own_arguments(op: str, args: Sequence[Any]) -> tuple[Any, ...]:
    """Which of a program's arguments our functions, and their twins, take."""
    return _OURS[op](*args) if op in _OURS else tuple(args)


_MODULES: Final[tuple[ModuleType, ...]] = (reductions, softmax, norms, losses, lookups, pooling)
_OURS: Final[dict[str, Callable[..., tuple[Any, ...]]]] = {
    "softmax": lambda x, dim, wide: (x, dim),
    "log_softmax": lambda x, dim, wide: (x, dim),
    "softmax_backward": lambda grad, y, dim, dtype: (grad, y, dim),
    "log_softmax_backward": lambda grad, y, dim, dtype: (grad, y, dim),
    "layer_norm_backward": lambda *args: (*args[:6], args[7]),
    "group_norm": lambda *args: (*args[:3], *args[6:]),
    "group_norm_backward": lambda *args: (*args[:5], *args[8:]),
    "max_pool2d_backward": lambda *args: (args[0], args[1], args[7]),
}


def _product(lib: Library, a: F32, b: F32, bias: F32 | None = None) -> F32:
    """In row-major memory; where another layout of operands or result gives other bits, those, which no vector has."""
    first = products.gemm(lib, a, b, bias)
    for left, right in itertools.product((a, _turned(a)), (b, _turned(b))):
        for out in (numpy.empty_like(first), _turned(first)):
            found = products.gemm(lib, left, right, bias, out)
            if words(found, canonical=True) != words(first, canonical=True):
                return found
    return first


def _turned(matrices: F32) -> F32:
    """The same numbers, columns side by side in memory."""
    return numpy.ascontiguousarray(matrices.swapaxes(-1, -2)).swapaxes(-1, -2)


class Directions(Protocol):
    """The three directions of an ordinary convolution; `_Kernels` is a build's, tests bring the slow twin's."""

    def forward(self, shape: Geometry, x: F32, weight: F32, bias: F32 | None) -> F32: ...
    def backward_input(self, shape: Geometry, grad: F32, weight: F32, bias: F32 | None) -> F32: ...
    def backward_weight(self, shape: Geometry, grad: F32, x: F32) -> F32: ...
    def total(self, grad: F32) -> F32:
        """A bias's gradient: over images and places."""


@dataclass(frozen=True, slots=True)
class _Kernels:
    lib: Library

    def forward(self, shape: Geometry, x: F32, weight: F32, bias: F32 | None) -> F32:
        return products.convolution(self.lib, shape, x, weight, bias)

    def backward_input(self, shape: Geometry, grad: F32, weight: F32, bias: F32 | None) -> F32:
        return products.convolution_backward_input(self.lib, shape, grad, weight, bias)

    def backward_weight(self, shape: Geometry, grad: F32, x: F32) -> F32:
        return products.convolution_backward_weight(self.lib, shape, grad, x)

    def total(self, grad: F32) -> F32:
        return reductions.sum(self.lib, grad, [d for d in range(grad.ndim) if d != 1])


def convolved(by: Directions, op: str, args: Sequence[Any]) -> Any:
    """`convolution` and `convolution_backward` of docs/ops.md, ordinary and transposed, out of three directions."""
    tensors, rest = (args[:3], args[3:]) if op == "convolution" else (args[:3], args[4:])
    stride, padding, dilation, transposed, output_padding, groups = rest[:6]
    x, weight = tensors[:2] if op == "convolution" else tensors[1:]
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        shape = Geometry.of_transposed(x.shape, weight.shape, output_padding=output_padding, **settings)
    else:
        shape = Geometry.of(x.shape, weight.shape, **settings)
    if op == "convolution":
        return (by.backward_input if transposed else by.forward)(shape, x, weight, tensors[2])
    grad, wanted = tensors[0], rest[6]
    to_input = by.forward(shape, grad, weight, None) if transposed else by.backward_input(shape, grad, weight, None)
    to_weight = by.backward_weight(shape, *((x, grad) if transposed else (grad, x)))
    found = to_input, to_weight, by.total(grad)
    return tuple(one if want else None for one, want in zip(found, wanted, strict=True))
