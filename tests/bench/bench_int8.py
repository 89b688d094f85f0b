"""Measures the order-free products: what they cost in quality, what they bring in speed.

    python tests/bench/bench_int8.py [--quick] [--steps N] [--seeds N] [--plot FILE]

1. Error of one product against binary64, on numbers of several kinds and on operands of a trained byte GPT. `blocks of
   128` is what the law does not do: an exponent for each 128 terms instead of one for all (docs/numerics/int8.md,
   section 2). `bfloat16` rounds the operands to bfloat16 and adds as the chain does: what a matrix unit for it does.
2. Training of the example jobs, on nine tenths of their data, with the products of each profile; the loss along the
   way, and on the last tenth the loss (byte GPT) or the share of errors (digits). Seeds differ in initial values and in
   the order of data, and show what chance does.
3. Speed of products and of whole steps, by turns in one process on one thread, by processor time.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy
import table
import torch
from numpy.typing import NDArray

from tolsey.numerics import PROFILE, build, int8, library, products
from tolsey.numerics.reference import int8 as reference
from tolsey.runtime import admission, author, exact, executor, segment, state
from tolsey.runtime.dataset import Dataset

EXAMPLES = Path(__file__).resolve().parents[2] / "client" / "examples"
F32 = NDArray[numpy.float32]
BF16 = "bfloat16"
WAYS = (PROFILE, *int8.SLICES, BF16)
PRODUCTS = ("mm", "bmm", "addmm", "convolution", "convolution_backward")
TENTHS = 10


# error of one product


def to_bfloat16(x: F32) -> F32:
    return torch.from_numpy(numpy.ascontiguousarray(x)).bfloat16().float().numpy()


def in_blocks(a: F32, b: F32, slices: int, size: int) -> F32:
    """The product with exponents for each `size` terms."""
    total = numpy.zeros((a.shape[0], b.shape[1]))
    for k in range(0, a.shape[1], size):
        left, right = a[:, k : k + size], b[k : k + size].T
        e_a, e_b = reference.exponents(left), reference.exponents(right)
        whole_a, whole_b = reference.whole(left, e_a, slices), reference.whole(right, e_b, slices)
        sums = whole_a.astype(float) @ whole_b.astype(float).T  # below 2^53, so exact
        total += numpy.ldexp(sums, e_a[:, None] + e_b - 2 * reference.shift(slices))
    return total.astype(numpy.float32)


def error_table(quick: bool) -> None:
    """Frobenius norm of the error over that of the product."""
    lib = library.current()
    ways: dict[str, Callable[[F32, F32], F32]] = {PROFILE: partial(products.gemm, lib)}
    for name, slices in int8.SLICES.items():
        ways[name] = partial(products.gemm, int8.kernels(lib, slices))
        ways[f"{slices} slices, blocks of 128"] = partial(in_blocks, slices=slices, size=128)
    ways[BF16] = lambda a, b: products.gemm(lib, to_bfloat16(a), to_bfloat16(b))
    for what, a, b in operands(256 if quick else 1024):
        exact_product = a.astype(numpy.float64) @ b.astype(numpy.float64)
        size = numpy.linalg.norm(exact_product)
        for name, way in ways.items():
            table.row(f"{what}: {name}", f"error {numpy.linalg.norm(way(a, b) - exact_product) / size:.1e}")


def operands(n: int) -> Iterator[tuple[str, F32, F32]]:
    """Kinds of numbers, then inputs and gradients of the layers of a byte GPT after its training."""
    random = numpy.random.default_rng(1)
    a, b = (random.standard_normal((n, n)).astype(numpy.float32) for _ in range(2))
    yield f"normal numbers, {n} terms", a, b
    outlier = a.copy()
    outlier[:, 7] *= 1000
    yield "one term of all rows 1000 times as large", outlier, b
    met = b.copy()
    met[7] = 0
    yield "the same, and it meets zeros", outlier, met
    yield "every row with one number 1000 times as large", with_outliers(a), b
    yield "sizes of exp(2 x normal)", a * numpy.exp(2 * random.standard_normal((n, n)).astype(numpy.float32)), b
    for name, (x, gradient) in trained_layers().items():
        yield f"weight gradient of {name}, {len(x)} terms", gradient.T, x


def with_outliers(a: F32) -> F32:
    changed = a.copy()
    changed[numpy.arange(len(a)), numpy.arange(len(a)) * 7919 % a.shape[1]] *= 1000
    return changed


@cache
def trained_layers() -> dict[str, tuple[F32, F32]]:
    """Of some linear layers: input [tokens, in] and output's gradient [tokens, out], in one backward of eager torch."""
    job = author.load(EXAMPLES / "byte_gpt.py")
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(job, Path(folder))
        for _ in contest.losses(PROFILE, job.steps):
            pass
        model, batch = contest.model(PROFILE), contest.data.batch(job.steps, 0, 1)
    seen: dict[str, tuple[F32, F32]] = {}

    def watch(name: str, layer: torch.nn.Linear) -> None:
        def forward(_: Any, given: Any, output: torch.Tensor) -> None:
            x = given[0].detach().reshape(-1, layer.in_features).numpy()
            keep = lambda grad: seen.update({name: (x, grad.reshape(-1, layer.out_features).numpy().copy())})
            output.register_hook(keep)

        layer.register_forward_hook(forward)

    for name in ("blocks.0.query_key_value", "blocks.1.perceptron.2", "logits"):
        watch(name, model.get_submodule(name))
    logits = model(batch["x"])
    torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch["y"].reshape(-1)).backward()
    return seen


# training


@contextmanager
def rounded_operands(way: str) -> Iterator[str]:
    """The profile that computes a way; for bfloat16 the chain, whose operands are rounded first."""
    if way != BF16:
        yield way
        return
    kept = {name: exact.KERNELS[name] for name in PRODUCTS}

    def make(name: str, lib: Any, args: Sequence[Any]) -> Any:
        call, is_bias = kept[name](lib, args), name == "addmm"

        def rounded(*tensors: torch.Tensor) -> Any:
            return call(*(t if is_bias and not at else t.bfloat16().float() for at, t in enumerate(tensors)))

        return rounded

    exact.KERNELS.update({name: partial(make, name) for name in PRODUCTS})
    try:
        yield PROFILE
    finally:
        exact.KERNELS.update(kept)


class Contest:
    """One job, built once, trained in each way."""

    def __init__(self, job: author.Job, folder: Path) -> None:
        self.job = job
        self.built = author.build(job, folder)
        self.admitted = admission.admit_bytes(self.built.program_path.read_bytes())
        self.data = Dataset(self.built.manifest, self.built.data_paths, self.built.program.batch, job.seed)
        self._initial = state.initial_state(self.built.program, job.seed, self.built.initial_path)
        self._states: dict[str, state.TrainingState] = {}
        self._trainers: dict[str, segment.Trainer] = {}

    def step(self, way: str) -> float:
        """Takes the next step in a way; its loss."""
        if way not in self._trainers:
            with rounded_operands(way) as profile:
                ready = executor.Executable(self.admitted, profile=profile)
            self._trainers[way] = segment.Trainer(ready, self.data, seed=self.job.seed)
            self._states[way] = self._initial
        result = self._trainers[way].step(self._states[way])
        self._states[way] = result.state
        return result.loss

    def losses(self, way: str, steps: int) -> Iterator[float]:
        return (self.step(way) for _ in range(steps))

    def model(self, way: str) -> torch.nn.Module:
        """The trained module, for evaluation by eager torch."""
        model = self.job.model()
        trained = {name.split(".", 1)[1]: tensor.clone() for name, tensor in self._states[way].tensors.items()
                   if name.startswith(("param.", "buffer."))}  # fmt: skip
        model.load_state_dict(trained)
        return model.eval()


def gpt_job(folder: Path, seed: int, steps: int) -> tuple[author.Job, Callable[[torch.nn.Module], float]]:
    """The byte GPT on nine tenths of its text, and its loss on the last tenth."""
    job = author.load(EXAMPLES / "byte_gpt.py")
    context = 64
    text = author.text_file(context=context).built.files[0]
    cut = len(text) * (TENTHS - 1) // TENTHS
    (folder / "text").write_bytes(text[:cut])
    kept = torch.frombuffer(bytearray(text[cut:]), dtype=torch.uint8).long()[: 200 * context + 1]

    def score(model: torch.nn.Module) -> float:
        with torch.no_grad():
            logits = model(kept[:-1].view(-1, context))
        return torch.nn.functional.cross_entropy(logits.reshape(-1, 256), kept[1:]).item()

    data = author.text_file(folder / "text", context=context)
    return dataclasses.replace(job, data=data, seed=seed, steps=steps), score


def digits_job(folder: Path, seed: int, steps: int) -> tuple[author.Job, Callable[[torch.nn.Module], float]]:
    """The digits CNN on nine tenths of its images, and the share of errors on the last tenth."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  # optional and heavy

    job, bundle = author.load(EXAMPLES / "digits_cnn.py"), load_digits()
    images, classes = bundle.images.astype("uint8").reshape(-1, 1, 8, 8), bundle.target.astype("int64")
    cut = len(images) * (TENTHS - 1) // TENTHS

    def score(model: torch.nn.Module) -> float:
        with torch.no_grad():
            guessed = model(torch.from_numpy(images[cut:])).argmax(1).numpy()
        return float((guessed != classes[cut:]).mean())

    data = author.arrays(x=images[:cut], y=classes[:cut])
    return dataclasses.replace(job, data=data, seed=seed, steps=steps), score


def training_tables(steps: int, seeds: int) -> dict[str, Mapping[str, list[float]]]:
    """Prints the tables; curves of the first seed by job and way."""
    curves: dict[str, Mapping[str, list[float]]] = {}
    for name, make, what in (
        ("digits CNN", digits_job, "errors on other images"),
        ("byte GPT", gpt_job, "loss on other text"),
    ):
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        scores: dict[str, list[float]] = {way: [] for way in WAYS}
        for seed in range(1, seeds + 1):
            with tempfile.TemporaryDirectory() as folder:
                job, score = make(Path(folder), seed, steps)
                contest = Contest(job, Path(folder))
                for way in WAYS:
                    found[way].append(list(contest.losses(way, steps)))
                    scores[way].append(score(contest.model(way)))
        for way in WAYS:
            marks = [steps // 10, steps // 3, steps]
            means = [
                statistics.mean(loss for run in found[way] for loss in run[m - 10 if m > 10 else 0 : m]) for m in marks
            ]
            row = ", ".join(f"{mean:.4f} to step {mark}" for mean, mark in zip(means, marks, strict=True))
            table.row(f"{name}, {way}: loss, mean of 10 steps", row)
        for way in WAYS:
            away = [one - chain for one, chain in zip(scores[way], scores[PROFILE], strict=True)]
            gaps = f"; away from {PROFILE} by " + " ".join(f"{gap:+.4f}" for gap in away) if way != PROFILE else ""
            table.row(f"{name}, {way}: {what}", " ".join(f"{one:.4f}" for one in scores[way]) + gaps)
        curves[name] = {way: runs[0] for way, runs in found.items()}
    return curves


def draw(curves: Mapping[str, Mapping[str, list[float]]], path: Path) -> None:
    """Loss by step, a panel a job, and below how far each way is from the chain."""
    from matplotlib import pyplot  # noqa: PLC0415  # heavy, and seldom wanted

    figure, panels = pyplot.subplots(2, len(curves), figsize=(6 * len(curves), 7), sharex="col", squeeze=False)
    for column, (name, ways) in enumerate(curves.items()):
        for place, (way, losses) in enumerate(ways.items()):
            panels[0][column].plot(losses, label=way, linewidth=1)
            if way != PROFILE:
                away = [abs(one - chain) + 1e-9 for one, chain in zip(losses, ways[PROFILE], strict=True)]
                panels[1][column].semilogy(away, color=f"C{place}", label=way, linewidth=1)
        panels[0][column].set(title=name, ylabel="loss")
        panels[1][column].set(xlabel="step", ylabel=f"distance from {PROFILE}")
        panels[0][column].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


# speed


def fastest(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of processor time of each work's best round, by turns."""
    best = dict.fromkeys(works, float("inf"))
    for round_ in range(rounds + 1):
        for name, work in works.items():
            start = time.thread_time()
            work()
            if round_:
                best[name] = min(best[name], time.thread_time() - start)
    return best


def product_speeds(quick: bool) -> None:
    random = numpy.random.default_rng(2)
    for isa in [name for name in build.runnable() if name != "baseline"]:
        lib = library.load(isa)
        lib.threads = 1
        shapes = [(1024, 384, 128), (384, 128, 1024), (512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048)]
        for m, n, k in shapes[: 3 if quick else None]:
            a, b = (random.standard_normal(shape).astype(numpy.float32) for shape in ((m, k), (k, n)))
            left, right, out = torch.from_numpy(a), torch.from_numpy(b), numpy.empty((m, n), numpy.float32)
            bytes_a, bytes_b = (torch.from_numpy(random.integers(-64, 64, s, numpy.int8)) for s in ((m, k), (k, n)))
            works: dict[str, Callable[[], object]] = {PROFILE: partial(products.gemm, lib, a, b, None, out)}
            for name, slices in int8.SLICES.items():
                works[name] = partial(products.gemm, int8.kernels(lib, slices), a, b, None, out)
            works["torch.mm"] = partial(torch.mm, left, right)
            works["torch.mm of bfloat16"] = partial(torch.mm, left.bfloat16(), right.bfloat16())
            works["torch._int_mm of 8 bits, one of 3 (6)"] = partial(torch._int_mm, bytes_a, bytes_b)
            taken = fastest(works, 3 if quick else 12)
            for name, seconds in taken.items():
                ratio = f", {taken[PROFILE] / seconds:.2f} of the chain's speed"
                table.row(f"{isa}: {m} x {n} x {k}, {name}", f"{2e-9 * m * n * k / seconds:.0f} GOP/s" + ratio)


def step_speeds(quick: bool) -> None:
    """Whole steps of the example jobs, on the fastest build."""
    for name, make in (("byte GPT", gpt_job), ("digits CNN", digits_job)):
        with tempfile.TemporaryDirectory() as folder:
            contest = Contest(make(Path(folder), 1, 1000)[0], Path(folder))
            ways = (PROFILE, *int8.SLICES)
            taken = fastest({way: partial(contest.step, way) for way in ways}, 10 if quick else 40)
        for way in ways:
            ratio = f", {taken[way] / taken[PROFILE]:.2f} of {PROFILE}"
            table.row(f"{name}: a step under {way}", f"{1e3 * taken[way]:.1f} ms" + ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, seeds and rounds, smaller products")
    parser.add_argument("--steps", type=int, help="of each training (200; quick: 60)")
    parser.add_argument("--seeds", type=int, help="trainings in each way (2; quick: 1)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the curves as a picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    library.current().threads = 1
    table.head()
    error_table(options.quick)
    steps, seeds = (60, 1) if options.quick else (200, 2)
    curves = training_tables(options.steps or steps, options.seeds or seeds)
    if options.plot:
        draw(curves, options.plot)
    product_speeds(options.quick)
    step_speeds(options.quick)


if __name__ == "__main__":
    main()
