"""How much arithmetic a step is: for prices, ETAs and the client's estimate. Never for correctness.

Only products are counted (matrix products and convolutions, two operations per multiply-add): in networks worth
renting a machine for, everything else is a few per cent. Next in the flow: author.BuiltJob.work_flops.
"""

from __future__ import annotations

import math
from typing import Final

from tolsey.runtime.graph import Phase, Program, TensorSpec

MIN_STEP_FLOPS: Final = 1


def step_flops(program: Program) -> int:
    """Floating-point operations of one step, at least 1."""
    grad, update = _phase_flops(program, program.grad), _phase_flops(program, program.update)
    return max(MIN_STEP_FLOPS, program.micro_batches * grad + update)


def _phase_flops(program: Program, phase: Phase) -> int:
    specs = [program.input_spec(role, name) for role, name in phase.inputs]
    total = 0
    for node in phase.nodes:
        total += _node_flops(node.op, node.args, node.outs, specs)
        specs += node.outs
    return total


def _node_flops(op: str, args: list[object], outs: tuple[TensorSpec, ...], specs: list[TensorSpec]) -> int:
    def shape(place: int) -> tuple[int, ...]:
        value = args[place]
        assert isinstance(value, int)
        return specs[value].shape

    if op in ("mm", "bmm"):
        return 2 * math.prod(outs[0].shape) * shape(0)[-1]
    if op == "addmm":
        return 2 * math.prod(outs[0].shape) * shape(1)[-1]
    if op == "convolution":  # each output element meets one filter's worth of weights
        return 2 * math.prod(outs[0].shape) * math.prod(shape(1)[1:])
    if op == "convolution_backward":
        wanted = args[10]
        sides = sum(bool(side) for side in wanted[:2]) if isinstance(wanted, list) else 2
        return 2 * sides * math.prod(shape(0)) * math.prod(shape(2)[1:])
    return 0
