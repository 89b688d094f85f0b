"""Pins a process to one numerics configuration, and names the class of machines that share its bits.

Both profiles are computed in a process that is pinned the same way; for `exact-fp32/1` it is enough that PyTorch keeps
subnormals, since all that depends on the machine is left to our kernels, whose class is the profile itself
(protocol/job.py). What follows is about the other one.

Profile "pinned": stock PyTorch in deterministic mode. Measured on one CPU: thread count, SIMD level and library path
each change bits from the first step on; a second process with the same settings never does. So all of them are fixed
here, and what cannot be fixed (which CPU or GPU, which library versions) goes into the *class fingerprint*:

    class id = keccak256(tag("tolsey/class/1") ‖ canonical JSON of the facts)

Two machines compare bits only where their class ids are equal; a mismatch between classes is nobody's fault.

environment.ENVIRONMENT must be set before torch is imported: child_client.py starts the child with it, child.py checks.
Next in the flow: segment.py.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Final

import torch

from tolsey.errors import LocalViolation, SpecInvalid
from tolsey.protocol.encoding import TAG_CLASS, canonical_json, keccak256, tag
from tolsey.protocol.job import PROFILES
from tolsey.runtime.environment import THREADS, wrong_variables


def pin(profile: str) -> None:
    """Sets every switch of this process that changes bits. Call before any computation.

    Raises:
        SpecInvalid: an unknown profile.
        LocalViolation: a switch did not take effect.
    """
    if profile not in PROFILES:
        raise SpecInvalid(f"numerics profile {profile!r} is none of {', '.join(PROFILES)}")
    torch.use_deterministic_algorithms(True)
    # Programs have no uninitialised memory, so filling it with NaN would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(THREADS)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.set_flush_denormal(False)
    torch.set_default_dtype(torch.float32)
    check()


def check() -> None:
    """Raises LocalViolation where numerics of this process are not as `pin` leaves them.

    Subnormals are tested by arithmetic: a library loaded later may have switched on flush-to-zero.
    """
    tiny = torch.full((1,), 2.0**-126) * 0.5
    facts = {
        "threads": (torch.get_num_threads(), THREADS),
        "deterministic algorithms": (torch.are_deterministic_algorithms_enabled(), True),
        "matmul precision": (torch.get_float32_matmul_precision(), "highest"),
        "subnormal of 2^-127": (float(tiny), 2.0**-127),
    }
    for name, (found, wanted) in facts.items():
        if found != wanted:
            raise LocalViolation(f"numerics are not pinned: {name} is {found}, it must be {wanted}")


def class_fingerprint(device: torch.device | str = "cpu") -> tuple[bytes, dict[str, Any]]:
    """The 32-byte class id of this process and device, and the facts behind it, readable."""
    device = torch.device(device)
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "libraries": _libraries(),
    }
    facts |= _cuda(device) if device.type == "cuda" else _cpu()
    return keccak256(tag(TAG_CLASS), canonical_json(facts)), facts


def _libraries() -> dict[str, str]:
    """Versions of the numeric libraries inside this torch build."""
    found = {}
    for line in torch.__config__.show().splitlines():
        text = line.strip().removeprefix("- ")
        for name, start in _LIBRARY_LINES.items():
            if text.startswith(start):
                found[name] = text[:160]
    return found


_LIBRARY_LINES: Final = {
    "mkl": "Intel(R) oneAPI Math Kernel",
    "onednn": "Intel(R) MKL-DNN",
    "openmp": "OpenMP",
}
"""How lines of torch.__config__.show() begin."""


def _cpu() -> dict[str, Any]:
    """Vendor decides MKL's code path, the capability ATen's and oneDNN's."""
    return {
        "cpu_vendor": _cpu_vendor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "isa": sorted(_cpu_flags() & _ISA_FLAGS),
    }


def _cuda(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "driver": _driver(),
    }


_ISA_FLAGS: Final = frozenset(
    {
        "sse4_1",
        "avx",
        "avx2",
        "fma",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "avx_vnni",
        "amx_tile",
        "amx_bf16",
        "asimd",
        "sve",
        "sve2",
        "bf16",
    }
)
"""What MKL and oneDNN dispatch on, as /proc/cpuinfo names it."""


def _cpuinfo(*keys: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in keys:
                return value.strip()
    except OSError:
        pass
    return ""


def _cpu_vendor() -> str:
    return _cpuinfo("vendor_id", "CPU implementer") or platform.processor() or "unknown"


def _cpu_flags() -> frozenset[str]:
    return frozenset(_cpuinfo("flags", "Features").split())


def _driver() -> str:
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return "unknown"


def missing_environment() -> list[str]:
    """Variables that this process was started with wrongly (environment.py)."""
    return wrong_variables(os.environ)
