"""How ``replay`` and ``demo`` show a run: its progress, and what was proved in the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from quota_engine.cli.output import print_rows

if TYPE_CHECKING:
    from quota_engine.replay.days import DaysReport
    from quota_engine.replay.running import Progress, Report, Watcher
    from quota_engine.replay.tree.running import TreeReport

REFUSALS = ("level", "why", "calls")
LEVELS = ("level", "accounts", "granted", "used", "expired", "left", "shortfall")
LIMITS = ("level", "words", "limits", "fullest")
COSTS = ("model", "calls", "input_tokens", "output_tokens", "cost", "currency")

#: Between two lines of progress where nobody looks at a terminal.
LINE_SECONDS = 2.0


@contextmanager
def shown_progress(calls: int) -> Iterator[Watcher]:
    """Yield a watcher: a bar on a terminal, else a line now and then. On stderr, both."""
    if not sys.stderr.isatty():
        yield _Lines(calls)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=calls, note="")

        def watch(progress: Progress) -> None:
            bar.update(
                task, description=progress.stage, completed=progress.made, note=_note(progress)
            )

        yield watch


class _Lines:
    """Progress for a log: every new stage, and how far the calls are every few seconds."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._stage = ""
        self._said_at = 0.0

    def __call__(self, progress: Progress) -> None:
        is_new = progress.stage != self._stage
        is_time = progress.made < self._calls and time.monotonic() - self._said_at > LINE_SECONDS
        if not is_new and not (is_time and progress.made):
            return
        self._stage, self._said_at = progress.stage, time.monotonic()
        counts = f": {progress.made:,} of {self._calls:,} calls" if progress.made else ""
        note = _note(progress)
        typer.echo(f"{progress.stage}{counts}{', ' if note else ''}{note}", err=True)


def _note(progress: Progress) -> str:
    if not progress.pending and not progress.refused:
        return ""
    return f"{progress.refused:,} refused, {progress.pending:,} entries not persisted yet"


def print_report(report: Report | DaysReport | TreeReport) -> None:
    """Print a run's report for a person."""
    from quota_engine.replay.days import DaysReport
    from quota_engine.replay.running import Report

    made = f"{report.calls:,} calls of {report.users:,} users by {report.processes} processes in"
    if isinstance(report, Report):
        pace = f"{report.calls_per_second:,.0f} calls/s, each a hold and a capture"
        typer.echo(f"{made} {report.seconds:.1f} s: {pace}")
    elif isinstance(report, DaysReport):
        typer.echo(
            f"{made} {report.days} simulated days from {report.starts_at:%Y-%m-%d %H:%M} UTC on"
            f" ({report.seconds:.1f} s): {report.renewals:,} renewals, {report.rolled_over:,}"
            " tokens rolled over"
        )
    else:
        over = "" if report.days is None else f" over {report.days} days"
        typer.echo(
            f"{made} simulated time{over} from {report.starts_at:%Y-%m-%d %H:%M} UTC on"
            f" ({report.seconds:.1f} s)"
        )
    _print_outcome(report)
    if isinstance(report, Report):
        _print_pace(report)
    elif not isinstance(report, DaysReport):
        _print_tree(report)
    for proof in report.proofs:
        typer.echo(f"{'  ok  ' if proof.holds else 'FAILED'}  {proof.sentence}")
        for exception in proof.exceptions:
            typer.echo(f"          {exception}")


def _print_outcome(report: Report | DaysReport | TreeReport) -> None:
    refused = ", ".join(f"{count:,} {why}" for why, count in sorted(report.refused.items()))
    tokens = report.tokens
    typer.echo(
        f"  admitted {report.admitted:,}, refused {report.calls - report.admitted:,}"
        + (f" ({refused}) of {report.users_refused:,} users" if refused else "")
    )
    typer.echo(
        f"  tokens: {tokens.granted:,} granted = {tokens.used:,} used + {tokens.expired:,} expired"
        f" + {tokens.left:,} left"
        + (f"; {tokens.shortfall:,} used and not collectable" if tokens.shortfall else "")
    )
    typer.echo("")
    print_rows(report.costs, COSTS, as_json=False)
    typer.echo("")


def _print_tree(report: TreeReport) -> None:
    """Print who refused what, what became of each level, and how full the limits were."""
    print_rows(report.refusals, REFUSALS, as_json=False)
    typer.echo("")
    print_rows(report.levels, LEVELS, as_json=False)
    typer.echo("")
    rows = [
        {
            "level": row.level,
            "words": row.words,
            "limits": row.limits,
            "fullest": f"{row.share:.2%}",
        }
        for row in report.limits
    ]
    print_rows(rows, LIMITS, as_json=False)
    typer.echo("")


def _print_pace(report: Report) -> None:
    """Print how quick it was, and what stood in its way."""
    _print_latencies(report)
    lag = report.lag
    typer.echo(
        f"\nledger lag: {lag.entries:,} entries, p50 {lag.p50_seconds:.2f} s, p99"
        f" {lag.p99_seconds:.2f} s, longest {lag.max_seconds:.2f} s; at most"
        f" {report.pending_max:,} waiting\n"
    )
    if (restarts := report.restarts) is not None:
        typer.echo(
            f"Redis was killed {restarts.count} times; without service: median"
            f" {restarts.median_seconds:.2f} s, longest {restarts.max_seconds:.2f} s, in all"
            f" {sum(restarts.seconds):.1f} s\n"
        )


def _print_latencies(report: Report) -> None:
    ping = next(row for row in report.latencies if row.operation == "ping")
    print_rows(
        [
            {
                "operation": "bare PING" if row is ping else row.operation,
                "count": row.count,
                "p50": _milliseconds(row.p50_us),
                "p99": _milliseconds(row.p99_us),
                "p50_above_PING": "" if row is ping else _milliseconds(row.p50_us - ping.p50_us),
            }
            for row in report.latencies
        ],
        ("operation", "count", "p50", "p99", "p50_above_PING"),
        as_json=False,
    )


def _milliseconds(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f} ms"
