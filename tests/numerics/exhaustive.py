"""Every one of the 2^32 inputs of each function of one argument: builds compared bit by bit, error against binary64.

    python -P tests/numerics/exhaustive.py [--functions exp,log] [--isas avx2,avx512] [--every 1]

(-P because the folder holds a numbers.py, which is not the library's.) Prints a line a function: the largest error in
units in the last place of the exact result (2^-149 where that is subnormal, 2^104 where it overflows, infinity counted
as 2^128), an input that has it, a SHA-256 over all results, NaN canonical, whether all builds gave them, and the
processor seconds of each build's kernel and of the rest. Ends with 1 where two builds differ. A build with fma takes
seconds a function, comparing and measuring a minute, the baseline's fma in software some minutes: `--isas` leaves
builds out, `--every 64` looks at each 64th block of 2^16 inputs.

`pow` has 2^64 inputs: it is tried on 256 blocks of 2^16 random pairs, of four kinds in turn.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from typing import Final

import numpy
import torch
from numpy.typing import NDArray

from tolsey.numerics import build, elementwise, library

F32 = NDArray[numpy.float32]
F64 = NDArray[numpy.float64]
BLOCK: Final = 1 << 16


def _erf(x: F64) -> F64:
    return torch.erf(torch.from_numpy(x)).numpy()


def _sigmoid(x: F64) -> F64:
    e = numpy.exp(-numpy.abs(x))
    return numpy.where(x < 0, e, 1) / (1 + e)


def _gelu(x: F64) -> F64:
    return x * 0.5 * torch.erfc(torch.from_numpy(-x * numpy.sqrt(0.5))).numpy()


EXACT: Final[dict[str, Callable[..., F64] | None]] = {
    "exp": numpy.exp,
    "expm1": numpy.expm1,
    "log": numpy.log,
    "log1p": numpy.log1p,
    "sin": numpy.sin,
    "cos": numpy.cos,
    "tanh": numpy.tanh,
    "erf": _erf,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "sqrt": numpy.sqrt,
    "rsqrt": lambda x: 1 / numpy.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "pow": numpy.power,
    "relu": None,
    "gelu": None,
    "gelu_tanh": None,
}
"""In binary64, whose own error (some 1e-16) is below a millionth of an ulp of binary32. None: no error is measured;
gelu's relative error below 0 is that of 1 + erf, as it is everywhere else."""


@numpy.errstate(all="ignore")
def powers(block: int) -> tuple[F32, F32]:
    """Pairs for pow: any bits; ordinary ones; from the whole range; bases near 1 and results from the whole range."""
    random = numpy.random.default_rng(block)
    kind, normal = block % 4, random.standard_normal((2, BLOCK))
    if kind == 0:
        x, y = random.integers(0, 1 << 32, (2, BLOCK), dtype=numpy.uint32).view(numpy.float32)
        return x, y
    base = numpy.exp(normal[0] * (3, 20, 0.3)[kind - 1])
    power = normal[1] * (4, 2)[kind - 1] if kind < 3 else random.uniform(-104, 89, BLOCK) / numpy.log(base)
    return base.astype(numpy.float32), power.astype(numpy.float32)


def errors(found: F32, exact: F64) -> F64:
    """In ulps of the exact result; infinite where one is NaN, or of another sign, and the other not."""
    bits = exact.view(numpy.int64)
    exponent = numpy.clip((bits >> 52) & 0x7FF, 1023 - 126, 1023 + 127)
    unit = ((exponent - 23) << 52).view(numpy.float64)
    # Infinity stands for 2^128, so that the largest number is an ulp away from it.
    end = 2.0**128
    error = numpy.abs(numpy.clip(found.astype(numpy.float64), -end, end) - numpy.clip(exact, -end, end)) / unit
    is_nan = numpy.isnan(exact)
    wrong = (numpy.isnan(found) != is_nan) | ((numpy.signbit(found) != (bits < 0)) & ~is_nan)
    return numpy.where(wrong, numpy.inf, numpy.where(is_nan, 0, error))


def examine(name: str, isas: list[str], every: int) -> bool:
    """Prints what was found of one function; False where builds differ."""
    checksum, differs = hashlib.sha256(), dict[str, str]()
    taken, began = dict.fromkeys(isas, 0.0), time.thread_time()
    worst, where, share = 0.5, "", "all 2^32 inputs" if every == 1 else f"every {every}th block of 2^16 inputs"
    blocks = range(0, (1 << 32) // BLOCK, every)
    if name == "pow":
        blocks, share = range(0, 256, every), f"{-(-256 // every)} blocks of 2^16 pairs"
    for block in blocks:
        if name == "pow":
            given: tuple[F32, ...] = powers(block)
        else:
            given = (numpy.arange(block * BLOCK, (block + 1) * BLOCK, dtype=numpy.uint32).view(numpy.float32),)
        results = {}
        for isa in isas:
            call, start = elementwise.unary if len(given) == 1 else elementwise.binary, time.thread_time()
            results[isa] = call(library.load(isa), name, *given)
            taken[isa] += time.thread_time() - start
            results[isa].view(numpy.uint32)[numpy.isnan(results[isa])] = 0x7FC00000
        y = results[isas[0]]
        checksum.update(y)
        for isa in isas[1:]:
            if isa not in differs and results[isa].tobytes() != y.tobytes():
                place = int(numpy.flatnonzero(results[isa].view(numpy.int32) != y.view(numpy.int32))[0])
                differs[isa] = ", ".join(float(side[place]).hex() for side in given)
        exact_of = EXACT[name]
        if exact_of is None:
            continue
        with numpy.errstate(all="ignore"):
            exact = exact_of(*(side.astype(numpy.float64) for side in given))
            # What is rounded correctly is at most half an ulp off; the others are measured.
            off = numpy.flatnonzero(y.view(numpy.int32) != exact.astype(numpy.float32).view(numpy.int32))
            error = errors(y[off], exact[off])
        if error.size and error.max() > worst:
            place = int(error.argmax())
            worst, where = float(error[place]), ", ".join(float(side[off[place]]).hex() for side in given)
    error_text = f"max error {worst:.3f} ulp at {where}" if where else "correctly rounded"
    if EXACT[name] is None:
        error_text = "error not measured"
    builds = f"OTHER THAN {isas[0]} ARE {differs}" if differs else " = ".join(isas)
    rest = time.thread_time() - began - sum(taken.values())
    seconds = ", ".join(f"{isa} {spent:.0f} s" for isa, spent in (taken | {"rest": rest}).items())
    print(f"{name}: {share}; {error_text}; {checksum.hexdigest()[:16]}; {builds}; {seconds}", flush=True)
    return not differs


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--functions", default=",".join(EXACT))
    parser.add_argument("--isas", default=",".join(build.runnable()))
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    isas = options.isas.split(",")
    for isa in isas:
        library.load(isa).threads = 1
    torch.set_num_threads(1)
    return 0 if all([examine(name, isas, options.every) for name in options.functions.split(",")]) else 1


if __name__ == "__main__":
    sys.exit(main())
