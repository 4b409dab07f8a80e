"""Rows of subscriptions, read and written in the caller's transaction. It decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from quota_engine.errors import SubscriptionNotFoundError
from quota_engine.instants import from_ms, to_ms
from quota_engine.ledger.locks import bound
from quota_engine.ledger.plan_tables import (
    subscription_changes,
    subscription_grants,
    subscriptions,
)
from quota_engine.ledger.plans import read_plans
from quota_engine.plans import FORGIVE, Plan
from quota_engine.subscribing import SubscriptionChange, Wanted
from quota_engine.subscriptions import PERIOD, Given, Phase, Plans, Promise, Standing

VOIDING, VOIDED, PROMISED = "voiding", "voided", "promised"
_CHANGE = tuple(SubscriptionChange.__slots__)


def decided_at(connection: Connection, now: datetime | None) -> datetime:
    """Return the instant to decide for, in whole milliseconds; None: PostgreSQL's now."""
    instant = now or connection.execute(select(func.clock_timestamp())).scalar_one()
    return from_ms(to_ms(instant, name="now"))


def add_standing(connection: Connection, standing: Standing, fingerprint: str) -> None:
    """Record a new subscription."""
    connection.execute(
        insert(subscriptions).values(
            **_row(standing),
            subscription_id=standing.subscription_id,
            account=standing.account,
            time_zone=standing.time_zone,
            starts_at=standing.starts_at,
            fingerprint=fingerprint,
        )
    )


def look_again(
    connection: Connection, subscription_id: str, now: datetime, *, under_new_ids: bool
) -> None:
    """Have a subscription looked at once more: more may be lacking of what was promised."""
    table = subscriptions
    connection.execute(
        update(table)
        .where(table.c.subscription_id == subscription_id)
        .values(revision=table.c.revision + int(under_new_ids), due_at=now)
    )


def keep_standing(connection: Connection, standing: Standing, now: datetime) -> None:
    """Record a subscription as it is now; it is to be looked at at once, whoever does."""
    connection.execute(
        update(subscriptions)
        .where(subscriptions.c.subscription_id == standing.subscription_id)
        .values(**_row(standing), due_at=now)
    )


def note_looked_at(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Record states, periods and when to look next: ``id``, ``state``, ``period``, ``due_at``."""
    if rows:
        told = [{f"the_{name}": value for name, value in row.items()} for row in rows]
        connection.execute(
            update(subscriptions)
            .where(subscriptions.c.subscription_id == bindparam("the_id"))
            .values(
                state=bindparam("the_state"),
                period=bindparam("the_period"),
                due_at=bindparam("the_due_at"),
            ),
            told,
        )


def locked(connection: Connection, subscription_id: str) -> Row[Any]:
    """Return a subscription's row, locked; raise ``SubscriptionNotFoundError`` without one."""
    bound(connection)
    table = subscriptions
    query = select(table).where(table.c.subscription_id == subscription_id).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise SubscriptionNotFoundError(
            f"there is no subscription {subscription_id}; `quota-engine subscriptions list`"
        )
    return row


def standing_of(row: Row[Any]) -> Standing:
    """Return what a row says."""
    return Standing(
        subscription_id=row.subscription_id,
        account=row.account,
        time_zone=row.time_zone,
        state=row.state,
        phases=tuple(_phase(told) for told in row.phases),
        starts_at=utc(row.starts_at),
        revision=row.revision,
        ends_at=None if row.ends_at is None else utc(row.ends_at),
        paused_until=None if row.paused_until is None else utc(row.paused_until),
    )


def plans_of(connection: Connection, standings: Iterable[Standing]) -> dict[Any, Plan]:
    """Return the plans of all phases, by (name, version)."""
    wanted = {(phase.plan, phase.version) for one in standings for phase in one.phases}
    return read_plans(connection, wanted)


def given_to(connection: Connection, ids: Sequence[str]) -> dict[str, list[Given]]:
    """
    Return the grants of each subscription's running and later periods.

    Those of the one before, too: a clock that goes back over the edge must find them.
    """
    table = subscription_grants
    rows = connection.execute(
        select(table)
        .join(subscriptions, subscriptions.c.subscription_id == table.c.subscription_id)
        .where(table.c.subscription_id.in_(ids), table.c.period >= subscriptions.c.period - 1)
    )
    found: dict[str, list[Given]] = {one: [] for one in ids}
    for row in rows:
        found[row.subscription_id].append(_given(row))
    return found


def add_promises(
    connection: Connection, promised: Sequence[tuple[Standing, Promise]], plans: Plans
) -> None:
    """Record which grants subscriptions have promised, and what is to be settled of each later."""
    _add(
        connection,
        [(*one, {"state": PROMISED, **_settlements(one[1], plans)}) for one in promised],
    )


def add_made_up(connection: Connection, standing: Standing, promise: Promise) -> None:
    """Record what is made up for by the grants that take a replaced one's place, as not used."""
    _add(connection, [(standing, promise, {"state": VOIDED, "voided": promise.amount})])


def _add(
    connection: Connection, promised: Sequence[tuple[Standing, Promise, dict[str, Any]]]
) -> None:
    if not promised:
        return
    connection.execute(
        insert(subscription_grants),
        [
            {
                "subscription_id": standing.subscription_id,
                "grant_id": promise.grant_id,
                "account": standing.account,
                "quota_type": promise.quota_type,
                "kind": promise.kind,
                "period": promise.period,
                "amount": promise.amount,
                "priority": promise.priority,
                "starts_at": promise.starts_at,
                "ends_at": promise.ends_at,
                "plan": promise.plan,
                "version": promise.version,
                **more,
            }
            for standing, promise, more in promised
        ],
    )


def _settlements(promise: Promise, plans: Plans) -> dict[str, datetime | None]:
    terms = plans[promise.plan, promise.version].terms
    is_of_period = promise.kind == PERIOD
    rolls = is_of_period and promise.quota_type in terms.rollover
    forgives = is_of_period and promise.is_renewal and terms.debt == FORGIVE
    return {
        "rollover_at": promise.ends_at if rolls else None,
        "forgive_at": promise.starts_at if forgives else None,
    }


def add_change(
    connection: Connection,
    standing: Standing,
    wanted: Wanted,
    fingerprint: str,
    *,
    at: datetime,
    effective_at: datetime,
) -> None:
    """Record what was done, and by whom."""
    connection.execute(
        insert(subscription_changes).values(
            subscription_id=standing.subscription_id,
            number=standing.revision,
            operation_id=wanted.operation_id,
            verb=wanted.verb,
            fingerprint=fingerprint,
            plan=standing.phases[-1].plan,
            version=standing.phases[-1].version,
            at=at,
            effective_at=effective_at,
            actor=wanted.actor,
            reference=wanted.reference,
        )
    )


def find_change(connection: Connection, subscription_id: str, operation_id: str) -> str | None:
    """Return the fingerprint of what was done by an operation id, or None."""
    table = subscription_changes
    return connection.execute(
        select(table.c.fingerprint).where(
            table.c.subscription_id == subscription_id, table.c.operation_id == operation_id
        )
    ).scalar_one_or_none()


def read_changes(connection: Connection, subscription_id: str) -> list[SubscriptionChange]:
    """Return what was done to a subscription, oldest first."""
    table = subscription_changes
    rows = connection.execute(
        select(table).where(table.c.subscription_id == subscription_id).order_by(table.c.number)
    )
    return [SubscriptionChange(**{name: getattr(row, name) for name in _CHANGE}) for row in rows]


def _row(standing: Standing) -> dict[str, Any]:
    return {
        "state": standing.state,
        "phases": [_phase_row(phase) for phase in standing.phases],
        "revision": standing.revision,
        "ends_at": standing.ends_at,
        "paused_until": standing.paused_until,
    }


def _phase_row(phase: Phase) -> dict[str, Any]:
    return {
        "begins_at_ms": to_ms(phase.begins_at, name="begins_at"),
        "plan": phase.plan,
        "version": phase.version,
        "anchor_ms": to_ms(phase.anchor, name="anchor"),
        "base": phase.base,
        "is_trial": phase.is_trial,
    }


def _phase(told: dict[str, Any]) -> Phase:
    return Phase(
        begins_at=from_ms(told["begins_at_ms"]),
        plan=told["plan"],
        version=told["version"],
        anchor=from_ms(told["anchor_ms"]),
        base=told["base"],
        is_trial=told["is_trial"],
    )


def given_in(connection: Connection, subscription_id: str, period: int) -> list[Given]:
    """Return the grants of one period of a subscription."""
    table = subscription_grants
    rows = connection.execute(
        select(table).where(table.c.subscription_id == subscription_id, table.c.period == period)
    )
    return [_given(row) for row in rows]


def _given(row: Row[Any]) -> Given:
    return Given(
        grant_id=row.grant_id,
        quota_type=row.quota_type,
        kind=row.kind,
        period=row.period,
        amount=row.amount,
        voided=row.voided,
        ends_at=None if row.ends_at is None else utc(row.ends_at),
        is_voiding=row.state == VOIDING,
    )


def utc(instant: datetime) -> datetime:
    """Return an instant as the planner compares it."""
    return instant.astimezone(UTC)
