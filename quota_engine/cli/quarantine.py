"""``quarantine``: what did not fit the ledger, looked at, resolved, and its quota thawed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import Account, QuotaType, opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows
from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from quota_engine.engine import QuotaEngine
    from quota_engine.jobs.thaw import Order, ThawReport
    from quota_engine.jobs.thaw_rules import Decision
    from quota_engine.keys import QuotaName
    from quota_engine.ledger.quarantine import InDoubt, Quarantined

app = command_group("See what did not fit the ledger, and mend frozen quotas.")

What = Annotated[str, typer.Argument(help="An account, or the id of one entry.")]
OfType = Annotated[
    str | None, typer.Argument(help="The quota type, where the first is an account.")
]
Who = Annotated[str, typer.Option("--actor", help="Who decides; kept with the entry.")]
Why = Annotated[str, typer.Option("--reason", help="Why; kept with the entry.")]

LISTED = ("quota", "entries", "first_id", "last_id", "cause", "since", "frozen")
ENTRIES = ("id", "event_id", "cause", "kind", "operation_id", "amount", "fate", "why")
BYTES_SHOWN_MAX = 4_000


@app.command("list")
def list_(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what was resolved before.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    Show every quota that is frozen or has entries in quarantine.

    Example: quota-engine quarantine list
    """
    with opened_engine() as engine:
        rows = [_listed(one) for one in engine.deployment.in_doubt(with_resolved=everything)]
    print_rows(rows, LISTED, as_json=as_json, empty="nothing is frozen or in quarantine")


@app.command()
def show(what: What, quota_type: OfType = None, as_json: JsonFlag = False) -> None:
    """
    Show a quota's quarantined entries and what would become of each, or one entry whole.

    One entry stands line by line beside what the ledger expects next; what cannot be read is
    shown as bytes.

    Example: quota-engine quarantine show user:42 text_token
    """
    with opened_engine() as engine:
        if quota_type is None:
            _show_entry(engine, _id_of(what), as_json=as_json)
            return
        report = engine.deployment.plan_thaw(_quota(engine, what, quota_type))
    _print_report(report, as_json=as_json, verb="would be")


@app.command()
def resolve(
    what: What,
    quota_type: OfType = None,
    *,
    actor: Who,
    reason: Why,
    discard: Annotated[
        bool,
        typer.Option(
            "--discard/--keep",
            help="Keep every charge that somebody was told of (the default), or discard all that"
            " is in quarantine.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    Mend a frozen quota and thaw it; or discard a single entry by its id.

    The ledger's history goes on; charges and grants that it lacks are applied again under their
    own operation ids, and an entry quota.repaired says who did it and why. Safe to run again.
    Exits with 1 when something could not be applied again and needs you.

    Example: quota-engine quarantine resolve user:42 text_token --actor 王芳 --reason ticket:7
    """
    from quota_engine.jobs.thaw import Order

    order = Order(actor, reason, discard)
    with opened_engine() as engine:
        if quota_type is None:
            _resolve_entry(engine, _id_of(what), order, dry_run=dry_run, as_json=as_json)
            return
        quota = _quota(engine, what, quota_type)
        if dry_run:
            report = engine.deployment.plan_thaw(quota, is_discarding=discard)
        else:
            report = engine.deployment.thaw(quota, order)
    _print_report(report, as_json=as_json, verb="would be" if dry_run else "is")
    if report.refused:
        raise typer.Exit(1)


@app.command()
def freeze(
    account: Account,
    quota_type: QuotaType,
    *,
    actor: Who,
    reason: Why,
    as_json: JsonFlag = False,
) -> None:
    """
    Freeze a quota by hand: it refuses holds and debits until it is resolved.

    Example: quota-engine quarantine freeze user:42 text_token --actor 王芳 --reason "stolen key"
    """
    with opened_engine() as engine:
        quota = _quota(engine, account, quota_type)
        frozen = engine.deployment.freeze_by_hand(quota, actor=actor, reason=reason)
    print_facts({"quota": str(quota), "frozen": frozen}, as_json=as_json)


def _quota(engine: QuotaEngine, account: str, quota_type: str) -> QuotaName:
    from quota_engine.arguments import checked_quota

    return checked_quota(account, quota_type, engine.deployment.settings)


def _id_of(what: str) -> int:
    if not (what.isascii() and what.isdecimal()):
        raise InvalidArgumentError(
            f"{what!r} is no id of an entry; of an account, give the quota type, too"
        )
    return int(what)


def _resolve_entry(
    engine: QuotaEngine, id_: int, order: Order, *, dry_run: bool, as_json: bool
) -> None:
    from quota_engine.jobs import quarantine

    if not order.is_discarding:
        raise InvalidArgumentError(
            "a single entry can only be discarded: add --discard, or name its account and type"
        )
    if dry_run:
        _show_entry(engine, id_, as_json=as_json)
        return
    ledger = engine.deployment.ledger
    found = quarantine.discard(ledger, id_, actor=order.actor, reason=order.reason)
    print_facts(_facts(found), as_json=as_json)


def _show_entry(engine: QuotaEngine, id_: int, *, as_json: bool) -> None:
    from quota_engine.jobs.quarantine import look_at

    look = look_at(engine.deployment.ledger, id_)
    facts = _facts(look.quarantined)
    lines = [{**dataclasses.asdict(line), "fits": line.fits} for line in look.lines]
    raw = look.quarantined.raw_entry
    text = raw.decode(errors="backslashreplace")
    if as_json:
        print_json({**facts, "lines": lines, "text": text, "hex": raw.hex()})
        return
    print_facts(facts, as_json=False)
    typer.echo("")
    if lines:
        print_rows(lines, ("line", "entry", "expected", "fits"), as_json=False)
        return
    typer.echo(f"no entry: {len(raw)} bytes")
    typer.echo(f"text  {text[:BYTES_SHOWN_MAX]}")
    typer.echo(f"hex   {raw.hex()[:BYTES_SHOWN_MAX]}")


def _facts(found: Quarantined) -> dict[str, Any]:
    names = (
        *("id", "shard", "event_id", "quota", "cause", "reason", "created_at"),
        *("resolution", "resolved_by", "resolved_at", "repair_id"),
    )
    facts = {name: getattr(found, name) for name in names}
    return {**facts, "quota": None if found.quota is None else str(found.quota)}


def _listed(one: InDoubt) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "quota": None if one.quota is None else str(one.quota)}


def _decided(one: Decision) -> dict[str, Any]:
    return {
        "id": one.quarantined.id,
        "event_id": one.quarantined.event_id,
        "cause": one.quarantined.cause,
        "kind": one.entry.kind if one.entry else None,
        "operation_id": one.entry.operation_id if one.entry else None,
        "amount": one.entry.amount if one.entry else None,
        "fate": one.fate,
        "why": one.why,
    }


def _print_report(report: ThawReport, *, as_json: bool, verb: str) -> None:
    entries = [_decided(one) for one in report.decisions]
    facts = {
        "quota": str(report.quota),
        "frozen": report.frozen,
        "cause": report.cause,
        "repaired_version": report.version,
    }
    if as_json:
        print_json({**facts, "entries": entries})
        return
    if entries:
        print_rows(entries, ENTRIES, as_json=False)
    counts = Counter(str(one.fate) for one in report.decisions)
    told = ", ".join(f"{count} {fate}" for fate, count in sorted(counts.items()))
    if report.version is not None:
        typer.echo(f"{report.quota} {verb} thawed (it was frozen for {report.frozen})")
        typer.echo(f"its entry {report.version} is quota.repaired: {told or 'nothing waited'}")
    elif report.frozen or entries:
        typer.echo(f"{report.quota} is frozen: {report.frozen}")
        typer.echo(f"in quarantine: {told or 'nothing'}")
        typer.echo(
            f"`quota-engine quarantine resolve '{report.quota.account}'"
            f" {report.quota.quota_type} --actor WHO --reason WHY` mends it"
        )
    else:
        typer.echo(f"{report.quota} is not frozen, and nothing of it is in quarantine")
