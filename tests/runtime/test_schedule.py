"""Rates and bias corrections: one rounding, and the formulas that everybody uses."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.errors import SpecInvalid
from tolsey.runtime.optimisers import adamw, lion, sgd
from tolsey.runtime.schedule import PI, Schedule, cosine, float32_bits, to_float32


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-3e38, max_value=3e38))
def test_to_float32_equals_one_ieee_rounding(value: float) -> None:
    assert float32_bits(Decimal(value)) == int(numpy.float32(value).view(numpy.uint32))


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("0", 0),
        ("-0", 0x80000000),
        ("1", 0x3F800000),
        ("0.1", 0x3DCCCCCD),
        ("16777217", 0x4B800000),
        ("16777219", 0x4B800002),  # ties go to the even neighbour
        ("1.401298464324817e-45", 1),
        ("1e-60", 0),
        ("1.1754943508222875e-38", 0x00800000),
        ("3.4028234663852886e38", 0x7F7FFFFF),
    ],
)
def test_float32_bits_known_values(text: str, bits: int) -> None:
    assert float32_bits(Decimal(text)) == bits


def test_float32_bits_rounds_once_where_doubles_round_twice() -> None:
    value = Decimal(1) + Decimal(2) ** -24 + Decimal(2) ** -60  # a double drops the last term, then the tie goes down
    assert float32_bits(value) == 0x3F800001 and int(numpy.float32(float(value)).view(numpy.uint32)) == 0x3F800000


def test_float32_bits_too_large_refused() -> None:
    with pytest.raises(SpecInvalid, match="too large"):
        float32_bits(Decimal("3.5e38"))


@given(st.floats(0, 4))
def test_cosine_agrees_with_libm(x: float) -> None:
    assert float(cosine(Decimal(x))) == pytest.approx(math.cos(x), abs=1e-15)


def test_schedule_cosine_with_warmup_equals_formula() -> None:
    schedule = Schedule(kind="cosine", peak_lr="0.3", warmup_steps=5, total_steps=50, final_ratio="0.1")
    for step in range(60):
        progress = min(1.0, (step - 5) / 45)
        expected = 0.3 * (step + 1) / 5 if step < 5 else 0.3 * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
        assert float(schedule.lr(step)) == pytest.approx(expected, rel=1e-12)
    assert schedule.lr(50) == pytest.approx(Decimal("0.03")) and PI > 3


def test_schedule_constant_is_peak_after_warmup() -> None:
    schedule = Schedule(peak_lr="0.001", warmup_steps=2, total_steps=9)
    assert [str(schedule.lr(step)) for step in (0, 1, 2, 8)] == ["0.0005", "0.001", "0.001", "0.001"]


@pytest.mark.parametrize("step", [0, 1, 9, 999])
def test_adamw_scalars_equal_float_formula(step: int) -> None:
    schedule = Schedule(peak_lr="0.001", total_steps=1000)
    scalars = {name: float(value) for name, value in adamw(weight_decay="0.1").scalars(schedule, step).items()}
    n = step + 1
    assert scalars == pytest.approx(
        {
            "lr": 1e-3,
            "decay": 1 - 1e-4,
            "step_size": 1e-3 / (1 - 0.9**n),
            "correction": 1 / math.sqrt(1 - 0.999**n),
        }
    )


def test_lion_scalars_equal_float_formula() -> None:
    schedule = Schedule(peak_lr="0.001", total_steps=1000)
    scalars = {name: float(value) for name, value in lion(weight_decay="3").scalars(schedule, 7).items()}
    assert scalars == pytest.approx({"lr": 1e-3, "decay": 1 - 3e-3})


def test_to_float32_is_what_the_step_gets() -> None:
    schedule = Schedule(peak_lr="0.1", total_steps=1)
    assert to_float32(sgd().scalars(schedule, 0)["lr"]) == float(numpy.float32(0.1))


@pytest.mark.parametrize("text", [0.001, "abc", "nan", "inf", "-1", "1e7", "1e-400", "1" * 40, "1e-999999999"])
def test_schedule_bad_rate_refused(text: object) -> None:
    with pytest.raises(SpecInvalid):
        Schedule(peak_lr=text, total_steps=1)  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("fields", [{"kind": "step"}, {"warmup_steps": 11}, {"total_steps": 0}, {"final_ratio": "1.1"}])
def test_schedule_bad_field_refused(fields: dict[str, object]) -> None:
    with pytest.raises(SpecInvalid):
        Schedule(**{"peak_lr": "1", "total_steps": 10, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (adamw, {"beta1": "1"}),
        (lion, {"beta2": "1"}),
        (sgd, {"momentum": "1"}),
        (sgd, {"nesterov": "yes"}),
    ],
)
def test_optimiser_bad_option_refused(make: object, fields: dict[str, object]) -> None:
    with pytest.raises(SpecInvalid):
        make(**fields)  # type: ignore[operator]
