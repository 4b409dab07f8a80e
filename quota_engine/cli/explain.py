"""``accounts explain``: why a call would be admitted or refused, and what made the balance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quota_engine.cli.opening import Account, QuotaType, opened_engine
from quota_engine.cli.output import JsonFlag, print_json, print_rows
from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from quota_engine.explaining import Explanation

STATEMENT = (
    *("quota_type", "opening", "granted", "refunded", "used", "expired", "voided"),
    *("transferred_in", "transferred_out", "closing", "closing_held", "closing_debt"),
    *("shortfall", "pending"),
)
SCOPES = (
    *("account", "quota_type", "required", "available", "balance", "held", "debt"),
    *("overdraft_limit", "headroom", "grants", "frozen"),
)
LIMITS = ("account", "quota_type", "of", "per", "window", "cap", "used", "headroom", "resets_at")
GRANTS = ("account", "quota_type", "grant_id", "remaining", "reserved", "priority", "expires_at")
RELIEF = ("account", "quota_type", "at", "amount", "cause", "subject")
ENTRIES = ("version", "occurred_at", "kind", "amount", "delta", "balance_after", "operation_id")


def explain(
    account: Account,
    quota_type: QuotaType,
    amount: Annotated[int, typer.Argument(min=1, help="Units that a call would hold.")] = 1,
    *,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A further quota type of the call: TYPE=UNITS. May be repeated."),
    ] = None,
    scopes: Annotated[
        str | None,
        typer.Option(help="Accounts with commas, instead of those above; none: its own only."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Say why a call would be admitted or refused now, by which quota, and what would help.

    A call on acme/team-7/user-42 is admitted by that account's quota and by those of acme/team-7
    and acme, where they have one. Exits with 1 when the call would be refused.

    Example: quota-engine accounts explain acme/team-7/user-42 text_token 3000 --also image=2
    """
    asked = {quota_type: amount, **dict(_part(text) for text in also or ())}
    named = None if scopes is None else [one.strip() for one in scopes.split(",") if one.strip()]
    named = [] if named == ["none"] else named
    with opened_engine() as engine:
        told = engine.explain(account, asked, scopes=named)
    if as_json:
        print_json(told)
    else:
        _show(told, " and ".join(f"{units:,} {name}" for name, units in asked.items()))
    if not told.admitted:
        raise typer.Exit(1)


def _part(text: str) -> tuple[str, int]:
    name, _, units = text.partition("=")
    if not name or not units.isdecimal():
        raise InvalidArgumentError(f"--also {text!r}: write TYPE=UNITS, such as image=2")
    return name, int(units)


def _show(told: Explanation, asked: str) -> None:
    verdict = "would be admitted" if told.admitted else f"would be refused: {told.reason}"
    typer.echo(f"a call of {asked} on {told.account} {verdict}")
    print_rows(told.scopes, SCOPES, as_json=False)
    _table("limits", (limit for scope in told.scopes for limit in scope.limits), LIMITS)
    _table("grants that pay", _each(told, "live_grants", GRANTS), GRANTS)
    _table("comes back by itself", _each(told, "relief", RELIEF), RELIEF)
    for one in told.shadowed:
        name = f"{one.account} {one.quota_type}"
        typer.echo(f"in the shadow: {name} would refuse it: {one.reason}")
    if told.paid_by is not None:
        typer.echo(f"its own quota is short: {told.paid_by} would pay")
    for payer in told.cannot_pay:
        typer.echo(f"cannot pay in its place: {payer.account} could pay {payer.available:,}")
    if told.fix:
        typer.echo(f"to do: {told.fix}")
    if told.statement is not None:
        typer.echo(f"what made the balance of {told.account}:")
        print_rows([told.statement], STATEMENT, as_json=False)
        last = told.entries[-1].version if told.entries else 0
        _table(f"the last {len(told.entries)} of its {last} entries", told.entries, ENTRIES)


def _each(told: Explanation, name: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return what each quota has of something, with whose it is."""
    return [
        {"account": scope.account, "quota_type": scope.quota_type}
        | {column: getattr(one, column) for column in columns[2:]}
        for scope in told.scopes
        for one in getattr(scope, name)
    ]


def _table(title: str, rows: Any, columns: tuple[str, ...]) -> None:
    if found := list(rows):
        typer.echo(f"{title}:")
        print_rows(found, columns, as_json=False)
