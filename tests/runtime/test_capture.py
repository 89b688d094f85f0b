"""Captured graphs train like eager PyTorch; what cannot be captured is named with its line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tolsey.errors import SpecInvalid, UnsupportedOp
from tolsey.runtime import author, graph, initial
from tolsey.runtime.author import Job

Run = Callable[[Job], Any]
MakeJob = Callable[..., Job]


def eager(runner: Any, steps: int, loss_of: Callable[..., torch.Tensor] | None = None) -> tuple[nn.Module, list[float]]:
    """The same job as a plain PyTorch loop from the same initial state: module and losses."""
    job, model = runner.job, runner.job.model()
    model.train()
    first = runner.first()
    for name, target in (*model.named_parameters(), *model.named_buffers()):
        role = "param" if isinstance(target, nn.Parameter) and target.requires_grad else "buffer"
        target.data.copy_(first.tensors[f"{role}.{name}"])
    trainable = [param for param in model.parameters() if param.requires_grad]
    options = job.optimiser.options
    if job.optimiser.kind == "adamw":
        optimiser: torch.optim.Optimizer = torch.optim.AdamW(
            trainable, lr=1.0, weight_decay=float(options["weight_decay"])
        )
    else:
        optimiser = torch.optim.SGD(
            trainable,
            lr=1.0,
            momentum=float(options["momentum"]),
            weight_decay=float(options["weight_decay"]),
            nesterov=options["nesterov"],
        )
    schedule = runner.trainer._schedule
    losses = []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = float(schedule.lr(step))
        optimiser.zero_grad()
        total = 0.0
        for micro in range(job.micro_batches):
            batch = runner.data.batch(step, micro, job.micro_batches)
            if loss_of is not None:
                loss = loss_of(model, batch)
            else:
                logits = model(batch["x"])
                loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch["y"].reshape(-1))
            (loss / job.micro_batches).backward()
            total += loss.item() / job.micro_batches
        if job.clip_norm is not None:
            nn.utils.clip_grad_norm_(trainable, float(job.clip_norm))
        optimiser.step()
        losses.append(total)
    return model, losses


def assert_equal_training(runner: Any, steps: int = 5, **options: Any) -> None:
    model, losses = eager(runner, steps, **options)
    results = list(runner.trainer.steps(runner.first(), steps))
    assert [result.loss for result in results] == pytest.approx(losses, rel=2e-5)
    found = results[-1].state.tensors
    for name, param in (*model.named_parameters(), *model.named_buffers()):
        tensor = found.get(f"param.{name}", found.get(f"buffer.{name}"))
        expected = param.detach().clone()
        if name == "project.bias":  # the key bias has no true gradient (softmax does not see it), only rounding noise
            expected[16:32] = tensor[16:32]
        torch.testing.assert_close(tensor, expected, rtol=2e-3, atol=2e-5)
    assert results[-1].state.step == steps


def test_capture_gpt_adamw_clip_equals_eager(gpt: Any) -> None:
    assert_equal_training(gpt)
    losses = [result.loss for result in gpt.trainer.steps(gpt.first(), 6)]
    assert losses[-1] < 0.95 * losses[0]


def test_capture_gpt_accumulation_equals_eager(run: Run, make_gpt_job: MakeJob) -> None:
    assert_equal_training(run(make_gpt_job(micro_batches=3, batch_size=2)))


def test_capture_cnn_sgd_momentum_equals_eager_with_running_statistics(cnn: Any) -> None:
    assert_equal_training(cnn)
    after = cnn.after(3).tensors
    assert int(after["buffer.features.1.num_batches_tracked"]) == 3
    assert not torch.equal(after["buffer.features.1.running_mean"], torch.zeros(4))


class Llama(nn.Module):
    """Root-mean-square norm, rotary positions, gated activation, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(256, 16)
        self.norm = nn.RMSNorm(16)
        self.gate, self.up, self.down = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)
        self.logits = nn.Linear(16, 256, bias=False)
        self.logits.weight = self.token.weight
        angles = torch.outer(torch.arange(8).float(), 1 / 100 ** (torch.arange(8) / 8))
        self.register_buffer("cosine", angles.cos())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        stream = self.norm(self.token(tokens))
        left, right = stream.chunk(2, -1)
        stream = torch.cat((left * self.cosine - right, right * self.cosine + left), -1)
        return self.logits(stream + self.down(functional.silu(self.gate(stream)) * self.up(stream)))


def test_capture_llama_like_tied_weights_equals_eager(run: Run, make_gpt_job: MakeJob) -> None:
    runner = run(make_gpt_job(model=Llama))
    assert sum(item.role == "param" for item in runner.program.state.values()) == 8
    assert_equal_training(runner)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fixed, self.free = nn.Linear(4, 8), nn.Linear(8, 1)
        self.fixed.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.free(torch.tanh(self.fixed(x)) * torch.tensor([1.0, 2.0] * 4)).squeeze(-1)


def test_capture_own_loss_frozen_part_and_constant_equals_eager(run: Run) -> None:
    def loss(model: Callable[..., Any], batch: Any) -> torch.Tensor:
        return ((model(batch["x"]) - batch["y"]) ** 2 * batch["weight"]).mean()

    generator = torch.Generator().manual_seed(0)
    data = author.arrays(
        x=torch.randn(30, 4, generator=generator), y=torch.randn(30, generator=generator), weight=torch.ones(30)
    )
    runner = run(
        Job(
            name="own",
            model=Frozen,
            data=data,
            loss=loss,
            batch_size=10,
            steps=5,
            steps_per_segment=5,
            lr="0.05",
            optimiser=author.sgd(),
        )
    )
    assert_equal_training(runner, loss_of=loss)
    assert torch.equal(runner.after(5).tensors["buffer.fixed.weight"], runner.first().tensors["buffer.fixed.weight"])


def test_capture_named_mse_equals_eager(run: Run) -> None:
    x = torch.linspace(-1, 1, 40).reshape(20, 2)
    runner = run(
        Job(
            name="mse",
            model=lambda: nn.Linear(2, 1),
            data=author.arrays(x=x, y=x.sum(1, keepdim=True)),
            loss="mse",
            batch_size=5,
            steps=5,
            steps_per_segment=5,
            lr="0.1",
            optimiser=author.sgd(momentum="0.5"),
        )
    )
    assert_equal_training(runner, loss_of=lambda model, batch: functional.mse_loss(model(batch["x"]), batch["y"]))


def test_capture_dropout_masks_follow_seed_step_and_micro_batch(run: Run, make_gpt_job: MakeJob) -> None:
    runner = run(make_gpt_job(dropout=0.3, micro_batches=2))
    masks = [node for node in runner.program.grad.nodes if node.op == "keep_mask"]
    assert [node.args[2] for node in masks] == [0, 1]  # attention's and the perceptron's, streams in graph order
    seen: list[torch.Tensor] = []

    def watch(place: int, outputs: tuple[torch.Tensor, ...]) -> None:
        if runner.program.grad.nodes[place].op == "keep_mask":
            seen.append(outputs[0])

    start = runner.first()
    after = runner.trainer.step(start, (watch, None)).state
    runner.trainer.step(after, (watch, None))
    assert len(seen) == 8
    perceptron = seen[1::2]
    assert all(not torch.equal(perceptron[0], other) for other in perceptron[1:])
    assert 0.6 < float(torch.stack(perceptron).mean()) < 0.8
    assert runner.root(2) == runner.root(2)


def test_capture_is_reproducible_and_round_trips(run: Run, make_gpt_job: MakeJob) -> None:
    first, second = run(make_gpt_job()), run(make_gpt_job())
    raw = first.program.encode()
    assert raw == second.program.encode() == graph.decode(raw).encode()
    assert first.built.program_id == first.program.content_id


def test_describe_lists_every_node_and_float(gpt: Any) -> None:
    text = graph.describe(gpt.program)
    assert text.count(" = layer_norm(") == 2
    assert "eps=1e-05 (0x3ee4f8b588e368f1)" in text
    assert len([line for line in text.splitlines() if " -> " in line]) == sum(
        len(phase.nodes) for phase in (gpt.program.grad, gpt.program.update)
    )


class Fourier(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.fft.rfft(x).abs())  # the line that the error must name


class Branching(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum().item() > 0:  # control flow over values
            x = -x
        return super().forward(x)


class OwnRandom(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.randn_like(x))


class Wide(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward((x.double() * 0.1).float())


class Counting(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = x.long()
        return super().forward((whole @ whole.T @ whole).float())  # integers have no product of the profile


def linear_job(model: Callable[[], nn.Module], **changes: Any) -> Job:
    data = changes.pop("data", None) or author.arrays(x=torch.zeros(8, 4), y=torch.zeros(8, 1))
    return Job(
        name="bad", model=model, data=data, loss="mse", batch_size=2, steps=1, steps_per_segment=1, lr="1", **changes
    )


@pytest.mark.parametrize(
    ("model", "op", "source"),
    [
        (lambda: Fourier(3, 1), "fft_r2c", "torch.fft.rfft(x)"),
        (lambda: Branching(4, 1), "DataDependent", "x.sum().item() > 0"),
        (lambda: OwnRandom(4, 1), "randn_like", "torch.randn_like(x)"),
    ],
)
def test_capture_unsupported_names_operation_and_line(
    run: Run, model: Callable[[], nn.Module], op: str, source: str
) -> None:
    with pytest.raises(UnsupportedOp) as caught:
        run(linear_job(model))
    assert op in caught.value.message and source in caught.value.message
    assert "test_capture.py:" in caught.value.message and caught.value.fix


@pytest.mark.parametrize(
    ("model", "why", "source"),
    [
        (lambda: Wide(4, 1), "gives float64; exact-fp32/1 computes in float32", "x.double() * 0.1"),
        (lambda: Counting(4, 1), "gives int64, for which exact-fp32/1 has no kernel", "whole @ whole.T @ whole"),
    ],
)
def test_capture_what_the_exact_profile_has_no_rule_for_names_operation_and_line(
    run: Run, model: Callable[[], nn.Module], why: str, source: str
) -> None:
    with pytest.raises(UnsupportedOp) as caught:
        run(linear_job(model))
    assert why in caught.value.message and "operation aten." in caught.value.message
    assert "test_capture.py:" in caught.value.message and source in caught.value.message
    assert caught.value.fix is not None and 'profile = "pinned"' in caught.value.fix
    assert run(linear_job(model, profile="pinned")).program.grad.nodes


class Long(nn.Module):
    """A layer of few inputs and outputs, after a factor that wants a gradient too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.factor = layer, nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled = x * self.factor
        return self.layer(scaled).mean().expand(len(x), 1)


class Squared(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(1) @ x.unsqueeze(2)


MOST = 1 << 22
LONG: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], tuple[int, ...]], str]] = {
    "addmm": (lambda n: nn.Linear(n, 1), lambda n: (1, n), "addmm"),
    "mm": (lambda n: nn.Linear(n, 1, bias=False), lambda n: (1, n), "mm"),
    "bmm": (lambda n: Squared(), lambda n: (1, n), "bmm"),
    "gradient of a weight": (lambda n: nn.Linear(1, 1), lambda n: (n, 1), "mm"),
    "convolution": (lambda n: nn.Conv2d(n // 4, 1, 2), lambda n: (1, n // 4, 2, 2), "convolution"),
    "transposed convolution": (
        lambda n: nn.ConvTranspose1d(n // 2, 1, 4, stride=2),
        lambda n: (1, n // 2, 1),
        "convolution",
    ),
    "gradient of a window": (lambda n: nn.Conv1d(1, 1, 1), lambda n: (2, 1, n // 2), "convolution_backward"),
    "gradient of an image": (lambda n: nn.Conv1d(1, n // 4, 4), lambda n: (1, 1, 4), "convolution_backward"),
    "transposed gradient of an image": (
        lambda n: nn.ConvTranspose1d(1, n // 4, 4, bias=False),
        lambda n: (1, 1, 1),
        "convolution_backward",
    ),
}


@pytest.mark.parametrize("case", LONG)
def test_capture_product_of_more_terms_than_the_profile_adds_names_operation_and_line(run: Run, case: str) -> None:
    layer, shape, op = LONG[case]

    def job(terms: int, profile: str) -> Job:
        data = author.arrays(x=torch.zeros(1).expand(shape(terms)), y=torch.zeros(shape(terms)[0], 1))
        bad = linear_job(lambda: Long(layer(terms)), data=data, profile=profile)
        return replace(bad, batch_size=shape(terms)[0])

    with pytest.raises(UnsupportedOp) as caught:
        run(job(MOST + 4, "exact-int8/1"))
    words = f"operation aten.{op}.default adds up {MOST + 4} products in one number; exact-int8/1 allows {MOST}"
    assert caught.value.message.startswith(words), caught.value.message
    assert "test_capture.py:" in caught.value.message
    assert any(source in caught.value.message for source in ("self.layer(scaled)", "x.unsqueeze(1) @ x.unsqueeze(2)"))
    assert caught.value.fix is not None and 'profile = "exact-fp32/1"' in caught.value.fix
    assert run(job(MOST, "exact-int8x3/1")).program.grad.nodes
    assert run(job(MOST + 4, "exact-fp32/1")).program.grad.nodes


@pytest.mark.parametrize(
    ("model", "x", "why", "fix"),
    [
        (lambda: nn.Linear(4, 1).bfloat16(), torch.zeros(8, 4), "parameter weight is bfloat16", ".float()"),
        (lambda: nn.Linear(4, 1), torch.zeros(8, 4).double(), "batch tensor x is float64", '"float32"'),
    ],
)
def test_capture_tensor_of_another_float_type_is_the_authors_to_change(
    run: Run, model: Callable[[], nn.Module], x: torch.Tensor, why: str, fix: str
) -> None:
    with pytest.raises(SpecInvalid, match=f"{why}; exact-fp32/1 computes in float32") as caught:
        run(linear_job(model, data=author.arrays(x=x, y=torch.zeros(8, 1))))
    assert caught.value.fix is not None and fix in caught.value.fix


def test_capture_large_constant_refused_with_fix(run: Run) -> None:
    constant = torch.ones(20_000)

    class Uses(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * constant.sum() * constant[0]

    with pytest.raises(UnsupportedOp, match="80000 bytes") as caught:
        run(linear_job(lambda: Uses(4, 1)))
    assert caught.value.fix is not None and "register_buffer" in caught.value.fix


def test_capture_without_parameters_refused(run: Run) -> None:
    with pytest.raises(SpecInvalid, match="no trainable parameters"):
        run(linear_job(nn.Identity))


def recipe(make: Callable[[], torch.Tensor]) -> initial.Recipe | None:
    with initial.record() as recipe_of:
        tensor = make()
    return recipe_of(tensor)


@pytest.mark.parametrize(
    ("make", "mean", "spread"),
    [
        (lambda: nn.init.normal_(torch.empty(200, 200), 1.0, 0.5), 1.0, 0.5),
        (lambda: nn.init.uniform_(torch.empty(200, 200), -1, 3), 1.0, 4 / 12**0.5),
        (lambda: nn.init.trunc_normal_(torch.empty(200, 200), 2.0, 0.5, a=1.0, b=3.0), 2.0, 0.5 * 0.8796),
        (lambda: nn.init.kaiming_uniform_(torch.empty(200, 200), nonlinearity="relu"), 0.0, (2 / 200) ** 0.5),
        (lambda: nn.init.xavier_normal_(torch.empty(200, 200)), 0.0, (2 / 400) ** 0.5),
        (lambda: torch.randn(200, 200) * 0.02, 0.0, 0.02),
        (lambda: nn.init.constant_(torch.empty(5), 3.5), 3.5, 0.0),
        (lambda: torch.ones(5), 1.0, 0.0),
        (lambda: torch.full((5,), 2.5) / 2 - 1, 0.25, 0.0),
        (lambda: nn.Parameter(torch.zeros(5)).data.fill_(4.0), 4.0, 0.0),
    ],
)
def test_recipe_gives_the_distribution_that_torch_draws(
    make: Callable[[], torch.Tensor], mean: float, spread: float
) -> None:
    tensor, steps = make(), recipe(make)
    assert steps is not None
    spec = graph.TensorSpec("float32", tuple(tensor.shape))
    initial.check_recipe("x", spec, steps)
    made = initial.make(spec, steps, seed=5)
    assert made.shape == tensor.shape and made.dtype == torch.float32
    scale = max(spread, 1e-3)
    for values in (made, tensor):  # torch's own numbers show that the test's expectation is right
        assert float(values.mean()) == pytest.approx(mean, abs=0.03 * scale)
        assert float(values.std(unbiased=False)) == pytest.approx(spread, abs=0.02 * scale)
    assert torch.equal(made, initial.make(spec, steps, seed=5))
    assert spread == 0 or not torch.equal(made, initial.make(spec, steps, seed=6))


def partly_written() -> torch.Tensor:
    tensor = torch.randn(4, 4)
    tensor[0].zero_()
    return tensor


@pytest.mark.parametrize(
    "make",
    [
        partly_written,
        lambda: nn.init.orthogonal_(torch.empty(4, 4)),
        lambda: torch.eye(4),
        lambda: torch.randn(4) * torch.randn(4),
        lambda: torch.randn(4).cumsum(0),
        lambda: torch.randn(8)[:4],
    ],
)
def test_recipe_of_anything_else_is_unknown(make: Callable[[], torch.Tensor]) -> None:
    assert recipe(make) is None
