"""The first state as a function of the seed: how a parameter's initial values are recorded, checked and made.

A *recipe* is a short list of steps on one whole tensor, in float64, rounded once at the end:

    ["full", x]            every element x
    ["normal", stream]     standard normal (random.normals), block i of (seed, INIT, stream, i)
    ["uniform", stream]    [0, 1) in multiples of 2^-24
    ["literal", hex]       little-endian bytes of the tensor itself, at most 16 KiB
    ["add", x] ["mul", x] ["clamp", low, high] ["erfinv"]   applied to what is there

Numbers are binary64 bits in hex (ops.float_hex). A recipe starts with one of the first four.

While the author's factory builds its module, `record` watches which tensors are filled how: `normal_`, `uniform_`,
`zeros`, `ones`, `fill_`, `randn`, `trunc_normal_`, scaling by a number, clamping (so `kaiming_*`, `xavier_*` and
`constant_` are covered, being made of these). The numbers that torch drew are then thrown away and drawn again from
the job's seed. A tensor filled in any other way (orthogonal_, a pre-trained weight) is no recipe: small ones become a
literal, large ones make the whole initial state travel as a file.

Next in the flow: capture.py asks for recipes; segment.py calls `initial_state`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tolsey.errors import RemoteViolation
from tolsey.protocol.philox import DOMAIN_INIT
from tolsey.runtime import random
from tolsey.runtime.graph import TensorSpec
from tolsey.runtime.ops import DTYPES, float_hex, float_of_hex

Recipe = list[list[Any]]
MAX_RECIPE_STEPS: Final = 16
MAX_LITERAL_BYTES: Final = 16 << 10
_ARGUMENTS: Final = {
    "full": 1,
    "normal": 1,
    "uniform": 1,
    "literal": 1,
    "add": 1,
    "mul": 1,
    "clamp": 2,
    "erfinv": 0,
}
_STARTS: Final = frozenset({"full", "normal", "uniform", "literal"})


def check_recipe(name: str, spec: TensorSpec, recipe: Any) -> None:
    """Raises RemoteViolation unless `recipe` of state tensor `name` can be followed."""
    if not isinstance(recipe, list) or not 1 <= len(recipe) <= MAX_RECIPE_STEPS:
        raise RemoteViolation(f"initial recipe of {name!r:.80} has not 1 to {MAX_RECIPE_STEPS} steps")
    for place, step in enumerate(recipe):
        kind = step[0] if isinstance(step, list) and step and isinstance(step[0], str) else None
        if kind not in _ARGUMENTS or len(step) != 1 + _ARGUMENTS[kind] or (place == 0) != (kind in _STARTS):
            raise RemoteViolation(f"initial recipe of {name!r:.80}: step {step!r:.60} is none")
        if not all(_argument_fits(kind, arg, spec) for arg in step[1:]):
            raise RemoteViolation(f"initial recipe of {name!r:.80}: step {step!r:.60} has no usable argument")


def _argument_fits(kind: str, arg: Any, spec: TensorSpec) -> bool:
    if kind in ("normal", "uniform"):
        return type(arg) is int and 0 <= arg < 1 << 32 and spec.dtype.startswith(("float", "bfloat"))
    if not isinstance(arg, str) or arg.strip("0123456789abcdef"):
        return False
    if kind == "literal":
        return len(arg) == 2 * spec.size_bytes <= 2 * MAX_LITERAL_BYTES
    return len(arg) == 16 and not math.isnan(float_of_hex(arg))


def make(spec: TensorSpec, recipe: Recipe, seed: int) -> torch.Tensor:
    """The initial tensor of a checked recipe, on the CPU."""
    dtype = DTYPES[spec.dtype]
    if recipe[0][0] == "literal":
        raw = bytes.fromhex(recipe[0][1])
        exact = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        if len(recipe) == 1:
            return exact.reshape(spec.shape).clone()
        value = exact.double()
    else:
        value = _start(recipe[0], math.prod(spec.shape), seed)
    for step in recipe[1:]:
        value = _CONTINUE[step[0]](value, *map(float_of_hex, step[1:]))
    return value.to(dtype).reshape(spec.shape)


def _start(step: list[Any], count: int, seed: int) -> torch.Tensor:
    if step[0] == "full":
        return torch.full((count,), float_of_hex(step[1]), dtype=torch.float64)
    draw = random.normals if step[0] == "normal" else random.uniforms
    return draw(seed, domain=DOMAIN_INIT, stream=step[1], count=count)


_CONTINUE: Final[dict[str, Callable[..., torch.Tensor]]] = {
    "add": lambda value, x: value + x,
    "mul": lambda value, x: value * x,
    "clamp": lambda value, low, high: value.clamp(low, high),
    "erfinv": lambda value: random.normal_quantile((value + 1.0) * 0.5) / 1.4142135623730951,
}


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base is untyped
    """Keeps, per storage, the recipe that describes it, or None once something else was written.

    A recipe belongs to a storage as a whole: writes through a view that covers only part of it end it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recipes: dict[int, Recipe | None] = {}
        self.streams = 0
        self._alive: list[torch.UntypedStorage] = []  # a freed storage's address could be given out again

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if any(arg.alias_info is not None and arg.alias_info.is_write for arg in func._schema.arguments):
            self._wrote(name, args, dict(kwargs or {}))
        elif isinstance(result, torch.Tensor):
            self._made(name, result, args, dict(kwargs or {}))
        return result

    def recipe_of(self, tensor: torch.Tensor) -> Recipe | None:
        """The recipe that fills `tensor`, if one does."""
        if not _covers_storage(tensor):
            return None
        return self.recipes.get(tensor.untyped_storage()._cdata)

    def truncated(self, tensor: torch.Tensor, mean: float, std: float, low: float, high: float) -> None:
        """A normal distribution cut to [low, high]: the quantiles between those of both ends, evenly drawn."""
        if not _covers_storage(tensor) or std <= 0:
            return
        first, last = (math.erf((bound - mean) / (std * math.sqrt(2.0))) for bound in (low, high))
        stream, self.streams = self.streams, self.streams + 1
        self.recipes[self._keep(tensor)] = [
            ["uniform", stream],
            *_affine(last - first, first),
            ["erfinv"],
            *_affine(std * math.sqrt(2.0), mean),
            ["clamp", float_hex(float(low)), float_hex(float(high))],
        ]

    def _wrote(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        target = args[0]
        if not isinstance(target, torch.Tensor):
            return
        key = self._keep(target)
        base = name.removesuffix("_")
        if not _covers_storage(target):
            self.recipes[key] = None
        elif base in ("zero", "fill", "normal", "uniform"):
            self.recipes[key] = self._fresh(base, args[1:], kwargs)
        else:
            self.recipes[key] = _extended(self.recipes.get(key), base, args[1:], kwargs)

    def _made(self, name: str, result: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key = result.untyped_storage()._cdata
        if key in self.recipes:  # a view of what is known
            return
        self._keep(result)
        if not _covers_storage(result):
            return
        if name in ("zeros", "ones", "full", "randn", "rand", "zeros_like", "ones_like"):
            self.recipes[key] = self._fresh(name.removesuffix("_like"), args[1:], kwargs)
        elif args and isinstance(args[0], torch.Tensor) and args[0].shape == result.shape:
            self.recipes[key] = _extended(self.recipe_of(args[0]), name, args[1:], kwargs)

    def _keep(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        key: int = storage._cdata
        if key not in self.recipes:
            self.recipes[key] = None
            self._alive.append(storage)
        return key

    def _fresh(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recipe | None:
        numbers = [arg for arg in args if isinstance(arg, int | float)]
        if name in ("zeros", "zero", "ones"):
            return [["full", float_hex(float(name == "ones"))]]
        if name in ("full", "fill"):
            value = kwargs.get("value", kwargs.get("fill_value", numbers[0] if numbers else None))
            return None if value is None else [["full", float_hex(float(value))]]
        stream, self.streams = self.streams, self.streams + 1
        if name in ("randn", "rand"):
            return [["normal" if name == "randn" else "uniform", stream]]
        if name == "normal":
            mean, spread = [*numbers, 0.0, 1.0][:2] if not numbers else [*numbers, 1.0][:2]
            mean, spread = kwargs.get("mean", mean), kwargs.get("std", spread)
            return [["normal", stream], *_affine(float(spread), float(mean))]
        low, high = [*numbers, 0.0, 1.0][:2] if not numbers else [*numbers, 1.0][:2]
        low, high = kwargs.get("from", low), kwargs.get("to", high)
        return [["uniform", stream], *_affine(float(high) - float(low), float(low))]


def _affine(factor: float, offset: float) -> Recipe:
    steps: Recipe = []
    if factor != 1.0:
        steps.append(["mul", float_hex(factor)])
    if offset != 0.0:
        steps.append(["add", float_hex(offset)])
    return steps


def _extended(recipe: Recipe | None, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recipe | None:
    """`recipe` after one more elementwise step with numbers, or None where that is no step of ours."""
    if recipe is None or len(recipe) >= MAX_RECIPE_STEPS:
        return None
    numbers = [float(arg) for arg in args if isinstance(arg, int | float)]
    if name in ("clone", "detach", "alias", "lift_fresh"):
        return [*recipe]
    if name == "erfinv":
        return [*recipe, ["erfinv"]]
    if name == "clamp":
        low, high = (*args, None, None)[:2]
        low, high = kwargs.get("min", low), kwargs.get("max", high)
        if any(isinstance(bound, torch.Tensor) for bound in (low, high)):
            return None
        low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
        return [*recipe, ["clamp", float_hex(low), float_hex(high)]]
    if len(numbers) != 1 or len(args) != 1 or kwargs:
        return None
    if name in ("mul", "div", "add", "sub"):
        number = numbers[0] if name in ("mul", "add") else -numbers[0] if name == "sub" else 1.0 / numbers[0]
        return [*recipe, ["mul" if name in ("mul", "div") else "add", float_hex(number)]]
    return None


def _covers_storage(tensor: torch.Tensor) -> bool:
    """Whether a tensor is all of its memory, in row-major order."""
    return (
        tensor.storage_offset() == 0
        and tensor.is_contiguous()
        and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
    )


@contextmanager
def record() -> Iterator[Callable[[torch.Tensor], Recipe | None]]:
    """Watches module construction; gives a function from tensor to its recipe (None: not known)."""
    recorder = _Recorder()
    draws = torch.nn.init._no_grad_trunc_normal_  # draws until all values fit, which no list of steps can say

    def truncated(tensor: torch.Tensor, mean: float, std: float, a: float, b: float, generator: Any = None) -> Any:
        draws(tensor, mean, std, a, b, generator)
        recorder.truncated(tensor, mean, std, a, b)
        return tensor

    torch.nn.init._no_grad_trunc_normal_ = truncated
    try:
        with recorder:
            yield recorder.recipe_of
    finally:
        torch.nn.init._no_grad_trunc_normal_ = draws


def literal(tensor: torch.Tensor) -> Recipe | None:
    """The tensor itself as a recipe, if it is small enough."""
    raw = raw_bytes(tensor)
    return [["literal", bytes(raw).hex()]] if len(raw) <= MAX_LITERAL_BYTES else None


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The canonical bytes of a tensor (row-major, little-endian, NaN canonical) as a one-dimensional view.

    A CPU tensor that is contiguous and free of NaN is not copied. The view keeps the memory alive.
    """
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    if has_nan(flat):
        flat = torch.where(torch.isnan(flat), _quiet_nan(flat.dtype), flat)
    if flat.numel() == 0:
        return memoryview(b"")
    array: numpy.ndarray = flat.view(torch.uint8).numpy()
    return memoryview(array)  # type: ignore[arg-type]  # numpy arrays offer the buffer interface


def has_nan(tensor: torch.Tensor) -> bool:
    """Whether a NaN stands in it.

    A sum with a NaN in it is NaN, and summing costs a twentieth of asking each element; infinities of both signs make
    one too, so then each is asked.
    """
    return tensor.is_floating_point() and bool(torch.isnan(tensor.sum())) and bool(torch.isnan(tensor).any())


def _quiet_nan(dtype: torch.dtype) -> torch.Tensor:
    """The positive quiet NaN without payload: 0x7fc00000 for float32."""
    return _NAN_BITS[dtype].view(dtype)


_NAN_BITS: Final = {
    torch.float64: torch.tensor([0x7FF8 << 48]),
    torch.float32: torch.tensor([0x7FC00000], dtype=torch.int32),
    torch.float16: torch.tensor([0x7E00], dtype=torch.int16),
    torch.bfloat16: torch.tensor([0x7FC0], dtype=torch.int16),
}
