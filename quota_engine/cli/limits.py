"""``limits``: what calls may use in a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quota_engine.cli.batches import DryRun, Table, read_table
from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import Account, QuotaType, opened_engine, parse_instant
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows
from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from quota_engine.limiting import LimitImport

app = command_group("Limit units, calls and open holds per second, minute, hour, day and so on.")

REFUSED = 1
LIMITS = (
    *("quota_type", "of", "per", "window", "time_zone", "amount", "cap", "used", "headroom"),
    *("resets_at", "raised_to", "raised_until"),
)
CHANGED = ("account", "quota_type", "operation_id", "version", "replayed")
CHANGES = (
    *("changed_at", "action", "of", "per", "window", "time_zone", "amount", "raised_to"),
    *("raised_until", "operator", "reason", "version"),
)
LINES = (
    *("line", "account", "quota_type", "of", "per", "window", "action", "amount", "outcome"),
    "reason",
)

Per = Annotated[
    str | None,
    typer.Option(help="second, minute, hour, day, week or month; none for --of holds."),
]
Of = Annotated[str, typer.Option(help="units, calls, or holds (open at once).")]
Window = Annotated[
    str | None,
    typer.Option(help="sliding or calendar. Default: sliding up to an hour, then calendar."),
]
Operator = Annotated[str | None, typer.Option(help="Who does this; kept with the change.")]
Why = Annotated[str | None, typer.Option("--reason", help="Why; kept with the change.")]
OperationId = Annotated[str | None, typer.Option(help="Your own id: the same id changes it once.")]


@app.command("set")
def set_(
    account: Account,
    quota_type: QuotaType,
    amount: Annotated[int, typer.Argument(help="How many are let through.")],
    *,
    per: Per = None,
    of: Of = "units",
    window: Window = None,
    time_zone: Annotated[str, typer.Option(help="Of a calendar window: Asia/Shanghai.")] = "UTC",
    operator: Operator = None,
    reason: Why = None,
    operation_id: OperationId = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Set a limit, or give it another amount: then what was counted stays.

    Example: quota-engine limits set acme text_token 100000 --per minute --operator ann
    """
    with opened_engine() as engine:
        changed = engine.limits.set(
            *(account, quota_type, amount),
            per=per,
            of=of,
            window=window,
            time_zone=time_zone,
            operator=operator,
            reason=reason,
            operation_id=operation_id,
        )
    _tell(changed, as_json=as_json)


@app.command("raise")
def raise_(
    account: Account,
    quota_type: QuotaType,
    amount: Annotated[int, typer.Argument(help="How many are let through meanwhile.")],
    *,
    until: Annotated[str, typer.Option(help="Instant, or +2h. Then it is what it was.")],
    per: Per = None,
    of: Of = "units",
    window: Window = None,
    operator: Operator = None,
    reason: Why = None,
    operation_id: OperationId = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Raise a limit for a while. It ends by itself.

    Example: quota-engine limits raise acme text_token 300000 --per minute --until +2h
    """
    instant = parse_instant(until, name="--until")
    if instant is None:
        raise InvalidArgumentError("--until must be an instant")
    with opened_engine() as engine:
        changed = engine.limits.raise_until(
            *(account, quota_type, amount, instant),
            per=per,
            of=of,
            window=window,
            operator=operator,
            reason=reason,
            operation_id=operation_id,
        )
    _tell(changed, as_json=as_json)


@app.command()
def remove(
    account: Account,
    quota_type: QuotaType,
    *,
    per: Per = None,
    of: Of = "units",
    window: Window = None,
    operator: Operator = None,
    reason: Why = None,
    operation_id: OperationId = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Remove a limit.

    Example: quota-engine limits remove acme text_token --per minute --reason "moved to a plan"
    """
    with opened_engine() as engine:
        changed = engine.limits.remove(
            *(account, quota_type),
            per=per,
            of=of,
            window=window,
            operator=operator,
            reason=reason,
            operation_id=operation_id,
        )
    _tell(changed, as_json=as_json)


@app.command("list")
def list_(
    account: Account,
    quota_type: Annotated[str | None, typer.Argument(help="Default: every quota type.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show an account's limits: what each has let through, lets through yet, and when that ends.

    Example: quota-engine limits list acme/team-7
    """
    with opened_engine() as engine:
        found = engine.limits.list(account, quota_type)
    rows = [{name: getattr(one, name) for name in LIMITS} for one in found]
    print_rows(rows, LIMITS, as_json=as_json, empty=f"{account} has no limits")


@app.command()
def history(account: Account, quota_type: QuotaType, as_json: JsonFlag = False) -> None:
    """
    Show who changed a quota's limits, when and why, oldest first.

    Example: quota-engine limits history acme text_token
    """
    with opened_engine() as engine:
        found = engine.limits.history(account, quota_type)
    print_rows(found, CHANGES, as_json=as_json, empty=f"{account} has had no {quota_type} limits")


@app.command("import")
def import_(
    file: Table,
    *,
    dry_run: DryRun = False,
    operator: Operator = None,
    reason: Why = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Set or remove the limits of a table, one a line. The same table again changes nothing.

    Columns: account, quota_type, amount; and may be per, of, window, time_zone, action: set
    (default), or remove, whose amount may be empty. Nothing is changed unless all lines can be
    meant.

    Example: quota-engine limits import keys.csv --dry-run
    """
    with opened_engine() as engine:
        told = engine.limits.import_table(
            read_table(file), dry_run=dry_run, operator=operator, reason=reason
        )
    _tell_import(told, as_json=as_json)


def _tell(changed: object, *, as_json: bool) -> None:
    print_facts(changed, as_json=as_json, fields=CHANGED)


def _tell_import(told: LimitImport, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "is_dry_run": told.is_dry_run,
                "is_done": told.is_done,
                "outcomes": told.counts,
                "lines": told.lines,
            }
        )
    else:
        print_rows(told.lines, LINES, as_json=False)
    if not told.is_dry_run and not told.is_done:
        raise typer.Exit(REFUSED)
