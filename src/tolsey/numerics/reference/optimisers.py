"""One step of an optimiser, as docs/numerics/functions.md, section 6, has it: the nodes of an update phase in order.

Numbers come as binary32, rounded as a program's numbers are. `factor` is what clipping multiplies gradients by, 1
where there is none.
"""

from __future__ import annotations

import numpy

from tolsey.numerics.reference.elementwise import addcmul, lerp, sign
from tolsey.numerics.reference.functions import sqrt
from tolsey.numerics.reference.numbers import F32


def adamw(
    param: F32,
    grad: F32,
    first: F32,
    second: F32,
    *,
    factor: numpy.float32,
    decay: numpy.float32,
    step_size: numpy.float32,
    correction: numpy.float32,
    weight1: numpy.float32,
    beta2: numpy.float32,
    weight2: numpy.float32,
    eps: numpy.float32,
) -> tuple[F32, F32, F32]:
    """The parameter and both moments; weight1 is 1 - beta1, weight2 is 1 - beta2."""
    with numpy.errstate(all="ignore"):
        grad = grad * factor
        first = lerp(first, grad, weight1)
        second = addcmul(second * beta2, grad, grad, weight2)
        spread: F32 = sqrt(second) * correction + eps
        moved: F32 = param * decay - (first / spread) * step_size
        return moved, first, second


def sgd(
    param: F32,
    grad: F32,
    velocity: F32,
    *,
    factor: numpy.float32,
    weight_decay: numpy.float32,
    momentum: numpy.float32,
    nesterov: bool,
    lr: numpy.float32,
) -> tuple[F32, F32]:
    """The parameter and its velocity. Without weight decay its two operations are left out, not done with 0."""
    with numpy.errstate(all="ignore"):
        grad = grad * factor
        if weight_decay != 0:
            grad = grad + param * weight_decay
        velocity = velocity * momentum + grad
        direction = grad + velocity * momentum if nesterov else velocity
        return param - direction * lr, velocity


def lion(
    param: F32,
    grad: F32,
    moment: F32,
    *,
    factor: numpy.float32,
    decay: numpy.float32,
    lr: numpy.float32,
    weight1: numpy.float32,
    weight2: numpy.float32,
) -> tuple[F32, F32]:
    """The parameter and its moment; weight1 is 1 - beta1, weight2 is 1 - beta2, decay is 1 - lr times weight decay."""
    with numpy.errstate(all="ignore"):
        grad = grad * factor
        direction = sign(lerp(moment, grad, weight1))
        return param * decay - direction * lr, lerp(moment, grad, weight2)
