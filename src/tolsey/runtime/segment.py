"""Runs the steps of a segment: the one function that worker and verifier share, so that they cannot disagree.

A step:

1. for each micro-batch: read its batch, run phase `grad`; gradients add up in order (under the order-free profiles
   exactly, docs/numerics/int8.md), running statistics pass on;
2. compute this step's rates (schedule.py);
3. run phase `update`; the result is the next state;
4. read the losses: not before, since reading waits for a device that could have work queued meanwhile.

It refuses programs that were not admitted, and never looks at a clock to decide anything: `step_s` is for people.
Next in the flow: state.write and state.root_of at a segment's end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tolsey.errors import ConfigError, LocalViolation, RemoteViolation
from tolsey.numerics import int8
from tolsey.protocol.checkpoint import Segment, StateRoot
from tolsey.runtime import exact, optimisers, schedule
from tolsey.runtime.dataset import Dataset
from tolsey.runtime.executor import Executable, Key, Observer
from tolsey.runtime.state import TrainingState, root_of

Observers = tuple[Observer | None, Observer | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One step done.

    Attributes:
        step: which, from 0.
        loss: mean over the step's micro-batches, before the update.
        grad_norm: joint 2-norm of all gradients before clipping.
        lr: learning rate of the update.
        step_s: seconds it took here.
        state: after the step.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    step_s: float
    state: TrainingState


class Trainer:
    """An admitted program with its data, seed and device: everything that a step needs but the state."""

    def __init__(self, executable: Executable, dataset: Dataset, *, seed: int) -> None:
        self.program = executable.program
        self._executable = executable
        self._dataset = dataset
        self._seed = seed
        self._optimiser, self._schedule = optimisers.rates_of(self.program.rates)
        self._update_names = frozenset(name for role, name in self.program.update.inputs if role == "scalar")

    def steps(self, state: TrainingState, last_step: int) -> Iterator[StepResult]:
        """Runs steps until `last_step` are done; gives each result as it comes."""
        state = state.to(self._executable.device)
        while state.step < last_step:
            result = self.step(state)
            state = result.state
            yield result

    def step(self, state: TrainingState, observers: Observers = (None, None)) -> StepResult:
        """One optimiser step. `observers` see every node of phase grad (each micro-batch) and of phase update.

        Raises:
            RemoteViolation: the program fails on its own data, such as a label outside its classes.
            ConfigError: this machine has not enough memory left. `state` is as it was, and may be tried again.
        """
        start = time.perf_counter()
        try:
            values, losses = self._gradients(state, observers[0])
            scalars = self._optimiser.scalars(self._schedule, state.step)
            for name in self._update_names:
                values["scalar", name] = torch.tensor(schedule.to_float32(scalars[name]), dtype=torch.float32)
            given = self._executable.update.run(values, observers[1])
            loss = 0.0
            for tensor in losses:
                loss += float(tensor)
        except (RuntimeError, IndexError, ValueError, MemoryError) as error:
            if _is_about_memory(error):
                raise ConfigError(
                    f"step {state.step} needs more memory than this machine has left: {_first_line(error)}",
                    fix="close what else takes memory here, or take smaller jobs",
                ) from error
            raise RemoteViolation(f"step {state.step} cannot be computed: {_first_line(error)}") from error
        tensors = {name: given.get(("state", name), values["state", name]) for name in state.tensors}
        after = TrainingState(
            tensors=tensors,
            step=state.step + 1,
            cursor=state.cursor + self.program.micro_batches * self.program.batch_size,
        )
        norm = given.get(("metric", "grad_norm"))
        return StepResult(
            step=state.step,
            loss=loss,
            grad_norm=float("nan") if norm is None else float(norm),
            lr=schedule.to_float32(scalars["lr"]),
            step_s=time.perf_counter() - start,
            state=after,
        )

    def gradient_sums(self, state: TrainingState, micros: Sequence[int]) -> dict[str, exact.TensorSum]:
        """What some micro-batches of the state's step bring to its gradient: sums that shards merge in any order.

        Raises:
            LocalViolation: the profile adds in order, or the program's buffers pass from one micro-batch to the next.
        """
        if not self._is_order_free:
            raise LocalViolation(f"{self._executable.profile} adds the gradients of micro-batches in order")
        if any(role == "state" for role, _, _ in self.program.grad.outputs):
            raise LocalViolation("running statistics pass from one micro-batch to the next: one machine takes all")
        values, sums = self._inputs(state), self._no_gradients(state)
        for given in self._micro_batches(values, state.step, micros, None):
            for (role, name), tensor in given.items():
                if role == "grad":
                    sums[name].add(tensor)
        return sums

    def _gradients(
        self, state: TrainingState, observer: Observer | None
    ) -> tuple[dict[Key, torch.Tensor], list[torch.Tensor]]:
        """State and summed gradients as inputs of phase update, and each micro-batch's part of the step's loss."""
        values, count = self._inputs(state), self.program.micro_batches
        sums = self._no_gradients(state) if self._is_order_free and count > 1 else {}
        losses = []
        for micro, given in enumerate(self._micro_batches(values, state.step, range(count), observer)):
            for (role, name), tensor in given.items():
                if role == "loss":
                    losses.append(tensor)
                elif role == "grad" and sums:
                    sums[name].add(tensor)
                elif role == "grad":
                    values["sum" if micro + 1 < count else "grad", name] = tensor
                else:
                    values["state", name] = tensor
        values |= {("grad", name): total.rounded() for name, total in sums.items()}
        return values, losses

    @property
    def _is_order_free(self) -> bool:
        return self._executable.profile in int8.SLICES

    def _no_gradients(self, state: TrainingState) -> dict[str, exact.TensorSum]:
        """A sum of nothing for each parameter."""
        lib = exact.require(self._executable.device, self._executable.profile)
        names = [name for role, name, _ in self.program.grad.outputs if role == "grad"]
        return {name: exact.TensorSum(lib, state.tensors[f"param.{name}"].shape) for name in names}

    def _inputs(self, state: TrainingState) -> dict[Key, torch.Tensor]:
        """Of phase grad, but for what a micro-batch brings."""
        values: dict[Key, torch.Tensor] = {("state", name): tensor for name, tensor in state.tensors.items()}
        for role, name in self.program.grad.inputs:
            if role == "sum":
                values["sum", name] = torch.zeros_like(state.tensors[f"param.{name}"])
        return values

    def _micro_batches(
        self, values: dict[Key, torch.Tensor], step: int, micros: Sequence[int], observer: Observer | None
    ) -> Iterator[dict[Key, torch.Tensor]]:
        """What phase grad gives for each of some micro-batches; the caller passes on what the next one needs."""
        count, device = self.program.micro_batches, self._executable.device
        for micro in micros:
            for name, tensor in self._dataset.batch(step, micro, count).items():
                values["batch", name] = tensor.to(device)
            values["position", ""] = torch.tensor(
                [self._seed & 0xFFFFFFFF, self._seed >> 32, step * count + micro], dtype=torch.int64
            )
            yield self._executable.grad.run(values, observer)


def _first_line(error: Exception) -> str:
    return f"{(str(error) or type(error).__name__).splitlines()[0]:.200}"


def _is_about_memory(error: Exception) -> bool:
    """PyTorch's allocator for CPUs has no class of its own for that."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def segment_bounds(index: int, *, steps: int, steps_per_segment: int) -> tuple[int, int]:
    """First and last step of segment `index`: it runs first .. last - 1.

    Raises:
        ValueError: the job has no such segment.
    """
    first = index * steps_per_segment
    if index < 0 or first >= steps:
        raise ValueError(f"segment {index} of a job with {-(-steps // steps_per_segment)} segments")
    return first, min(steps, first + steps_per_segment)


def run_segment(
    trainer: Trainer,
    state: TrainingState,
    *,
    index: int,
    last_step: int,
    profile: str,
    input_root: StateRoot | None = None,
    hash_threads: int = 1,
) -> Iterator[StepResult | tuple[Segment, TrainingState]]:
    """Yields each step's result, and at the end the segment with both roots and the state after it.

    Args:
        state: the checkpoint before the segment; its step is the segment's first.
        input_root: its root, where the caller has it already.
        hash_threads: that hash the roots; bits do not depend on them, so they are not part of the class.
    """
    first_step = state.step
    before = root_of(state, profile, threads=hash_threads) if input_root is None else input_root
    for result in trainer.steps(state, last_step):
        state = result.state
        yield result
    yield (
        Segment(
            index=index,
            first_step=first_step,
            last_step=last_step,
            input_root=before,
            output_root=root_of(state, profile, threads=hash_threads),
        ),
        state,
    )
