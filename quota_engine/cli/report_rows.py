"""How a report's rows become columns: one for each currency and quota type, and files of them."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from quota_engine.cli.output import to_plain
from quota_engine.errors import InvalidArgumentError
from quota_engine.refusals import RefusalReport, RefusalRow
from quota_engine.reporting import COUNTED, UNITS, USED, ReportRow, UsageReport
from quota_engine.trends import AccountStatistics

Viewer = Annotated[
    str | None,
    typer.Option("--as", help="See what this account sees: itself and the accounts below it."),
]

#: What a table shows first; a file has every column.
FIRST = ("calls", "error_rate", "input_tokens", "output_tokens")
#: A report's totals by unit, and what their columns are called.
CALLED = {"costs": "cost", **{name: name for name in (*UNITS, "accuracy")}}


def flat(report: UsageReport, row: ReportRow) -> dict[str, Any]:
    """Return a row as plain columns: its names, its figures, and one for each unit."""
    told: dict[str, Any] = {name: getattr(row, name) for name in report.by}
    for name in ("calls", "succeeded", "failed", "timed_out", "cancelled", "error_rate"):
        told[name] = getattr(row, name)
    told |= {name: getattr(row, name) for name in (*COUNTED[1:], *USED)}
    for name, called in CALLED.items():
        values = getattr(row, name)
        for unit in getattr(report.total, name):
            told[f"{called}_{unit or 'unknown'}"] = values.get(unit)
    return told | {name: getattr(row, name) for name in ("p50_ms", "p95_ms", "p99_ms")}


def statistics_columns(found: Sequence[AccountStatistics]) -> list[dict[str, Any]]:
    """Return what is known of an account as plain columns, one for each currency."""
    currencies = sorted({currency for one in found for currency in one.period_costs})
    rows = []
    for one in found:
        told = {field.name: getattr(one, field.name) for field in fields(one)}
        costs = told.pop("period_costs")
        rows.append(
            told | {f"period_cost_{name or 'unknown'}": costs.get(name) for name in currencies}
        )
    return rows


def refusal_columns(report: RefusalReport, row: RefusalRow) -> dict[str, Any]:
    """Return a row of a report of refusals as plain columns, one for each reason there is."""
    told: dict[str, Any] = {name: getattr(row, name) for name in report.by}
    for name in ("calls", "refused", "would_be_refused", "refusal_rate", "failed", "error_rate"):
        told[name] = getattr(row, name)
    return told | {reason: row.reasons.get(reason, 0) for reason in report.total.reasons}


def shown(
    report: UsageReport,
    total: Mapping[str, Any],
    columns: Iterable[str] | None,
    units: Iterable[str] | None,
) -> list[str]:
    """Return the columns of a table: those asked for, else what says most, and by unit."""
    plain = [*FIRST] if columns is None else [*columns]
    if units is None:
        units = ("costs", "consumed") if columns is None else ()
    by_unit = [
        f"{CALLED[name]}_{unit or 'unknown'}"
        for name in units
        for unit in getattr(report.total, name)
    ]
    if columns is None:
        plain += [name for name in ("images", "audio_seconds", "video_seconds") if total[name]]
        by_unit.append("p95_ms")
    return [*report.by, *plain, *by_unit]


def write_csv(
    path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] | None = None
) -> None:
    """Write rows and their columns (None: those of the first); ``-`` is standard output."""
    rows = list(rows)
    columns = list(rows[0] if rows else ()) if columns is None else list(columns)
    try:
        opened: Any = (
            nullcontext(sys.stdout)
            if str(path) == "-"
            else path.open("w", encoding="utf-8", newline="")
        )
        with opened as file:
            _write(file, columns, rows)
    except OSError as error:
        raise InvalidArgumentError(f"{path} can not be written: {error.strerror}") from None


def _write(file: IO[str], columns: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: to_plain(value) for name, value in row.items()} for row in rows)


def parse_day(text: str | None, *, name: str) -> date | None:
    """Return a day such as 2026-10-01."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise InvalidArgumentError(
            f"{name} {text!r} is no day: write 2026-10-01; reports know whole days in UTC"
        ) from None
