"""
What is settled once a period has ended or begun: its rest is rolled over, its debt forgiven.

Both are told by entries of the ledger: that of the expiry, and that of the start. So it is done
once everything is persisted that Redis has done up to then; the caller sees to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, func, or_, select, tuple_, update

from quota_engine.chain import INTENT
from quota_engine.commands import IssueGrant
from quota_engine.keys import QuotaName
from quota_engine.ledger import standings
from quota_engine.ledger.intents import record_intents
from quota_engine.ledger.locks import bound
from quota_engine.ledger.plan_tables import subscription_grants, subscriptions
from quota_engine.ledger.plans import PlanTables, read_plans
from quota_engine.ledger.policies import is_closed
from quota_engine.ledger.snapshots import find_operation
from quota_engine.ledger.tables import grants, ledger_entries, quotas
from quota_engine.periods import Period
from quota_engine.subscribing import issue_of
from quota_engine.subscriptions import (
    ENDED,
    PERIOD,
    Plans,
    Promise,
    Standing,
    forgiven,
    rolled_over,
)

_TABLE = subscription_grants


class SettlingTables(PlanTables):
    """What is to be settled in one ledger's database."""

    def unsettled(self, now: datetime, after: str, limit: int) -> list[tuple[str, QuotaName]]:
        """
        Return subscriptions after an id, with the quotas in which something is to be done.

        Those of closed accounts wait.
        """
        with self._ledger.transaction() as connection:
            ids = (
                select(_TABLE.c.subscription_id)
                .join(subscriptions, subscriptions.c.subscription_id == _TABLE.c.subscription_id)
                .where(
                    _is_due(now),
                    _TABLE.c.subscription_id > after,
                    ~is_closed(subscriptions.c.account),
                )
                .distinct()
                .order_by(_TABLE.c.subscription_id)
                .limit(limit)
            )
            rows = connection.execute(
                select(_TABLE.c.subscription_id, _TABLE.c.account, _TABLE.c.quota_type)
                .where(_is_due(now), _TABLE.c.subscription_id.in_(ids))
                .distinct()
                .order_by(_TABLE.c.subscription_id, _TABLE.c.quota_type)
            )
            return [(row.subscription_id, QuotaName(row.account, row.quota_type)) for row in rows]

    def settle(
        self, subscription_id: str, ready: Sequence[QuotaName], now: datetime
    ) -> list[IssueGrant]:
        """
        Promise what the rests and debts of a subscription's periods become, each once.

        ``ready``: the quotas of which the ledger has all that was due by ``now``. One that is
        frozen waits, and so does a grant that was promised and not made.
        """
        with self._ledger.transaction() as connection:
            bound(connection)
            table = subscriptions
            row = connection.execute(
                select(table)
                .where(table.c.subscription_id == subscription_id)
                .with_for_update(skip_locked=True)
            ).one_or_none()
            if row is None:
                return []
            standing = standings.standing_of(row)
            due = _due_rows(connection, subscription_id, ready, now)
            plans = standings.plans_of(connection, [standing])
            plans.update(read_plans(connection, {(one.plan, one.version) for one in due}))
            _take_returns(connection, row, [one for one in due if one.returns_at], now)
            promised = [
                *_forgiven(
                    *(connection, standing),
                    [one for one in due if _has_come(one.forgive_at, now)],
                    now,
                ),
                *_rolled_over(
                    connection,
                    standing,
                    plans,
                    [one for one in due if _has_come(one.rollover_at, now)],
                ),
            ]
            for column in ("forgive_at", "rollover_at"):
                done = [one.grant_id for one in due if _has_come(getattr(one, column), now)]
                connection.execute(
                    update(_TABLE)
                    .where(
                        _TABLE.c.subscription_id == subscription_id, _TABLE.c.grant_id.in_(done)
                    )
                    .values({column: None})
                )
            live = [one for one in promised if one.ends_at is None or one.ends_at > now]
            return promise(connection, [(standing, one) for one in live], plans, now)


def _is_due(now: datetime) -> Any:
    is_replaced = and_(_TABLE.c.returns_at <= now, _TABLE.c.state == standings.VOIDED)
    return or_(_TABLE.c.rollover_at <= now, _TABLE.c.forgive_at <= now, is_replaced)


def _has_come(instant: datetime | None, now: datetime) -> bool:
    return instant is not None and instant <= now


def _due_rows(
    connection: Connection, subscription_id: str, ready: Sequence[QuotaName], now: datetime
) -> list[Row[Any]]:
    """Return what is to be settled, without what has to wait."""
    names = [(quota.account, quota.quota_type) for quota in ready]
    rows = connection.execute(
        select(_TABLE, grants.c.state.label("made"), grants.c.reserved, quotas.c.frozen)
        .outerjoin(
            grants,
            (grants.c.account == _TABLE.c.account)
            & (grants.c.quota_type == _TABLE.c.quota_type)
            & (grants.c.grant_id == _TABLE.c.grant_id),
        )
        .outerjoin(
            quotas,
            (quotas.c.account == _TABLE.c.account) & (quotas.c.quota_type == _TABLE.c.quota_type),
        )
        .where(
            _is_due(now),
            _TABLE.c.subscription_id == subscription_id,
            tuple_(_TABLE.c.account, _TABLE.c.quota_type).in_(names),
        )
        .order_by(_TABLE.c.period, _TABLE.c.grant_id)
    ).all()
    waits = {row.quota_type for row in rows if row.frozen or row.made == INTENT}
    return [row for row in rows if row.quota_type not in waits]


def _take_returns(
    connection: Connection, subscription: Row[Any], rows: Sequence[Row[Any]], now: datetime
) -> None:
    """
    Count what holds gave back of replaced grants as not used; the next look grants it anew.

    A row is done when no open hold has any of it, or when its period is over.
    """
    are_more = False
    for row in rows:
        of_row = (
            _TABLE.c.subscription_id == row.subscription_id,
            _TABLE.c.grant_id == row.grant_id,
        )
        is_over = row.period < subscription.period
        if is_over or not row.reserved:
            connection.execute(update(_TABLE).where(*of_row).values(returns_at=None))
        voided = row.voided if is_over else _unused_in_all(connection, row)
        if voided > row.voided:
            are_more = True
            connection.execute(update(_TABLE).where(*of_row).values(voided=voided))
    if are_more:
        standings.look_again(connection, subscription.subscription_id, now, under_new_ids=True)


def _unused_in_all(connection: Connection, row: Row[Any]) -> int:
    """Return the units of a grant that were voided or expired: at once, and from holds."""
    entry = ledger_entries
    ends = [f"{row.grant_id}:{word}" for word in ("void", "expire")]
    total = connection.execute(
        select(func.coalesce(func.sum(entry.c.amount), 0)).where(
            entry.c.account == row.account,
            entry.c.quota_type == row.quota_type,
            entry.c.duplicate_of.is_(None),
            or_(
                entry.c.operation_id.in_(ends),
                *(  # all that begin with it and a colon: the next character is a semicolon
                    and_(entry.c.operation_id >= f"{end}:", entry.c.operation_id < f"{end};")
                    for end in ends
                ),
            ),
        )
    ).scalar_one()
    return int(total)


def _forgiven(
    connection: Connection, standing: Standing, rows: Sequence[Row[Any]], now: datetime
) -> list[Promise]:
    """
    Return the grants that make up for what periods paid of debts when they began.

    What a period left of a debt counts with it, unless a later one has met it, and forgives it.
    A grant that was replaced since is made up for by those that take its place; when it was
    voided for good, only the debt that it left is.
    """
    found = []
    for row in rows:
        quota = QuotaName(row.account, row.quota_type)
        entry = find_operation(connection, quota, f"{row.grant_id}:start")
        if entry is None:  # it was made when its period had begun
            entry = find_operation(connection, quota, row.grant_id)
            if entry is None or not entry.movements:
                continue
        kept = sum(move.remaining for move in entry.movements if move.grant_id == row.grant_id)
        left = entry.debt
        if left and _is_met_later(connection, row, entry.version, now):
            left = 0
        is_voided = row.state != standings.PROMISED
        units = left if is_voided and standing.state == ENDED else row.amount - kept + left
        made_up = forgiven(_promise_of(row), units)
        if made_up is None:
            continue
        if is_voided and standing.state != ENDED:
            standings.add_made_up(connection, standing, made_up)
            standings.look_again(connection, standing.subscription_id, now, under_new_ids=True)
        else:
            found.append(made_up)
    return found


def _is_met_later(connection: Connection, row: Row[Any], version: int, now: datetime) -> bool:
    """Tell whether another forgiving period of the quota has begun after an entry."""
    entry, other, made_up = ledger_entries, _TABLE.alias(), _TABLE.alias()
    forgives = or_(
        other.c.forgive_at.is_not(None),
        exists().where(
            made_up.c.subscription_id == other.c.subscription_id,
            made_up.c.grant_id == other.c.grant_id + ":debt",
        ),
    )
    query = select(
        exists()
        .where(
            other.c.subscription_id.in_(
                select(subscriptions.c.subscription_id).where(
                    subscriptions.c.account == row.account
                )
            ),
            other.c.quota_type == row.quota_type,
            other.c.grant_id != row.grant_id,
            other.c.kind == PERIOD,
            other.c.starts_at <= now,
            forgives,
        )
        .where(
            entry.c.account == row.account,
            entry.c.quota_type == row.quota_type,
            entry.c.operation_id.in_([other.c.grant_id, other.c.grant_id + ":start"]),
            entry.c.duplicate_of.is_(None),
            entry.c.version > version,
        )
    )
    return bool(connection.execute(query).scalar_one())


def _rolled_over(
    connection: Connection, standing: Standing, plans: Plans, rows: Sequence[Row[Any]]
) -> list[Promise]:
    """
    Return the grants that the rests of ended periods become.

    A rest is what the expiries say: what open holds give back later is no part of it.
    """
    rests: dict[tuple[int, str], int] = {}
    lasts: dict[tuple[int, str], Row[Any]] = {}
    for row in rows:
        key = (row.period, row.quota_type)
        quota = QuotaName(row.account, row.quota_type)
        entry = find_operation(connection, quota, f"{row.grant_id}:expire")
        rests[key] = rests.get(key, 0) + (0 if entry is None else entry.amount)
        lasts[key] = row
    found = []
    for (number, quota_type), rest in rests.items():
        last = _promise_of(lasts[number, quota_type])
        assert last.ends_at is not None, "what never ends is not rolled over"
        ended = Period(number, last.starts_at, last.ends_at)
        plan = plans[last.plan, last.version]
        rolled = rolled_over(standing, plans, plan, (quota_type, ended), rest)
        if rolled is not None:
            found.append(rolled)
    return found


def _promise_of(row: Row[Any]) -> Promise:
    return Promise(
        grant_id=row.grant_id,
        quota_type=row.quota_type,
        kind=PERIOD,
        period=row.period,
        amount=row.amount,
        priority=row.priority,
        starts_at=standings.utc(row.starts_at),
        ends_at=None if row.ends_at is None else standings.utc(row.ends_at),
        plan=row.plan,
        version=row.version,
    )


def promise(
    connection: Connection,
    promised: Sequence[tuple[Standing, Promise]],
    plans: Plans,
    now: datetime,
) -> list[IssueGrant]:
    """Record grants as promised by their subscriptions; return the commands that make them."""
    standings.add_promises(connection, promised, plans)
    commands = [
        issue_of(standing.account, standing.subscription_id, one, now)
        for standing, one in promised
    ]
    return record_intents(connection, commands)
