"""Single calls inside `tolsey.exact()`: numbers, memory, special values, places written twice, integers.

Bits are compared between machines (everywhere.py), layouts and spellings of a call, values with those of stock PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

import tolsey
from tolsey.runtime import exact_mode

from .everywhere import bits, digest, everywhere

aten = torch.ops.aten

HARD = torch.tensor(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -2.5,
        3.0,
        1e-40,
        -1e-40,
        1e-38,
        3e38,
        -3e38,
        88.0,
        -104.0,
        torch.inf,
        -torch.inf,
        torch.nan,
    ]
)
X = torch.cat([HARD, torch.arange(-31, 32) / 8.0]).reshape(8, 10)

ONE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **{
        name: getattr(torch, name)
        for name in (
            *("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "sqrt", "rsqrt", "reciprocal", "sigmoid"),
            *("abs", "neg", "sign", "floor", "ceil", "round", "trunc", "isnan", "isinf", "isfinite", "square"),
            *("logical_not", "nan_to_num"),
        )
    },
    **{
        name: getattr(functional, name)
        for name in (
            *("relu", "silu", "gelu", "elu", "selu", "celu", "softplus", "mish", "hardswish", "hardsigmoid"),
            *("hardtanh", "relu6", "leaky_relu", "logsigmoid", "softsign"),
        )
    },
    "plus a number": lambda x: x + 0.1,
    "times a number": lambda x: 3 * x,
    "number less": lambda x: 0.3 - x,
    "by a number": lambda x: x / 3,
    "squared": lambda x: x**2,
    "to a fraction": lambda x: x**0.3,
    "number to the": lambda x: 2.0**x,
    "clamped": lambda x: x.clamp(-1, 0.7),
    "clamped below": lambda x: x.clamp_min(0.2),
    "masked": lambda x: x.masked_fill(x > 0.5, -1.5),
    "chosen": lambda x: torch.where(x < 0, x, x + 1),
    "scaled sum": lambda x: torch.add(x, x, alpha=0.3),
    "scaled difference": lambda x: torch.sub(x, 0.1, alpha=3),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.1),
    "addcdiv": lambda x: torch.addcdiv(x, x, x + 1, value=-0.1),
    "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "lerp by tensor": lambda x: torch.lerp(x, x * 2, x),
    "as int": lambda x: x.int(),
    "mixed": lambda x: x * torch.tensor([[16777217], [3]]).repeat(4, 1),
}
ACROSS: dict[str, Callable[[torch.Tensor], Any]] = {
    "sum": lambda x: x.sum(),
    "sum of dims": lambda x: x.sum(0),
    "mean": lambda x: x.mean(1, keepdim=True),
    "var": lambda x: x.var(0),
    "std": lambda x: x.std(),
    "norm": lambda x: x.norm(),
    "1-norm": lambda x: x.norm(p=1, dim=1),
    "logsumexp": lambda x: x.logsumexp(1),
    "softmax": lambda x: x.softmax(0),
    "log_softmax": lambda x: x.log_softmax(1),
    "cumsum": lambda x: x.cumsum(0),
    "amax": lambda x: x.amax(0),
    "max": lambda x: x.max(),
    "max of dim": lambda x: x.max(1),
    "min of dim": lambda x: x.min(0, keepdim=True),
    "argmax": lambda x: x.argmax(1),
    "argmin": lambda x: x.argmin(0),
    "sort": lambda x: x.sort(1, descending=True),
    "topk": lambda x: x.topk(3, 1),
    "any": lambda x: x.any(0),
    "matmul": lambda x: x @ x.t(),
    "linear": lambda x: functional.linear(x, x, x[:, 0]),
    "outer": lambda x: torch.outer(x[0], x[1]),
    "mv": lambda x: torch.mv(x, x[0]),
    "dot": lambda x: torch.dot(x[0], x[1]),
    "einsum": lambda x: torch.einsum("ij,kj,kl->il", x, x, x),
    "addmm": lambda x: torch.addmm(x[:, :8], x, x.t(), beta=0.5, alpha=0.1),
    "baddbmm": lambda x: torch.baddbmm(x[None, :, :8], x[None], x.t()[None], beta=0.5),
    "layer_norm": lambda x: functional.layer_norm(x, (10,)),
    "rms_norm": lambda x: functional.rms_norm(x, (10,)),
    "group_norm": lambda x: functional.group_norm(x.reshape(2, 4, 10), 2),
    "batch_norm": lambda x: functional.batch_norm(x, None, None, training=True),
    "instance_norm": lambda x: functional.instance_norm(x[None]),
    "normalize": lambda x: functional.normalize(x),
    "conv1d": lambda x: functional.conv1d(x[None], x.reshape(2, 8, 5), padding=2),
    "conv2d": lambda x: functional.conv2d(x[None, None], x.reshape(5, 1, 4, 4), stride=2, padding=1),
    "conv_transpose2d": lambda x: functional.conv_transpose2d(x[None, None], x.reshape(1, 5, 4, 4), stride=2),
    "max_pool2d": lambda x: functional.max_pool2d(x[None], 3, 2, 1),
    "avg_pool2d": lambda x: functional.avg_pool2d(x[None], 3, 2, 1),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x[None], (3, 4)),
    "mse": lambda x: functional.mse_loss(x, x * 0.9),
    "l1": lambda x: functional.l1_loss(x, x * 0.9),
    "smooth_l1": lambda x: functional.smooth_l1_loss(x, x * 0.5),
    "huber": lambda x: functional.huber_loss(x, x * 0.5),
    "bce": lambda x: functional.binary_cross_entropy_with_logits(x, (x > 0).float()),
    "kl_div": lambda x: functional.kl_div(x.log_softmax(1), x.softmax(1), reduction="batchmean"),
    "cross_entropy": lambda x: functional.cross_entropy(
        x, torch.tensor([1, 2, 3, -100, 0, 9, 4, 4]), label_smoothing=0.1
    ),
    "cross_entropy of images": lambda x: functional.cross_entropy(x[None], torch.arange(10)[None] % 8),
    "attention": lambda x: functional.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True),
    "embedding": lambda x: functional.embedding(torch.tensor([[1, 1, 7]]), x),
    "rows": lambda x: x[[0, 0, 3]],
    "pairs": lambda x: x[[0, 0, 3], [1, 1, 2]],
    "where true": lambda x: x[x > 0.5],
    "gather": lambda x: x.gather(1, torch.tensor([[0, 0, 3]] * 8)),
    "index_select": lambda x: x.index_select(0, torch.tensor([1, 1])),
    "cat": lambda x: torch.cat([x, x[:2]]),
    "pad": lambda x: functional.pad(x, (1, 2), value=0.1),
    "roll": lambda x: x.roll(1, 0),
    "reflect": lambda x: functional.pad(x[None], (2, 1, 1, 2), mode="reflect"),
    "tril": torch.tril,
    "flip": lambda x: x.flip(0),
    "repeat": lambda x: x.repeat(2, 1),
    "unfold": lambda x: functional.unfold(x[None, None], 2),
}
ALL = ONE | ACROSS


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


@pytest.mark.parametrize("name", ALL)
def test_call_is_close_to_stock_and_equal_on_every_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward on ordinary numbers, forward on special ones."""
    ordinary = ((torch.arange(80) * 37 % 79) / 40 + 0.01).reshape(8, 10)

    def gradient() -> list[torch.Tensor]:
        x = ordinary.clone().requires_grad_()
        results = flat(ALL[name](x))
        if results[0].requires_grad:
            (results[0] * torch.linspace(0.5, 2, results[0].numel()).reshape(results[0].shape)).sum().backward()
        return [*results, *([] if x.grad is None else [x.grad])]

    with tolsey.exact():
        found = gradient()
    for ours, stock in zip(found, gradient(), strict=True):
        torch.testing.assert_close(ours, stock, rtol=2e-5, atol=2e-5)
    everywhere(lambda: digest(*gradient(), *flat(ALL[name](X))), monkeypatch)


ROW_MAJOR_IN_STOCK = ("logsigmoid", "number to the", "baddbmm", "batch_norm")
"""PyTorch's code for CPUs copies their input to row-major order first; on other devices it does not, nor do we."""


@pytest.mark.parametrize(
    "name", [*ONE, *(name for name in ACROSS if name not in ("conv_transpose2d", "conv2d", "conv1d"))]
)
def test_layout_of_the_input_changes_no_bit(name: str) -> None:
    """Transposed, with gaps, backwards in memory, at an odd address; and results lie as PyTorch lays them."""
    call = ALL[name]
    wide = torch.zeros(8, 21)
    wide[:, 1::2] = X
    shifted = torch.zeros(81)[1:].reshape(8, 10).copy_(X)
    with tolsey.exact():
        expected = flat(call(X.clone()))
        for view in (X.t().contiguous().t(), wide[:, 1::2], shifted):
            found = flat(call(view))
            if name not in ROW_MAJOR_IN_STOCK:
                assert [one.stride() for one in found] == [one.stride() for one in flat(without_block(call, view))]
            for ours, reference in zip(found, expected, strict=True):
                assert torch.equal(bits(ours), bits(reference))


def without_block(call: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Any:
    """The call outside of the block that is around this one."""
    with _disable_current_modes():
        return call(x)


IN_PLACE = (
    *(
        "exp",
        "expm1",
        "log",
        "log1p",
        "sin",
        "cos",
        "tanh",
        "erf",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "sigmoid",
        "abs",
        "neg",
    ),
    *("floor", "round", "square", "relu", "nan_to_num"),
)


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_and_out_give_what_the_function_gives(name: str) -> None:
    with tolsey.exact():
        expected = bits(getattr(torch, name)(X))
        for target in (X.clone(), X.t().contiguous().t(), torch.stack([X, X], 2)[:, :, 1]):
            assert getattr(target, f"{name}_")() is target
            assert torch.equal(bits(target), expected)
        if name == "relu":
            return
        room, gaps = torch.empty(0), torch.zeros(8, 20)
        assert getattr(torch, name)(X, out=room) is room and torch.equal(bits(room), expected)
        getattr(torch, name)(X, out=gaps[:, ::2])
        assert torch.equal(bits(gaps[:, ::2]), expected) and not gaps[:, 1::2].any()
        same = X.clone()
        getattr(torch, name)(same, out=same)
        assert torch.equal(bits(same), expected)


def test_in_place_with_operands_gives_what_the_function_gives() -> None:
    y = X.flip(0).contiguous()
    with tolsey.exact():
        for name, operands, options in (
            ("add", (y,), {"alpha": 0.3}),
            ("sub", (y,), {}),
            ("mul", (y,), {}),
            ("div", (3,), {}),
            ("pow", (2.5,), {}),
            ("lerp", (y, 0.3), {}),
            ("addcmul", (y, X), {"value": 0.1}),
            ("addcdiv", (y, X), {"value": 0.1}),
            ("clamp", (-1, 1), {}),
            ("masked_fill", (y > 0, 0.5), {}),
            ("cumsum", (0,), {}),
            ("index_add", (0, torch.tensor([1, 1]), y[:2]), {"alpha": 0.3}),
            ("scatter_add", (0, torch.zeros(2, 10, dtype=torch.int64), y[:2]), {}),
            ("index_put", ([torch.tensor([1, 1])], y[:2]), {"accumulate": True}),
        ):
            target = X.clone()
            getattr(target, f"{name}_")(*operands, **options)
            assert torch.equal(bits(target), bits(getattr(X, name)(*operands, **options))), name
        for name, operands in (("mm", (y.t(),)), ("matmul", (y.t(),)), ("sum", (1,)), ("maximum", (y,)), ("add", (y,))):
            room = torch.empty(0)
            getattr(torch, name)(X, *operands, out=room)
            assert torch.equal(bits(room), bits(getattr(torch, name)(X, *operands))), name


def test_in_place_refuses_what_pytorch_refuses() -> None:
    with tolsey.exact():
        with pytest.raises(RuntimeError, match="can't be cast"):
            torch.arange(3).exp_()
        with pytest.raises(RuntimeError, match="shape"):
            torch.ones(3).pow_(torch.ones(2, 3))
        with pytest.raises(RuntimeError, match="single memory location"):
            torch.ones(1).expand(3).exp_()
        leaf = torch.ones(3, requires_grad=True)
        with pytest.raises(RuntimeError, match="leaf"):
            leaf.exp_()
        x = torch.ones(3, requires_grad=True) * 2
        y = x.exp()
        y.sigmoid_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_overlapping_views_are_read_before_they_are_written() -> None:
    with tolsey.exact():
        x = torch.arange(6, dtype=torch.float32)
        torch.exp(x[:-1], out=x[1:])
        assert torch.equal(bits(x[1:]), bits(torch.exp(torch.arange(5, dtype=torch.float32))))
        windows = torch.arange(5, dtype=torch.float32).as_strided((3, 3), (1, 1))
        assert torch.equal(windows.softmax(1), windows.clone().softmax(1))
        assert torch.equal(windows @ windows, windows.clone() @ windows.clone())


def test_places_written_twice_keep_the_last_and_add_in_order() -> None:
    index, values = torch.tensor([1, 1, 1]), torch.tensor([1e8, 1.0, -1e8])
    with tolsey.exact():
        put, added = torch.zeros(3), torch.zeros(3)
        put[index] = values
        added.index_put_((index,), values, accumulate=True)
        rows = torch.zeros(3, 2).index_add_(0, index, values[:, None].expand(3, 2))
    assert put.tolist() == [0, -1e8, 0]
    assert added.tolist() == [0, 0, 0] and rows.tolist() == [[0, 0], [0, 0], [0, 0]]  # 1e8 + 1 is 1e8


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.empty(0).exp(),
        lambda: torch.empty(0, 3).sum(0),
        lambda: torch.ones(3, 0) @ torch.ones(0, 2),
        lambda: torch.empty(0, 3).softmax(1),
        lambda: torch.empty(2, 0).cumsum(1),
        lambda: torch.empty(0, 3)[torch.tensor([], dtype=torch.int64)],
        lambda: functional.layer_norm(torch.empty(0, 3), (3,)),
        lambda: torch.empty(0).sort()[0],
        lambda: torch.empty(0, 2).sigmoid_(),
        lambda: nn.Linear(3, 2)(torch.empty(0, 3)),
        lambda: functional.conv2d(torch.empty(0, 1, 4, 4), torch.ones(2, 1, 3, 3)),
        lambda: torch.rand(0),
        lambda: torch.randn(2, 0),
        lambda: torch.randperm(0),
        lambda: functional.dropout(torch.empty(0)),
    ],
)
def test_empty_tensors_have_the_shape_and_values_of_stock(call: Callable[[], torch.Tensor]) -> None:
    with tolsey.exact():
        found = call()
    stock = call()
    assert found.shape == stock.shape and found.dtype is stock.dtype
    assert torch.equal(found, stock) if found.numel() and not stock.requires_grad else True


def test_integers_are_as_pytorch_has_them() -> None:
    x = torch.tensor([[7, -3, 2**40 + 1], [0, 5, -(2**62)]])

    def results() -> list[torch.Tensor]:
        return [
            x + 3,
            x * x,
            x // 3,
            x % 5,
            x & 6,
            x << 1,
            x.sum(1),
            x.cumsum(0),
            x.max(1).values,
            x.min(0).indices,
            x.abs(),
            -x,
            x.clamp(-5, 5),
            x == 7,
            ~(x > 0),
            x.sort(1)[1],
            x.unique(),
            torch.bincount(x[0, :1]),
            x.to(torch.uint8),
            x.prod(),
            functional.one_hot(torch.tensor([0, 2])),
            x.float().long() % 7,
            x.bool().any(0),
            x.argmax(1),
            x.flip(0),
            torch.arange(5, -3, -2),
        ]

    with tolsey.exact():
        found = results()
    for ours, stock in zip(found, results(), strict=True):
        assert ours.dtype is stock.dtype and torch.equal(ours, stock)


def test_untouched_memory_holds_zeros() -> None:
    torch.full((1 << 16,), torch.nan)
    with tolsey.exact():
        for made in (torch.empty(1 << 16), torch.empty_like(torch.ones(1 << 16)), torch.ones(1).new_empty(1 << 16)):
            assert not made.any()


def test_rule_for_addcdiv_is_that_of_pytorchs_table() -> None:
    a, b = X.flip(0), X + 1
    with tolsey.exact():
        table = exact_mode._simpler()[aten.addcdiv.default](X, a, b, value=-0.3)
        assert torch.equal(bits(torch.addcdiv(X, a, b, value=-0.3)), bits(table))
