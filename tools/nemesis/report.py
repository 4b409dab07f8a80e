"""How a run shows itself: live progress, and the summary in the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from tools.nemesis.running import Progress, Summary, Watcher

#: Between two lines where nobody looks at a terminal.
LINE_SECONDS = 5.0
VIOLATIONS_SHOWN = 20


@contextmanager
def shown_progress(seconds: float) -> Iterator[Watcher]:
    """Yield a watcher: one live line on a terminal, else a line now and then. On stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(seconds)
        return
    with console.status("starting") as status:
        yield lambda progress: status.update(_line(progress, seconds))


class _Lines:
    """Progress for a log."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stage = ""
        self._said_at = 0.0

    def __call__(self, progress: Progress) -> None:
        is_time = time.monotonic() - self._said_at > LINE_SECONDS
        if progress.stage != self._stage or is_time:
            self._stage, self._said_at = progress.stage, time.monotonic()
            print(_line(progress, self._seconds), file=sys.stderr, flush=True)


def _line(progress: Progress, seconds: float) -> str:
    parts = [progress.stage]
    if progress.elapsed:
        parts.append(f"{progress.elapsed:.0f} of {seconds:.0f} s")
    if progress.counts:
        parts += [f"{count:,} {outcome}" for outcome, count in sorted(progress.counts.items())]
    if progress.fault is not None:
        parts.append(f"fault {progress.fault.number}: {progress.fault.kind.name}")
    return ", ".join(parts)


def as_json(summary: Summary) -> str:
    """Return the summary for programs."""
    return json.dumps(asdict(summary), indent=2, ensure_ascii=False)


def print_summary(summary: Summary) -> None:
    """Print the summary for people."""
    console = Console(highlight=False, soft_wrap=True)
    sabotage = f", sabotaged: {summary.sabotage}" if summary.sabotage else ""
    console.print(
        f"nemesis, seed {summary.seed}: {summary.seconds:g} s, {summary.clients} clients,"
        f" appendfsync {summary.appendfsync}{sabotage}"
    )
    console.print("\nschedule (seconds, fault, how long, pick):")
    for line in summary.schedule:
        console.print(f"  {line}", markup=False)
    console.print()
    console.print(_counted("fault", summary.faults), _counted("entry", summary.entries))
    for problem in (*summary.not_done, *summary.ended_by_themselves):
        console.print(f"noted: {problem}", markup=False)
    console.print(
        f"{summary.calls:,} calls in {summary.attempts:,} attempts: {summary.refused:,} refused,"
        f" {summary.cancelled:,} cancelled, {summary.unknown:,} unknown"
        f" ({summary.unknown_applied:,} of them applied)"
    )
    told = ", ".join(f"{count:,} {name}" for name, count in summary.refusals.items())
    console.print(f"refused by: {told or 'nothing'}; {summary.suspensions} suspensions")
    console.print(
        f"paid by another account: {summary.paid_by_others:,} calls; {summary.refunds:,} refunds,"
        f" {summary.refunds_to_payers:,} of them to who had paid for another;"
        f" {summary.corrections:,} corrections"
    )
    console.print(
        f"acknowledged mutations: {summary.acknowledged:,} counted by the clients,"
        f" {summary.acknowledged_in_ledger:,} of them in the ledger"
    )
    if summary.lost_within_bound:
        console.print(f"lost, as not synced at a power loss: {summary.lost_within_bound:,}")
    console.print(
        f"time without service: {summary.outages} outages of Redis, median"
        f" {summary.outage_median_seconds:.2f} s, longest {summary.outage_max_seconds:.2f} s;"
        f" epochs {list(summary.epochs)}"
    )
    console.print(
        f"judged in {summary.judged_seconds:.0f} s: {summary.violation_count} violations"
    )
    for violation in summary.violations[:VIOLATIONS_SHOWN]:
        console.print(f"  VIOLATION {violation}", markup=False)


def _counted(name: str, counts: dict[str, int]) -> Table:
    table = Table(name, "count")
    for key, count in counts.items():
        table.add_row(key, f"{count:,}")
    return table
