"""`with tolsey.exact()`: training code that knows nothing of it gives one result everywhere; what has none is refused.

Programs here are written as anybody writes PyTorch. Their bits are compared between machines (everywhere.py) and with
the captured graph. Single calls are in test_exact_calls.py, random numbers in test_exact_draws.py.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import tolsey
from tolsey.errors import ConfigError, UnsupportedOp
from tolsey.numerics import PROFILE, library
from tolsey.runtime import exact_mode
from tolsey.runtime.executor import Executable
from tolsey.runtime.segment import Trainer

from .conftest import Runner, TinyCNN, TinyGPT, cnn_job, gpt_job
from .everywhere import MACHINES, bits, digest, everywhere, machine

aten = torch.ops.aten


# Training loops that were not written for it.


def train_classifier() -> str:
    """Images, augmented; convolution, batch norm, dropout; AdamW with clipping and a schedule; then an evaluation."""
    torch.manual_seed(42)
    images, labels = torch.rand(24, 1, 8, 8), torch.randint(0, 3, (24,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout(0.2),
        nn.Conv2d(4, 8, 3),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=4)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for _epoch in range(2):
        model.train()
        for x, y in loader:
            if torch.rand(()).item() < 0.5:
                x = torch.flip(x, (3,))
            optimizer.zero_grad()
            loss = criterion(model(x + 0.1 * torch.randn_like(x)), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        correct = (model(images).argmax(1) == labels).float().mean()
    return digest(*model.state_dict().values(), loss, correct)


def train_transformer() -> str:
    """Tokens; an encoder with dropout under a causal mask; SGD with momentum."""
    torch.manual_seed(1)
    embed, head = nn.Embedding(32, 16), nn.Linear(16, 32)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, activation="gelu", batch_first=True)
    encoder = nn.TransformerEncoder(layer, num_layers=2)
    parameters = [*embed.parameters(), *encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    for _ in range(3):
        tokens = torch.randint(0, 32, (4, 7))
        optimizer.zero_grad(set_to_none=True)
        hidden = encoder(embed(tokens[:, :-1]) * 16**0.5, mask=mask, is_causal=True)
        loss = functional.cross_entropy(head(hidden).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    return digest(*parameters, loss)


def train_lstm() -> str:
    """Sequences; a two-layer LSTM; RMSprop, many tensors at once."""
    model, head = nn.LSTM(3, 6, 2, dropout=0.1, batch_first=True), nn.Linear(6, 1)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.RMSprop(parameters, lr=1e-2, foreach=True)
    for _ in range(2):
        x = torch.randn(4, 5, 3)
        optimizer.zero_grad()
        loss = functional.mse_loss(head(model(x)[0][:, -1]), x.sum((1, 2)).unsqueeze(1))
        loss.backward()
        optimizer.step()
    return digest(*parameters, loss)


@pytest.mark.parametrize("program", [train_classifier, train_transformer, train_lstm])
def test_training_gives_one_result_on_every_machine(
    program: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = everywhere(program, monkeypatch, seed=5)
    with tolsey.exact(seed=6):
        assert program() != found


def test_training_learns_as_without() -> None:
    def losses() -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        found = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = functional.mse_loss(
                model(x), x.sum(1, keepdim=True) % 2 if False else (x[:, :1] != x[:, 1:]).float()
            )
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    with tolsey.exact():
        found = losses()
    assert found[-1] < 0.05 * found[0]


def test_page_prints_what_it_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "exact.md").read_text()
    code, printed = (page.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("python", "text"))
    for isa, threads, flush in MACHINES:
        with machine(isa, threads, monkeypatch, flush=flush):
            exec(compile(code, "exact.md", "exec"), {})
        assert capsys.readouterr().out == printed, isa


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Adamax"])
def test_optimiser_one_by_one_and_all_at_once_agree(name: str) -> None:
    """And both stay close to stock PyTorch."""
    options: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1} | ({"momentum": 0.9} if name == "SGD" else {})

    def run(foreach: bool) -> torch.Tensor:
        values = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7
        parameters = [nn.Parameter(values.clone()), nn.Parameter(values[0].clone())]
        optimizer = getattr(torch.optim, name)(parameters, foreach=foreach, **options)
        for step in range(3):
            for parameter in parameters:
                parameter.grad = torch.cos(parameter.detach() * 3 + step)
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in parameters])

    with tolsey.exact():
        one_by_one, at_once = run(False), run(True)
    torch.testing.assert_close(one_by_one, run(False), rtol=1e-5, atol=1e-6)
    assert torch.equal(bits(one_by_one), bits(at_once))


# The captured graph.


@pytest.mark.parametrize("make", [gpt_job, cnn_job], ids=["gpt", "cnn"])
def test_gradients_are_those_of_the_captured_graph(make: Callable[..., Any], tmp_path: Path) -> None:
    """Of a middle step, dropout included: `manual_seed(step)` names the step."""
    runner = Runner(make(dropout=0.1) if make is gpt_job else make(), tmp_path)
    trainer = Trainer(Executable(runner.admitted, profile=PROFILE), runner.data, seed=runner.job.seed)
    state = list(trainer.steps(runner.first(), 2))[-1].state
    values, (loss,) = trainer._gradients(state, None)
    model = runner.job.model()
    model.load_state_dict(
        {name.partition(".")[2]: value for name, value in state.tensors.items() if name[:5] in ("param", "buffe")}
    )
    batch = runner.data.batch(state.step, 0, 1)
    with tolsey.exact(runner.job.seed):
        torch.manual_seed(state.step)
        logits = model(batch["x"])
        ours = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch["y"].reshape(-1))
        ours.backward()
    assert torch.equal(ours, loss)
    for name, parameter in model.named_parameters():
        assert torch.equal(bits(parameter.grad), bits(values["grad", name])), name
    for name, buffer in model.named_buffers():
        assert torch.equal(bits(buffer), bits(values["state", f"buffer.{name}"])), name


def test_plain_sgd_loop_ends_in_the_parameters_of_the_job(tmp_path: Path) -> None:
    """Initial values, data, batch norm, nesterov momentum: the same bits step by step."""
    job = cnn_job()
    runner = Runner(job, tmp_path)
    trainer = Trainer(Executable(runner.admitted, profile=PROFILE), runner.data, seed=job.seed)
    results = list(trainer.steps(runner.first(), 4))
    with tolsey.exact(job.seed):
        model = TinyCNN()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3, nesterov=True)
        for result in results:
            batch = runner.data.batch(result.step, 0, 1)
            optimizer.zero_grad()
            functional.cross_entropy(model(batch["x"]), batch["y"]).backward()
            optimizer.step()
            for name, parameter in model.named_parameters():
                assert torch.equal(bits(parameter), bits(result.state.tensors[f"param.{name}"])), (result.step, name)


def test_a_model_made_inside_begins_as_the_job_does(tmp_path: Path) -> None:
    runner = Runner(gpt_job(), tmp_path)
    first = runner.first().tensors
    with tolsey.exact(runner.job.seed):
        model = TinyGPT()
    for name, parameter in model.named_parameters():
        assert torch.equal(bits(parameter), bits(first[f"param.{name}"])), name


# What is refused, and what is left behind.

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "float64": (lambda: torch.rand(3).double() * 2, "computes in torch.float64; exact-fp32/1 computes in float32"),
    "float64 sum": (lambda: torch.rand(3).sum(dtype=torch.float64), "makes float64"),
    "float64 default": (lambda: torch.ones(3, dtype=torch.float64).exp(), "computes in torch.float64"),
    "bfloat16": (lambda: torch.rand(3).bfloat16(), "converts torch.float32 to torch.bfloat16"),
    "half": (lambda: torch.ones(3, dtype=torch.half) + 1, "computes in torch.float16"),
    "autocast": (lambda: _autocast(), "to torch.bfloat16"),
    "complex": (lambda: torch.fft.rfft(torch.rand(4)), "_fft_r2c"),
    "bits": (lambda: torch.rand(3).view(torch.int32), "those of a NaN are not defined"),
    "device": (lambda: torch.ones(3).to("meta"), "moves a tensor from cpu to meta"),
    "other device": (lambda: torch.ones(3, device="meta") + 1, "runs on meta"),
    "no kernel": (lambda: torch.cdist(torch.rand(2, 3), torch.rand(2, 3)), "_cdist_forward"),
    "no kernel in place": (lambda: torch.rand(3).digamma_(), "digamma"),
    "no kernel out": (lambda: torch.lgamma(torch.rand(3), out=torch.empty(3)), "lgamma"),
    "comes back to itself": (lambda: torch.tan(torch.rand(3)), "tan"),
    "integers to floats": (lambda: torch.arange(3).lgamma(), "lgamma"),
    "decomposition": (lambda: torch.linalg.svd(torch.rand(3, 3)), "_linalg_svd"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "_to_sparse"),
    "fused update": (lambda: _fused(), "pass fused=False"),
    "fused attention": (lambda: _flash(), "no sdpa_kernel inside the block"),
}


def _autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.rand(3, 3) @ torch.rand(3, 3)


def _fused() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    torch.optim.AdamW([parameter], fused=True).step()


def _flash() -> None:
    x = torch.rand(1, 2, 4, 8)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_says_what_and_where(name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(UnsupportedOp) as caught, tolsey.exact():
        call()
    assert words in caught.value.diagnostics()
    assert f"{__file__}:" in caught.value.message and "try:" in caught.value.diagnostics()


def test_refusal_names_the_line_of_the_caller_and_what_is_undone() -> None:
    with pytest.raises(UnsupportedOp) as caught, tolsey.exact():
        x = torch.rand(1, 2, 4, 4, requires_grad=True)
        y = functional.interpolate(x, scale_factor=2)
        line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]  # CPython has frames
        y.sum().backward()
    assert f"{__file__}:{line} (y.sum().backward())" in caught.value.message
    assert "in the backward pass, for UpsampleNearest2DBackward0" in caught.value.message


def test_data_may_come_in_other_types() -> None:
    with tolsey.exact():
        x = torch.tensor([0.1, 1e-40, 1 + 2**-24 + 2**-50], dtype=torch.float64).float()
        halves = torch.tensor([1.5, 6e-8], dtype=torch.half).float(), torch.tensor([1.5], dtype=torch.bfloat16).float()
    assert x.tolist() == torch.tensor([0.1, 1e-40, 1 + 2**-23]).tolist()
    assert halves[0].tolist() == [1.5, 2.0**-24] and halves[1].tolist() == [1.5]


def test_way_of_every_call_of_pytorch_is_decided_and_many_are_refused() -> None:
    """What PyTorch may compute itself is listed by name, or says of itself that it only looks at memory."""
    ways: dict[str, Any] = {}
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("aten::"):
            packet, _, overload = name.removeprefix("aten::").partition(".")
            ways[name.removeprefix("aten::")] = exact_mode._way_of(
                getattr(getattr(aten, packet), overload or "default")
            )
    by_pytorch = {
        name
        for name, way in ways.items()
        if way in (exact_mode._moved, exact_mode._copied, exact_mode._rounded_once, exact_mode._rounded_once_scaled)
    }
    assert {"view", "t", "select.int", "split.Tensor", "detach", "add.Tensor", "mul_.Scalar", "clone"} <= by_pytorch
    computing = (
        *(
            "exp",
            "exp_",
            "mm",
            "mm.out",
            "sum",
            "mean",
            "cumsum",
            "sqrt",
            "sqrt_",
            "pow.Tensor_Scalar",
            "erf",
            "_to_copy",
        ),
        *("convolution", "_softmax", "sigmoid", "lerp_.Scalar", "addcmul_", "addcdiv_", "rand", "bernoulli_.float"),
        *(
            "scatter.reduce",
            "scatter_add",
            "index_add",
            "index_put_",
            "linear",
            "matmul",
            "native_layer_norm",
            "resize_",
        ),
        *("digamma", "lgamma", "cosh", "atan2", "hypot", "prod", "cumprod", "logcumsumexp", "_fft_r2c", "sort", "topk"),
    )
    assert set(computing) <= set(ways) and not by_pytorch.intersection(computing)
    assert sum(way is exact_mode._refused for way in ways.values()) > 500


class Interrupted(Exception):
    pass


def test_everything_is_given_back_after_an_exception_in_nested_blocks() -> None:
    lib = library.current()
    torch.manual_seed(77)
    torch.rand(3)
    state, threads, control = torch.get_rng_state(), torch.get_num_threads(), lib.control
    switches = (
        torch.backends.mkldnn.enabled,
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
    )
    with pytest.raises(Interrupted), tolsey.exact(1):
        a = torch.rand(3)
        with pytest.raises(Interrupted), tolsey.exact(1):
            assert torch.equal(a, torch.rand(3))
            raise Interrupted
        b = torch.rand(3)
        torch.set_num_threads(2)
        torch.set_flush_denormal(True)
        raise Interrupted
    assert torch.equal(state, torch.get_rng_state()) and torch.get_num_threads() == threads and lib.control == control
    assert switches == (
        torch.backends.mkldnn.enabled,
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
    )
    assert (torch.rand(3, dtype=torch.float64) * 2).dtype is torch.float64
    with tolsey.exact(1):
        torch.rand(3)
        assert torch.equal(b, torch.rand(3))


def test_exact_is_a_decorator_too_and_wants_a_u64() -> None:
    @tolsey.exact(seed=2)
    def three() -> torch.Tensor:
        return torch.rand(3)

    assert torch.equal(three(), three())
    for seed in (-1, 1 << 64):
        with pytest.raises(ConfigError, match="outside 0 to"), tolsey.exact(seed):
            pass


def test_subnormals_flushed_in_the_middle_change_nothing() -> None:
    tiny = torch.full((64,), 2.0**-126)
    with tolsey.exact():
        torch.set_flush_denormal(True)
        found = [tiny * 0.5, tiny - tiny * 0.75, tiny / 4, torch.full((2,), 1e-40), tiny.double().float() * 0.5]
        assert [one[0].item() for one in found] == [2.0**-127, 2.0**-128, 2.0**-128, 71362 * 2.0**-149, 2.0**-127]
        assert not (torch.tensor([2.0**-149]) == 0).any()


SLEEPER = """
import torch
torch.set_num_threads(2)
torch.set_flush_denormal(True)
torch.ones(1 << 18) * 0.5  # PyTorch's threads start now, and keep what this one has set
torch.set_flush_denormal(False)
x = torch.full((1 << 18,), 2.0**-126)
import tolsey
with tolsey.exact():
    torch.set_num_threads(2)
    print(((x * 0.5).numpy().view("int32") == 1 << 22).sum(), torch.get_num_threads())
print(((x * 0.5).numpy().view("int32") == 1 << 22).sum(), torch.get_num_threads())
"""


def test_threads_started_under_flush_to_zero_are_left_out() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", SLEEPER], capture_output=True, text=True, check=True)
    within, after = done.stdout.splitlines()
    assert within == f"{1 << 18} 1" and after.endswith(" 2") and not after.startswith(f"{1 << 18} ")


def test_compiled_functions_run_as_written() -> None:
    """A compiler that computes something else is not asked, be the function compiled before the block or inside."""

    def wrong(module: Any, inputs: Any) -> Any:
        return lambda *args: (torch.zeros(3),)

    before = torch.compile(lambda x: x.exp() + 1, backend=wrong)
    x = torch.tensor([0.1, 0.2, 0.3])
    assert not before(x).any()
    with tolsey.exact():
        expected = x.exp() + 1
        inside = torch.compile(lambda x: x.exp() + 1, backend=wrong)
        assert torch.equal(before(x), expected) and torch.equal(inside(x), expected)
    assert not before(x).any()
