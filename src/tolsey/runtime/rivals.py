"""PyTorch's own kernels as rivals in the contests of numerics/bench.py, on the same memory.

Products go through torch (MKL, where it was built with it) and through oneDNN; the rest through whatever torch takes.
Results are written into memory that is there already wherever torch has such a form, as our kernels' are.
"""

from __future__ import annotations

from functools import partial

import torch

from tolsey.numerics.bench import Contest, Work

ATEN = torch.ops.aten


class Torch:
    """What this installation of PyTorch can do; `name` is said above a table."""

    def __init__(self) -> None:
        self.name = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"

    def set_threads(self, count: int) -> None:
        torch.set_num_threads(count)

    def works(self, contest: Contest) -> dict[str, Work]:
        """By name: torch, and onednn for products of two matrices. An operation that it has in no like form: none."""
        given = [torch.from_numpy(operand) for operand in contest.operands]
        make = getattr(self, f"_{contest.op}", None)
        if make is not None:
            return dict(make(*given))
        if contest.op.startswith("convolution"):
            return {"torch": self._convolution_work(contest, given)}
        return {}

    def _mm(self, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> dict[str, Work]:
        found: dict[str, Work] = {"torch": partial(torch.mm, a, b, out=out)}
        if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            found["onednn"] = partial(torch.ops.mkldnn._linear_pointwise, a, b.t(), None, "none", [], "")
        return found

    def _bmm(self, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> dict[str, Work]:
        return {"torch": partial(torch.bmm, a, b, out=out)}

    def _convolution_work(self, contest: Contest, given: list[torch.Tensor]) -> Work:
        stride, padding, dilation, groups = (contest.settings[k] for k in ("stride", "padding", "dilation", "groups"))
        settings = stride, padding, dilation, False, [0, 0], groups
        if contest.op == "convolution":
            return partial(ATEN.convolution.default, given[0], given[1], None, *settings)
        to_input = contest.op == "convolution_backward_input"
        grad, x, weight = (given[0], given[2], given[1]) if to_input else given[:3]
        wanted = [to_input, not to_input, False]
        return partial(ATEN.convolution_backward.default, grad, x, weight, None, *settings, wanted)

    def _exp(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Work]:
        return {"torch": partial(torch.exp, x, out=y)}

    def _tanh(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Work]:
        return {"torch": partial(torch.tanh, x, out=y)}

    def _gelu(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Work]:
        return {"torch": partial(ATEN.gelu.out, x, out=y)}

    def _sum(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Work]:
        return {"torch": partial(torch.sum, x, 1, out=y)}

    def _softmax(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Work]:
        return {"torch": partial(ATEN._softmax.out, x, 1, False, out=y)}

    def _layer_norm(
        self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, y: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor
    ) -> dict[str, Work]:
        out = {"out0": y, "out1": mean[:, None], "out2": rstd[:, None]}
        return {"torch": partial(ATEN.native_layer_norm.out, x, [x.shape[1]], w, b, 1e-5, **out)}

    def _adamw(
        self, param: torch.Tensor, grad: torch.Tensor, first: torch.Tensor, second: torch.Tensor
    ) -> dict[str, Work]:
        rates = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "eps": 1e-8}
        update = partial(torch._fused_adamw_, [param], [grad], [first], [second], [], [torch.ones(())])
        return {"torch": partial(update, **rates, amsgrad=False, maximize=False)}
