"""Plans, as the engine's callers see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quota_engine.backing import Backing
from quota_engine.errors import PlanNotFoundError
from quota_engine.plans import Plan, Rollover, checked_plan_name, checked_plan_terms
from quota_engine.settings import Settings
from quota_engine.waiting import in_thread


class AsyncPlans:
    """What may be subscribed to. Every call reads PostgreSQL."""

    def __init__(self, backing: Backing, settings: Settings) -> None:
        self._store = backing.plan_store
        self._settings = settings

    async def define(
        self,
        name: str,
        *,
        period: str,
        amounts: Mapping[str, int],
        priority: int = 50,
        rollover: str | Rollover | Mapping[str, Any] | None = None,
        debt: str = "carry",
        extras: Mapping[str, int] | None = None,
        trial_period: str | None = None,
        trial_amounts: Mapping[str, int] | None = None,
        description: str | None = None,
        active: bool = True,
    ) -> Plan:
        """
        Say what a plan gives; other terms than before make a new version.

        ``quota_engine.plans`` tells what each argument means. ``period``: day, week, month,
        quarter, year or such as ``10 days``. Who has subscribed keeps the version. The same terms
        again change nothing. Raises ``InvalidArgumentError`` for terms that no plan can have.
        """
        terms = checked_plan_terms(
            self._settings,
            period=period,
            amounts=amounts,
            priority=priority,
            rollover=rollover,
            debt=debt,
            extras=extras,
            trial_period=trial_period,
            trial_amounts=trial_amounts,
            description=description,
        )
        known = checked_plan_name(name)
        return await in_thread(self._store.define_plan, known, terms, is_active=bool(active))

    async def find(self, name: str, version: int | None = None) -> Plan | None:
        """Return a version of a plan (None: its newest), or None."""
        return await in_thread(self._store.find_plan, checked_plan_name(name), version)

    async def show(self, name: str, version: int | None = None) -> Plan:
        """Return a version of a plan; raise ``PlanNotFoundError`` where there is none."""
        found = await self.find(name, version)
        if found is None:
            which = name if version is None else f"{name} v{version}"
            raise PlanNotFoundError(f"there is no plan {which}; `quota-engine plans list`")
        return found

    async def list(self, *, only_active: bool = False) -> Sequence[Plan]:
        """Return the newest version of each plan, by name."""
        return await in_thread(self._store.list_plans, only_active=only_active)

    async def history(self, name: str) -> Sequence[Plan]:
        """Return every version of a plan, oldest first."""
        return await in_thread(self._store.plan_history, checked_plan_name(name))

    async def activate(self, name: str, active: bool = True) -> Plan:
        """Begin to offer a plan, or end it; who has it keeps it."""
        known = checked_plan_name(name)
        return await in_thread(self._store.activate_plan, known, is_active=bool(active))
