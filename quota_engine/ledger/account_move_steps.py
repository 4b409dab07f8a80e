"""
The steps of a move of an account in PostgreSQL, each in its caller's transaction.

What points to the account is turned to the new place; what must not be lost on the way is noted.
It must not know when a transaction ends.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)

from quota_engine.account_moves import QUOTAS_MAX, AccountMove
from quota_engine.chain import INTENT
from quota_engine.commands import GrantTerms
from quota_engine.errors import MoveRefusedError
from quota_engine.ids import ACCOUNT_LENGTH_MAX
from quota_engine.keys import QuotaName, root_of
from quota_engine.ledger.account_tables import account_move_grants, accounts
from quota_engine.ledger.intents import record_intent
from quota_engine.ledger.plan_tables import subscription_grants, subscriptions
from quota_engine.ledger.policies import (
    add_change,
    keep_policy,
    policies_on,
    policy_of,
    read_policy,
    refuse_closed,
)
from quota_engine.ledger.sale_tables import purchases
from quota_engine.ledger.standings import PROMISED, VOIDING
from quota_engine.ledger.tables import grants, holds, quotas
from quota_engine.policies import CLOSED, MOVE, AccountPolicy, WantedPolicy, parse_record

#: Places that are followed where an account has moved on again and again.
CHAIN_MAX = 20

#: Of each grant that keeps its id: what of it was voided at the old place, at once and when holds
#: gave it back.
VOIDED = text("""
SELECT j.*, g.source, g.reference, g.description, g.priority, g.starts_at_ms, g.expires_at_ms,
    g.details, (
        SELECT coalesce(sum(e.amount), 0)::bigint FROM ledger_entries e
        WHERE e.account = j.account AND e.quota_type = j.quota_type AND e.duplicate_of IS NULL
            AND (
                e.operation_id = j.grant_id || '\\:void'
                OR (
                    e.operation_id >= j.grant_id || '\\:void\\:'
                    AND e.operation_id < j.grant_id || '\\:void;'
                )
            )
    ) AS voided
FROM account_move_grants j JOIN grants g USING (account, quota_type, grant_id)
WHERE j.operation_id = :id
ORDER BY j.account, j.quota_type, j.grant_id
""")


def below(account: ColumnElement[str], path: Any) -> ColumnElement[bool]:
    """Return the condition that an account in a query is at a path, or below it."""
    return or_(account == path, and_(account >= path + "/", account < path + "0"))


def check(connection: Connection, wanted: WantedPolicy, at: datetime) -> None:
    """Raise ``MoveRefusedError`` for a move that cannot be made."""
    account, target = wanted.account, wanted.target or ""
    if read_policy(connection, account).state == CLOSED:
        raise MoveRefusedError(f"{account} is closed: open it again first, or move what is new")
    refuse_closed(connection, target)
    for table in (quotas, grants, subscriptions, accounts):
        if _has(connection, below(table.c.account, target)):
            raise MoveRefusedError(
                f"{target} is in use ({table.name}): an account moves to a place of its own;"
                " `quota-engine accounts transfer` brings units to one that is there"
            )
    heads = connection.execute(
        select(quotas).where(below(quotas.c.account, account)).limit(QUOTAS_MAX + 1)
    ).all()
    if not heads and not _has(connection, below(subscriptions.c.account, account)):
        raise MoveRefusedError(f"nobody knows {account}: there is nothing to move")
    if len(heads) > QUOTAS_MAX:
        raise MoveRefusedError(
            f"{account} and those below it have more than {QUOTAS_MAX} quotas: move these first"
        )
    for head in heads:
        name = f"{head.account}|{head.quota_type}"
        place = target + head.account.removeprefix(account)
        if len(place) > ACCOUNT_LENGTH_MAX:
            raise MoveRefusedError(f"{place} is longer than {ACCOUNT_LENGTH_MAX} characters")
        if head.frozen:
            raise MoveRefusedError(f"{name} is frozen: mend its log first ({head.frozen})")
        if head.debt:
            raise MoveRefusedError(
                f"{name} owes {head.debt} units, which cannot be moved: grant them first"
            )
    sub = subscription_grants
    is_due = or_(sub.c.state == VOIDING, sub.c.rollover_at <= at, sub.c.forgive_at <= at)
    if _has(connection, and_(below(sub.c.account, account), is_due)):
        raise MoveRefusedError(
            f"a subscription of {account} is being changed or settled: try again in a moment"
        )


def plan(connection: Connection, move: AccountMove, was: str, at: datetime) -> None:
    """Turn everything that points to the old place to the new one; ``was``: the old policy."""
    _turn_subscriptions(connection, move, at)
    _note_grants(connection, move)
    turn(connection, purchases, move)
    _turn_policies(connection, move, was, at)


def _turn_subscriptions(connection: Connection, move: AccountMove, at: datetime) -> None:
    """
    Let subscriptions go on at the new place.

    Of their grants, those that are over or are to be settled now stay where their entries are.
    """
    turn(connection, subscriptions, move)
    sub = subscription_grants
    stays = or_(
        sub.c.ends_at <= at,
        sub.c.rollover_at <= at,
        sub.c.forgive_at <= at,
        sub.c.returns_at.is_not(None),
        sub.c.state != PROMISED,
    )
    turn(connection, sub, move, func.coalesce(stays, False).is_(False))


def turn(
    connection: Connection, table: Table, move: AccountMove, *conditions: ColumnElement[bool]
) -> None:
    """Let rows of the old place be of the new one."""
    connection.execute(
        update(table)
        .where(below(table.c.account, move.account), *conditions)
        .values(account=_place(table.c.account, move))
    )


def _note_grants(connection: Connection, move: AccountMove) -> None:
    """
    Note which grants keep their ids: those that have yet to start, which no transfer takes, and
    those that a subscription or an order knows.
    """
    sub, table = subscription_grants, grants
    is_of_subscription = exists().where(
        sub.c.account == _place(table.c.account, move),
        sub.c.quota_type == table.c.quota_type,
        sub.c.grant_id == table.c.grant_id,
    )
    is_there = or_(table.c.remaining > 0, table.c.reserved > 0)
    found = select(
        literal(move.operation_id), table.c.account, table.c.quota_type, table.c.grant_id
    ).where(
        below(table.c.account, move.account),
        or_(
            table.c.state == "pending",
            and_(
                table.c.state == "live",
                is_there,
                or_(table.c.source == "purchase", is_of_subscription),
            ),
        ),
    )
    names = ["operation_id", "account", "quota_type", "grant_id"]
    connection.execute(insert(account_move_grants).from_select(names, found))


def _turn_policies(connection: Connection, move: AccountMove, was: str, at: datetime) -> None:
    """Say of the accounts at the new place what was said of them at the old one."""
    rows = connection.execute(select(accounts).where(below(accounts.c.account, move.account)))
    found = [policy for policy in map(policy_of, rows) if policy.account != move.account]
    for number, policy in enumerate([parse_record(move.account, was), *found]):
        if not policy.is_restricting:
            continue
        place = move.place_of(policy.account)
        before = AccountPolicy(account=place)
        payers = _payers_at(move, policy)
        after = replace(
            policy, account=place, revision=1, changed_at=at, moved_to=None, pays_after=payers
        )
        keep_policy(connection, after)
        told = WantedPolicy(
            account=place,
            action=MOVE,
            operation_id=f"{move.operation_id}:{number}",
            operator=move.operator,
            reason=policy.reason,
        )
        add_change(connection, told, before, after, at)


def _payers_at(move: AccountMove, policy: AccountPolicy) -> dict[str, tuple[str, ...]]:
    """Return who pays after an account that has moved: those of its root, where they are now."""
    return {
        name: tuple(
            payer
            for payer in map(move.place_now, payers)
            if root_of(payer) == root_of(move.target)
        )
        for name, payers in policy.pays_after.items()
    }


def promise(connection: Connection, move: AccountMove, row: Row[Any], now_ms: int) -> None:
    """Promise at the new place what of a grant was voided and is not promised yet."""
    if row.expires_at_ms > now_ms:
        terms = GrantTerms(
            amount=row.voided - row.issued,
            source=row.source or "admin_grant",
            reference=row.reference,
            description=row.description,
            priority=row.priority,
            starts_at_ms=row.starts_at_ms,
            expires_at_ms=row.expires_at_ms,
        )
        quota = QuotaName(move.place_of(row.account), row.quota_type)
        grant_id = f"{row.grant_id}:moved:{row.pieces}" if row.pieces else row.grant_id
        record_intent(connection, quota, grant_id, terms, row.details)
    table = account_move_grants
    connection.execute(
        update(table)
        .where(
            table.c.operation_id == move.operation_id,
            table.c.account == row.account,
            table.c.quota_type == row.quota_type,
            table.c.grant_id == row.grant_id,
        )
        .values(issued=row.voided, pieces=row.pieces + 1)
    )


def is_left(connection: Connection, move: AccountMove) -> bool:
    """Return whether something is at the old place that will go to the new one."""
    rows = connection.execute(VOIDED, {"id": move.operation_id})
    if any(not row.is_voided or row.voided > row.issued for row in rows):
        return True
    return any(
        _has(connection, and_(below(table.c.account, move.account), condition))
        for table, condition in (
            (holds, holds.c.state == "open"),
            (grants, grants.c.state == INTENT),
            (quotas, quotas.c.balance > quotas.c.held),
        )
    )


def open_place(connection: Connection, place: str) -> str | None:
    """Return where an account is by now, following those that moved on; None: it is closed."""
    for _ in range(CHAIN_MAX):
        closed = [one for one in policies_on(connection, place) if one.state == CLOSED]
        if not closed:
            return place
        if closed[0].moved_to is None:
            return None
        place = closed[0].moved_to + place.removeprefix(closed[0].account)
    return None


def _has(connection: Connection, condition: ColumnElement[bool]) -> bool:
    """Return whether there is a row for which a condition holds."""
    return bool(connection.execute(select(exists().where(condition))).scalar_one())


def _place(account: ColumnElement[str], move: AccountMove) -> ColumnElement[str]:
    """Return where an account of a query is at the new place."""
    return literal(move.target) + func.substr(account, len(move.account) + 1)
