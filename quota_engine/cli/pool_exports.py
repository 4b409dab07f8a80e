"""``pools reconcile``: a provider's own export of calls beside the usage records."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from quota_engine.cli.opening import opened_engine, parse_instant
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows, to_plain
from quota_engine.errors import InvalidArgumentError
from quota_engine.provider_exports import Difference, ExportReport

TOTALS = (
    *("provider", "currency", "since", "until", "lines", "other_currency", "outside", "matched"),
    *("differing", "missing_at_us", "missing_at_them", "cost_ours", "cost_theirs"),
    *("cost_difference", "input_tokens_ours", "input_tokens_theirs", "output_tokens_ours"),
    "output_tokens_theirs",
)
SHOWN = (
    *("what", "differs", "id", "at", "line", "account", "model_ours", "model_theirs"),
    *("cost_ours", "cost_theirs", "tokens_ours", "tokens_theirs"),
)
DIFFERENCE = tuple(field.name for field in fields(Difference))
DIFFERENCES_FOUND = 3


def reconcile(
    provider: Annotated[str, typer.Argument(help="Whose export it is, such as openai.")],
    export: Annotated[Path, typer.Argument(help="A CSV file in UTF-8 with a heading.")],
    *,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="What the file calls time, id, cost, model, input_tokens, output_tokens or"
            ' currency, such as "cost=Total (USD)"; several times for several.'
        ),
    ] = None,
    currency: Annotated[
        str | None, typer.Option(help="Such as USD. Default: that of the provider's only pool.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="Instant. Default: the first day (UTC) in it.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="Instant. Default: the end of the last day (UTC).")
    ] = None,
    time_zone: Annotated[str, typer.Option(help="Of times that tell none.")] = "UTC",
    cost_tolerance: Annotated[str, typer.Option(help="Costs that near are equal.")] = "0.000001",
    token_tolerance: Annotated[int, typer.Option(help="Tokens that near are equal.")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="Differences to show.")] = 100,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write all differences to it; - for the screen.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Compare a provider's own export of calls with the usage records; exit with 3 if they differ.

    A call is found by the provider's request id, else by the charge's reference or operation id.

    Example: quota-engine pools reconcile openai usage.csv --column "cost=Total (USD)"
    """
    begin, end = parse_instant(since, name="--from"), parse_instant(until, name="--to")
    columns = _columns(column or [])
    with opened_engine() as engine, _written(csv_file) as write, _bar(export.name) as progress:
        report = engine.pools.reconcile(
            provider,
            export,
            currency=currency,
            columns=columns,
            time_zone=time_zone,
            cost_tolerance=cost_tolerance,
            token_tolerance=token_tolerance,
            limit=limit,
            on_difference=write,
            progress=progress,
            since=begin,
            until=end,
        )
    if as_json:
        told = {name: getattr(report, name) for name in TOTALS}
        print_json({**told, "differences": report.differences})
    elif csv_file is None or str(csv_file) != "-":
        _show(report)
    if not report.is_clean:
        raise typer.Exit(DIFFERENCES_FOUND)


def _columns(told: list[str]) -> dict[str, str]:
    columns = {}
    for one in told:
        word, equals, heading = one.partition("=")
        if not (word and equals and heading):
            raise InvalidArgumentError(f"--column must be like cost=HEADING, not {one!r:.80}")
        columns[word.strip()] = heading.strip()
    return columns


def _show(report: ExportReport) -> None:
    print_facts({name: getattr(report, name) for name in TOTALS}, as_json=False)
    if report.differences:
        typer.echo()
        print_rows([_row(one) for one in report.differences], SHOWN, as_json=False)
    more = report.differing + report.missing_at_us + report.missing_at_them
    if (rest := more - len(report.differences)) > 0:
        typer.echo(f"and {rest:,} more; --csv FILE has them all")


def _row(one: Difference) -> dict[str, Any]:
    told: dict[str, Any] = {name: getattr(one, name) for name in DIFFERENCE}
    told["differs"] = ", ".join(one.fields) or None
    for side in ("ours", "theirs"):
        tokens = (told[f"input_tokens_{side}"], told[f"output_tokens_{side}"])
        told[f"tokens_{side}"] = None if tokens == (None, None) else "{} + {}".format(*tokens)
    return told


@contextmanager
def _written(path: Path | None) -> Iterator[Callable[[Difference], object] | None]:
    """Yield what writes each difference to a file; None where no file is wanted."""
    if path is None:
        yield None
        return
    try:
        opened: Any = (
            nullcontext(sys.stdout)
            if str(path) == "-"
            else path.open("w", encoding="utf-8", newline="")
        )
    except OSError as error:
        raise InvalidArgumentError(f"{path} can not be written: {error.strerror}") from None
    with opened as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(DIFFERENCE)

        def write(one: Difference) -> None:
            told = {name: to_plain(getattr(one, name)) for name in DIFFERENCE}
            told["fields"] = " ".join(one.fields)
            rows.writerow([told[name] for name in DIFFERENCE])

        yield write


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what moves a bar by bytes read, where somebody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        *(TextColumn(what, markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn()),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
