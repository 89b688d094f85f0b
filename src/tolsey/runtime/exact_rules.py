"""Calls that exact_mode.py treats one by one: element types, memory, random numbers, order among equals.

Each rule computes one ATen call (all overloads of a name, or one) from others: on the kernels by `mode.planned`, or
with PyTorch's own where only bits are moved. It also holds what all ways need: `check`, `store` and `refusal`.

Next in the flow: exact_mode.py, which looks here first.
"""

from __future__ import annotations

import linecache
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy
import torch

from tolsey.errors import UnsupportedOp
from tolsey.numerics import PROFILE

if TYPE_CHECKING:
    from tolsey.runtime.exact_mode import ExactMode

Way = Callable[["ExactMode", Any, tuple[Any, ...], dict[str, Any]], Any]
aten = torch.ops.aten

LAWFUL: Final = {"x86_64": 0x1F80}.get(platform.machine(), 0)
"""The floating-point control register as native/control.c wants it: round to nearest, keep subnormals, trap nothing."""
WHOLE: Final = frozenset({torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
COMPUTED: Final = WHOLE | {torch.float32}
_WIDENED: Final = frozenset({torch.float64, torch.float16, torch.bfloat16})

OWN: Final[dict[str, Way]] = {}
"""Rules by name ("rand") or overload ("max.dim")."""


def rule(*names: str) -> Callable[[Way], Way]:
    def add(way: Way) -> Way:
        OWN.update(dict.fromkeys(names, way))
        return way

    return add


# Element types and memory.


@rule("_to_copy")
def _to_copy(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """To and from float32 rounded once; float64 and the halves may come from outside, and float64 may leave."""
    (x,) = args
    dtype = kwargs.get("dtype") or x.dtype
    device = kwargs.get("device")
    if not x.is_cpu or (device is not None and device.type != "cpu"):
        raise refusal(func, f"moves a tensor from {x.device} to {device}", "keep model and data on the CPU")
    if x.dtype is dtype:
        return func(*args, **kwargs)
    known = x.dtype in COMPUTED and dtype in COMPUTED
    if not known and not (x.dtype in _WIDENED and dtype is torch.float32) and (x.dtype, dtype) != _TO_FLOAT64:
        raise refusal(func, f"converts {x.dtype} to {dtype}", "use float32 and integers")
    value = mode.converted(x, dtype)
    form = kwargs.get("memory_format") or torch.preserve_format
    return value if x.is_contiguous() else torch.empty_like(x, dtype=dtype, memory_format=form).copy_(value)


_TO_FLOAT64: Final = (torch.float32, torch.float64)


@rule("copy_")
def _copy(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source = args[:2]
    if not target.is_cpu or not source.is_cpu:
        raise refusal(func, f"copies from {source.device} to {target.device}", "keep model and data on the CPU")
    if target.dtype is not source.dtype:
        source = mode.run(aten._to_copy.default, source, dtype=target.dtype)
    return func(target, source)


@rule("view.dtype")
def _view_as(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The bits of a NaN are not defined, so floats cannot be looked at as integers."""
    if args[0].dtype is not args[1] and args[0].dtype not in WHOLE:
        raise refusal(func, f"shows the bits of {args[0].dtype}, and those of a NaN are not defined")
    return func(*args, **kwargs)


@rule("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")
def _empty(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Memory that nobody has written holds zeros."""
    return func(*args, **kwargs).zero_()


@rule("resize_", "resize_as_")
def _resize(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is added holds zeros."""
    storage = args[0].untyped_storage()
    before = storage.nbytes()
    func(*args, **kwargs)
    if storage.nbytes() > before:
        torch.empty(0, dtype=torch.uint8).set_(storage)[before:].zero_()
    return args[0]


@rule("arange")
def _arange(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Fractions: start + i * step in float64, rounded once to float32."""
    result = func(*args, **kwargs)
    if result.dtype is torch.float32:
        start, step = (args[0], 1) if len(args) == 2 else (args[0], args[2]) if len(args) == 3 else (0, 1)
        numbers = float(start) + numpy.arange(len(result)) * float(step)
        result.copy_(torch.from_numpy(numbers.astype(numpy.float32)))
    return result


# Several results, order among equals, places written twice.


@rule("max.dim", "min.dim")
def _extreme(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The extreme and its lowest index; NaN is both largest and smallest."""
    x, dim, *rest = args
    keepdim = bool(rest and rest[0])
    check(func, x)
    if x.dtype in WHOLE or x.dim() == 0:
        return func(*args, **kwargs)
    places = mode.planned(aten.argmax.default, (x if "max" in func._schema.name else -x, dim, True), {})
    values = torch.gather(x, dim, places)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


@rule("max.default", "min.default")
def _extreme_of_all(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    check(func, args[0])
    if args[0].dtype in WHOLE:
        return func(*args)
    whole = aten.amax.default if "max" in func._schema.name else aten.amin.default
    return mode.planned(whole, (args[0], [], False), {})


@rule("argmin.default")
def _argmin(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    check(func, args[0])
    if args[0].dtype in WHOLE:
        return func(*args, **kwargs)
    return mode.planned(aten.argmax.default, (-args[0], *args[1:]), {})


@rule("sort.default", "sort.stable")
def _sort(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Equal elements keep their order."""
    x, *rest = args
    check(func, x)
    options = {"dim": -1, "descending": False} | dict(zip(("dim", "descending"), rest, strict=False)) | kwargs
    return torch.sort(x, **options | {"stable": True})


@rule("topk.default")
def _topk(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first k of the stable order."""
    x, count, *rest = args
    dim, largest = [*rest, *[-1, True][len(rest) :]][:2]
    check(func, x)
    values, places = torch.sort(x, stable=True, dim=dim, descending=largest)
    if x.dim() == 0:
        return values, places
    return tuple(found.narrow(dim, 0, count).clone(memory_format=torch.contiguous_format) for found in (values, places))


@rule("index_put.default", "_unsafe_index_put.default")
def _index_put(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Accumulated in order; without accumulation the last value written to a place stays."""
    x, indices, values, *rest = args
    for tensor in (x, values):
        check(func, tensor)
    grid = torch.arange(x.numel()).reshape(x.shape)
    places = aten.index.Tensor(grid, indices)
    flat, given = x.reshape(-1), values.expand(places.shape).reshape(-1)
    if rest and rest[0]:
        return mode.planned(aten.scatter_add.default, (flat, 0, places.reshape(-1), given), {}).reshape(x.shape)
    result = flat.clone()
    result.detach().numpy()[places.reshape(-1).numpy()] = given.detach().numpy()
    return result.reshape(x.shape)


@rule("_index_put_impl_.default", "index_put_.default")
def _index_put_in_place(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    store(args[0], _index_put(mode, func, args[:4], {}), may_resize=False)
    return args[0]


@rule("index_add.default")
def _index_add(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In order."""
    x, dim, index, source = args
    for tensor in (x, source):
        check(func, tensor)
    alpha = kwargs.get("alpha", 1)
    given = source if alpha == 1 else source * alpha
    if x.dim() == 0:
        return mode.planned(aten.scatter_add.default, (x.reshape(1), 0, index.reshape(1), given.reshape(1)), {})[0]
    shape = [-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())]
    places = index.long().reshape(shape).expand(given.shape)
    return mode.planned(aten.scatter_add.default, (x, dim, places, given), {})


# Composed.


@rule("addcdiv.default", "addcdiv_.default")
def _addcdiv(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """self + (a * value) / b: three roundings, as capture has it."""
    for tensor in args:
        check(func, tensor)
    x, a, b = args
    return (x.add_ if func is aten.addcdiv_.default else x.add)(torch.mul(a, kwargs.get("value", 1)).div_(b))


@rule("addmm.default")
def _addmm(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """beta * bias + alpha * (a @ b); with beta 0 nothing of the bias is left, NaN neither."""
    bias, a, b = args
    for tensor in args:
        check(func, tensor)
    beta, alpha = kwargs.get("beta", 1), kwargs.get("alpha", 1)
    if alpha == beta == 1:
        return mode.planned(func, args, {})
    product = mode.planned(aten.mm.default, (a, b), {})
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (bias if beta == 1 else bias * beta)


@rule("pow.Scalar")
def _pow_of_number(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    base, exponent = args
    check(func, exponent)
    dtype = torch.float32 if isinstance(base, float) else exponent.dtype
    return mode.planned(aten.pow.Tensor_Tensor, (torch.full((), base, dtype=dtype), exponent), {})


@rule("native_batch_norm.default")
def _batch_norm(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Running statistics, where there are any, are changed in place, as PyTorch does without saying so."""
    x, weight, bias, mean, variance, training, momentum, eps = args
    for tensor in (x, weight, bias, mean, variance):
        if tensor is not None:
            check(func, tensor)
    counts = x.shape[1]
    before = mean if mean is not None else torch.zeros(counts), variance if mean is not None else torch.ones(counts)
    y, saved_mean, saved_rstd, new_mean, new_variance = mode.planned(
        aten._native_batch_norm_legit_functional.default, (x, weight, bias, *before, training, momentum, eps), {}
    )
    if training and mean is not None:
        mean.copy_(new_mean)
        variance.copy_(new_variance)
    return y, saved_mean, saved_rstd


# Random numbers.


@rule("bernoulli_.float", "bernoulli.p")
def _bernoulli(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, keep = (*args, 0.5)[:2]
    check(func, x)
    func(torch.empty(0), keep)  # to have the probability checked
    mask = mode.draws.mask(x.shape, keep, kwargs.get("generator"))
    return x.copy_(mask) if func is aten.bernoulli_.float else mode.converted(mask, x.dtype)


@rule("bernoulli.default", "bernoulli_.Tensor")
def _bernoulli_each(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """1 where a uniform number is below the element's probability."""
    x, keep = args[0], args[-1]
    for tensor in (x, keep):
        check(func, tensor)
    mask = mode.draws.uniform(x.shape, 0.0, 1.0, kwargs.get("generator")) < keep
    return x.copy_(mask) if func is aten.bernoulli_.Tensor else mask.to(x.dtype)


@rule("uniform_", "normal_")
def _fill(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, *numbers = args
    first, second = (*numbers, 0.0, 1.0)[:2] if len(numbers) != 1 else (numbers[0], 1.0)
    check(func, x)
    func(torch.empty(0), first, second)  # to have the bounds checked
    draw = mode.draws.normal if func is aten.normal_.default else mode.draws.uniform
    return x.copy_(draw(x.shape, first, second, kwargs.get("generator")))


@rule("rand", "rand_like", "randn", "randn_like")
def _make(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = func(*args, **kwargs)  # for its size and type
    check(func, result)
    draw = mode.draws.normal if "randn" in func._schema.name else mode.draws.uniform
    return result.copy_(draw(result.shape, 0.0, 1.0, kwargs.get("generator")))


@rule("normal.Tensor_float", "normal.float_Tensor", "normal.Tensor_Tensor")
def _normal(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Standard normal numbers times the deviation, plus the mean: two roundings."""
    mean, std = (*args, 1.0)[:2]
    for tensor in args:
        if isinstance(tensor, torch.Tensor):
            check(func, tensor)
    like = mean + std
    return mode.draws.normal(like.shape, 0.0, 1.0, kwargs.get("generator")) * std + mean


@rule("randint", "randint_like", "random_", "randperm")
def _integers(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name, overload = func._schema.name.removeprefix("aten::"), func._schema.overload_name
    result = func(*args, **kwargs)  # for its size and type, and to have the bounds checked
    check(func, result)
    generator = kwargs.get("generator")
    if name == "randperm":
        return result.copy_(mode.draws.permutation(len(result), generator))
    bounds = [arg for arg in args if isinstance(arg, int)]
    low = bounds[0] if len(bounds) == 2 or overload.startswith(("low", "from")) else 0
    high = bounds[-1] if bounds and not (overload == "from" and len(bounds) == 1) else _HIGHEST[result.dtype]
    return result.copy_(mode.converted(mode.draws.integers(result.shape, low, high, generator), result.dtype))


_HIGHEST: Final = {torch.bool: 2, torch.float32: (1 << 24) + 1} | {
    dtype: torch.iinfo(dtype).max + 1 for dtype in WHOLE if dtype is not torch.bool
}


@rule("exponential_")
def _exponential(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, rate = (*args, 1.0)[:2]
    check(func, x)
    return x.copy_(_waiting_times(mode, x.shape, kwargs.get("generator")).div_(rate))


@rule("multinomial.default")
def _multinomial(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A race: who has the greatest weight over waiting time is first."""
    weights, count, replacement = (*args, False)[:3]
    func(*args, **kwargs)  # to have the weights checked
    check(func, weights)
    shape = torch.Size((*weights.shape[:-1], count if replacement else 1, weights.shape[-1]))
    weights = weights.unsqueeze(-2).expand(shape)
    speed = weights / _waiting_times(mode, shape, kwargs.get("generator"))
    order = torch.sort(torch.where(weights > 0, speed, 0.0), stable=True, descending=True).indices
    return order[..., 0].clone() if replacement else order[..., 0, :count].clone()


def _waiting_times(mode: ExactMode, shape: torch.Size, generator: torch.Generator | None) -> torch.Tensor:
    """-log(1 - u), u uniform."""
    rest = 1.0 - mode.draws.uniform(shape, 0.0, 1.0, generator)
    return mode.planned(aten.log.default, (rest,), {}).neg_()  # type: ignore[no-any-return]


# What all ways need.


def check(func: Any, tensor: torch.Tensor) -> None:
    """Raises UnsupportedOp unless the tensor is one that the profile computes with."""
    if tensor.dtype not in COMPUTED:
        fix = "use float32: model.float(), x.float(), no autocast, no default dtype"
        raise refusal(func, f"computes in {tensor.dtype}; {PROFILE} computes in float32", fix)
    if not tensor.is_cpu:
        raise refusal(func, f"runs on {tensor.device}; {PROFILE} runs on CPUs here", "keep model and data on the CPU")


def store(target: torch.Tensor, value: torch.Tensor, *, may_resize: bool) -> None:
    """Copies a result to where it belongs, by PyTorch's rules."""
    if not torch.can_cast(value.dtype, target.dtype):
        raise RuntimeError(f"result type {value.dtype} can't be cast to the desired output type {target.dtype}")
    if target.shape != value.shape:
        if not may_resize:
            raise RuntimeError(
                f"output with shape {list(target.shape)} doesn't match the broadcast shape {list(value.shape)}"
            )
        target.resize_(value.shape)
    target.copy_(value)


_OURS: Final = str(Path(__file__).parent)
_TORCH: Final = str(Path(torch.__file__).parent)


def refusal(func: Any, why: str, fix: str = "") -> UnsupportedOp:
    """The error that stops the caller, with the line of its own code and, in a backward pass, what is undone there."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_OURS, _TORCH, "<")):
        frame = frame.f_back
    path, line = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(path, line).strip()
    undone = torch._C._current_autograd_node()
    return UnsupportedOp(
        f"operation {func} {why}; called at {path}:{line}"
        + (f" ({source})" if source else "")
        + (f", in the backward pass, for {undone.name()}" if undone is not None else ""),
        fix=fix or "write that line with operations of docs/exact.md, or compute it before the block",
    )
