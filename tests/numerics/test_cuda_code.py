"""What NVIDIA's compiler makes of the GPU's kernels, looked at in PTX: nothing rounds but what the law writes.

PTX is what the compiler hands to the assembler; of each instruction on floats it says how it rounds. `add.rn.f32` and
its kin may not be joined into a fma by the assembler, `add.f32` may. What the assembler makes of registers and memory
is in figures.json (compile.py --check). No GPU runs here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tolsey.errors import ConfigError, LocalViolation
from tolsey.numerics.cuda import compile, launches

try:
    compile.nvrtc()
except ConfigError as missing:
    pytest.skip(str(missing), allow_module_level=True)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "numerics" / "gpu.md"
ARCHITECTURE = "compute_80"

ROUNDED_ONCE = {
    *("add.rn.f32", "sub.rn.f32", "mul.rn.f32", "div.rn.f32", "rcp.rn.f32", "sqrt.rn.f32", "fma.rn.f32"),
    *("cvt.rn.f32.s32", "cvt.rn.f32.s64", "cvt.rn.f32.u32", "cvt.rni.f32.f32"),
}
"""One operation of IEEE 754 each, to nearest even."""
EXACT = re.compile(
    r"(mov|neg|abs|selp|ld\.(global|shared|local|param|const)(\.nc)?(\.v[24])?|st\.(global|shared|local)(\.v[24])?)\.f32"
    r"|setp\.(eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|nan|num)(\.(and|or|xor))?\.f32"
    r"|cvt\.rzi\.(s|u)(8|16|32|64)\.f32"
)
"""Bits moved, compared, or cut towards 0 (of numbers that fit, which elementwise.c sees to)."""
CLEARED = {"tolsey_f32_to_u8": {"max.f32"}}
"""What is right where it stands: below 0 and NaN give 0, as this maximum of x and 0 does."""
MATRIX_UNITS = {
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
    "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32",
}
"""Of 8-bit integers into 32 bits, without saturation: right in `int8_multiply_*`, and nowhere else."""
ON_FLOATS = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.]*\.(?:f16|bf16|f32|f64|tf32)[\w.]*)\s", re.MULTILINE)
ANYWHERE = re.compile(r"\.ftz|\.approx|\.full|\.sat\b|\.f64|\bred\.|\batom\.[\w.]*\.f32|\bwmma|\bmma\.")


WORD = re.compile(r"[a-z][\w.]*")


@cache
def ptx_of(unit: str, *more: str, architecture: str = ARCHITECTURE) -> str:
    return compile.nvrtc().compile(unit, architecture, *more).ptx


def instructions(ptx: str) -> Counter[str]:
    """Of those on floating-point numbers, how many of each kind."""
    return Counter(ON_FLOATS.findall(ptx))


def unlawful(ptx: str) -> list[str]:
    """Instructions that round in a way which the law does not know, or not in every driver's assembler alike."""
    found = {word for word in WORD.findall(ptx) if ANYWHERE.search(word)} - MATRIX_UNITS
    for kernel in ptx.split(".entry ")[1:]:
        name = kernel.partition("(")[0]
        if not name.startswith("int8_multiply_"):
            found |= MATRIX_UNITS.intersection(WORD.findall(kernel))
        known = ROUNDED_ONCE | CLEARED.get(name, set())
        found |= {one for one in instructions(kernel) if one not in known and not EXACT.fullmatch(one)} - MATRIX_UNITS
    return sorted(found)


@pytest.mark.parametrize("unit", compile.UNITS)
def test_every_instruction_on_floats_rounds_as_the_law_says(unit: str) -> None:
    ptx = ptx_of(unit)
    assert instructions(ptx).total() > 0 or unit == "lookups"
    assert not unlawful(ptx)


@pytest.mark.parametrize("architecture, unit_of", [("compute_75", "m8n8k16"), (ARCHITECTURE, "m16n8k32")])
def test_products_of_whole_numbers_use_integer_units(architecture: str, unit_of: str) -> None:
    ptx = ptx_of("int8", architecture=architecture)
    assert not unlawful(ptx)
    assert {word.split(".")[3] for word in WORD.findall(ptx) if word.startswith("mma.")} == {unit_of}


@pytest.mark.parametrize("unit", compile.UNITS)
def test_no_product_and_sum_are_joined_but_where_it_is_written(unit: str) -> None:
    assert "fma.rn.f32" not in instructions(ptx_of(unit, "-DTOLSEY_WITHOUT_FMA"))


@pytest.mark.parametrize("unit", compile.UNITS)
def test_table_of_kernels_is_what_the_sources_hold(unit: str) -> None:
    assert set(re.findall(r"\.entry (\w+)", ptx_of(unit))) == set(compile.UNITS[unit])


@pytest.mark.parametrize("kernel, reads", [("softmax_kept", 32), ("softmax_backward_kept", 64)])
def test_list_that_fits_into_registers_is_read_once(kernel: str, reads: int) -> None:
    """32 numbers a thread of each argument, in code without loops over a list."""
    (code,) = (entry for entry in ptx_of("softmax").split(".entry ") if entry.startswith(f"{kernel}("))
    assert instructions(code)["ld.global.f32"] == reads
    assert not re.search(r"ld\.local|st\.local", code)


def test_compiler_that_may_contract_is_seen() -> None:
    allowed = tuple(option.replace("fmad=false", "fmad=true") for option in compile.OPTIONS)
    ptx = compile.nvrtc().compile("gemm", ARCHITECTURE, "-DTOLSEY_WITHOUT_FMA", instead=allowed).ptx
    assert instructions(ptx)["fma.rn.f32"] > 0 or unlawful(ptx)


@pytest.mark.parametrize("option", ["--ftz=true", "--prec-div=false", "--prec-sqrt=false"])
def test_kernels_refuse_to_be_compiled_with_fast_mathematics(option: str) -> None:
    name = option.partition("=")[0]
    options = (*(one for one in compile.OPTIONS if not one.startswith(name)), option)
    with pytest.raises(LocalViolation, match="fast mathematics"):
        compile.nvrtc().compile("losses", ARCHITECTURE, instead=options)


@pytest.mark.parametrize(
    "body, option, seen",
    [
        ("x[0] = x[1] + x[2];", "--ftz=true", ".ftz"),
        ("x[0] = x[1] / x[2];", "--prec-div=false", ".full"),
        ("x[0] = sqrtf(x[1]);", "--prec-sqrt=false", ".approx"),
        ("x[0] = __expf(x[1]);", "--fmad=false", ".approx"),
        ("atomicAdd(x, x[1]);", "--fmad=false", ".f32"),
        ("x[0] = (double)x[1] * x[2] + x[3];", "--fmad=false", ".f64"),
        ("x[0] = fminf(x[1], x[2]);", "--fmad=false", "min.f32"),
        ("x[0] = x[1] * x[2];", "--fmad=true", "mul.f32"),
    ],
)
def test_unlawful_code_is_seen(
    body: str, option: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mutant.cu").write_text(f'extern "C" __global__ void mutant(float *x) {{ {body} }}')
    monkeypatch.setattr(compile, "SOURCES", tmp_path)
    ptx = compile.nvrtc().compile("mutant", ARCHITECTURE, instead=(option,)).ptx
    assert any(seen in one for one in unlawful(ptx)), ptx


LAWFUL_UNIT = "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32"


@pytest.mark.parametrize(
    "kernel, instruction, seen",
    [
        ("int8_multiply_2_64", LAWFUL_UNIT, False),
        ("int8_multiply_2_64", LAWFUL_UNIT.replace(".s32.s8", ".satfinite.s32.s8"), True),
        ("int8_multiply_2_64", "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", True),
        ("gemm_64", LAWFUL_UNIT, True),
    ],
)
def test_matrix_units_that_round_or_saturate_or_stand_elsewhere_are_seen(
    kernel: str, instruction: str, seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ".m8n8k16." in instruction
    kind, sums = ("r", 2) if few else ("f", 4)
    a, b = ("{%%%d}", "{%%%d}") if few else ("{%%%d,%%%d}", "{%%%d}")
    c = ",".join(f"%{place}" for place in range(sums))
    factors = f"{a}, {b}" % tuple(range(sums, sums + (2 if few else 3)))
    outs = ", ".join(f'"+{kind}"(c[{place}])' for place in range(sums))
    ins = ", ".join(f'"r"(x[{place}])' for place in range(2 if few else 3))
    body = f'asm volatile("{instruction} {{{c}}}, {factors}, {{{c}}};" : {outs} : {ins});'
    type_of_sums = "int" if few else "float"
    text = f'extern "C" __global__ void {kernel}(int *x, {type_of_sums} *c) {{ {body} }}'
    (tmp_path / "mutant.cu").write_text(text)
    monkeypatch.setattr(compile, "SOURCES", tmp_path)
    ptx = compile.nvrtc().compile("mutant", ARCHITECTURE).ptx
    assert instruction in ptx
    assert (instruction in unlawful(ptx)) == seen


def test_every_kernel_of_the_cpu_has_one_on_the_gpu() -> None:
    assert launches.missing() == []


def test_figures_are_of_these_sources_and_this_compiler() -> None:
    known = json.loads(compile.FIGURES.read_text())
    assert known["made_of"] == compile.made_of(known["nvrtc"])
    assert set(known["kernels"]) == {kernel for kernels in compile.UNITS.values() for kernel in kernels}


def test_figures_of_the_page_are_those_of_the_file() -> None:
    kernels = json.loads(compile.FIGURES.read_text())["kernels"]
    rows = re.findall(r"^\| `(\w+)` \| ((?:\d+ \| ){6})(\d+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 5
    for kernel, registers, shared in rows:
        of = [kernels[kernel][f"sm_{capability}"] for capability in compile.CAPABILITIES]
        assert [one[0] for one in of] == [int(number) for number in re.findall(r"\d+", registers)], kernel
        assert of[4][3] == int(shared), kernel
    spilling = {kernel for kernel, of in kernels.items() if any(one[2] for one in of.values())}
    assert all(f"`{kernel}`" in PAGE.read_text() for kernel in spilling)
    assert f"Of the {len(kernels)} kernels" in PAGE.read_text()


def test_cubin_is_compiled_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = compile.cubin("losses", 75)
    assert made.startswith(b"\x7fELF")
    (file,) = (tmp_path / "tolsey" / "numerics").iterdir()
    file.write_bytes(b"found again")
    assert compile.cubin("losses", 75) == b"found again"


def test_capability_that_the_compiler_does_not_know_is_named() -> None:
    with pytest.raises(ConfigError, match="not for compute capability 10"):
        compile.cubin("losses", 10)
