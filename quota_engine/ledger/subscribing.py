"""
Subscriptions in PostgreSQL: each method is one transaction.

What is done to a subscription is decided under the lock of its row, and the grants that follow
are promised in the same transaction: so they are made, whoever dies. A grant that is to be voided
is marked here first; until its remainder is known, nothing new of its type is promised.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, func, select

from quota_engine.commands import IssueGrant
from quota_engine.errors import (
    EngineUnavailableError,
    IdempotencyConflictError,
    InvalidArgumentError,
    SubscriptionRefusedError,
)
from quota_engine.keys import QuotaName
from quota_engine.ledger import standings
from quota_engine.ledger.intents import open_intents_of
from quota_engine.ledger.locks import bound, lock_named
from quota_engine.ledger.plan_tables import (
    subscription_changes,
    subscription_grants,
    subscriptions,
)
from quota_engine.ledger.plans import found_plan
from quota_engine.ledger.policies import closed_among, is_closed, refuse_closed
from quota_engine.ledger.replacing import (
    ReplacingTables,
    drop_rests,
    is_voiding,
    mark_voiding,
)
from quota_engine.ledger.settling import promise
from quota_engine.ledger.standings import standing_of
from quota_engine.ledger.tables import grants as all_grants
from quota_engine.plans import Plan
from quota_engine.subscribing import (
    SUBSCRIBE,
    Begin,
    Done,
    Subscription,
    SubscriptionChange,
    Wanted,
    as_replayed,
    told,
)
from quota_engine.subscription_actions import CHANGE, RESUME, Action, acted, begun
from quota_engine.subscriptions import (
    NOW,
    Given,
    Plans,
    Promise,
    Renewal,
    Standing,
    extras_of,
    period_of,
    renewed,
)

log = logging.getLogger("quota_engine.renewal")

#: When a subscription is looked at again whose periods cannot be told.
RETRY_AFTER = timedelta(hours=1)


class SubscriptionTables(ReplacingTables):
    """Plans and subscriptions in one ledger's database. ``now`` None: PostgreSQL's clock."""

    # -- what is done to a subscription

    def subscribe(self, begin: Begin, wanted: Wanted, now: datetime | None) -> Done:
        """Begin a subscription and promise its first grants; the same one again is replayed."""
        with self._ledger.transaction() as connection:
            lock_named(connection, f"subscription:{begin.subscription_id}")
            instant = standings.decided_at(connection, now)
            if (row := _row_of(connection, begin.subscription_id)) is not None:
                if row.fingerprint != begin.fingerprint:
                    raise IdempotencyConflictError(
                        f"subscription {begin.subscription_id} is one of {row.account}, made with"
                        " other arguments"
                    )
                return Done(subscription=as_replayed(_told(connection, row, instant)))
            refuse_closed(connection, begin.account)
            plan = found_plan(connection, begin.plan)
            if not plan.is_active:
                raise SubscriptionRefusedError(f"plan {plan.name} is not offered any more")
            lock_named(connection, f"trials:{begin.account}")  # two at once get one trial
            standing = begun(
                begin.subscription_id,
                begin.account,
                plan,
                starts_at=instant if begin.starts_at is None else begin.starts_at,
                time_zone=begin.time_zone,
                with_trial=not _has_had(connection, begin.account, plan.name),
            )
            standings.add_standing(connection, standing, begin.fingerprint)
            standings.add_change(
                *(connection, standing, wanted, begin.fingerprint),
                at=instant,
                effective_at=standing.starts_at,
            )
            extras = extras_of(standing, {(plan.name, plan.version): plan})
            promised = _renew(connection, [standing], instant, {standing.subscription_id: extras})
            return _done(connection, begin.subscription_id, instant, promised)

    def act(self, subscription_id: str, wanted: Wanted, now: datetime | None) -> Done:
        """
        Do something to a subscription; the same operation again is replayed.

        Raises ``EngineUnavailableError`` while grants of an earlier change are still to be voided.
        """
        with self._ledger.transaction() as connection:
            row = standings.locked(connection, subscription_id)
            instant = standings.decided_at(connection, now)
            known = standings.find_change(connection, subscription_id, wanted.operation_id)
            if known is not None and known != wanted.fingerprint:
                raise IdempotencyConflictError(
                    f"operation {wanted.operation_id} was another one of {subscription_id}"
                )
            if known is not None:
                return Done(subscription=as_replayed(_told(connection, row, instant)))
            if is_voiding(connection, subscription_id):
                raise EngineUnavailableError(
                    f"subscription {subscription_id} is being changed; try again in a moment"
                )
            if wanted.verb in (CHANGE, RESUME):
                refuse_closed(connection, row.account)
            plan = _offered(connection, wanted.plan)
            action = Action(verb=wanted.verb, when=wanted.when, plan=plan)
            standing = standing_of(row)
            plans = standings.plans_of(connection, [standing])
            if plan is not None:
                plans[plan.name, plan.version] = plan
            given = standings.given_to(connection, [subscription_id])[subscription_id]
            current = period_of(standing, plans, instant)
            after, voids = acted(standing, plans, action, given, instant)
            standings.keep_standing(connection, after, instant)
            later = None if wanted.when == NOW or current is None else current.ends_at
            standings.add_change(
                *(connection, after, wanted, wanted.fingerprint),
                at=instant,
                effective_at=later or instant,
            )
            if wanted.verb == RESUME and standing.paused_until is not None:
                drop_rests(connection, subscription_id, standing.paused_until, instant)
            is_change = wanted.verb == CHANGE
            mark_voiding(connection, subscription_id, voids, instant, is_change=is_change)
            promised = _renew(connection, [after], instant)
            return _done(connection, subscription_id, instant, promised)

    # -- what follows from it

    def promise_of(self, quota: QuotaName, grant_id: str) -> IssueGrant | None:
        """Return the promise of a grant that nobody has kept yet, as far as the ledger knows."""
        open_ = self._open_promises(
            and_(
                all_grants.c.account == quota.account,
                all_grants.c.quota_type == quota.quota_type,
                all_grants.c.grant_id == grant_id,
            )
        )
        return open_[0] if open_ else None

    def open_promises(self, subscription_id: str) -> list[IssueGrant]:
        """Return the promised grants of a subscription that nobody has made yet."""
        table = subscription_grants
        return self._open_promises(
            exists().where(
                table.c.subscription_id == subscription_id,
                table.c.account == all_grants.c.account,
                table.c.quota_type == all_grants.c.quota_type,
                table.c.grant_id == all_grants.c.grant_id,
            )
        )

    def renew(self, subscription_id: str, now: datetime | None) -> Done:
        """Promise what a subscription lacks by now."""
        with self._ledger.transaction() as connection:
            row = standings.locked(connection, subscription_id)
            instant = standings.decided_at(connection, now)
            promised = _renew(connection, [standing_of(row)], instant)
            return _done(connection, subscription_id, instant, promised)

    def renew_due(self, now: datetime, limit: int) -> tuple[int, list[IssueGrant]]:
        """
        Promise what is due of up to ``limit`` subscriptions; return how many those were.

        Those that another scheduler has in hand are left to it; those of closed accounts wait.
        """
        table = subscriptions
        with self._ledger.transaction() as connection:
            bound(connection)
            rows = connection.execute(
                select(table)
                .where(table.c.due_at <= now, ~is_closed(table.c.account))
                .order_by(table.c.due_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            ).all()
            found = [standing_of(row) for row in rows]
            return len(found), _renew(connection, found, now)

    # -- what is told

    def find_subscription(self, subscription_id: str, now: datetime | None) -> Subscription | None:
        """Return a subscription as it is, or None."""
        with self._ledger.transaction() as connection:
            row = _row_of(connection, subscription_id)
            if row is None:
                return None
            return _told(connection, row, standings.decided_at(connection, now))

    def list_subscriptions(
        self, account: str | None, now: datetime | None, limit: int
    ) -> list[Subscription]:
        """Return an account's subscriptions, or all of them, oldest first."""
        table = subscriptions
        query = select(table).order_by(table.c.created_at, table.c.subscription_id).limit(limit)
        if account is not None:
            query = query.where(table.c.account == account)
        with self._ledger.transaction() as connection:
            found = [standing_of(row) for row in connection.execute(query)]
            plans = standings.plans_of(connection, found)
            instant = standings.decided_at(connection, now)
            return [told(standing, plans, instant) for standing in found]

    def subscription_history(self, subscription_id: str) -> list[SubscriptionChange]:
        """Return what was done to a subscription, oldest first."""
        with self._ledger.transaction() as connection:
            return standings.read_changes(connection, subscription_id)

    def _open_promises(self, of: Any) -> list[IssueGrant]:
        with self._ledger.transaction() as connection:
            found = open_intents_of(connection, of)
        return [
            IssueGrant(
                quota=one.quota, grant_id=one.grant_id, terms=one.terms, details=one.details
            )
            for one in found
        ]


def _renew(
    connection: Connection,
    found: Sequence[Standing],
    now: datetime,
    extras: dict[str, list[Promise]] | None = None,
) -> list[IssueGrant]:
    """Promise what subscriptions lack, and note when to look at each again; a closed one waits."""
    closed = closed_among(connection, [one.account for one in found]) if found else set()
    found = [one for one in found if one.account not in closed]
    if not found:
        return []
    plans: Plans = standings.plans_of(connection, found)
    given = standings.given_to(connection, [one.subscription_id for one in found])
    promised: list[tuple[Standing, Promise]] = []
    looked_at = []
    for standing in found:
        id_ = standing.subscription_id
        renewal = _renewed(standing, plans, given[id_], now)
        promised += [(standing, one) for one in [*(extras or {}).get(id_, []), *renewal.promises]]
        looked_at.append(
            {
                "id": id_,
                "state": renewal.state,
                "period": renewal.period,
                "due_at": renewal.due_at,
            }
        )
    standings.note_looked_at(connection, looked_at)
    return promise(connection, promised, plans, now)


def _renewed(standing: Standing, plans: Plans, given: Sequence[Given], now: datetime) -> Renewal:
    """Return what to promise; one whose time zone is gone must not keep the others from theirs."""
    try:
        return renewed(standing, plans, given, now)
    except (InvalidArgumentError, KeyError) as error:
        log.error("subscription %s is not renewed: %s", standing.subscription_id, error)
        again = now + RETRY_AFTER
        return Renewal(promises=(), due_at=again, state=standing.state, period=0)


def _offered(connection: Connection, plan: str | None) -> Plan | None:
    if plan is None:
        return None
    found = found_plan(connection, plan)
    if not found.is_active:
        raise SubscriptionRefusedError(f"plan {plan} is not offered any more")
    return found


def _has_had(connection: Connection, account: str, plan: str) -> bool:
    """Tell whether an account has subscribed to a plan before: then it has had its trial."""
    change, row = subscription_changes, subscriptions
    query = (
        select(func.count())
        .select_from(change.join(row, row.c.subscription_id == change.c.subscription_id))
        .where(
            row.c.account == account,
            change.c.plan == plan,
            change.c.verb.in_([SUBSCRIBE, CHANGE]),
        )
    )
    return bool(connection.execute(query).scalar_one())


def _row_of(connection: Connection, subscription_id: str) -> Row[Any] | None:
    table = subscriptions
    query = select(table).where(table.c.subscription_id == subscription_id)
    return connection.execute(query).one_or_none()


def _told(connection: Connection, row: Row[Any], now: datetime) -> Subscription:
    standing = standing_of(row)
    return told(standing, standings.plans_of(connection, [standing]), now)


def _done(
    connection: Connection, subscription_id: str, now: datetime, promised: Sequence[IssueGrant]
) -> Done:
    row = _row_of(connection, subscription_id)
    assert row is not None
    return Done(subscription=_told(connection, row, now), promised=promised)
