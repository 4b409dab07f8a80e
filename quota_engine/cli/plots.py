"""``reports plot``: pictures of usage, cost and balances, as PNG, SVG or PDF."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import Account, QuotaType, opened_engine
from quota_engine.cli.output import JsonFlag, print_json
from quota_engine.cli.report_rows import Viewer, parse_day
from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from quota_engine.engine import QuotaEngine

app = command_group(
    "Draw usage, cost and balances: legible in black and white, too.\n\n"
    "Example: quota-engine reports plot usage --out usage.png"
)

Out = Annotated[Path, typer.Option(help="The file: .png, .svg or .pdf.")]
Since = Annotated[str | None, typer.Option("--from", help="First day (UTC), such as 2026-10-01.")]
Until = Annotated[str | None, typer.Option("--to", help="The day after the last one.")]
Team = Annotated[
    str | None, typer.Option("--team", help="Only accounts below this path, such as acme.")
]
OfAccount = Annotated[str | None, typer.Option("--account", help="Only this account.")]


@app.command()
def usage(
    out: Out,
    *,
    by: Annotated[
        str, typer.Option(help="What makes a layer: model, provider, team, …")
    ] = "model",
    measure: Annotated[
        str,
        typer.Option(
            help="tokens, calls, images, characters, audio_seconds, video_seconds, requests;"
            " or consumed, with --type."
        ),
    ] = "tokens",
    quota_type: Annotated[str | None, typer.Option("--type", help="Only this quota type.")] = None,
    layers: Annotated[
        int, typer.Option(min=1, max=30, help="Layers; what is beyond them is one more.")
    ] = 7,
    since: Since = None,
    until: Until = None,
    account: OfAccount = None,
    team: Team = None,
    viewer: Viewer = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Draw usage over time, stacked by model: a bar is a day, in long ranges a week or month.

    Example: quota-engine reports plot usage --out usage.png --from 2026-10-01 --to 2026-11-01
    """
    asked: dict[str, Any] = {
        "by": by,
        "measure": measure,
        "layers": layers,
        "quota_type": quota_type,
    }
    asked |= {"account": account, "team": team}
    asked |= _asked(since, until, viewer)
    _write(out, "draw_usage", lambda engine: engine.reports.usage_series(**asked), as_json)


@app.command()
def cost(
    out: Out,
    *,
    currency: Annotated[str | None, typer.Option(help="Only this currency.")] = None,
    since: Since = None,
    until: Until = None,
    account: OfAccount = None,
    team: Team = None,
    viewer: Viewer = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Draw cost per day, a panel for each currency: they are never added.

    Example: quota-engine reports plot cost --out cost.png --team acme
    """
    asked: dict[str, Any] = {"currency": currency, "account": account, "team": team}
    asked |= _asked(since, until, viewer)
    _write(out, "draw_costs", lambda engine: engine.reports.cost_series(**asked), as_json)


@app.command()
def balance(
    account: Account,
    quota_type: QuotaType,
    out: Out,
    *,
    since: Since = None,
    until: Until = None,
    viewer: Viewer = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Draw the balance of one quota over time: when grants began and expired, and will expire.

    Example: quota-engine reports plot balance user:42 text_token --out balance.png
    """
    asked = _asked(since, until, viewer)
    _write(
        out,
        "draw_balance",
        lambda engine: engine.reports.balance_series(account, quota_type, **asked),
        as_json,
    )


def _asked(since: str | None, until: str | None, viewer: str | None) -> dict[str, Any]:
    return {
        "since": parse_day(since, name="--from"),
        "until": parse_day(until, name="--to"),
        "viewer": viewer,
    }


def _write(out: Path, draw: str, ask: Callable[[QuotaEngine], Any], as_json: bool) -> None:
    """Ask for a series, draw it and write it; with JSON, tell the numbers that were drawn."""
    try:
        from quota_engine.pictures.balance import draw_balance
        from quota_engine.pictures.drawing import draw_costs, draw_usage
        from quota_engine.pictures.looks import checked_picture_path, write_picture
    except ImportError as error:
        raise InvalidArgumentError(str(error)) from error
    drawing: dict[str, Callable[[Any], Figure]] = {
        "draw_usage": draw_usage,
        "draw_costs": draw_costs,
        "draw_balance": draw_balance,
    }
    checked_picture_path(out)
    with opened_engine() as engine:
        series = ask(engine)
    write_picture(drawing[draw](series), out)
    if as_json:
        print_json({"out": out, "series": series})
    else:
        typer.echo(f"{out} is drawn")
