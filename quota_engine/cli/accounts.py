"""``accounts``: what an account has, and how it came to have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import Account, QuotaType, opened_engine
from quota_engine.cli.output import JsonFlag, print_json, print_rows

if TYPE_CHECKING:
    from quota_engine.cli.standing import Standing

app = command_group("See what an account has, and each entry that made it so.")

BALANCES = (
    *("quota_type", "balance", "held", "available", "spendable", "debt", "overdraft_limit"),
    *("version", "frozen"),
)
GRANTS = (
    *("quota_type", "grant_id", "state", "remaining", "reserved", "amount", "priority"),
    *("source", "expires_at"),
)
HOLDS = ("quota_type", "hold_id", "amount", "expires_at")
ENTRIES = (
    *("version", "occurred_at", "kind", "amount", "delta", "balance_after", "held_after"),
    *("shortfall", "operation_id", "note"),
)


@app.command()
def show(
    account: Account,
    quota_type: Annotated[str | None, typer.Argument(help="Default: all it ever had.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show balances, grants and open holds as they are now. An unknown account has nothing.

    Example: quota-engine accounts show 'acme/研发 team/user 42'
    """
    from quota_engine.cli.standing import standings

    with opened_engine() as engine:
        found = [_plain(standing) for standing in standings(engine, account, quota_type)]
    if as_json:
        print_json({"account": account, "quotas": found})
        return
    rows = [{**quota, "spendable": _limit(quota["spendable"])} for quota in found]
    for row in rows:
        row["overdraft_limit"] = _limit(row["overdraft_limit"])
    print_rows(rows, BALANCES, as_json=False, empty=f"{account} has nothing")
    for name, columns in (("grants", GRANTS), ("holds", HOLDS)):
        parts = [
            {"quota_type": quota["quota_type"], **part} for quota in found for part in quota[name]
        ]
        if parts:
            typer.echo(f"\n{name}:")
            print_rows(parts, columns, as_json=False)


@app.command()
def history(
    account: Account,
    quota_type: QuotaType,
    last: Annotated[
        int, typer.Option("--last", min=0, help="Only the newest entries; 0: all.")
    ] = 0,
    as_json: JsonFlag = False,
) -> None:
    """
    Show a quota's log, oldest entry first. Pending ones are on their way to the ledger.

    Example: quota-engine accounts history user:42 text_token --last 20
    """
    with opened_engine() as engine:
        entries = list(engine.history(account, quota_type))[-last:]
    if as_json:
        print_json(entries)
        return
    rows = [{name: getattr(entry, name, None) for name in ENTRIES} for entry in entries]
    for row, entry in zip(rows, entries, strict=True):
        row["note"] = ", ".join(_notes(entry))
    print_rows(rows, ENTRIES, as_json=False, empty=f"{account} has no {quota_type} entries")


def _notes(entry: Any) -> list[str]:
    """Return what an entry's row says at its end, for a person."""
    notes = [
        f"{name} {entry.details[name]}"
        for name in ("source", "actor", "reference")
        if name in entry.details
    ]
    notes += [str(entry.details["description"])] if "description" in entry.details else []
    notes += ["late"] if entry.late else []
    notes += [f"duplicate of {entry.duplicate_of}"] if entry.duplicate_of else []
    notes += ["pending"] if entry.is_pending else []
    return notes


def _limit(value: int | None) -> int | str:
    return "unlimited" if value is None else value


def _plain(standing: Standing) -> dict[str, Any]:
    balance = standing.balance
    return {
        **{name: getattr(balance, name) for name in BALANCES},
        "grants": [
            {name: getattr(grant, name) for name in (*GRANTS[1:], "starts_at", "reference")}
            for grant in standing.grants
            if grant.remaining or grant.reserved or grant.state == "promised"
        ],
        "holds": [{name: getattr(hold, name) for name in HOLDS[1:]} for hold in standing.holds],
    }
