"""`with tolsey.exact(): …`: plain PyTorch training code with the same bits on every machine, without a market.

Inside the block every ATen call (what PyTorch does for forward, backward and optimiser) takes one of these ways:

- *moved*: it only moves bits (views, copies, look-ups, comparisons of integers), so PyTorch does it;
- *rounded once*: IEEE fixes its bits (a sum of two numbers, a comparison), so PyTorch does it, on float32 alone and
  under the law's rounding;
- *kernel*: it is on the closed list of ops.py, so our kernels do it (exact_plans.py, exact.py);
- *drawn*: it asks for random numbers, which come from the seed (exact_draws.py);
- *taken apart*: PyTorch knows it as several simpler calls, each of which comes here again;
- *written*: in place or with `out=`, computed in one of these ways and then copied to where it belongs.

Which way an overload goes is decided once, by `_way_of`. Whatever has none is refused, naming the caller's line:
nothing inexact passes silently. What Python and NumPy compute by themselves is out of reach.

docs/exact.md is for its users, docs/numerics.md the law. Next in the flow: nothing; jobs take capture.py instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Final

import torch
from torch.backends import opt_einsum  # torch 2.8 does not import it by itself
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode, _pop_mode_temporarily

from tolsey.errors import ConfigError, UnsupportedOp
from tolsey.numerics import library
from tolsey.numerics.library import Library
from tolsey.runtime import exact as kernels
from tolsey.runtime.exact_draws import Draws
from tolsey.runtime.exact_plans import Plans, tensors
from tolsey.runtime.exact_rules import COMPUTED, LAWFUL, OWN, WHOLE, Way, check, refusal, store
from tolsey.runtime.ops import OPS
from tolsey.runtime.translate import KNOWN

__all__ = ["ExactMode", "exact"]

aten = torch.ops.aten


@contextmanager
def exact(seed: int = 0) -> Iterator[None]:
    """A block in which PyTorch's bits do not depend on the machine; also a decorator. Blocks may be nested.

    Covers what the calling thread does on CPU tensors, backward passes included; float32 and integers.

    Args:
        seed: a u64; every random number inside is a function of it and of the calls before (exact_draws.py).

    Raises:
        ConfigError: this machine has no exact kernels, or the seed is no u64.
        UnsupportedOp: from inside the block: a call without exact result; names the line that called it.
    """
    if not 0 <= seed < 1 << 64:
        raise ConfigError(f"seed {seed} is outside 0 to 2^64 - 1")
    lib = library.current()
    with ExitStack() as stack:
        if isinstance(_get_current_dispatch_mode(), ExactMode):
            stack.enter_context(_pop_mode_temporarily())  # of nested blocks the inner one alone computes
        stack.enter_context(_control(lib))
        stack.enter_context(_switches())
        stack.enter_context(_generator())
        stack.enter_context(ExactMode(lib, seed))
        yield


class ExactMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base is untyped
    """Sends each ATen call of the calling thread on its way. `exact` puts what else is needed around it.

    Args:
        lib: the kernels.
        seed: of the random numbers.
    """

    def __init__(self, lib: Library, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws = Draws(lib, seed)
        self.apart: list[Any] = []
        self._lib = lib
        self._plans = _plans(lib)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Compiled functions run as written here (`_switches`), so that nothing has to be hidden from the compiler."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        way = _way_of(func)
        if way is not _moved:
            self._lib.control = LAWFUL  # another library may have asked for something else since the last call
            if torch.get_num_threads() != 1:
                torch.set_num_threads(1)  # a loop may ask for more, and each thread has its own number
        return way(self, func, args, kwargs or {})

    def run(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """The call as if the user had made it."""
        return _way_of(func)(self, func, args, kwargs)

    def planned(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call on the kernels, its tensors checked."""
        given = tensors((*args, *kwargs.values()) if kwargs else args)
        for tensor in given:
            if tensor.dtype not in COMPUTED or not tensor.is_cpu:
                check(func, tensor)
        try:
            return self._plans.run(func, args, kwargs, given)
        except UnsupportedOp as error:
            raise refusal(func, error.message.removeprefix(f"operation {func} ")) from None

    def converted(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`x` as another element type, rounded once."""
        return x if x.dtype is dtype else kernels.convert(self._lib, x, dtype)


@cache
def _plans(lib: Library) -> Plans:
    """One for each build of the kernels, so that many short blocks plan no more often than a long one."""
    return Plans()


# The ways.


def _moved(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Another look at memory."""
    return func(*args, **kwargs)


def _copied(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Memory moved, filled with a number, or compared."""
    for tensor in tensors((*args, *kwargs.values())):
        if not tensor.is_cpu:
            check(func, tensor)
    return func(*args, **kwargs)


def _rounded_once(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """PyTorch's own, operands brought to one type by us: its vector code may round an integer twice."""
    floating = whole = False
    for tensor in tensors((*args, *kwargs.values()) if kwargs else args):
        dtype = tensor.dtype
        if dtype not in COMPUTED or not tensor.is_cpu:
            check(func, tensor)
        if dtype is torch.float32:
            floating = True
        elif dtype is not torch.bool:
            whole = True
    if whole and (floating or _divides_or_takes_floats(func, args)) and _promotes(func):
        first = args[:1] if func._schema.is_mutable and "out" not in kwargs else ()
        args = (*first, *(_as_floats(mode, item) for item in args[len(first) :]))
    return func(*args, **kwargs)


def _rounded_once_scaled(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """add, sub and rsub: `alpha` is a product before the sum, where PyTorch may fuse both."""
    left, right, *rest = args
    alpha = rest[0] if rest else kwargs.pop("alpha", 1)
    if alpha != 1:
        reverse = func._schema.name == "aten::rsub"
        scaled = left if reverse else right
        scaled = mode.run(aten.mul.Tensor, scaled, alpha) if isinstance(scaled, torch.Tensor) else scaled * alpha
        left, right = (scaled, right) if reverse else (left, scaled)
    return _rounded_once(mode, func, (left, right), kwargs)


def _kernel(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return mode.planned(func, args, kwargs)


def _whole_or(otherwise: Way) -> Way:
    """Integers have one result, whoever computes it; everything else goes another way."""

    def way(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(tensor.dtype not in WHOLE for tensor in tensors((*args, *kwargs.values()))):
            return otherwise(mode, func, args, kwargs)
        result = _copied(mode, func, args, kwargs)
        for tensor in tensors(result if isinstance(result, tuple) else (result,)):
            if tensor.dtype not in WHOLE:
                raise refusal(func, f"makes {tensor.dtype} of integers and has no exact kernel")
        return result

    return way


def _taken_apart(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By PyTorch's table of calls written with others, which come here again; one that comes to itself is refused."""
    if func in mode.apart:
        raise refusal(func, "has no exact kernel")
    mode.apart.append(func)
    try:
        with mode:
            result = _simpler()[func](*args, **kwargs)
    finally:
        mode.apart.pop()
    if result is NotImplemented:
        raise refusal(func, "has no exact kernel for these arguments")
    return result


def _composite(key: torch._C.DispatchKey) -> Way:
    """By PyTorch's own code, where that is made of calls, which come here again."""

    def way(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with mode:
            return func._op_dk(key, *args, **kwargs)

    return way


def _written(functional: Any) -> Way:
    """In place and `out=`: computed by the functional overload, then copied to where it belongs."""

    def way(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outs = [argument.name for argument in func._schema.arguments if argument.is_out]
        targets = [kwargs[name] for name in outs] or [args[0]]
        for target in targets:
            check(func, target)
        result = mode.run(functional, *args, **{name: value for name, value in kwargs.items() if name not in outs})
        results = [result] if isinstance(result, torch.Tensor) else result
        for target, value in zip(targets, results, strict=True):
            store(target, value, may_resize=bool(outs))
        return targets[0] if len(targets) == 1 else tuple(targets)

    return way


def _refused(mode: ExactMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    raise refusal(func, *_WHY.get(_name(func), ("has no exact kernel",)))


@cache
def _way_of(func: Any) -> Way:
    """The way of an overload: the first that fits."""
    implicit, explicit = (
        _composite(key) if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key) else None
        for key in (torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.CompositeExplicitAutograd)
    )
    short, name = str(func).removeprefix("aten."), _name(func)
    if func.namespace == "profiler":
        return _moved
    if func.namespace != "aten":
        return implicit or (explicit if func.namespace == "prims" and explicit else _refused)
    if name in _WHY:
        return _refused
    if explicit and (name.startswith("_foreach_") or name == "allclose"):
        return explicit
    if short in OWN or name in OWN:
        return OWN.get(short) or OWN[name]
    if name in _COPIED or short in _COPIED:
        return _copied
    if not implicit and short != "view.dtype" and (_is_view(func) or torch.Tag.inplace_view in func.tags):
        return _moved
    if short in _SCALED:
        return _rounded_once_scaled
    if short in _ROUNDED_ONCE:
        return _rounded_once
    if short in KNOWN:
        return _kernel
    functional = _functional(func)
    if functional is not None:
        way = _way_of(functional)
        return way if way in (_copied, _rounded_once, _rounded_once_scaled, _refused) else _written(functional)
    otherwise = implicit or (_taken_apart if func in _simpler() else _refused)
    return _whole_or(otherwise) if torch.Tag.pointwise in func.tags or name in _WHOLE_NUMBERS else otherwise


def _name(func: Any) -> str:
    """Without namespace and overload."""
    name: str = func._schema.name.partition("::")[2]
    return name


def _is_view(func: Any) -> bool:
    """Whether all it gives are other looks at memory that it was given, which it leaves as it is."""
    aliases = [result.alias_info for result in func._schema.returns]
    return bool(aliases) and not func._schema.is_mutable and None not in aliases


@cache
def _functional(func: Any) -> Any:
    """The overload that computes what this one writes; None where it writes nothing, or there is none."""
    schema = func._schema
    if not schema.is_mutable:
        return None
    name = _name(func)
    if not any(argument.is_out for argument in schema.arguments):
        name = name.removesuffix("_")
    wanted = [(argument.name, str(argument.type)) for argument in schema.arguments if not argument.is_out]
    packet = getattr(aten, name, None)
    for overload in () if packet is None else packet.overloads():
        found = getattr(packet, overload)
        takes = [(argument.name, str(argument.type)) for argument in found._schema.arguments]
        if not found._schema.is_mutable and takes == wanted:
            return found
    return None


@cache
def _simpler() -> dict[Any, Callable[..., Any]]:
    """PyTorch's table of calls written with simpler ones: that of capture first, so that both take the same."""
    from torch._decomp import decomposition_table  # noqa: PLC0415  # takes a second, and few programs ask for it

    from tolsey.runtime.capture import decompositions  # noqa: PLC0415

    return {**decomposition_table, **decompositions()}


# Which calls go which way. A name without a dot is for all overloads.

_COPIED: Final = frozenset(
    # as they are
    {"clone", "cat_copy", "unsafe_split", "unsafe_split_with_sizes", "_unsafe_view", "split_with_sizes", "detach_"}
    | {"set_", "_local_scalar_dense", "lift_fresh_copy", "_fused_sdp_choice", "is_same_size"}
    # picked and put
    | {"index", "_unsafe_index", "index_select", "gather", "take", "embedding", "masked_select", "nonzero"}
    | {"_pack_padded_sequence", "scatter.src", "scatter.value", "scatter_.src", "scatter_.value"}
    | {"masked_scatter", "masked_scatter_", "index_fill", "index_fill_"}
    | {"slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter", "unfold_copy"}
    # made of a number
    | {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
    | {"scalar_tensor", "zero_", "fill", "fill_", "eye", "tril_indices", "triu_indices"}
    # compared
    | {"equal", "any", "all", "_is_all_true", "_is_any_true", "searchsorted", "bucketize"}
)
_SCALED: Final = frozenset({"add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Tensor", "rsub.Scalar"})
_ROUNDED_ONCE: Final = frozenset(op.aten for op in OPS.values() if op.aten and op.name in kernels.AS_THEY_ARE) | {
    *("logical_xor.default", "trunc.default", "isnan.default", "isinf.default", "isposinf.default"),
    *("isneginf.default", "masked_fill.Tensor", "reflection_pad1d.default", "reflection_pad2d.default"),
    *("reflection_pad3d.default", "replication_pad1d.default", "replication_pad2d.default"),
    *("replication_pad3d.default", "pixel_shuffle.default", "pixel_unshuffle.default", "im2col.default"),
}
"""Of the closed list all that needs no kernel, and a few more like it."""
_WHOLE_NUMBERS: Final = frozenset(
    {"bincount", "_unique2", "unique_consecutive", "prod", "cumprod", "histc", "max", "min", "argmin"}
)
"""Besides everything elementwise."""
_FUSED: Final = "is a fused update", "pass fused=False to the optimiser"
_ATTENTION: Final = "is a fused attention", "let scaled_dot_product_attention choose: no sdpa_kernel inside the block"
_WHY: Final = {
    **{f"_fused_{name}_": _FUSED for name in ("sgd", "adam", "adamw", "adagrad")},
    **{
        f"_scaled_dot_product_{name}": _ATTENTION
        for name in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    },
}
"""Refused whatever else would fit: why, and what to do."""


# What the ways need.


def _promotes(func: Any) -> bool:
    """Whether operands of several types are brought to one."""
    return torch.Tag.pointwise in func.tags or _name(func) in ("cat", "stack")


def _divides_or_takes_floats(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether integers give a float."""
    return _name(func) in ("div", "div_") or any(isinstance(item, float) for item in args)


def _as_floats(mode: ExactMode, item: Any) -> Any:
    """float32 for tensors of integers, those in lists too; everything else as it is."""
    if isinstance(item, list | tuple):
        return [_as_floats(mode, one) for one in item]
    if isinstance(item, torch.Tensor) and item.dtype in WHOLE and item.dtype is not torch.bool:
        return mode.converted(item, torch.float32)
    return item


@contextmanager
def _control(lib: Library) -> Iterator[None]:
    """The calling thread rounds by the law; its control register is given back as it was."""
    before = lib.control
    lib.control = LAWFUL
    try:
        yield
    finally:
        lib.control = before


@contextmanager
def _generator() -> Iterator[None]:
    """The default generator begins anew (exact_draws.py) and is given back as it was."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


@contextmanager
def _switches() -> Iterator[None]:
    """Closes shortcuts past ATen calls: fused attention and encoder layers, oneDNN, reordered einsum, compiled code.

    The calling thread alone computes PyTorch's part. Its other threads would wait for work on the processors on which
    the kernels' threads want to compute, and one that was started under flush-to-zero keeps it for ever.
    """
    threads, fast_path = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    onednn, einsum = torch._C._get_mkldnn_enabled(), opt_einsum.enabled
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(_set_switches, fast_path, onednn, einsum, threads)
        _set_switches(False, False, False, 1)
        yield


def _set_switches(fast_path: bool, onednn: bool, einsum: bool, threads: int) -> None:
    torch.backends.mha.set_fastpath_enabled(fast_path)
    torch._C._set_mkldnn_enabled(onednn)  # the public context manager sets other flags besides
    opt_einsum.enabled = einsum
    torch.set_num_threads(threads)
