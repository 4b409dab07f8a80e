"""
Rows of packages and orders, and the steps of an order, each in its caller's transaction.

Shared by those who sell and those who redeem codes. It must not know when a transaction ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from quota_engine.errors import (
    IdempotencyConflictError,
    PackageNotFoundError,
    PurchaseNotFoundError,
    PurchaseRefusedError,
)
from quota_engine.ledger import sale_tables as tables
from quota_engine.ledger.intents import record_intent
from quota_engine.ledger.locks import lock_named
from quota_engine.ledger.policies import refuse_closed
from quota_engine.packages import (
    PAID,
    PENDING,
    Order,
    Package,
    PackageTerms,
    Purchase,
    issue_of,
)

TERMS = tuple(PackageTerms.__slots__)


def ordered(
    connection: Connection,
    account: str,
    names: Sequence[str],
    order_id: str,
    *,
    version: int | None = None,
) -> Order:
    """
    Return an order, recorded as pending if there is none; the same one again is replayed.

    ``version``: of its packages, also of one that is not sold any more; None: the newest.
    """
    found = lines_of(connection, order_id)
    if found:
        if {line.account for line in found} != {account} or [
            line.package for line in found
        ] != list(names):
            told = ", ".join(line.package for line in found)
            raise IdempotencyConflictError(
                f"order {order_id} is one of {told} for {found[0].account}"
            )
        return replace(order_of(connection, order_id), replayed=True)
    refuse_closed(connection, account)
    for name in sorted(set(names)):  # in one order, so that two orders can't wait for each other
        lock_named(connection, f"purchases:{account}:{name}")
    for number, name in enumerate(names, start=1):
        _refuse_too_many(connection, account, name)
        package = newest_package(connection, name)
        if version is None and not package.is_active:
            raise PurchaseRefusedError(f"package {name} is not sold any more")
        connection.execute(
            insert(tables.purchases).values(
                order_id=order_id,
                line=number,
                account=account,
                package=name,
                version=version or package.version,
                state=PENDING,
            )
        )
    return order_of(connection, order_id)


def _refuse_too_many(connection: Connection, account: str, name: str) -> None:
    """Refuse a package that an account has as often as it may."""
    limit = newest_package(connection, name).terms.per_user_limit
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


def pay_order(connection: Connection, order: Order, instant: datetime) -> None:
    """Mark an order as paid, and promise its grants."""
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
    for line in lines_of(connection, order.order_id):
        issue = issue_of(line)
        record_intent(connection, issue.quota, line.grant_id, issue.terms, issue.details)


def activate(connection: Connection, name: str, *, is_active: bool) -> None:
    """Begin to sell a package, or end it."""
    table = tables.token_packages
    connection.execute(update(table).where(table.c.name == name).values(is_active=is_active))


def find_newest(connection: Connection, name: str) -> Package | None:
    """Return the newest version of a package, or None."""
    table = tables.token_packages
    query = select(table).where(table.c.name == name).order_by(table.c.version.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else package_of(row)


def newest_package(connection: Connection, name: str) -> Package:
    """Return the newest version of a package; raise ``PackageNotFoundError`` for none."""
    package = find_newest(connection, name)
    if package is None:
        raise PackageNotFoundError(f"there is no package {name}; `quota-engine packages list`")
    return package


def _version(connection: Connection, name: str, version: int) -> Package:
    table = tables.token_packages
    query = select(table).where(table.c.name == name, table.c.version == version)
    return package_of(connection.execute(query).one())


def all_lines() -> Any:
    """Return the query for the lines of orders, with what their packages said."""
    package, line = tables.token_packages, tables.purchases
    return select(
        line,
        package.c.quota_type,
        package.c.priority,
        package.c.price,
        package.c.currency,
        (package.c.amount + package.c.bonus).label("units"),
    ).join(package, (package.c.name == line.c.package) & (package.c.version == line.c.version))


def lines_of(connection: Connection, order_id: str) -> list[Purchase]:
    """Return the lines of an order; of one that nobody made, none."""
    table = tables.purchases
    query = all_lines().where(table.c.order_id == order_id).order_by(table.c.line)
    return [purchase_of(row) for row in connection.execute(query)]


def order_of(connection: Connection, order_id: str) -> Order:
    """Return an order; raise ``PurchaseNotFoundError`` where there is none."""
    lines = lines_of(connection, order_id)
    if not lines:
        raise PurchaseNotFoundError(f"there is no order {order_id}")
    first = lines[0]
    return Order(order_id=order_id, account=first.account, state=first.state, lines=tuple(lines))


def package_of(row: Row[Any]) -> Package:
    """Return the version of a package that a row keeps."""
    return Package(
        name=row.name,
        version=row.version,
        terms=PackageTerms(**{field: getattr(row, field) for field in TERMS}),
        is_active=row.is_active,
        created_at=row.created_at,
    )


def purchase_of(row: Row[Any]) -> Purchase:
    """Return the line of an order that a row keeps."""
    return Purchase(**{field: getattr(row, field) for field in Purchase.__slots__})
