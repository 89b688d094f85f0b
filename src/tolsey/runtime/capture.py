"""Turns an author's PyTorch model into a program: one training step, traced once, without running any of it for real.

1. The author's factory builds the module under `initial.record`, so that initial values become recipes.
2. Forward, loss and backward of one micro-batch are traced on fake tensors (shapes without memory) with make_fx:
   what comes out are ATen calls. Scaled-dot-product attention takes its mathematical form.
3. The trace is run a second time under functionalisation, which turns in-place work (running statistics, inplace=True)
   into new values. What our list does not know is decomposed into simpler ATen calls where PyTorch can.
4. translate.py maps every call to the closed list of ops.py, or names the line of the model that it cannot take.
5. Clipping and the optimiser, which do no in-place work, are traced once into the second phase.

Capture is the author's side and runs the author's own Python; workers and verifiers only ever see the program. It
refuses Python control flow over tensor values (there is none in a fixed graph) and models without parameters.

Next in the flow: admission.py (the same checks that a worker makes), author.py (packs the job).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import fx, nn
from torch._decomp import core_aten_decompositions
from torch._functorch._aot_autograd.logging_utils import setup_stacktrace_preservation_hooks
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree

from tolsey.errors import SpecInvalid, TolseyError, UnsupportedOp
from tolsey.protocol.job import EXACT_FP32, PINNED
from tolsey.runtime import exact, initial, optimisers
from tolsey.runtime.admission import spec_of
from tolsey.runtime.graph import Phase, Program, StateTensor, TensorSpec
from tolsey.runtime.ops import DTYPES
from tolsey.runtime.optimisers import Optimiser, Tensors
from tolsey.runtime.schedule import Schedule
from tolsey.runtime.translate import KNOWN, Translator

Loss = str | Callable[[Callable[..., Any], Mapping[str, torch.Tensor]], torch.Tensor]
"""A name, or a function of (model, batch by name) to one number."""

_OURS: Final = str(Path(__file__).parent)
_TORCH: Final = str(Path(torch.__file__).parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A program and what its recipes cannot make.

    Attributes:
        program: the step.
        literals: initial tensors by state name that are neither recipe nor small; empty for most models.
        module: the author's module, for inspection.
    """

    program: Program
    literals: Tensors
    module: nn.Module


def capture(
    factory: Callable[[], nn.Module],
    *,
    loss: Loss,
    batch: Mapping[str, TensorSpec],
    data: Mapping[str, Any],
    optimiser: Optimiser,
    schedule: Schedule,
    micro_batches: int = 1,
    clip_norm: str | None = None,
    seed: int = 0,
    profile: str = EXACT_FP32,
) -> Captured:
    """The training step of the module that `factory` makes.

    Args:
        factory: builds the module; called once.
        loss: "cross_entropy" or "mse" of (model(x), y), or a function (model, batch) -> scalar tensor.
        batch: what one micro-batch holds; a named loss needs "x" and "y".
        data: the data set kind, as dataset.py reads it.
        micro_batches: gradients are summed over that many micro-batches, each loss divided by it.
        clip_norm: decimal string, or None for no clipping.
        seed: seeds torch while the module is built; reaches only values that are no recipe.
        profile: numerics profile that has to have a rule for every node.

    Raises:
        UnsupportedOp: an operation outside the list or the profile, or control flow over values; names the author's
            line.
        SpecInvalid: no parameters, a loss that is no number, an unknown loss name, a tensor of an element type that
            the profile has not.
    """
    torch.manual_seed(seed)
    with initial.record() as recipe_of:
        module = factory()
    module.train()
    state = _state(module, recipe_of, optimiser)
    if not any(item.role == "param" for item in state.values()):
        raise SpecInvalid("the model has no trainable parameters")
    if profile != PINNED:
        _check_types(state, batch)
    grad = _grad_phase(module, _loss_function(loss), batch, micro_batches, profile)
    update = _update_phase(state, optimiser, clip_norm, profile)
    program = Program(
        state=state,
        batch=dict(batch),
        data=dict(data),
        micro_batches=micro_batches,
        rates=optimisers.encode_rates(optimiser, schedule),
        grad=grad,
        update=update,
    )
    tensors: Tensors = {f"buffer.{name}": value for name, value in module.named_buffers()}
    for name, param in module.named_parameters():
        tensors[f"{'param' if param.requires_grad else 'buffer'}.{name}"] = param
    literals = {name: tensors[name].detach().clone() for name, item in state.items() if item.recipe is None}
    return Captured(program=program, literals=literals, module=module)


def _state(
    module: nn.Module, recipe_of: Callable[[torch.Tensor], initial.Recipe | None], optimiser: Optimiser
) -> dict[str, StateTensor]:
    state: dict[str, StateTensor] = {}

    def add(role: str, name: str, tensor: torch.Tensor) -> TensorSpec:
        spec = spec_of(tensor)
        recipe = recipe_of(tensor) or initial.literal(tensor)
        if recipe is not None:
            initial.check_recipe(name, spec, recipe)
        state[f"{role}.{name}"] = StateTensor(spec=spec, role=role, recipe=recipe)
        return spec

    zero: initial.Recipe = [["full", "0" * 16]]
    for name, param in module.named_parameters():
        spec = add("param" if param.requires_grad else "buffer", name, param)
        if param.requires_grad:
            for moment in optimiser.moments:
                state[f"{moment}.{name}"] = StateTensor(spec=spec, role="moment", recipe=zero)
    for name, buffer in module.named_buffers():
        add("buffer", name, buffer)
    return state


def _check_types(state: Mapping[str, StateTensor], batch: Mapping[str, TensorSpec]) -> None:
    """Raises SpecInvalid where a tensor that the author gives has an element type that the exact profile has not."""
    for name, item in state.items():
        if (why := exact.refused_type(DTYPES[item.spec.dtype])) is not None:
            role, _, own = name.partition(".")
            what = "parameter" if role == "param" else "buffer"
            raise SpecInvalid(
                f"{what} {own} is {why}", fix=f"end the model's factory with .float(), or {exact.OTHERWISE}"
            )
    for name, spec in batch.items():
        if (why := exact.refused_type(DTYPES[spec.dtype])) is not None:
            raise SpecInvalid(f"batch tensor {name} is {why}", fix=f'give the data as "float32", or {exact.OTHERWISE}')


def _grad_phase(
    module: nn.Module,
    loss: Callable[..., torch.Tensor],
    batch: Mapping[str, TensorSpec],
    micro_batches: int,
    profile: str,
) -> Phase:
    fixed = {name: value for name, value in module.named_parameters() if not value.requires_grad}
    params = {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}
    buffers = {name: value.detach() for name, value in (*fixed.items(), *module.named_buffers())}
    # Own tensors: the tracer tells inputs apart by identity.
    sums = {name: torch.zeros_like(value) for name, value in params.items()} if micro_batches > 1 else {}
    sample = {name: torch.zeros(spec.shape, dtype=DTYPES[spec.dtype]) for name, spec in batch.items()}
    carrier = _Step(module, loss)

    def step(params: Tensors, buffers: Tensors, batch: Tensors, position: torch.Tensor, sums: Tensors) -> Any:
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        tensors = {f"module.{name}": value for name, value in {**leaves, **buffers}.items()}
        value = functional_call(carrier, tensors, (batch,))
        if not isinstance(value, torch.Tensor) or value.shape != () or value.dtype != torch.float32:
            raise SpecInvalid(f"the loss must be one float32 number, it is {value!s:.80}")
        share = value / micro_batches if micro_batches > 1 else value
        if share.grad_fn is not None:
            setup_stacktrace_preservation_hooks([share.grad_fn])  # a gradient's calls know the call that they undo
        grads = torch.autograd.grad(share, list(leaves.values()), allow_unused=True)
        given = {
            name: torch.zeros_like(leaf) if grad is None else grad
            for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
        }
        total = {name: sums[name] + grad for name, grad in given.items()} if sums else given
        return share.detach(), list(total.values()), list(buffers.values())

    example = (params, buffers, sample, torch.zeros(3, dtype=torch.int64), sums)
    inputs = [("state", f"param.{name}") for name in params] + [("state", f"buffer.{name}") for name in buffers]
    inputs += [("batch", name) for name in sample] + [("position", "")] + [("sum", name) for name in sums]
    outputs = [("loss", "")] + [("grad", name) for name in params] + [("state", f"buffer.{name}") for name in buffers]
    phase = _trace(step, example, inputs, outputs, profile=profile)
    unchanged = {("state", name, place) for place, (role, name) in enumerate(phase.inputs) if role == "state"}
    outputs_kept = tuple(output for output in phase.outputs if output not in unchanged)
    return Phase(inputs=phase.inputs, nodes=phase.nodes, outputs=outputs_kept)


def _update_phase(state: Mapping[str, StateTensor], optimiser: Optimiser, clip_norm: str | None, profile: str) -> Phase:
    names = [name.removeprefix("param.") for name, item in state.items() if item.role == "param"]
    specs = {name: state[f"param.{name}"].spec for name in names}

    def zeros() -> Tensors:
        return {name: torch.zeros(spec.shape, dtype=DTYPES[spec.dtype]) for name, spec in specs.items()}

    def step(params: Tensors, grads: Tensors, moments: dict[str, Tensors], scalars: Tensors) -> Any:
        clipped, norm = optimisers.clip(grads, clip_norm)
        results = {
            name: optimiser.update(
                params[name], clipped[name], {moment: moments[moment][name] for moment in optimiser.moments}, scalars
            )
            for name in names
        }
        kept = [[results[name][1][moment] for name in names] for moment in optimiser.moments]
        return norm, [results[name][0] for name in names], kept

    scalars = {name: torch.zeros(()) for name in optimiser.scalar_names}
    example = (zeros(), zeros(), {moment: zeros() for moment in optimiser.moments}, scalars)
    inputs = [("state", f"param.{name}") for name in names] + [("grad", name) for name in names]
    moments = [("state", f"{moment}.{name}") for moment in optimiser.moments for name in names]
    outputs = [("metric", "grad_norm")] + [("state", f"param.{name}") for name in names] + moments
    inputs += [*moments, *(("scalar", name) for name in scalars)]
    return _trace(step, example, inputs, outputs, profile=profile, pure=True)


def _trace(
    step: Callable[..., Any],
    example: tuple[Any, ...],
    inputs: list[tuple[str, str]],
    outputs: list[tuple[str, str]],
    *,
    profile: str,
    pure: bool = False,
) -> Phase:
    """The phase that a function of nested tensors computes; its flat results are `outputs`.

    A `pure` function changes nothing in place, so that its first trace is functional already: a quarter of capture's
    time less.
    """
    flat, structure = _pytree.tree_flatten(example)

    def from_flat(*tensors: torch.Tensor) -> Any:
        return step(*_pytree.tree_unflatten(list(tensors), structure))

    table = decompositions() | _DECOMPOSITIONS
    options: dict[str, Any] = {"decomposition_table": table, "tracing_mode": "fake", "_allow_non_fake_inputs": True}
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        try:
            with preserve_node_meta():
                first = make_fx(from_flat, record_stack_traces=True, **options)(*flat)
            second = first if pure else make_fx(functionalize(_replay(first)), **options)(*flat)
        except TolseyError:
            raise
        except Exception as error:
            raise _as_unsupported(error) from error
    return Translator(inputs, _Locator(first), profile).run(second, outputs)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """How PyTorch writes what our list does not know with simpler ATen calls."""
    simpler = core_aten_decompositions().items()  # type: ignore[no-untyped-call]  # torch's table is untyped
    return {op: rule for op, rule in simpler if _short(op) not in KNOWN}


def _replay(module: fx.GraphModule) -> Callable[..., Any]:
    def run(*tensors: torch.Tensor) -> Any:
        with preserve_node_meta():
            return fx.Interpreter(module).run(*tensors)

    return run


class _Step(nn.Module):
    """Model and loss as one module, so that functional_call swaps the model's tensors for the traced ones."""

    def __init__(self, module: nn.Module, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, batch: Tensors) -> torch.Tensor:
        return self.loss(self.module, batch)


def _loss_function(loss: Loss) -> Callable[..., torch.Tensor]:
    if callable(loss):
        return loss
    if loss not in _LOSSES:
        names = ", ".join(_LOSSES)
        raise SpecInvalid(f"loss {loss!r} is none of {names}", fix="pass a function (model, batch) -> loss")
    return _LOSSES[loss]


def _cross_entropy(model: Callable[..., Any], batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean negative log likelihood of class indices y; classes are the last dim of logits [*, classes]."""
    logits = model(batch["x"])
    return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch["y"].reshape(-1))


def _mse(model: Callable[..., Any], batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.mse_loss(model(batch["x"]), batch["y"])


_LOSSES: Final = {"cross_entropy": _cross_entropy, "mse": _mse}


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """aten.native_batch_norm changes running statistics without saying so; this says so."""
    out, saved_mean, saved_rstd, new_mean, new_variance = torch.ops.aten._native_batch_norm_legit_functional(
        x, weight, bias, mean, variance, training, momentum, eps
    )
    if training:
        mean.copy_(new_mean)
        variance.copy_(new_variance)
    return out, saved_mean, saved_rstd


_DECOMPOSITIONS: Final[dict[Any, Callable[..., Any]]] = {torch.ops.aten.native_batch_norm.default: _batch_norm}


def _short(op: Any) -> str:
    return str(op).removeprefix("aten.")


class _Locator:
    """Finds the author's line behind a call of the second trace.

    A call knows the call of the first trace it came from, which knows the Python stack at that moment. A call of the
    backward pass has no author's frame; autograd's sequence number leads to the forward call that it undoes.
    """

    def __init__(self, first: fx.GraphModule) -> None:
        self._by_name = {call.name: call for call in first.graph.nodes}
        self._by_sequence: dict[int, fx.Node] = {}
        for call in first.graph.nodes:
            if "seq_nr" in call.meta and _author_frame(call.stack_trace):
                self._by_sequence.setdefault(call.meta["seq_nr"], call)

    def __call__(self, call: fx.Node) -> str:
        names = [source.name for source in call.meta.get("from_node", ())]
        for source in (call, *(self._by_name[name] for name in names if name in self._by_name)):
            found = _author_frame(source.stack_trace) or self._forward(source)
            if found:
                return found
        return ""

    def _forward(self, call: fx.Node) -> str:
        forward = self._by_sequence.get(call.meta.get("seq_nr", -1))
        return _author_frame(forward.stack_trace) if forward is not None else ""


def _author_frame(stack: str | None) -> str:
    """`path:line (source)` of the innermost frame that is neither torch nor ours, or ""."""
    lines = (stack or "").splitlines()
    for place in reversed(range(len(lines))):
        line = lines[place].strip()
        if line.startswith('File "'):
            path, _, rest = line.removeprefix('File "').partition('", line ')
            if not path.startswith((_OURS, _TORCH, "<")):
                source = lines[place + 1].strip() if place + 1 < len(lines) else ""
                return f"{path}:{rest.split(',')[0]}" + (f" ({source})" if source else "")
    return ""


def _as_unsupported(error: Exception) -> TolseyError:
    """An error of tracing, with the author's line."""
    stack = traceback.extract_tb(error.__traceback__)
    frames = [f'File "{frame.filename}", line {frame.lineno}\n{frame.line}' for frame in stack]
    where = _author_frame("\n".join(frames))
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UnsupportedOp(
        f"the model cannot be traced: {type(error).__name__}: {first:.200}" + (f"; at {where}" if where else ""),
        fix="a program is one fixed graph: no .item(), no branches or shapes that depend on tensor values",
    )
