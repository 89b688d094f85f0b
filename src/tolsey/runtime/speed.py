"""How fast this machine multiplies matrices: for estimates, never for correctness.

Training runs below this figure, because it does more than products; whoever estimates with it takes a margin. A machine
that runs two profiles is as fast as the slower of them: a promise made with it holds whichever is bought.
Next in the flow: child.py tells it, the worker's listing carries it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import torch

from tolsey.errors import ConfigError
from tolsey.runtime import exact

SIZE: Final = {"cpu": 512, "cuda": 4096}
"""Edge of the square matrices: large enough for the library's blocking, 3 MiB a piece on a CPU."""
ENOUGH_S: Final = 0.5
"""For each profile."""


def flops_per_s(device: torch.device | str = "cpu") -> int:
    """Floating-point operations a second of float32 products, the best of several, in the slower profile."""
    place = torch.device(device)
    products: list[Callable[..., Any]] = [torch.mm]
    with suppress(ConfigError):  # a machine without exact kernels runs the other profile alone
        products.append(exact.KERNELS["mm"](exact.require(place), ()))
    return min(_measured(product, place) for product in products)


def _measured(product: Callable[..., Any], place: torch.device) -> int:
    size = SIZE["cuda" if place.type == "cuda" else "cpu"]
    left, right = torch.ones(size, size, device=place), torch.ones(size, size, device=place)
    best_s, started = float("inf"), time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - started < ENOUGH_S:
            before = time.perf_counter()
            float(product(left, right)[0, 0])  # the copy to the host waits for a device
            best_s = min(best_s, time.perf_counter() - before)
    return int(2 * size**3 / best_s)
