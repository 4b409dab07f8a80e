"""
Packages and purchases in PostgreSQL: each method is one transaction.

An order is decided under a lock of its id, so two callbacks of one payment see each other; its
grants are promised in the transaction that marks it paid, so a payment that is recorded is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.dialects.postgresql import distinct_on

from quota_engine.errors import (
    IdempotencyConflictError,
    PackageNotFoundError,
    PurchaseNotFoundError,
    PurchaseRefusedError,
)
from quota_engine.ledger import sale_tables as tables
from quota_engine.ledger.intents import record_intent
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.locks import lock_named
from quota_engine.packages import (
    CANCELLED,
    PAID,
    PENDING,
    REFUNDED,
    Order,
    Package,
    PackageTerms,
    Purchase,
    issue_of,
)

_TERMS = tuple(PackageTerms.__slots__)


class SaleTables:
    """What is sold in one ledger's database. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # -- packages

    def define_package(self, name: str, terms: PackageTerms, *, is_active: bool) -> Package:
        """Return the newest version, made if the terms are others than its own."""
        with self._ledger.transaction() as connection:
            lock_named(connection, f"package:{name}")
            newest = _newest(connection, name)
            if newest is None or newest.terms != terms:
                connection.execute(
                    insert(tables.token_packages).values(
                        name=name,
                        version=1 if newest is None else newest.version + 1,
                        **{field: getattr(terms, field) for field in _TERMS},
                    )
                )
            _activate(connection, name, is_active=is_active)
            made = _newest(connection, name)
            assert made is not None
            return made

    def activate_package(self, name: str, *, is_active: bool) -> Package:
        """Begin to sell a package, or end it; what is ordered already may still be paid."""
        with self._ledger.transaction() as connection:
            _activate(connection, name, is_active=is_active)
            return _found(connection, name)

    def find_package(self, name: str) -> Package | None:
        """Return a package's newest version, or None."""
        with self._ledger.transaction() as connection:
            return _newest(connection, name)

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
            return [_package(row) for row in connection.execute(query)]

    def package_history(self, name: str) -> list[Package]:
        """Return every version of a package, oldest first."""
        table = tables.token_packages
        query = select(table).where(table.c.name == name).order_by(table.c.version)
        with self._ledger.transaction() as connection:
            return [_package(row) for row in connection.execute(query)]

    # -- orders

    def order(self, account: str, names: Sequence[str], order_id: str) -> Order:
        """
        Record an order as pending, with the packages as they are now.

        The same order again is replayed; another one by the same id is a conflict.
        """
        with self._ledger.transaction() as connection:
            lock_named(connection, f"order:{order_id}")
            return _ordered(connection, account, names, order_id)

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
                _order(connection, order_id) if of is None else _ordered(connection, *of, order_id)
            )
            if order.state == PAID:
                return replace(order, replayed=True)
            if order.state != PENDING:
                raise PurchaseRefusedError(
                    f"order {order_id} is {order.state}, and not paid again"
                )
            instant = now or connection.execute(select(func.clock_timestamp())).scalar_one()
            _pay(connection, order, instant)
            return _order(connection, order_id)

    def find_order(self, order_id: str) -> Order:
        """Return an order; raise ``PurchaseNotFoundError`` where there is none."""
        with self._ledger.transaction() as connection:
            return _order(connection, order_id)

    def list_purchases(self, account: str) -> list[Purchase]:
        """Return the lines of an account's orders, in the order of their making."""
        table = tables.purchases
        with self._ledger.transaction() as connection:
            rows = connection.execute(
                _lines()
                .where(table.c.account == account)
                .order_by(table.c.ordered_at, table.c.order_id, table.c.line)
            )
            return [_purchase(row) for row in rows]

    def close_order(self, order_id: str, *, state: str) -> Order:
        """Mark a paid order as refunded, or a pending one as cancelled."""
        wanted = {REFUNDED: PAID, CANCELLED: PENDING}[state]
        with self._ledger.transaction() as connection:
            lock_named(connection, f"order:{order_id}")
            order = _order(connection, order_id)
            if order.state == state:
                return replace(order, replayed=True)
            if order.state != wanted:
                raise PurchaseRefusedError(f"order {order_id} is {order.state}, not {wanted}")
            table = tables.purchases
            at = {"refunded_at": func.clock_timestamp()} if state == REFUNDED else {}
            connection.execute(
                update(table).where(table.c.order_id == order_id).values(state=state, **at)
            )
            return _order(connection, order_id)


def _ordered(connection: Connection, account: str, names: Sequence[str], order_id: str) -> Order:
    found = _lines_of(connection, order_id)
    if found:
        if {line.account for line in found} != {account} or [
            line.package for line in found
        ] != list(names):
            told = ", ".join(line.package for line in found)
            raise IdempotencyConflictError(
                f"order {order_id} is one of {told} for {found[0].account}"
            )
        return replace(_order(connection, order_id), replayed=True)
    for name in sorted(set(names)):  # in one order, so that two orders can't wait for each other
        lock_named(connection, f"purchases:{account}:{name}")
    for number, name in enumerate(names, start=1):
        _refuse_too_many(connection, account, name)
        package = _found(connection, name)
        if not package.is_active:
            raise PurchaseRefusedError(f"package {name} is not sold any more")
        connection.execute(
            insert(tables.purchases).values(
                order_id=order_id,
                line=number,
                account=account,
                package=name,
                version=package.version,
                state=PENDING,
            )
        )
    return _order(connection, order_id)


def _refuse_too_many(connection: Connection, account: str, name: str) -> None:
    """Refuse a package that an account has as often as it may."""
    limit = _found(connection, name).terms.per_user_limit
    if limit is None:
        return
    table = tables.purchases
    bought = connection.execute(
        select(func.count()).where(
            table.c.account == account,
            table.c.package == name,
            table.c.state.in_([PENDING, PAID]),
        )
    ).scalar_one()
    if bought >= limit:
        raise PurchaseRefusedError(
            f"{account} has package {name} {bought} times, and may have it {limit} times"
        )


def _pay(connection: Connection, order: Order, instant: datetime) -> None:
    table = tables.purchases
    now = instant.replace(microsecond=instant.microsecond // 1000 * 1000)
    for line in order.lines:
        package = _version(connection, line.package, line.version)
        ends = None if package.terms.valid_for is None else now + package.terms.valid_for
        connection.execute(
            update(table)
            .where(table.c.order_id == line.order_id, table.c.line == line.line)
            .values(state=PAID, paid_at=now, expires_at=ends)
        )
    for line in _lines_of(connection, order.order_id):
        issue = issue_of(line)
        record_intent(connection, issue.quota, line.grant_id, issue.terms, issue.details)


def _activate(connection: Connection, name: str, *, is_active: bool) -> None:
    table = tables.token_packages
    connection.execute(update(table).where(table.c.name == name).values(is_active=is_active))


def _newest(connection: Connection, name: str) -> Package | None:
    table = tables.token_packages
    query = select(table).where(table.c.name == name).order_by(table.c.version.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _package(row)


def _found(connection: Connection, name: str) -> Package:
    package = _newest(connection, name)
    if package is None:
        raise PackageNotFoundError(f"there is no package {name}; `quota-engine packages list`")
    return package


def _version(connection: Connection, name: str, version: int) -> Package:
    table = tables.token_packages
    query = select(table).where(table.c.name == name, table.c.version == version)
    return _package(connection.execute(query).one())


def _lines() -> Any:
    package, line = tables.token_packages, tables.purchases
    return select(
        line,
        package.c.quota_type,
        package.c.priority,
        package.c.price,
        package.c.currency,
        (package.c.amount + package.c.bonus).label("units"),
    ).join(package, (package.c.name == line.c.package) & (package.c.version == line.c.version))


def _lines_of(connection: Connection, order_id: str) -> list[Purchase]:
    table = tables.purchases
    query = _lines().where(table.c.order_id == order_id).order_by(table.c.line)
    return [_purchase(row) for row in connection.execute(query)]


def _order(connection: Connection, order_id: str) -> Order:
    lines = _lines_of(connection, order_id)
    if not lines:
        raise PurchaseNotFoundError(f"there is no order {order_id}")
    first = lines[0]
    return Order(order_id=order_id, account=first.account, state=first.state, lines=tuple(lines))


def _package(row: Row[Any]) -> Package:
    return Package(
        name=row.name,
        version=row.version,
        terms=PackageTerms(**{field: getattr(row, field) for field in _TERMS}),
        is_active=row.is_active,
        created_at=row.created_at,
    )


def _purchase(row: Row[Any]) -> Purchase:
    return Purchase(**{field: getattr(row, field) for field in Purchase.__slots__})
