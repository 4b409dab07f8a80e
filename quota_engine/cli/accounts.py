"""``accounts``: what an account has, how it came to have it, and what its calls used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quota_engine.cli.explain import STATEMENT, explain
from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import (
    Account,
    Actor,
    QuotaType,
    Reference,
    opened_engine,
    parse_instant,
    parse_span,
)
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows
from quota_engine.cli.policies import (
    activate,
    close,
    enforcement,
    move,
    pays_after,
    policy,
    suspend,
)
from quota_engine.cli.report_rows import Viewer

if TYPE_CHECKING:
    from quota_engine.cli.standing import Standing

app = command_group(
    "See what an account has, each entry that made it so, and what its calls used; suspend it."
)

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
GIVEN_BACK = (
    *("account", "refund_id", "amount", "forfeited", "regranted", "unreturned", "balance"),
    "replayed",
)
SUMS = (
    *("provider", "model", "calls", "input_tokens", "cached_input_tokens", "output_tokens"),
    *("reasoning_tokens", "images", "audio_seconds", "video_seconds", "cost", "currency"),
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
    viewer: Viewer = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show a quota's log, oldest entry first. Pending ones are on their way to the ledger.

    Example: quota-engine accounts history user:42 text_token --last 20
    """
    with opened_engine() as engine:
        entries = list(engine.history(account, quota_type, viewer=viewer))[-last:]
    if as_json:
        print_json(entries)
        return
    rows = [{name: getattr(entry, name, None) for name in ENTRIES} for entry in entries]
    for row, entry in zip(rows, entries, strict=True):
        row["note"] = ", ".join(_notes(entry))
    print_rows(rows, ENTRIES, as_json=False, empty=f"{account} has no {quota_type} entries")


@app.command()
def transfer(
    from_account: Annotated[str, typer.Argument(help="Whom the units leave.")],
    to_account: Annotated[str, typer.Argument(help="Whom they go to.")],
    quota_type: QuotaType,
    amount: Annotated[int, typer.Argument(help="Whole units of the quota type.")],
    *,
    transfer_id: Annotated[
        str | None, typer.Option(help="Your own id: the same id moves them once.")
    ] = None,
    reference: Reference = None,
    actor: Actor = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Move units from one account to another. They keep the priority and the end they have.

    Example: quota-engine accounts transfer user:42 user:43 text_token 5000 --actor support:ann
    """
    with opened_engine() as engine:
        moved = engine.transfer(
            *(from_account, to_account, quota_type, amount, transfer_id),
            reference=reference,
            actor=actor,
        )
    print_facts(moved, as_json=as_json)


@app.command()
def refund(
    account: Account,
    quota_type: QuotaType,
    operation_id: Annotated[str, typer.Argument(help="Of the debit, the capture or the hold.")],
    amount: Annotated[int | None, typer.Argument(help="Units. Default: all that is left.")] = None,
    *,
    refund_id: Annotated[
        str | None, typer.Option(help="Your own id: the same id gives back once.")
    ] = None,
    grace: Annotated[
        str | None,
        typer.Option(help="How long what ended grants had paid lives: 7d. Default: forfeited."),
    ] = None,
    reference: Reference = None,
    actor: Actor = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Give a charge back, or a part of it, to the grants that paid; never more than was charged.

    Example: quota-engine accounts refund user:42 text_token op_0190… 500 --actor support:ann
    """
    span = parse_span(grace, name="--grace")
    with opened_engine() as engine:
        refunded = engine.refund(
            *(account, quota_type, operation_id, amount, refund_id),
            grace=span,
            reference=reference,
            actor=actor,
        )
    if as_json:
        print_json(refunded)
    else:
        print_rows([refunded, *refunded.scopes], GIVEN_BACK, as_json=False)


@app.command()
def usage(
    account: Account,
    *,
    quota_type: Annotated[str | None, typer.Option("--type", help="Default: every type.")] = None,
    since: Annotated[str | None, typer.Option(help="Instant, included.")] = None,
    until: Annotated[str | None, typer.Option(help="Instant, not included.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name, exactly.")] = None,
    provider: Annotated[str | None, typer.Option(help="Who serves it.")] = None,
    status: Annotated[
        str | None, typer.Option(help="success, failed, timeout or cancelled.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Only so many, the oldest; 0: all. Sums are of these.")
    ] = 0,
    only_sums: Annotated[bool, typer.Option("--sum", help="Only the sums by model.")] = False,
    viewer: Viewer = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show what an account's calls used and cost, oldest first, with sums by model and currency.

    Example: quota-engine accounts usage user:42 --since 2026-01-01T00:00Z --model gpt-4o
    """
    from quota_engine.cli.usage_sums import CALLS, call_row, sums_by_model

    with opened_engine() as engine:
        found = engine.usage(
            account,
            quota_type,
            since=parse_instant(since, name="--since"),
            until=parse_instant(until, name="--until"),
            provider=provider,
            model=model,
            status=status,
            limit=limit or None,
            viewer=viewer,
        )
    sums = sums_by_model(found)
    if as_json:
        records = {} if only_sums else {"records": found}
        print_json({"account": account, **records, "by_model": sums})
        return
    if found and not only_sums:
        print_rows([call_row(call) for call in found], CALLS, as_json=False)
        typer.echo("\nby model:")
    print_rows(sums, SUMS, as_json=False, empty=f"{account} has no usage records")


@app.command()
def statement(
    account: Account,
    quota_type: Annotated[str | None, typer.Argument(help="Default: all it ever had.")] = None,
    *,
    since: Annotated[
        str | None, typer.Option("--from", help="Instant, included. Default: the first entry.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="Instant, not included. Default: now.")
    ] = None,
    viewer: Viewer = None,
    as_json: JsonFlag = False,
) -> None:
    """
    State what an account had, what came and went, and what it has: to the unit.

    opening + granted + refunded + transferred in - used - expired - voided - transferred out =
    closing. Debt is taken off opening and closing, and shown beside them; what is held is part of
    them; shortfall was used and could not be collected; pending grants have yet to start. Exits
    with 3 where that does not add up: then somebody has edited the ledger.

    Example: quota-engine accounts statement user:42 --from 2026-10-01T00Z --to 2026-11-01T00Z
    """
    period = (parse_instant(since, name="--from"), parse_instant(until, name="--to"))
    with opened_engine() as engine:
        if quota_type is None:
            found = list(engine.statements(account, *period, viewer=viewer))
        else:
            found = [engine.statement(account, quota_type, *period, viewer=viewer)]
    print_rows(found, STATEMENT, as_json=as_json, empty=f"{account} has nothing")
    if wrong := [one for one in found if one.difference]:
        for one in wrong:
            typer.echo(
                f"{one.quota_type} does not add up, by {one.difference}: see"
                " `quota-engine ledger verify`",
                err=True,
            )
        raise typer.Exit(3)


@app.command()
def cancel(
    account: Account,
    quota_type: QuotaType,
    operation_id: Annotated[str, typer.Argument(help="Of a hold, debit, capture or grant.")],
    reference: Annotated[str | None, typer.Option(help="Why; kept with the entry.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Learn what became of an operation, or see to it that it never happens.

    One that has happened stays as it is. Safe to say twice.

    Example: quota-engine accounts cancel user:42 text_token op_0190… --reference ticket-7
    """
    with opened_engine() as engine:
        told = engine.cancel(account, quota_type, operation_id, reference=reference)
    print_facts(told, as_json=as_json)
    if not as_json:
        typer.echo("it has happened, and stays" if told.was_applied else "it will never happen")


for act in (explain, suspend, close, activate, enforcement, pays_after, move, policy):
    app.command()(act)


def _notes(entry: Any) -> list[str]:
    """Return what an entry's row says at its end, for a person."""
    notes = [
        f"{name} {entry.details[name]}"
        for name in ("source", "actor", "reference", "reason")
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
    from quota_engine.listed import USABLE

    balance = standing.balance
    return {
        **{name: getattr(balance, name) for name in BALANCES},
        "grants": [
            {name: getattr(grant, name) for name in (*GRANTS[1:], "starts_at", "reference")}
            for grant in standing.grants
            if grant.state in USABLE or grant.reserved
        ],
        "holds": [{name: getattr(hold, name) for name in HOLDS[1:]} for hold in standing.holds],
    }
