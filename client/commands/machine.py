"""`tolsey doctor` and `tolsey bench`: what this machine can compute, whether it is right, how fast it is."""

from __future__ import annotations

from pathlib import Path

import typer

from tolsey.client import doctor as ward
from tolsey.client import render, views
from tolsey.client.commands import shared
from tolsey.client.config import market_folder
from tolsey.client.views import KernelSpeedView
from tolsey.errors import ConfigError
from tolsey.numerics import bench as contests
from tolsey.numerics import build, library

app = typer.Typer()
bench = typer.Typer(help="Measure this machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")

HOME = typer.Option(None, "--home", help="Where files would be kept; its disk is looked at.")
ISA = typer.Option(None, "--isa", help="A build to measure, again for more; else all but the baseline.")
THREADS = typer.Option(None, "--threads", help="On so many, again for more; else on 1 and on all cores.")


@app.command("doctor")
def doctor(
    quick: bool = typer.Option(False, "--quick", help="Test only; measure no speed."),
    home: Path | None = HOME,
    json_output: bool = shared.JSON,
) -> None:
    """Test this machine: profiles it can run, bits of its kernels, speed."""
    found = ward.examine(home or market_folder(), speed=not quick)
    shared.show(found, json_output, render.doctor(found))
    ward.verdict(found)


@bench.command("kernels")
def kernels(
    quick: bool = typer.Option(False, "--quick", help="Smaller sizes, fewer rounds."),
    isa: list[str] | None = ISA,
    threads: list[int] | None = THREADS,
    json_output: bool = shared.JSON,
) -> None:
    """Time the exact kernels against PyTorch's: GFLOP/s of products, GB/s of the rest."""
    libs = [library.load(name) for name in isa or _fast_builds()]
    counts = threads or sorted({1, libs[0].threads})
    try:
        from tolsey.runtime.rivals import Torch  # noqa: PLC0415  # loads torch, where it is installed

        rivals = Torch()
    except ImportError:
        rivals = None
    found: list[KernelSpeedView] = []
    if not json_output:
        render.err.print(rivals.name if rivals else "torch is not installed: no ratios")
        render.out.print(render.kernel_speed_head())
    for count in counts:
        for contest, rounds in contests.contests(quick=quick):
            rows = [
                KernelSpeedView(
                    what=one.what, who=one.who, threads=one.threads, rate=one.rate, unit=one.unit, ratio=one.ratio
                )
                for one in contests.measure(contest, libs, count, rounds, rivals)
            ]
            if json_output:
                found += rows
            else:
                render.out.print(render.kernel_speed(rows))
    if json_output:
        print(views.dumps(found))


def _fast_builds() -> list[str]:
    """Every build that this CPU can run, but the baseline where there is another.

    Raises:
        ConfigError: none.
    """
    can = list(build.runnable())
    if not can:
        raise ConfigError("there are no exact kernels for this kind of machine", fix="tolsey doctor")
    return [name for name in can if name != "baseline"] or can
