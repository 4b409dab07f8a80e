"""
Redemption codes in PostgreSQL: each method is one transaction.

A code is redeemed under the lock of its row; its order, its payment and the promise of its grant
are made in the same transaction, so whoever dies afterwards leaves a promise that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from quota_engine.codes import (
    EXPIRED,
    OPEN,
    REDEEMED,
    REVOKED,
    RedemptionCode,
    hashes_of,
    state_of,
)
from quota_engine.errors import (
    CodeNotFoundError,
    CodeRefusedError,
    IdempotencyConflictError,
    InvalidArgumentError,
    PurchaseRefusedError,
)
from quota_engine.ids import new_id
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.locks import lock_named
from quota_engine.ledger.orders import newest_package, order_of, ordered, pay_order
from quota_engine.ledger.sale_tables import redemption_codes
from quota_engine.packages import PAID, Order

_C = redemption_codes.c


class CodeTables:
    """The redemption codes in one ledger's database. ``now`` None: PostgreSQL's clock decides."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def create_codes(
        self,
        batch_id: str,
        package: str,
        codes: Sequence[str],
        expires_at: datetime | None,
        now: datetime | None,
    ) -> tuple[int, bool]:
        """
        Make codes valid; return the package's version, and whether they were before.

        Other codes or terms by the same batch id are a conflict.
        """
        hashes = hashes_of(codes)
        with self._ledger.transaction() as connection:
            lock_named(connection, f"codes:{batch_id}")
            known = connection.execute(
                select(_C.code_hash, _C.package, _C.version, _C.expires_at).where(
                    _C.batch_id == batch_id
                )
            ).all()
            if known:
                same = {row.code_hash for row in known} == set(hashes)
                if not same or (known[0].package, known[0].expires_at) != (package, expires_at):
                    raise IdempotencyConflictError(
                        f"batch {batch_id} is there already, with other codes or terms"
                    )
                return known[0].version, True
            found = newest_package(connection, package)
            if not found.is_active:
                raise PurchaseRefusedError(f"package {package} is not sold any more")
            instant = _instant(connection, now)
            if expires_at is not None and expires_at <= instant:
                raise InvalidArgumentError(f"codes must end in the future, not at {expires_at}")
            rows = [
                {
                    "code_id": new_id("code"),
                    "code_hash": one,
                    "batch_id": batch_id,
                    "package": package,
                    "version": found.version,
                    "expires_at": expires_at,
                    "created_at": instant,
                }
                for one in hashes
            ]
            connection.execute(insert(redemption_codes).on_conflict_do_nothing(), rows)
            made = select(func.count()).where(_C.batch_id == batch_id)
            if connection.execute(made).scalar_one() != len(rows):
                raise IdempotencyConflictError("some of these codes belong to another batch")
            return found.version, False

    def redeem(self, account: str, hashed: str, now: datetime | None) -> Order:
        """
        Make the paid order of a code, and promise its grant; for the same account it is replayed.

        Raises ``CodeNotFoundError``, ``CodeRefusedError`` for one that is over or somebody
        else's, ``PurchaseRefusedError`` where the account has the package as often as it may.
        """
        with self._ledger.transaction() as connection:
            row = connection.execute(
                select(redemption_codes).where(_C.code_hash == hashed).with_for_update()
            ).one_or_none()
            if row is None:
                raise CodeNotFoundError("there is no such code: it may be mistyped")
            instant = _instant(connection, now)
            code = _code(row, instant)
            if code.state == REDEEMED and code.redeemed_by == account:
                order = order_of(connection, code.order_id)
                if order.state != PAID:
                    raise CodeRefusedError(
                        f"code {code.code_id} was redeemed, and its order is {order.state}"
                    )
                return replace(order, replayed=True)
            if code.state != OPEN:
                raise CodeRefusedError(_REFUSALS[code.state].format(code=code))
            ordered(connection, account, [code.package], code.order_id, version=code.version)
            pay_order(connection, order_of(connection, code.order_id), instant)
            connection.execute(
                update(redemption_codes)
                .where(_C.code_hash == hashed)
                .values(redeemed_by=account, redeemed_at=instant)
            )
            return order_of(connection, code.order_id)

    def list_codes(
        self, batch_id: str | None, account: str | None, now: datetime | None
    ) -> list[RedemptionCode]:
        """Return codes of a batch, or those an account redeemed, in the order of their making."""
        query = select(redemption_codes).order_by(_C.created_at, _C.code_id)
        if batch_id is not None:
            query = query.where(_C.batch_id == batch_id)
        if account is not None:
            query = query.where(_C.redeemed_by == account)
        with self._ledger.transaction() as connection:
            instant = _instant(connection, now)
            return [_code(row, instant) for row in connection.execute(query)]

    def revoke(self, *, where: dict[str, str], now: datetime | None) -> list[RedemptionCode]:
        """
        End codes that nobody has redeemed; return all that were named, as they are now.

        ``where``: one of ``code_hash``, ``code_id`` and ``batch_id``. What was redeemed stays so.
        """
        (name, value) = next(iter(where.items()))
        with self._ledger.transaction() as connection:
            instant = _instant(connection, now)
            named = redemption_codes.c[name] == value
            connection.execute(
                update(redemption_codes)
                .where(named, _C.redeemed_by.is_(None), _C.revoked_at.is_(None))
                .values(revoked_at=instant)
            )
            query = select(redemption_codes).where(named).order_by(_C.created_at, _C.code_id)
            found = [_code(row, instant) for row in connection.execute(query)]
        if not found:
            raise CodeNotFoundError("there is no such code, or batch of codes")
        return found


#: Why a code is refused. Who has redeemed it is nobody else's business.
_REFUSALS = {
    REDEEMED: "code {code.code_id} was redeemed already",
    REVOKED: "code {code.code_id} was revoked",
    EXPIRED: "code {code.code_id} was valid until {code.expires_at}",
}


def _instant(connection: Connection, now: datetime | None) -> datetime:
    found: datetime = now or connection.execute(select(func.clock_timestamp())).scalar_one()
    return found


def _code(row: Row[Any], now: datetime) -> RedemptionCode:
    fields = {name: getattr(row, name) for name in RedemptionCode.__slots__ if name != "state"}
    state = state_of(
        redeemed_by=row.redeemed_by,
        revoked_at=row.revoked_at,
        expires_at=row.expires_at,
        now=now,
    )
    return RedemptionCode(state=state, **fields)
