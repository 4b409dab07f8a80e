"""``subscriptions``: who has which plan, until when, and what was done to it."""

from __future__ import annotations

from typing import Annotated

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import opened_engine, parse_instant
from quota_engine.cli.output import JsonFlag, print_facts, print_rows
from quota_engine.errors import SubscriptionNotFoundError

app = command_group("Give accounts plans, change and end them, and see what was done.")

Id = Annotated[str, typer.Argument(help="The subscription's id.")]
Operation = Annotated[
    str | None, typer.Option(help="Your id of this: said twice, it is done once.")
]
Actor = Annotated[str | None, typer.Option(help="Who does it; kept with the subscription.")]
Reference = Annotated[str | None, typer.Option(help="Why, or on behalf of what.")]

SUBSCRIPTION = (
    *("subscription_id", "account", "plan", "version", "state", "is_trial", "period"),
    *("period_ends_at", "next_renewal_at", "next_plan", "ends_at", "time_zone"),
)
CHANGE = (
    *("number", "verb", "plan", "version", "at", "effective_at", "actor", "reference"),
    "operation_id",
)


@app.command()
def subscribe(
    account: Annotated[str, typer.Argument(help="Who gets the plan.")],
    plan: Annotated[str, typer.Argument(help="The plan's name.")],
    *,
    starts_at: Annotated[
        str | None,
        typer.Option(help="Instant, such as 2026-01-31T00:00+08:00, or +7d. Default: now."),
    ] = None,
    time_zone: Annotated[str, typer.Option(help="Of its periods: Asia/Shanghai.")] = "UTC",
    subscription_id: Annotated[
        str | None, typer.Option("--id", help="Your id: said twice, it is made once.")
    ] = None,
    actor: Actor = None,
    reference: Reference = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Give an account a plan, and its first grants.

    Example: quota-engine subscriptions subscribe user:42 pro --time-zone Asia/Shanghai
    """
    begins = parse_instant(starts_at, name="--starts-at")
    with opened_engine() as engine:
        made = engine.subscribe(
            account,
            plan,
            starts_at=begins,
            time_zone=time_zone,
            subscription_id=subscription_id,
            actor=actor,
            reference=reference,
        )
    print_facts(made, as_json=as_json)


@app.command()
def change(
    subscription_id: Id,
    plan: Annotated[str, typer.Argument(help="The plan that it gets.")],
    *,
    at_period_end: Annotated[
        bool, typer.Option("--at-period-end", help="Not now, but with the next period.")
    ] = False,
    operation_id: Operation = None,
    actor: Actor = None,
    reference: Reference = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Give a subscription another plan. What the period has used counts against it.

    Example: quota-engine subscriptions change sub-7 team --at-period-end
    """
    with opened_engine() as engine:
        done = engine.change_subscription(
            subscription_id,
            plan,
            when="period_end" if at_period_end else "now",
            operation_id=operation_id,
            actor=actor,
            reference=reference,
        )
    print_facts(done, as_json=as_json)


@app.command()
def cancel(
    subscription_id: Id,
    *,
    now: Annotated[
        bool, typer.Option("--now", help="At once: what is left of the period is voided.")
    ] = False,
    operation_id: Operation = None,
    actor: Actor = None,
    reference: Reference = None,
    as_json: JsonFlag = False,
) -> None:
    """
    End a subscription with its period, or at once.

    Example: quota-engine subscriptions cancel sub-7 --actor support:ann
    """
    with opened_engine() as engine:
        done = engine.cancel_subscription(
            subscription_id,
            when="now" if now else "period_end",
            operation_id=operation_id,
            actor=actor,
            reference=reference,
        )
    print_facts(done, as_json=as_json)


@app.command()
def pause(
    subscription_id: Id,
    *,
    operation_id: Operation = None,
    actor: Actor = None,
    reference: Reference = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Renew a subscription no more until it is resumed; the running period runs out.

    Example: quota-engine subscriptions pause sub-7
    """
    with opened_engine() as engine:
        done = engine.pause_subscription(
            subscription_id, operation_id=operation_id, actor=actor, reference=reference
        )
    print_facts(done, as_json=as_json)


@app.command()
def resume(
    subscription_id: Id,
    *,
    operation_id: Operation = None,
    actor: Actor = None,
    reference: Reference = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Let a paused subscription go on, or take back a cancellation.

    Example: quota-engine subscriptions resume sub-7
    """
    with opened_engine() as engine:
        done = engine.resume_subscription(
            subscription_id, operation_id=operation_id, actor=actor, reference=reference
        )
    print_facts(done, as_json=as_json)


@app.command("list")
def list_(
    account: Annotated[str | None, typer.Argument(help="Whose. Default: everybody's.")] = None,
    *,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 1_000,
    as_json: JsonFlag = False,
) -> None:
    """
    List subscriptions, oldest first, with their next renewal.

    Example: quota-engine subscriptions list user:42
    """
    with opened_engine() as engine:
        found = engine.subscriptions(account, limit=limit)
    print_rows(found, SUBSCRIPTION, as_json=as_json, empty="there is no subscription")


@app.command()
def show(subscription_id: Id, as_json: JsonFlag = False) -> None:
    """
    Show a subscription: its plan, its period, its next renewal.

    Example: quota-engine subscriptions show sub-7
    """
    with opened_engine() as engine:
        found = engine.find_subscription(subscription_id)
    print_facts(found, as_json=as_json)


@app.command()
def history(subscription_id: Id, as_json: JsonFlag = False) -> None:
    """
    Show what was done to a subscription, when and by whom.

    Example: quota-engine subscriptions history sub-7
    """
    with opened_engine() as engine:
        found = engine.subscription_history(subscription_id)
    if not found:
        raise SubscriptionNotFoundError(
            f"there is no subscription {subscription_id}; `quota-engine subscriptions list`"
        )
    print_rows(found, CHANGE, as_json=as_json)
