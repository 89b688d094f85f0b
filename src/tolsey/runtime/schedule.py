"""Learning rates and bias corrections: exact decimal arithmetic, rounded once to float32.

C's `pow` and `cos` are not correctly rounded and differ between libraries (5 to 28 of 20,000 values in glibc), so one
learning rate could be two numbers on two machines. Here every per-step scalar is computed with fifty decimal digits by
Python's own integer arithmetic and rounded once, half to even: one value everywhere.

Words: *lr* at step s (counted from 0), with peak rate p, W warm-up steps and T total steps:

    s <  W             p * (s + 1) / W                                  (linear warm-up)
    kind "constant"    p
    kind "cosine"      p * (f + (1 - f) * (1 + cos(pi * t)) / 2),  t = (s - W) / max(1, T - W) cut to [0, 1],
                       f = final_ratio

and for AdamW at the n-th update (n = s + 1), b1, b2 its betas, w its weight decay:

    decay = 1 - lr * w      step_size = lr / (1 - b1^n)      correction = 1 / sqrt(1 - b2^n)

and for Lion the same decay.

It refuses floats: all rates are decimal strings such as "0.001" or "1e-3". Next in the flow: optimisers.py names the
scalars that an update takes; segment.py feeds them to the executor.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation, localcontext
from fractions import Fraction
from typing import Any

from tolsey.errors import SpecInvalid

DIGITS = 50
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
MAX_STEPS = 1 << 31
SCHEDULES = ("constant", "cosine")
_CONTEXT = Context(prec=DIGITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A learning-rate schedule by name.

    Attributes:
        kind: "constant" or "cosine".
        peak_lr: decimal string, the rate after warm-up.
        warmup_steps: 0 for none.
        total_steps: the job's steps; the cosine ends there.
        final_ratio: decimal string in [0, 1]: last rate over peak rate (cosine only).
    """

    kind: str = "constant"
    peak_lr: str
    warmup_steps: int = 0
    total_steps: int
    final_ratio: str = "0"

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise SpecInvalid(f"schedule {self.kind!r} is none of {', '.join(SCHEDULES)}")
        if not (type(self.total_steps) is int and 1 <= self.total_steps <= MAX_STEPS):
            raise SpecInvalid(f"total_steps is {self.total_steps!r}, allowed are 1 to {MAX_STEPS}")
        if not (type(self.warmup_steps) is int and 0 <= self.warmup_steps <= self.total_steps):
            raise SpecInvalid(f"{self.warmup_steps!r} warm-up steps in a schedule of {self.total_steps} steps")
        decimal_in(self.peak_lr, "learning rate", low="0", high="1e6")
        decimal_in(self.final_ratio, "final_ratio", low="0", high="1")

    def lr(self, step: int) -> Decimal:
        """The rate at `step`, before rounding."""
        with localcontext(_CONTEXT):
            peak = Decimal(self.peak_lr)
            if step < self.warmup_steps:
                return peak * (step + 1) / self.warmup_steps
            if self.kind == "constant":
                return peak
            span = max(1, self.total_steps - self.warmup_steps)
            progress = min(Decimal(1), Decimal(step - self.warmup_steps) / span)
            final = Decimal(self.final_ratio)
            return peak * (final + (1 - final) * (1 + cosine(PI * progress)) / 2)

    def encode(self) -> dict[str, Any]:
        """As the program holds it."""
        return {
            "kind": self.kind,
            "peak_lr": self.peak_lr,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "final_ratio": self.final_ratio,
        }


def adamw_scalars(schedule: Schedule, options: Mapping[str, Any], step: int) -> dict[str, Decimal]:
    """lr, decay, step_size and correction of the update at `step`; options hold beta1, beta2, weight_decay."""
    lr = schedule.lr(step)
    with localcontext(_CONTEXT):
        beta1, beta2 = Decimal(options["beta1"]), Decimal(options["beta2"])
        return {
            "lr": lr,
            "decay": 1 - lr * Decimal(options["weight_decay"]),
            "step_size": lr / (1 - beta1 ** (step + 1)),
            "correction": 1 / (1 - beta2 ** (step + 1)).sqrt(),
        }


def lion_scalars(schedule: Schedule, options: Mapping[str, Any], step: int) -> dict[str, Decimal]:
    """lr and decay of the update at `step`; options hold weight_decay."""
    lr = schedule.lr(step)
    with localcontext(_CONTEXT):
        return {"lr": lr, "decay": 1 - lr * Decimal(options["weight_decay"])}


def sgd_scalars(schedule: Schedule, options: Mapping[str, Any], step: int) -> dict[str, Decimal]:
    """lr of the update at `step`."""
    return {"lr": schedule.lr(step)}


def cosine(x: Decimal) -> Decimal:
    """cos(x) for x in [0, 4], by its Taylor series until terms vanish in the precision of the context."""
    with localcontext(_CONTEXT) as context:
        context.prec += 10
        total = term = Decimal(1)
        square, k = x * x, 0
        while total + term != total or k == 0:
            k += 2
            term = -term * square / (k * (k - 1))
            total += term
    return +total


def decimal_in(text: str, name: str, *, low: str, high: str) -> Decimal:
    """`text` as an exact decimal within [low, high].

    Raises:
        SpecInvalid: not a decimal string of at most 32 characters, or outside.
    """
    if not isinstance(text, str) or len(text) > 32:
        raise SpecInvalid(f"{name} is {text!r}", fix=f'write {name} as a decimal string such as "0.001"')
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise SpecInvalid(f"{name} is {text!r}, which is no decimal number") from error
    if not value.is_finite() or not Decimal(low) <= value <= Decimal(high):
        raise SpecInvalid(f"{name} is {text}, allowed are {low} to {high}")
    if value and value.adjusted() < -40:  # an exponent is short to write and long to compute with
        raise SpecInvalid(f"{name} is {text}, smaller than 1e-40 and not zero")
    return value


def to_float32(value: Decimal) -> float:
    """The float32 nearest to `value`, ties to even, as a Python float (which holds it exactly)."""
    return struct.unpack(">f", float32_bits(value).to_bytes(4, "big"))[0]  # type: ignore[no-any-return]


def float32_bits(value: Decimal) -> int:
    """The IEEE-754 binary32 pattern nearest to `value`: one rounding, by whole numbers.

    Raises:
        SpecInvalid: too large for float32.
    """
    sign = 0x80000000 if value.is_signed() else 0
    exact = abs(Fraction(value))
    if exact == 0:
        return sign
    exponent = exact.numerator.bit_length() - exact.denominator.bit_length()
    if exact < Fraction(2) ** exponent:
        exponent -= 1
    exponent = max(exponent, -126)
    scaled = exact / Fraction(2) ** (exponent - 23)
    mantissa = round(scaled)  # Fraction rounds half to even
    # A mantissa of 2^24 carries into the exponent by plain addition; below 2^23 the number is subnormal.
    bits = mantissa if mantissa < 1 << 23 else ((exponent + 127) << 23) + (mantissa - (1 << 23))
    if bits >= 0x7F800000:
        raise SpecInvalid(f"{value} is too large for float32")
    return sign | bits
