"""``grants``: quota put in, and taken back."""

from __future__ import annotations

from typing import Annotated

import typer

from quota_engine.cli.batches import batch, import_opening
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
from quota_engine.cli.output import JsonFlag, print_facts, print_rows
from quota_engine.cli.report_rows import Viewer

app = command_group("Put quota in, take it back, and see what was put in.")

app.command()(batch)
app.command("import-opening")(import_opening)

COLUMNS = (
    *("quota_type", "grant_id", "state", "amount", "remaining", "reserved", "priority"),
    *("source", "starts_at", "expires_at", "reference"),
)
ISSUED = (
    *("grant_id", "account", "quota_type", "amount", "source", "priority", "starts_at"),
    *("expires_at", "balance", "version", "replayed"),
)


REMINDERS = (
    *("reminded_at", "account", "quota_type", "grant_id", "days", "remaining", "expires_at"),
    *("source", "delivered_at"),
)


@app.command()
def issue(
    account: Account,
    quota_type: QuotaType,
    amount: Annotated[int, typer.Argument(help="Whole units of the quota type.")],
    *,
    source: Annotated[
        str,
        typer.Option(
            help="membership, purchase, admin_grant, batch_admin_grant, promotion, rollover or"
            " refund."
        ),
    ] = "admin_grant",
    priority: Annotated[int, typer.Option(help="The lowest pays first.")] = 50,
    starts_at: Annotated[str | None, typer.Option(help="Instant, or +7d. Default: now.")] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="Instant, or +30d. Default: never.")
    ] = None,
    grant_id: Annotated[
        str | None, typer.Option(help="Your own id: the same id is issued once.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="A note, kept with the grant.")] = None,
    reference: Reference = None,
    actor: Actor = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Put quota in.

    Example: quota-engine grants issue user:42 text_token 100000 --expires-at +30d --actor 王芳
    """
    with opened_engine() as engine:
        issued = engine.issue_grant(
            account,
            quota_type,
            amount,
            source=source,
            reference=reference,
            description=description,
            grant_id=grant_id,
            priority=priority,
            starts_at=parse_instant(starts_at, name="--starts-at"),
            expires_at=parse_instant(expires_at, name="--expires-at"),
            actor=actor,
        )
    print_facts(issued, as_json=as_json, fields=ISSUED)


@app.command()
def void(
    account: Account,
    quota_type: QuotaType,
    grant_id: Annotated[str, typer.Argument(help="The grant, as `grants list` shows it.")],
    *,
    reference: Reference = None,
    actor: Actor = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Cancel what remains of a grant. What was used, or is held, stays with who has it.

    Example: quota-engine grants void user:42 text_token grant_0190… --reference ticket:7
    """
    with opened_engine() as engine:
        voided = engine.void_grant(account, quota_type, grant_id, reference=reference, actor=actor)
    print_facts(voided, as_json=as_json)


@app.command("list")
def list_(
    account: Account,
    quota_type: Annotated[str | None, typer.Argument(help="Default: every quota type.")] = None,
    *,
    state: Annotated[
        str | None,
        typer.Option(help="promised, pending, active, exhausted, expired or voided."),
    ] = None,
    expiring_within: Annotated[
        str | None,
        typer.Option(help="Only what can be used and ends by then: 7d, 36h. The next one first."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that are exhausted, expired or voided.")
    ] = False,
    viewer: Viewer = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show the grants of an account that may still be used, in the order of their making.

    Example: quota-engine grants list user:42 --expiring-within 7d
    """
    from quota_engine.listed import USABLE

    span = parse_span(expiring_within, name="--expiring-within")
    with opened_engine() as engine:
        found = engine.grants(
            account, quota_type, state=state, expiring_within=span, viewer=viewer
        )
    is_all = everything or state is not None
    rows = [grant for grant in found if is_all or grant.state in USABLE or grant.reserved]
    print_rows(rows, COLUMNS, as_json=as_json, empty=f"{account} has no grants")


@app.command()
def reminders(
    account: Annotated[str | None, typer.Argument(help="Default: every account.")] = None,
    *,
    since: Annotated[str | None, typer.Option(help="Only those made then or later.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show who was to be reminded that a grant with something left ends, and when, oldest first.

    Workers make them, QUOTA_ENGINE_REMINDER_DAYS before the end.

    Example: quota-engine grants reminders user:42
    """
    with opened_engine() as engine:
        found = engine.reminders(account, since=parse_instant(since, name="--since"))
    print_rows(found, REMINDERS, as_json=as_json, empty="there are no reminders")
