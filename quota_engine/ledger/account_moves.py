"""
Moves of accounts in PostgreSQL: each method is one transaction, and safe to run again.

``begin`` closes the old account and promises the move. ``plan`` is for when Redis has closed it,
and the ledger has all that it was given: what points to the account is turned to the new one, and
it is noted which grants must keep their ids. They are voided at the old place, and what was voided
is promised at the new one in the transaction that notes it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.sql.dml import Update

from quota_engine.account_moves import AccountMove, Moving
from quota_engine.chain import INTENT
from quota_engine.commands import IssueGrant, VoidGrant
from quota_engine.commands.arguments import details_text
from quota_engine.errors import IdempotencyConflictError
from quota_engine.instants import to_ms
from quota_engine.keys import QuotaName
from quota_engine.ledger.account_move_steps import (
    VOIDED,
    below,
    check,
    is_left,
    open_place,
    plan,
    promise,
    turn,
)
from quota_engine.ledger.account_tables import account_move_grants, account_moves, accounts
from quota_engine.ledger.intents import open_intents_of
from quota_engine.ledger.locks import bound, lock_named
from quota_engine.ledger.policies import change_policy, instant_of, read_policy
from quota_engine.ledger.tables import grants, quotas
from quota_engine.limits import parse_limits
from quota_engine.policies import WantedPolicy, record_of

if TYPE_CHECKING:
    from quota_engine.ledger.ledger import Ledger

_MOVE = ("operation_id", "account", "target", "operator", "reason", "begun_at", "finished_at")


class MoveTables:
    """The moves in one ledger's database. ``now`` None: PostgreSQL's clock decides."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def begin(self, wanted: WantedPolicy, now: datetime | None) -> AccountMove:
        """Close an account and promise its move, once by its operation id."""
        with self._ledger.transaction() as connection:
            for name in sorted((wanted.account, wanted.target or "")):
                lock_named(connection, f"account:{name}")
            known = _find(connection, wanted.operation_id)
            if known is not None:
                if (known.account, known.target) != (wanted.account, wanted.target):
                    raise IdempotencyConflictError(
                        f"operation id {wanted.operation_id} was used before with other arguments"
                    )
                return replace(known, replayed=True)
            at = instant_of(connection, now)
            check(connection, wanted, at)
            before = read_policy(connection, wanted.account)
            change_policy(connection, wanted, at)
            connection.execute(
                insert(account_moves).values(
                    operation_id=wanted.operation_id,
                    account=wanted.account,
                    target=wanted.target,
                    operator=wanted.operator,
                    reason=wanted.reason,
                    was=record_of(before),
                    begun_at=at,
                )
            )
            return _known(connection, wanted.operation_id)

    def plan(self, operation_id: str, now: datetime | None) -> list[str]:
        """Turn what points to the old account to the new one; return whose policies are new."""
        with self._ledger.transaction() as connection:
            row = _locked(connection, operation_id)
            move = _move(row)
            if row.planned_at is None:
                at = instant_of(connection, now)
                plan(connection, move, row.was, at)
                connection.execute(_of(operation_id).values(planned_at=at))
            at_target = select(accounts.c.account).where(below(accounts.c.account, move.target))
            return list(connection.execute(at_target).scalars())

    def quotas_of(self, operation_id: str) -> list[Moving]:
        """Return the quotas at the old place, and where each goes."""
        with self._ledger.transaction() as connection:
            move = _known(connection, operation_id)
            rows = connection.execute(
                select(quotas)
                .where(below(quotas.c.account, move.account))
                .order_by(quotas.c.account, quotas.c.quota_type)
            )
            return [
                Moving(
                    QuotaName(row.account, row.quota_type),
                    QuotaName(move.place_of(row.account), row.quota_type),
                    row.overdraft_limit,
                    parse_limits(row.limits),
                )
                for row in rows
            ]

    def unvoided(self, operation_id: str) -> list[VoidGrant]:
        """Return how the grants that keep their ids are still to be voided at the old place."""
        table = account_move_grants
        with self._ledger.transaction() as connection:
            move = _known(connection, operation_id)
            rows = connection.execute(
                select(table).where(table.c.operation_id == operation_id, ~table.c.is_voided)
            )
            told = details_text({"reference": operation_id, "actor": move.operator})
            return [
                VoidGrant(
                    quota=QuotaName(row.account, row.quota_type),
                    grant_id=row.grant_id,
                    details=told,
                )
                for row in rows
            ]

    def note_voided(self, operation_id: str, quota: QuotaName, grant_id: str) -> None:
        """Note that a grant was voided at the old place."""
        table = account_move_grants
        with self._ledger.transaction() as connection:
            connection.execute(
                update(table)
                .where(
                    table.c.operation_id == operation_id,
                    table.c.account == quota.account,
                    table.c.quota_type == quota.quota_type,
                    table.c.grant_id == grant_id,
                )
                .values(is_voided=True)
            )

    def hand_over(self, operation_id: str, now: datetime | None) -> list[IssueGrant]:
        """
        Promise at the new place what was voided at the old one; return all that is promised there.

        What holds gave back since comes as a grant of its own, with the same terms. What has ended
        is promised no more.
        """
        with self._ledger.transaction() as connection:
            move = _move(_locked(connection, operation_id))
            now_ms = to_ms(instant_of(connection, now), name="now")
            for row in connection.execute(VOIDED, {"id": operation_id}).all():
                if row.voided > row.issued:
                    promise(connection, move, row, now_ms)
            turn(connection, grants, move, grants.c.state == INTENT)
            found = open_intents_of(connection, below(grants.c.account, move.target))
        return [
            IssueGrant(
                quota=one.quota, grant_id=one.grant_id, terms=one.terms, details=one.details
            )
            for one in found
        ]

    def finish(self, operation_id: str) -> AccountMove:
        """Mark a move as finished unless something is left at the old place; return it."""
        with self._ledger.transaction() as connection:
            move = _move(_locked(connection, operation_id))
            if move.finished_at is None and not is_left(connection, move):
                done = _of(operation_id).values(finished_at=func.clock_timestamp())
                connection.execute(done)
            return _known(connection, operation_id)

    def unfinished(self, limit: int) -> list[AccountMove]:
        """Return moves that somebody must go on with, oldest first."""
        table = account_moves
        query = (
            select(table).where(table.c.finished_at.is_(None)).order_by(table.c.begun_at)
        ).limit(limit)
        with self._ledger.transaction() as connection:
            return [_move(row) for row in connection.execute(query)]

    def strays(self, limit: int) -> list[tuple[AccountMove, Moving]]:
        """
        Return what came back to accounts that have moved away, and may follow them.

        A refund of an old call, for one. Where the new place has moved on, that is followed, too;
        where it is closed, what came back stays.
        """
        old, new = quotas, accounts
        query = (
            select(account_moves, old.c.account.label("place"), old.c.quota_type)
            .join(new, (new.c.account == account_moves.c.account))
            .join(old, below(old.c.account, new.c.account))
            .where(
                new.c.moved_to == account_moves.c.target,
                account_moves.c.finished_at.is_not(None),
                old.c.balance > old.c.held,
                old.c.frozen == "",
            )
            .limit(limit)
        )
        found = []
        with self._ledger.transaction() as connection:
            for row in connection.execute(query).all():
                move = _move(row)
                place = open_place(connection, move.place_of(row.place))
                if place is not None:
                    source = QuotaName(row.place, row.quota_type)
                    found.append((move, Moving(source, QuotaName(place, row.quota_type))))
        return found


def _of(operation_id: str) -> Update:
    return update(account_moves).where(account_moves.c.operation_id == operation_id)


def _find(connection: Connection, operation_id: str) -> AccountMove | None:
    table = account_moves
    row = connection.execute(
        select(table).where(table.c.operation_id == operation_id)
    ).one_or_none()
    return None if row is None else _move(row)


def _known(connection: Connection, operation_id: str) -> AccountMove:
    move = _find(connection, operation_id)
    assert move is not None, "it was begun"
    return move


def _locked(connection: Connection, operation_id: str) -> Row[Any]:
    """Return a move's row, locked."""
    bound(connection)
    query = select(account_moves).where(account_moves.c.operation_id == operation_id)
    return connection.execute(query.with_for_update()).one()


def _move(row: Row[Any]) -> AccountMove:
    return AccountMove(**{name: getattr(row, name) for name in _MOVE})
