"""
Grants of subscriptions that are taken back: marked first, voided by anybody, then noted.

What takes their place, once it is known how much of them nobody has used, the planner says.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, exists, select, update

from quota_engine.commands import IssueGrant, VoidGrant
from quota_engine.keys import QuotaName
from quota_engine.ledger import standings
from quota_engine.ledger.plan_tables import subscription_grants
from quota_engine.ledger.settling import SettlingTables, promise
from quota_engine.ledger.snapshots import find_operation
from quota_engine.ledger.standings import VOIDED, VOIDING, standing_of
from quota_engine.periods import Period
from quota_engine.subscribing import void_of
from quota_engine.subscriptions import Plans, Promise, Standing, left_of, rolled_over


class ReplacingTables(SettlingTables):
    """What is to be taken back in one ledger's database."""

    def voids_of(self, subscription_id: str) -> list[VoidGrant]:
        """Return which grants of a subscription are still to be voided."""
        table = subscription_grants
        with self._ledger.transaction() as connection:
            rows = connection.execute(
                select(table).where(
                    table.c.subscription_id == subscription_id, table.c.state == VOIDING
                )
            )
            return [
                void_of(QuotaName(row.account, row.quota_type), row.grant_id, subscription_id)
                for row in rows
            ]

    def expired_units(self, quota: QuotaName, grant_id: str) -> int:
        """Return how many units of a grant had ended with it, as far as the ledger knows."""
        with self._ledger.transaction() as connection:
            entry = find_operation(connection, quota, f"{grant_id}:expire")
        return 0 if entry is None else entry.amount

    def note_voided(
        self, subscription_id: str, grant_id: str, units: int, now: datetime | None
    ) -> list[IssueGrant]:
        """
        Record how much of a grant nobody had used when it was voided.

        With the last one of a type, promise what its period has left, if that is over by now.
        """
        table = subscription_grants
        with self._ledger.transaction() as connection:
            row = standings.locked(connection, subscription_id)
            instant = standings.decided_at(connection, now)
            noted = connection.execute(
                update(table)
                .where(
                    table.c.subscription_id == subscription_id,
                    table.c.grant_id == grant_id,
                    table.c.state == VOIDING,
                )
                .values(state=VOIDED, voided=units)
                .returning(table.c.period, table.c.quota_type)
            ).one_or_none()
            if noted is None:
                return []
            standings.look_again(connection, subscription_id, instant, under_new_ids=False)
            standing = standing_of(row)
            plans = standings.plans_of(connection, [standing])
            given = standings.given_in(connection, subscription_id, noted.period)
            promised = [
                (standing, rolled)
                for one, period in left_of(standing, plans, given, noted.period, instant)
                if one.quota_type == noted.quota_type
                and (rolled := _rolled(standing, plans, one, period)) is not None
                and (rolled.ends_at is None or rolled.ends_at > instant)
            ]
            return promise(connection, promised, plans, instant)

    def with_voids(self, after: str, limit: int) -> list[str]:
        """Return the next subscriptions of which grants are still to be voided."""
        table = subscription_grants
        with self._ledger.transaction() as connection:
            rows = connection.execute(
                select(table.c.subscription_id)
                .where(table.c.state == VOIDING, table.c.subscription_id > after)
                .distinct()
                .order_by(table.c.subscription_id)
                .limit(limit)
            )
            return [row.subscription_id for row in rows]


def mark_voiding(
    connection: Connection,
    subscription_id: str,
    grant_ids: Sequence[str],
    now: datetime,
    *,
    is_change: bool,
) -> None:
    """Mark grants as to be voided. What one has paid of debts by now is still made up for."""
    table = subscription_grants
    if grant_ids:
        of_grants = (
            table.c.subscription_id == subscription_id,
            table.c.grant_id.in_(grant_ids),
        )
        returns_at = now if is_change else None
        connection.execute(
            update(table)
            .where(*of_grants)
            .values(state=VOIDING, rollover_at=None, returns_at=returns_at)
        )
        connection.execute(
            update(table).where(*of_grants, table.c.forgive_at > now).values(forgive_at=None)
        )


def drop_rests(
    connection: Connection, subscription_id: str, paused_until: datetime, now: datetime
) -> None:
    """Let nothing roll over from the period of a pause, which ends, if it is over by now."""
    table = subscription_grants
    if paused_until <= now:
        connection.execute(
            update(table)
            .where(table.c.subscription_id == subscription_id, table.c.rollover_at == paused_until)
            .values(rollover_at=None)
        )


def is_voiding(connection: Connection, subscription_id: str) -> bool:
    """Tell whether grants of a subscription are still to be voided."""
    table = subscription_grants
    query = exists().where(table.c.subscription_id == subscription_id, table.c.state == VOIDING)
    return bool(connection.execute(select(query)).scalar_one())


def _rolled(standing: Standing, plans: Plans, left: Promise, period: Period) -> Promise | None:
    """Return the grant that the rest of an ended period becomes, by the plan that it ended in."""
    plan = plans[left.plan, left.version]
    return rolled_over(standing, plans, plan, (left.quota_type, period), left.amount)
