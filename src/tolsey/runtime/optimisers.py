"""Clipping and optimisers by name, as functional tensor arithmetic that capture turns into the `update` phase.

Each update is written once, per tensor, without in-place work, from few simple operations, because every one of them
is a node that a dispute may end at. Per-step numbers (rates, bias corrections) come in as float32 scalars from
schedule.py; constants of the whole job are Python floats and become part of the program.

Semantics follow torch.optim.AdamW and torch.optim.SGD (dampening 0), the Lion of its paper, and
torch.nn.utils.clip_grad_norm_; tests compare over several steps. What an update computes, node for node, is also what
fusion.py looks for. It refuses optimisers it does not name. Next in the flow: capture.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import torch

from tolsey.errors import RemoteViolation, SpecInvalid
from tolsey.runtime.schedule import Schedule, adamw_scalars, decimal_in, lion_scalars, sgd_scalars

Tensors = dict[str, torch.Tensor]

CLIP_EPSILON: Final = 1e-6
"""As torch.nn.utils.clip_grad_norm_."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """An optimiser as a program names it.

    Attributes:
        kind: "adamw", "lion" or "sgd".
        options: decimal strings (and "nesterov": bool), complete with defaults.
    """

    kind: str
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise SpecInvalid(f"optimiser {self.kind!r} is none of {', '.join(sorted(_KINDS))}")
        limits = _KINDS[self.kind].limits
        if set(self.options) != set(limits):
            raise SpecInvalid(f"optimiser {self.kind} takes {sorted(limits)}, not {sorted(self.options)}")
        for name, limit in limits.items():
            if limit is None and not isinstance(self.options[name], bool):
                raise SpecInvalid(f"{name} is {self.options[name]!r}, not true or false")
            if limit is not None:
                decimal_in(self.options[name], name, low=limit[0], high=limit[1])

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of the tensors it keeps per parameter."""
        return _KINDS[self.kind].moments

    @property
    def scalar_names(self) -> tuple[str, ...]:
        """The float32 numbers it is given at each step."""
        return _KINDS[self.kind].scalar_names

    def scalars(self, schedule: Schedule, step: int) -> dict[str, Decimal]:
        """Their values at `step`, before rounding."""
        return _KINDS[self.kind].scalars(schedule, self.options, step)

    def update(
        self, param: torch.Tensor, grad: torch.Tensor, moments: Tensors, scalars: Tensors
    ) -> tuple[torch.Tensor, Tensors]:
        """The parameter and its moments after one step."""
        return _KINDS[self.kind].update(param, grad, moments, scalars, self.options)


def adamw(*, weight_decay: str = "0.01", beta1: str = "0.9", beta2: str = "0.999", eps: str = "1e-8") -> Optimiser:
    """AdamW (Loshchilov and Hutter 2019) with decoupled weight decay."""
    return Optimiser(kind="adamw", options={"weight_decay": weight_decay, "beta1": beta1, "beta2": beta2, "eps": eps})


def lion(*, weight_decay: str = "0", beta1: str = "0.9", beta2: str = "0.99") -> Optimiser:
    """Lion (Chen et al. 2023, algorithm 2): the sign of a blend of moment and gradient, decoupled weight decay.

    Rates are three to ten times smaller than AdamW's, weight decays as much larger.
    """
    return Optimiser(kind="lion", options={"weight_decay": weight_decay, "beta1": beta1, "beta2": beta2})


def sgd(*, momentum: str = "0", weight_decay: str = "0", nesterov: bool = False) -> Optimiser:
    """Stochastic gradient descent; weight decay is added to the gradient."""
    return Optimiser(kind="sgd", options={"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})


def rates_of(rates: Mapping[str, Any]) -> tuple[Optimiser, Schedule]:
    """Optimiser and schedule of a stranger's program.

    Raises:
        RemoteViolation: an unknown name, a missing or a foreign field, a number outside its range.
    """
    try:
        optimiser, schedule = rates["optimiser"], rates["schedule"]
        if set(rates) != {"optimiser", "schedule"}:
            raise SpecInvalid(f"rates hold optimiser and schedule, not {sorted(rates)}")
        return Optimiser(kind=optimiser["kind"], options=optimiser["options"]), Schedule(**schedule)
    except (SpecInvalid, KeyError, TypeError) as error:
        raise RemoteViolation(f"the program's rates cannot be read: {error}") from error


def encode_rates(optimiser: Optimiser, schedule: Schedule) -> dict[str, Any]:
    """The inverse of `rates_of`."""
    return {"optimiser": {"kind": optimiser.kind, "options": dict(optimiser.options)}, "schedule": schedule.encode()}


def clip(grads: Tensors, limit: str | None) -> tuple[Tensors, torch.Tensor]:
    """Gradients scaled so that their joint 2-norm is at most `limit` (None: left alone), and that norm before."""
    norms = [torch.linalg.vector_norm(grad) for grad in grads.values()]
    total = torch.linalg.vector_norm(torch.stack(norms))
    if limit is None:
        return grads, total
    bound = float(decimal_in(limit, "clip_norm", low="1e-6", high="1e6"))
    factor = torch.clamp(bound / (total + CLIP_EPSILON), max=1.0)
    return {name: grad * factor for name, grad in grads.items()}, total


def _adamw_update(
    param: torch.Tensor, grad: torch.Tensor, moments: Tensors, scalars: Tensors, options: Mapping[str, Any]
) -> tuple[torch.Tensor, Tensors]:
    beta1, beta2 = Decimal(options["beta1"]), Decimal(options["beta2"])
    first = torch.lerp(moments["adamw1"], grad, float(1 - beta1))
    second = torch.addcmul(moments["adamw2"] * float(beta2), grad, grad, value=float(1 - beta2))
    spread = torch.sqrt(second) * scalars["correction"] + float(Decimal(options["eps"]))
    moved = param * scalars["decay"] - first / spread * scalars["step_size"]
    return moved, {"adamw1": first, "adamw2": second}


def _lion_update(
    param: torch.Tensor, grad: torch.Tensor, moments: Tensors, scalars: Tensors, options: Mapping[str, Any]
) -> tuple[torch.Tensor, Tensors]:
    beta1, beta2 = Decimal(options["beta1"]), Decimal(options["beta2"])
    direction = torch.sign(torch.lerp(moments["lion"], grad, float(1 - beta1)))
    moved = param * scalars["decay"] - direction * scalars["lr"]
    return moved, {"lion": torch.lerp(moments["lion"], grad, float(1 - beta2))}


def _sgd_update(
    param: torch.Tensor, grad: torch.Tensor, moments: Tensors, scalars: Tensors, options: Mapping[str, Any]
) -> tuple[torch.Tensor, Tensors]:
    momentum, decay = float(Decimal(options["momentum"])), float(Decimal(options["weight_decay"]))
    if decay:
        grad = grad + param * decay
    velocity = moments["momentum"] * momentum + grad
    direction = grad + velocity * momentum if options["nesterov"] else velocity
    return param - direction * scalars["lr"], {"momentum": velocity}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    moments: tuple[str, ...]
    scalar_names: tuple[str, ...]
    limits: Mapping[str, tuple[str, str] | None]
    scalars: Callable[[Schedule, Mapping[str, Any], int], dict[str, Decimal]]
    update: Callable[..., tuple[torch.Tensor, Tensors]]


_KINDS: Final = {
    "adamw": _Kind(
        moments=("adamw1", "adamw2"),
        scalar_names=("decay", "step_size", "correction"),
        limits={
            "weight_decay": ("0", "1e3"),
            "beta1": ("0", "0.999999"),
            "beta2": ("0", "0.99999999"),
            "eps": ("0", "1"),
        },
        scalars=adamw_scalars,
        update=_adamw_update,
    ),
    "lion": _Kind(
        moments=("lion",),
        scalar_names=("decay", "lr"),
        limits={"weight_decay": ("0", "1e3"), "beta1": ("0", "0.999999"), "beta2": ("0", "0.99999999")},
        scalars=lion_scalars,
        update=_lion_update,
    ),
    "sgd": _Kind(
        moments=("momentum",),
        scalar_names=("lr",),
        limits={"momentum": ("0", "0.999999"), "weight_decay": ("0", "1e3"), "nesterov": None},
        scalars=sgd_scalars,
        update=_sgd_update,
    ),
}
