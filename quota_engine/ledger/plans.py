"""Plans in PostgreSQL: each method is one transaction."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.dialects.postgresql import distinct_on

from quota_engine.errors import PlanNotFoundError
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.locks import lock_named
from quota_engine.ledger.plan_tables import plans
from quota_engine.plans import Plan, PlanTerms, Rollover

_TERMS = tuple(PlanTerms.__slots__)


class PlanTables:
    """The plans of one ledger's database. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def define_plan(self, name: str, terms: PlanTerms, *, is_active: bool) -> Plan:
        """Return the newest version, made if the terms are others than its own."""
        with self._ledger.transaction() as connection:
            lock_named(connection, f"plan:{name}")
            newest = newest_plan(connection, name)
            if newest is None or newest.terms != terms:
                version = 1 if newest is None else newest.version + 1
                connection.execute(
                    insert(plans).values(name=name, version=version, **asdict(terms))
                )
            _activate(connection, name, is_active=is_active)
            return found_plan(connection, name)

    def activate_plan(self, name: str, *, is_active: bool) -> Plan:
        """Begin to offer a plan, or end it; who has it keeps it."""
        with self._ledger.transaction() as connection:
            _activate(connection, name, is_active=is_active)
            return found_plan(connection, name)

    def find_plan(self, name: str, version: int | None) -> Plan | None:
        """Return a version of a plan, None: the newest; or None where there is none."""
        with self._ledger.transaction() as connection:
            if version is None:
                return newest_plan(connection, name)
            query = select(plans).where(plans.c.name == name, plans.c.version == version)
            row = connection.execute(query).one_or_none()
            return None if row is None else _plan(row)

    def list_plans(self, *, only_active: bool) -> list[Plan]:
        """Return the newest version of each plan, by name."""
        newest = (
            select(plans)
            .ext(distinct_on(plans.c.name))
            .order_by(plans.c.name, plans.c.version.desc())
            .subquery()
        )
        query = select(newest).order_by(newest.c.name)
        if only_active:
            query = query.where(newest.c.is_active)
        with self._ledger.transaction() as connection:
            return [_plan(row) for row in connection.execute(query)]

    def plan_history(self, name: str) -> list[Plan]:
        """Return every version of a plan, oldest first."""
        query = select(plans).where(plans.c.name == name).order_by(plans.c.version)
        with self._ledger.transaction() as connection:
            return [_plan(row) for row in connection.execute(query)]


def newest_plan(connection: Connection, name: str) -> Plan | None:
    """Return a plan's newest version, or None."""
    query = select(plans).where(plans.c.name == name).order_by(plans.c.version.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _plan(row)


def found_plan(connection: Connection, name: str) -> Plan:
    """Return a plan's newest version; raise ``PlanNotFoundError`` where there is none."""
    plan = newest_plan(connection, name)
    if plan is None:
        raise PlanNotFoundError(f"there is no plan {name}; `quota-engine plans list`")
    return plan


def read_plans(connection: Connection, wanted: set[tuple[str, int]]) -> dict[Any, Plan]:
    """Return plans by (name, version)."""
    if not wanted:
        return {}
    query = select(plans).where(plans.c.name.in_({name for name, _ in wanted}))
    found = [_plan(row) for row in connection.execute(query)]
    return {(plan.name, plan.version): plan for plan in found}


def _activate(connection: Connection, name: str, *, is_active: bool) -> None:
    connection.execute(update(plans).where(plans.c.name == name).values(is_active=is_active))


def _plan(row: Row[Any]) -> Plan:
    told = {name: getattr(row, name) for name in _TERMS}
    told["rollover"] = {name: Rollover(**rule) for name, rule in row.rollover.items()}
    return Plan(
        name=row.name,
        version=row.version,
        terms=PlanTerms(**told),
        is_active=row.is_active,
        created_at=row.created_at,
    )
