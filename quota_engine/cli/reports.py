"""``reports``: what calls used and cost, by whom, when and with what; how long quota lasts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import Account, QuotaType, opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows
from quota_engine.cli.plots import app as plots
from quota_engine.cli.report_rows import (
    Viewer,
    flat,
    parse_day,
    refusal_columns,
    shown,
    statistics_columns,
    write_csv,
)

app = command_group("See what calls used and cost, and how long quota lasts.")
app.add_typer(plots, name="plot")

By = Annotated[
    str,
    typer.Option(
        "--by",
        help="day, month, account, team, provider, model, usage_type, quota_type, status,"
        " currency; several with commas.",
    ),
]
Since = Annotated[str | None, typer.Option("--from", help="First day (UTC), such as 2026-10-01.")]
Until = Annotated[str | None, typer.Option("--to", help="The day after the last one.")]
Csv = Annotated[
    Path | None, typer.Option("--csv", help="Write every column to this file; - for the screen.")
]
Team = Annotated[
    str | None, typer.Option("--team", help="Only accounts below this path, such as acme.")
]
Depth = Annotated[int | None, typer.Option(help="Parts of a path that name a team; all but one.")]
OfAccount = Annotated[str | None, typer.Option("--account", help="Only this account.")]
OfModel = Annotated[str | None, typer.Option("--model", help="Only this model.")]
OfProvider = Annotated[str | None, typer.Option("--provider", help="Only this provider.")]
OfType = Annotated[str | None, typer.Option("--type", help="Only this quota type.")]
WRONG = 3


@app.command()
def usage(
    by: By = "month,model",
    *,
    since: Since = None,
    until: Until = None,
    account: OfAccount = None,
    team: Team = None,
    team_depth: Depth = None,
    provider: OfProvider = None,
    model: OfModel = None,
    quota_type: OfType = None,
    viewer: Viewer = None,
    csv: Csv = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Sum calls, what they used and cost, by anything they are recorded with.

    Each currency and quota type has columns of its own: they are never added.

    Example: quota-engine reports usage --by team,day --from 2026-10-01 --to 2026-11-01 --csv a.csv
    """
    asked = {"account": account, "team": team, "team_depth": team_depth, "provider": provider}
    asked |= {"model": model, "quota_type": quota_type, "viewer": viewer}
    _show(by, (since, until), csv, as_json=as_json, asked=asked)


@app.command()
def top(
    unit: Annotated[
        str, typer.Option("--in", help="A currency, or with --by-units a quota type.")
    ] = "USD",
    *,
    by: By = "account",
    by_units: Annotated[
        bool, typer.Option("--by-units", help="By units consumed instead of cost.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="So many.")] = 10,
    since: Since = None,
    until: Until = None,
    team: Team = None,
    viewer: Viewer = None,
    csv: Csv = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show who spends most, in one currency or quota type. The total is of all.

    Example: quota-engine reports top --in CNY --limit 20 --from 2026-10-01
    """
    order = "consumed" if by_units else "cost"
    asked = {"order_by": order, "unit": unit, "limit": limit, "team": team, "viewer": viewer}
    _show(by, (since, until), csv, as_json=as_json, asked=asked)


@app.command()
def errors(
    by: By = "model",
    *,
    since: Since = None,
    until: Until = None,
    viewer: Viewer = None,
    csv: Csv = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show how many calls failed, timed out or were cancelled, and how long calls took.

    A refused call is never made and leaves no record: `reports refusals` tells those.

    Example: quota-engine reports errors --by provider,model --from 2026-10-01
    """
    columns = (
        *("calls", "succeeded", "failed", "timed_out", "cancelled", "error_rate"),
        *("p50_ms", "p95_ms", "p99_ms"),
    )
    asked = {"viewer": viewer}
    _show(by, (since, until), csv, as_json=as_json, asked=asked, columns=columns)


@app.command()
def refusals(
    by: By = "model",
    *,
    since: Since = None,
    until: Until = None,
    account: OfAccount = None,
    team: Team = None,
    quota_type: OfType = None,
    viewer: Viewer = None,
    csv: Csv = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show how many calls were refused before they were made, and why, beside those that failed.

    By day, month, account, team, provider, model and quota_type.

    Example: quota-engine reports refusals --by account,day --from 2026-10-01
    """
    first, last = _period(since, until)
    asked = {"account": account, "team": team, "quota_type": quota_type, "viewer": viewer}
    with opened_engine() as engine:
        report = engine.reports.refusals(_names(by), since=first, until=last, **asked)
    rows = [refusal_columns(report, row) for row in report.rows]
    if csv is not None:
        write_csv(csv, rows, refusal_columns(report, report.total))
        return
    if as_json:
        print_json(report)
        return
    if report.by and rows:
        rows.append({**refusal_columns(report, report.total), report.by[0]: "all"})
    columns = list(refusal_columns(report, report.total))
    print_rows(rows, columns, as_json=False, empty="no calls, and none refused")


@app.command()
def accuracy(
    by: By = "model",
    *,
    since: Since = None,
    until: Until = None,
    viewer: Viewer = None,
    csv: Csv = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Compare what was held before calls with what was captured after them, by quota type.

    Held / captured. Above 1: more is held than used. Below: estimates are too small, and debt may
    follow.

    Example: quota-engine reports accuracy --by model --from 2026-10-01
    """
    _show(
        *(by, (since, until), csv),
        as_json=as_json,
        asked={"viewer": viewer},
        columns=("held_calls",),
        units=("held", "captured", "accuracy"),
    )


@app.command()
def trend(
    since: Annotated[str, typer.Option("--from", help="First day (UTC).")],
    until: Annotated[str, typer.Option("--to", help="The day after the last one.")],
    *,
    by: By = "model",
    team: Team = None,
    viewer: Viewer = None,
    csv: Csv = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Compare a period with the one of the same length before it. 0.25 is a quarter more.

    Example: quota-engine reports trend --from 2026-10-08 --to 2026-10-15 --by team
    """
    first, last = _period(since, until)
    assert first is not None
    assert last is not None
    names = _names(by)
    with opened_engine() as engine:
        found = engine.reports.trend(names, since=first, until=last, team=team, viewer=viewer)
    if as_json and csv is None:
        print_json(found)
        return
    units = sorted({unit for one in found for unit in (*one.now.costs, *one.before.costs)})
    rows = []
    for one in found:
        row = {**{name: one.names.get(name) for name in names}, "calls": one.now.calls}
        row |= {"calls_before": one.before.calls, "calls_change": one.calls_change}
        for unit in units:
            row[f"cost_{unit}"] = one.now.costs.get(unit)
            row[f"cost_{unit}_before"] = one.before.costs.get(unit)
            row[f"cost_{unit}_change"] = one.costs_change.get(unit)
        rows.append(row)
    if csv is not None:
        write_csv(csv, rows[:-1] if names else rows, rows[0])
        return
    if names:
        rows[-1][names[0]] = "all"
    print_rows(rows, list(rows[0]), as_json=False)


@app.command()
def forecast(
    account: Account,
    quota_type: QuotaType,
    *,
    days: Annotated[int, typer.Option(min=1, help="Of how many days the pace is taken.")] = 7,
    viewer: Viewer = None,
    csv: Csv = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Tell when a quota runs dry at the present pace; grants that end before are taken off.

    Example: quota-engine reports forecast user:42 text_token
    """
    with opened_engine() as engine:
        found = engine.reports.forecast(account, quota_type, days=days, viewer=viewer)
    if csv is not None:
        write_csv(csv, [asdict(found)])
    else:
        print_facts(found, as_json=as_json)


@app.command()
def account(
    account: Account,
    *,
    since: Since = None,
    until: Until = None,
    viewer: Viewer = None,
    csv: Csv = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show what an account was granted, used and has, and what this month's calls did.

    Example: quota-engine reports account user:42 --from 2026-10-01 --to 2026-11-01
    """
    first, last = _period(since, until)
    with opened_engine() as engine:
        found = engine.reports.account(account, since=first, until=last, viewer=viewer)
    if csv is not None:
        write_csv(csv, statistics_columns(found))
        return
    columns = (
        *("quota_type", "granted", "used", "refunded", "used_part", "held", "available"),
        *("period_since", "period_calls", "period_used", "period_refunded", "period_shortfall"),
        *("period_costs", "error_rate", "p95_ms"),
    )
    print_rows(found, columns, as_json=as_json, empty=f"{account} has nothing")


@app.command()
def rebuild(since: Since = None, until: Until = None, as_json: JsonFlag = False) -> None:
    """
    Sum whole days again from the usage records. They come out the same, unless edited.

    Example: quota-engine reports rebuild --from 2026-10-01 --to 2026-11-01
    """
    days = _period(since, until)
    with opened_engine() as engine, _bar("days") as progress:
        lines = engine.reports.rebuild(*days, progress=progress)
    print_facts({"lines": lines}, as_json=as_json)


@app.command()
def check(
    since: Since = None,
    until: Until = None,
    viewer: Viewer = None,
    csv: Csv = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Compare the daily sums with the usage records; exit with 3 where they differ.

    Example: quota-engine reports check --from 2026-10-01
    """
    days = _period(since, until)
    with opened_engine() as engine:
        found = engine.reports.check(*days, viewer=viewer)
    rows = [{"day": day, "account": account} for day, accounts in found for account in accounts]
    if csv is not None:
        write_csv(csv, rows, ("day", "account"))
    else:
        print_rows(rows, ("day", "account"), as_json=as_json, empty="every sum is right")
    if rows:
        typer.echo("`quota-engine reports rebuild` sums these days again", err=True)
        raise typer.Exit(WRONG)


def _period(since: str | None, until: str | None) -> tuple[date | None, date | None]:
    return parse_day(since, name="--from"), parse_day(until, name="--to")


def _names(by: str) -> list[str]:
    return [name.strip() for name in by.split(",") if name.strip()]


def _show(
    by: str,
    between: tuple[str | None, str | None],
    csv: Path | None,
    *,
    as_json: bool,
    asked: Mapping[str, Any] | None = None,
    columns: tuple[str, ...] | None = None,
    units: tuple[str, ...] | None = None,
) -> None:
    since, until = _period(*between)
    with opened_engine() as engine:
        report = engine.reports.usage(_names(by), since=since, until=until, **(asked or {}))
    if csv is not None:
        rows = [flat(report, row) for row in report.rows]  # no total: rows add up
        write_csv(csv, rows, flat(report, report.total))
        return
    if as_json:
        print_json(report)
        return
    rows = [flat(report, row) for row in report.rows]
    if not rows:
        typer.echo("no calls")
        return
    total = flat(report, report.total)
    if report.by:
        rows.append({**total, report.by[0]: "all"})
    print_rows(rows, shown(report, total, columns, units), as_json=False)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what moves a bar, where somebody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    with Progress(
        *(TextColumn(what), BarColumn(), MofNCompleteColumn(), Remaining()),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
