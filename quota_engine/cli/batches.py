"""``grants batch`` and ``grants import-opening``: grants by the table."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quota_engine.cli.opening import Actor, opened_engine, parse_instant
from quota_engine.cli.output import JsonFlag, print_json, print_rows
from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from quota_engine.batches import BatchReport

RESULT = ("line", "account", "quota_type", "amount", "grant_id", "outcome", "reason")
SUMS = (
    *("quota_type", "accounts", "monthly_total", "monthly_used", "monthly_forgiven"),
    *("monthly_left", "permanent_total", "permanent_used", "permanent_forgiven"),
    *("permanent_left", "granted"),
)
REFUSED = 1
LINE_SECONDS = 5.0

Table = Annotated[Path, typer.Argument(help="A CSV table in UTF-8, with a heading.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check all of it, and change nothing.")]
Result = Annotated[
    Path | None,
    typer.Option(help="What became of each line. Default: FILE.result.csv beside the table."),
]


def batch(
    file: Table,
    *,
    batch_id: Annotated[
        str | None,
        typer.Option(help="Each line is granted once by it. Default: the file's name."),
    ] = None,
    dry_run: DryRun = False,
    result: Result = None,
    actor: Actor = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Issue a grant for each line of a table; run it again, and it does what is not done.

    Columns: account, quota_type, amount; and may be priority, starts_at, expires_at, reference,
    description. Nothing is changed unless all lines can be meant.

    Example: quota-engine grants batch may.csv --batch-id may-2026 --dry-run
    """
    table, id_ = read_table(file), batch_id or file.stem
    with opened_engine() as engine, shown_count(as_json=as_json) as watch:
        report = engine.batch_grants(table, id_, dry_run=dry_run, actor=actor, progress=watch)
    _tell(report, _written(report, file, result), as_json=as_json)


def import_opening(
    file: Table,
    *,
    period_end: Annotated[
        str,
        typer.Option(help="When what is left of the month ends, such as 2026-06-01T00:00+08:00."),
    ],
    import_id: Annotated[
        str | None, typer.Option(help="Each line is taken once by it. Default: the file's name.")
    ] = None,
    overused: Annotated[
        str, typer.Option(help="Who used more than the total: refuse, or forgive.")
    ] = "refuse",
    dry_run: DryRun = False,
    result: Result = None,
    actor: Actor = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Take over what accounts have left, from a module that keeps totals and used.

    Columns: account, quota_type, monthly_total, monthly_used, permanent_total, permanent_used.

    Example: quota-engine grants import-opening users.csv --period-end 2026-06-01T00:00+08:00
    """
    from quota_engine.opening_balances import plain_sums

    table, id_ = read_table(file), import_id or file.stem
    ends = None if period_end.startswith("+") else parse_instant(period_end, name="--period-end")
    if ends is None:
        raise InvalidArgumentError(
            "--period-end must be an instant: a second run must say the same"
        )
    with opened_engine() as engine, shown_count(as_json=as_json) as watch:
        report, opening = engine.import_opening(
            *(table, id_, ends),
            overused=overused,
            dry_run=dry_run,
            actor=actor,
            progress=watch,
        )
    sums = plain_sums(opening.sums)
    if not as_json:
        print_rows(sums, SUMS, as_json=False)
    _tell(report, _written(report, file, result), as_json=as_json, sums=sums)


def read_table(file: Path) -> bytes:
    """Return a table's bytes; one that cannot be read is told in a sentence."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{file} cannot be read: {error.strerror}") from None


def _written(report: BatchReport, file: Path, result: Path | None) -> Path | None:
    """Write what became of each line; a dry run writes only where it is told to."""
    if report.is_dry_run and result is None:
        return None
    path = result or file.with_name(f"{file.stem}.result.csv")
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(RESULT)
            rows.writerows([getattr(one, name) for name in RESULT] for one in report.grants)
        os.replace(part, path)
    except OSError as error:
        typer.echo(f"the result could not be written to {path}: {error.strerror}", err=True)
        return None
    return path


def _tell(
    report: BatchReport,
    path: Path | None,
    *,
    as_json: bool,
    sums: list[dict[str, object]] | None = None,
) -> None:
    told = {
        "batch_id": report.batch_id,
        "lines": report.lines,
        "is_dry_run": report.is_dry_run,
        "is_done": report.is_done,
        "outcomes": report.counts,
        "units": report.units,
        "result": path,
    }
    if as_json:
        print_json(told if sums is None else {**told, "sums": sums})
    else:
        counts = ", ".join(f"{count} {name}" for name, count in report.counts.items())
        units = ", ".join(f"{units} {name}" for name, units in report.units.items())
        typer.echo(f"{report.batch_id}: {report.lines} lines; {counts or 'no grants'}; {units}")
        if path is not None:
            typer.echo(f"what became of each line is in {path}")
        for one in [one for one in report.grants if one.reason][:10]:
            typer.echo(f"line {one.line}: {one.outcome}: {one.reason}", err=True)
    if not report.is_dry_run and not report.is_done:
        raise typer.Exit(REFUSED)


@contextmanager
def shown_count(*, as_json: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield what shows how many are done: a bar on a terminal, else a line now and then."""
    if as_json:  # a program reads along
        yield lambda done, total: None
        return
    if not sys.stderr.isatty():
        said_at = time.monotonic()

        def say(done: int, total: int) -> None:
            nonlocal said_at
            if time.monotonic() - said_at > LINE_SECONDS:
                said_at = time.monotonic()
                typer.echo(f"{done:,} of {total:,} grants", err=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("grants", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
