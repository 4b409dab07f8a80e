"""``reconcile``: prove that Redis and the ledger tell the same, and mend what does not."""

from __future__ import annotations

from typing import Annotated

import typer

from quota_engine.cli.opening import opened_engine
from quota_engine.cli.output import JsonFlag, print_json, print_rows

app = typer.Typer(add_completion=False, rich_markup_mode=None)

COLUMNS = ("account", "quota_type", "cause", "field", "redis", "ledger")


@app.command()
def reconcile(
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend what is explained, freeze what is not."),
    ] = False,
    actor: Annotated[
        str, typer.Option(help="Who mends; kept with each entry quota.repaired.")
    ] = "reconcile",
    as_json: JsonFlag = False,
) -> None:
    """
    Compare every quota in Redis with the ledger and what is pending, while others go on.

    Exits with 3 when drift was found, mended or not.

    Example: quota-engine reconcile --repair
    """
    with opened_engine() as engine:
        report = engine.reconcile(repair=repair, actor=actor)
    drifts = [
        {
            **{name: getattr(drift, name) for name in COLUMNS},
            "differences": drift.differences,
            "is_drained": drift.is_drained,
        }
        for drift in report.drifts
    ]
    counts = {"checked": report.checked, "repaired": report.repaired, "frozen": report.frozen}
    counts["not_compared"] = report.not_compared
    if as_json:
        print_json({**counts, "drifts": drifts})
    else:
        if drifts:
            print_rows(drifts, COLUMNS, as_json=False)
        done = f", {report.repaired} repaired, {report.frozen} frozen" if repair else ""
        typer.echo(f"{report.checked} quotas checked, {len(drifts)} drifts{done}")
        if report.not_compared:
            typer.echo(
                f"{report.not_compared} of them by version, chain and sums alone: their entries"
                " could not be persisted meanwhile; see `quota-engine doctor`"
            )
        if drifts and not repair:
            typer.echo("`quota-engine reconcile --repair` mends what is explained")
    if drifts:
        raise typer.Exit(3)
