from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tolsey.errors import RemoteViolation, SpecInvalid
from tolsey.protocol.encoding import canonical_json, keccak256, tag
from tolsey.protocol.job import EXACT_FP32, MAX_SPEC_BYTES, PINNED, JobSpec, class_of_profile, profile_of_class

Make = Callable[..., JobSpec]
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_spec_round_trip_keeps_value_and_hash(make_spec: Make) -> None:
    spec = make_spec(initial_tensors=b"\x09" * 32)
    again = JobSpec.decode(spec.encode())
    assert again == spec
    assert again.spec_hash == spec.spec_hash == keccak256(tag(b"tolsey/spec/1"), spec.encode())


def test_spec_hash_changes_with_every_field(make_spec: Make) -> None:
    spec = make_spec()
    others = {
        "name": "other", "program": b"\x10" * 32, "dataset": b"\x10" * 32, "initial_tensors": b"\x10" * 32,
        "class_id": b"\x10" * 32, "seed": 8, "steps": 101, "steps_per_segment": 8, "segments_per_window": 5,
        "batch_size": 9, "micro_batches": 3, "memory_bytes": 5, "work_flops": 5,
    }  # fmt: skip
    fields = {field.name for field in dataclasses.fields(JobSpec)}
    assert set(others) == fields - {"profile", "version"}, "a new field needs a line here"
    hashes = {spec.spec_hash} | {make_spec(**{name: value}).spec_hash for name, value in others.items()}
    assert len(hashes) == len(others) + 1


def test_class_of_an_exact_profile_is_the_profile_and_no_machine(make_spec: Make) -> None:
    everybody = keccak256(tag(b"tolsey/class/1"), b'{"profile":"exact-fp32/1"}')
    assert (class_of_profile(EXACT_FP32), class_of_profile(PINNED)) == (everybody, None)
    assert (profile_of_class(everybody), profile_of_class(b"\x03" * 32)) == (EXACT_FP32, PINNED)
    assert make_spec(profile=EXACT_FP32, class_id=everybody).profile == EXACT_FP32
    with pytest.raises(SpecInvalid, match=r"class_id 0303030303030303 is not one of profile exact-fp32/1"):
        make_spec(profile=EXACT_FP32, class_id=b"\x03" * 32)
    with pytest.raises(SpecInvalid, match="is not one of profile pinned"):
        make_spec(profile=PINNED, class_id=everybody)


def test_spec_of_an_unknown_profile_is_invalid_and_the_known_ones_are_named(make_spec: Make) -> None:
    with pytest.raises(SpecInvalid, match=r"profile 'exact-fp32/2' is not one of exact-fp32/1, .*, pinned"):
        make_spec(profile="exact-fp32/2")
    value = json.loads(make_spec().encode()) | {"profile": "exact-fp64/1"}
    with pytest.raises(SpecInvalid, match="exact-fp64/1"):
        JobSpec.decode(canonical_json(value))


@quick
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 50))
def test_segments_and_windows_cover_every_step_once(make_spec: Make, steps: int, per_segment: int, per: int) -> None:
    spec = make_spec(steps=steps, steps_per_segment=min(per_segment, steps), segments_per_window=per)
    segments = list(chain.from_iterable(spec.window_segments(w) for w in range(spec.window_count)))
    assert segments == list(range(spec.segment_count))
    assert list(chain.from_iterable(spec.segment_steps(s) for s in segments)) == list(range(steps))


def test_segment_and_window_outside_the_run_raise(make_spec: Make) -> None:
    spec = make_spec()
    for index in (-1, spec.segment_count):
        with pytest.raises(IndexError):
            spec.segment_steps(index)
    for index in (-1, spec.window_count):
        with pytest.raises(IndexError):
            spec.window_segments(index)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"name": ""}, {"name": "Upper"}, {"name": "a" * 65}, {"name": "-a"}, {"name": "a\n"},
        {"profile": "exact-fp32/1"}, {"profile": ""}, {"program": b"short"}, {"dataset": None}, {"class_id": "00" * 32},
        {"initial_tensors": b""}, {"seed": -1}, {"seed": 1 << 64}, {"steps": 0}, {"steps": (1 << 32) + 1},
        {"steps_per_segment": 0}, {"steps_per_segment": 101}, {"segments_per_window": 0},
        {"segments_per_window": 65_537}, {"batch_size": 0}, {"micro_batches": 0}, {"memory_bytes": 0},
        {"work_flops": 0}, {"steps": 1 << 32, "steps_per_segment": 1, "segments_per_window": 1},
    ],
)  # fmt: skip
def test_spec_out_of_range_is_invalid(make_spec: Make, change: dict[str, object]) -> None:
    with pytest.raises(SpecInvalid):
        make_spec(**change)


def test_segment_count_always_fits_the_contracts_uint32(make_spec: Make) -> None:
    widest = make_spec(steps=65_535 * 65_536, steps_per_segment=1, segments_per_window=65_536)
    assert widest.window_count == 65_535
    assert widest.segment_count < 1 << 32


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(JobSpec)])
def test_decode_without_a_key_is_invalid(make_spec: Make, name: str) -> None:
    value = json.loads(make_spec().encode())
    del value[name]
    with pytest.raises(SpecInvalid, match=name):
        JobSpec.decode(canonical_json(value))


def test_decode_with_a_mistyped_key_names_it(make_spec: Make) -> None:
    value = json.loads(make_spec().encode()) | {"batchsize": 3}
    with pytest.raises(SpecInvalid, match="batchsize") as caught:
        JobSpec.decode(canonical_json(value))
    assert "batch_size" in caught.value.diagnostics()


BAD_FIELDS = [
    (field.name, value)
    for field in dataclasses.fields(JobSpec)
    for value in (True, [], {}, "ZZ", None, "AB" * 32)
    if (field.name, value) != ("initial_tensors", None)
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_decode_with_a_value_of_the_wrong_type_is_invalid(make_spec: Make, name: str, value: object) -> None:
    body = json.loads(make_spec().encode()) | {name: value}
    with pytest.raises(SpecInvalid):
        JobSpec.decode(canonical_json(body))


@pytest.mark.parametrize("raw", [b"", b"[]", b"3", b"null", b"{}"])
def test_decode_of_no_spec_is_refused(raw: bytes) -> None:
    with pytest.raises((SpecInvalid, RemoteViolation)):
        JobSpec.decode(raw)


def test_decode_longer_than_allowed_is_refused(make_spec: Make) -> None:
    with pytest.raises(RemoteViolation, match="at most"):
        JobSpec.decode(make_spec().encode() + b" " * MAX_SPEC_BYTES)


@given(st.binary(max_size=80))
def test_decode_of_any_bytes_blames_the_sender_or_the_spec(raw: bytes) -> None:
    with pytest.raises((SpecInvalid, RemoteViolation)):
        JobSpec.decode(raw)
