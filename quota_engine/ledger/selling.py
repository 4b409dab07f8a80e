"""
Packages and purchases in PostgreSQL: each method is one transaction.

An order is decided under a lock of its id, so two callbacks of one payment see each other; its
grants are promised in the transaction that marks it paid, so a payment that is recorded is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import distinct_on

from quota_engine.errors import PurchaseRefusedError
from quota_engine.events import GRANT_EXPIRED
from quota_engine.keys import QuotaName
from quota_engine.ledger import sale_tables as tables
from quota_engine.ledger.codes import CodeTables
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.locks import lock_named
from quota_engine.ledger.orders import (
    TERMS,
    activate,
    all_lines,
    find_newest,
    newest_package,
    order_of,
    ordered,
    package_of,
    pay_order,
    purchase_of,
)
from quota_engine.ledger.tables import ledger_entries
from quota_engine.packages import (
    CANCELLED,
    PAID,
    PENDING,
    REFUNDED,
    Order,
    Package,
    PackageTerms,
    Purchase,
)


class SaleTables:
    """What is sold in one ledger's database. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.codes = CodeTables(ledger)

    # -- packages

    def define_package(self, name: str, terms: PackageTerms, *, is_active: bool) -> Package:
        """Return the newest version, made if the terms are others than its own."""
        with self._ledger.transaction() as connection:
            lock_named(connection, f"package:{name}")
            newest = find_newest(connection, name)
            if newest is None or newest.terms != terms:
                connection.execute(
                    insert(tables.token_packages).values(
                        name=name,
                        version=1 if newest is None else newest.version + 1,
                        **{field: getattr(terms, field) for field in TERMS},
                    )
                )
            activate(connection, name, is_active=is_active)
            made = find_newest(connection, name)
            assert made is not None
            return made

    def activate_package(self, name: str, *, is_active: bool) -> Package:
        """Begin to sell a package, or end it; what is ordered already may still be paid."""
        with self._ledger.transaction() as connection:
            activate(connection, name, is_active=is_active)
            return newest_package(connection, name)

    def find_package(self, name: str) -> Package | None:
        """Return a package's newest version, or None."""
        with self._ledger.transaction() as connection:
            return find_newest(connection, name)

    def list_packages(self, *, only_active: bool) -> list[Package]:
        """Return the newest version of each package, by its sort order and name."""
        table = tables.token_packages
        newest = (
            select(table)
            .ext(distinct_on(table.c.name))
            .order_by(table.c.name, table.c.version.desc())
            .subquery()
        )
        query = select(newest).order_by(newest.c.sort_order, newest.c.name)
        if only_active:
            query = query.where(newest.c.is_active)
        with self._ledger.transaction() as connection:
            return [package_of(row) for row in connection.execute(query)]

    def package_history(self, name: str) -> list[Package]:
        """Return every version of a package, oldest first."""
        table = tables.token_packages
        query = select(table).where(table.c.name == name).order_by(table.c.version)
        with self._ledger.transaction() as connection:
            return [package_of(row) for row in connection.execute(query)]

    # -- orders

    def order(self, account: str, names: Sequence[str], order_id: str) -> Order:
        """
        Record an order as pending, with the packages as they are now.

        The same order again is replayed; another one by the same id is a conflict.
        """
        with self._ledger.transaction() as connection:
            lock_named(connection, f"order:{order_id}")
            return ordered(connection, account, names, order_id)

    def pay(
        self, order_id: str, now: datetime | None, *, of: tuple[str, Sequence[str]] | None = None
    ) -> Order:
        """
        Mark an order as paid and promise its grants; one that is paid is replayed.

        ``of``: account and packages, ordered in the same step where nobody has.
        """
        with self._ledger.transaction() as connection:
            lock_named(connection, f"order:{order_id}")
            order = (
                order_of(connection, order_id)
                if of is None
                else ordered(connection, *of, order_id)
            )
            if order.state == PAID:
                return replace(order, replayed=True)
            if order.state != PENDING:
                raise PurchaseRefusedError(
                    f"order {order_id} is {order.state}, and not paid again"
                )
            instant = now or connection.execute(select(func.clock_timestamp())).scalar_one()
            pay_order(connection, order, instant)
            return order_of(connection, order_id)

    def find_order(self, order_id: str) -> Order:
        """Return an order; raise ``PurchaseNotFoundError`` where there is none."""
        with self._ledger.transaction() as connection:
            return order_of(connection, order_id)

    def list_purchases(self, account: str) -> list[Purchase]:
        """Return the lines of an account's orders, in the order of their making."""
        table = tables.purchases
        with self._ledger.transaction() as connection:
            rows = connection.execute(
                all_lines()
                .where(table.c.account == account)
                .order_by(table.c.ordered_at, table.c.order_id, table.c.line)
            )
            return [purchase_of(row) for row in rows]

    def expired_units(self, quota: QuotaName, grant_id: str) -> int:
        """Return how many units of a grant had expired when somebody gave it back."""
        table = ledger_entries
        query = select(func.coalesce(func.sum(table.c.amount), 0)).where(
            table.c.account == quota.account,
            table.c.quota_type == quota.quota_type,
            table.c.kind == GRANT_EXPIRED,
            table.c.subject == grant_id,
        )
        with self._ledger.transaction() as connection:
            return int(connection.execute(query).scalar_one())

    def begin_refund(
        self, order_id: str, actor: str | None, reason: str | None
    ) -> tuple[Order, str | None, str | None]:
        """
        Record that a paid order is given back; return it, on whose word that is, and why.

        Whoever asked first counts. One that was given back is replayed.
        """
        table = tables.purchases
        with self._ledger.transaction() as connection:
            lock_named(connection, f"order:{order_id}")
            order = order_of(connection, order_id)
            if order.state not in {PAID, REFUNDED}:
                raise PurchaseRefusedError(
                    f"order {order_id} is {order.state}, and was never paid"
                )
            connection.execute(
                update(table)
                .where(table.c.order_id == order_id, table.c.refund_begun_at.is_(None))
                .values(
                    refund_begun_at=func.clock_timestamp(),
                    refund_actor=actor,
                    refund_reason=reason,
                )
            )
            by = select(table.c.refund_actor, table.c.refund_reason)
            of_order = by.where(table.c.order_id == order_id).limit(1)
            told = connection.execute(of_order).one()
            return order, told.refund_actor, told.refund_reason

    def being_refunded(self, older_than: timedelta, after: str, limit: int) -> list[str]:
        """Return the next orders that are given back for so long, and not done."""
        table = tables.purchases
        query = (
            select(table.c.order_id)
            .where(
                table.c.state == PAID,
                table.c.refund_begun_at <= func.clock_timestamp() - older_than,
                table.c.order_id > after,
            )
            .distinct()
            .order_by(table.c.order_id)
            .limit(limit)
        )
        with self._ledger.transaction() as connection:
            return list(connection.execute(query).scalars())

    def close_order(self, order_id: str, *, state: str) -> Order:
        """Mark a paid order as refunded, or a pending one as cancelled."""
        wanted = {REFUNDED: PAID, CANCELLED: PENDING}[state]
        with self._ledger.transaction() as connection:
            lock_named(connection, f"order:{order_id}")
            order = order_of(connection, order_id)
            if order.state == state:
                return replace(order, replayed=True)
            if order.state != wanted:
                raise PurchaseRefusedError(f"order {order_id} is {order.state}, not {wanted}")
            table = tables.purchases
            at = {"refunded_at": func.clock_timestamp()} if state == REFUNDED else {}
            connection.execute(
                update(table).where(table.c.order_id == order_id).values(state=state, **at)
            )
            return order_of(connection, order_id)
