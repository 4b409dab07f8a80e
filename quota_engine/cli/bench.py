"""``bench``: what a call costs on this machine, beside row locks and a bare script."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.output import JsonFlag, print_json, print_rows

if TYPE_CHECKING:
    from quota_engine.benchmark import Figure, Plan, Report

app = command_group("Measure what a call costs on this machine.")
COLUMNS = ("measured", "median", "low", "high", "unit", "ratio")


@app.command()
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Half a minute instead of some five: rough figures.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    Measure server time, call rates, persisting and memory, on private servers.

    Your own servers and data are not touched. Ratios compare what was measured in the same
    moments, so they hold on a busy machine too.

    Example: quota-engine bench --quick
    """
    from quota_engine.benchmark import FULL, QUICK

    logging.getLogger("quota_engine").setLevel(logging.ERROR)  # a gate is opened for each section
    report = _measured(QUICK if quick else FULL)
    if as_json:
        print_json(report)
    else:
        print_report(report)


def print_report(report: Report) -> None:
    """Print a table for each section, and where it was measured."""
    for section in report.sections:
        typer.echo(f"{section.title} ({section.note})")
        print_rows([_row(figure) for figure in section.figures], COLUMNS, as_json=False)
        typer.echo()
    machine = report.machine
    typer.echo(
        f"{machine.cpus} processors, load {machine.load:g} before it began; {machine.redis},"
        f" {machine.postgresql}, Python {machine.python}; {report.seconds:.0f} s"
    )


def _row(figure: Figure) -> dict[str, str]:
    return {
        "measured": figure.name,
        "median": _number(figure.median),
        "low": "" if figure.rounds == 1 else _number(figure.low),
        "high": "" if figure.rounds == 1 else _number(figure.high),
        "unit": figure.unit,
        "ratio": "" if figure.ratio is None else f"× {figure.ratio:.2f}",
    }


def _number(value: float) -> str:
    """Return three digits, whole numbers from a hundred on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _measured(plan: Plan) -> Report:
    from quota_engine.benchmark import run_benchmark

    if not sys.stderr.isatty():
        return run_benchmark(plan)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting servers", total=1.0)
        return run_benchmark(
            plan, lambda name, share: bar.update(task, description=name, completed=share)
        )
