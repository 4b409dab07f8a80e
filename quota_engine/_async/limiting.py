"""Limits, as the engine's callers set and see them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from quota_engine import flows
from quota_engine._async.transport import AsyncTransport
from quota_engine.arguments import checked_quota, checked_text, checked_type
from quota_engine.backing import Backing
from quota_engine.commands import Action, LimitStanding, ReadLimits, SetLimits
from quota_engine.errors import (
    BackpressureError,
    EngineUnavailableError,
    InvalidAmountError,
    InvalidArgumentError,
    LimitNotFoundError,
    QuotaError,
)
from quota_engine.ids import checked_id, new_id
from quota_engine.instants import from_ms, to_ms
from quota_engine.limiting import (
    PLANNED,
    REFUSED,
    REMOVED,
    SET,
    THERE,
    WAITS,
    LimitChange,
    LimitImport,
    LimitLine,
    PlannedLimit,
    change_to,
    raised,
    read_limits,
)
from quota_engine.limits import UNITS, UTC, Limit, checked_limit
from quota_engine.settings import Settings
from quota_engine.waiting import in_thread


class AsyncLimits:
    """
    What calls may use of a quota in a time, on top of what it has: see docs/limits.md.

    A limit is named by ``of`` (units, calls, or holds that are open at once), ``per`` (second,
    minute, hour, day, week, month; None for holds) and ``window`` (sliding or calendar; None: the
    usual one of ``per``). A change is an entry of the quota's log, with ``operator`` and
    ``reason``; idempotent by ``operation_id``. Raises ``InvalidArgumentError`` for what no limit
    can be. Costs one round trip to Redis where nothing else is said.
    """

    def __init__(self, transport: AsyncTransport, backing: Backing, settings: Settings) -> None:
        self._transport = transport
        self._backing = backing
        self._settings = settings

    async def set(
        self,
        account: str,
        quota_type: str,
        amount: int,
        *,
        per: str | None,
        of: str = UNITS,
        window: str | None = None,
        time_zone: str = UTC,
        operator: str | None = None,
        reason: str | None = None,
        operation_id: str | None = None,
    ) -> SetLimits:
        """
        Let through at most ``amount`` of what ``of`` says in one ``per``; 16 limits a quota.

        Another amount keeps what was counted, and ends a raise; another time zone begins anew.
        ``time_zone`` is of calendar windows.
        """
        limit = checked_limit(amount, of=of, per=per, window=window, time_zone=time_zone)
        by = (operator, reason, operation_id)
        return await self._change(account, quota_type, Action.SET, limit, by)

    async def raise_until(
        self,
        account: str,
        quota_type: str,
        amount: int,
        until: datetime,
        *,
        per: str | None,
        of: str = UNITS,
        window: str | None = None,
        operator: str | None = None,
        reason: str | None = None,
        operation_id: str | None = None,
    ) -> SetLimits:
        """
        Let a limit be ``amount`` until an instant, and then what it was: ends by itself.

        Raises ``LimitNotFoundError``; ``InvalidAmountError`` for no more than the limit is without
        it, ``InvalidArgumentError`` for an instant that is over.
        """
        limit = checked_limit(amount, of=of, per=per, window=window, time_zone=UTC)
        now_ms = self._now_ms()
        made = () if operation_id is None else await self.history(account, quota_type)
        if operation_id in {change.operation_id for change in made}:
            pass  # a repeat, perhaps when it is over
        elif to_ms(until, name="until") <= now_ms:
            raise InvalidArgumentError(
                f"a limit cannot be raised until {until}: that is over, it is {from_ms(now_ms)}"
            )
        for known in await self.list(account, quota_type):
            is_it = f"{known.of}:{known.per or ''}:{known.window or ''}" == limit.key
            if is_it and limit.amount <= known.amount:
                raise InvalidAmountError(
                    f"{account}|{quota_type} is limited to {known.amount} already: raise it to"
                    f" more, not to {limit.amount} (to lower a limit, set it)"
                )
        by = (operator, reason, operation_id)
        return await self._change(account, quota_type, Action.RAISE, raised(limit, until), by)

    async def remove(
        self,
        account: str,
        quota_type: str,
        *,
        per: str | None,
        of: str = UNITS,
        window: str | None = None,
        operator: str | None = None,
        reason: str | None = None,
        operation_id: str | None = None,
    ) -> SetLimits:
        """Let a limit be none any more. Raises ``LimitNotFoundError``."""
        limit = checked_limit(1, of=of, per=per, window=window, time_zone=UTC)
        by = (operator, reason, operation_id)
        return await self._change(account, quota_type, Action.REMOVE, limit, by)

    async def list(self, account: str, quota_type: str | None = None) -> Sequence[LimitStanding]:
        """Return an account's limits: what each has let through, and lets through yet."""
        types = sorted(self._settings.known_quota_types) if quota_type is None else [quota_type]
        found: list[LimitStanding] = []
        for name in types:
            command = ReadLimits(quota=checked_quota(account, name, self._settings))
            read = await self._transport.drive(flows.settled(command), "list_limits")
            found += read.standings
        return found

    async def history(self, account: str, quota_type: str) -> Sequence[LimitChange]:
        """Return who changed a quota's limits, when and why, oldest first. Reads PostgreSQL."""
        quota = checked_quota(account, quota_type, self._settings)
        await self._transport.drive(flows.booked(quota))
        return await in_thread(self._backing.statement_store.limits.changes, quota)

    async def import_table(
        self,
        table: bytes,
        *,
        dry_run: bool = False,
        operator: str | None = None,
        reason: str | None = None,
    ) -> LimitImport:
        """
        Set or remove the limits of a CSV table, one a line.

        Columns: account, quota_type, amount; and may be per, of, window, time_zone, action: set
        (where it is empty, too) or remove, whose amount says nothing and may be empty. All of the
        table is checked first: ``BatchRefusedError`` tells every problem with its line. A limit
        that is as its line says, or gone already, is left alone, so the same table again changes
        nothing. When a store is away or too much waits, the rest ``waits``: call again.
        """
        by = _by(operator, reason)
        planned = read_limits(table, lambda name: checked_type(name, self._settings))
        lines: list[LimitLine] = []
        stopped: str | None = None
        for one in planned:
            if stopped is not None:
                lines.append(one.told(WAITS, stopped))
                continue
            try:
                lines.append(one.told(await self._import(one, by, dry_run=dry_run)))
            except (EngineUnavailableError, BackpressureError) as error:
                stopped = str(error)
                lines.append(one.told(WAITS, stopped))
            except QuotaError as error:
                lines.append(one.told(REFUSED, str(error)))
        return LimitImport(is_dry_run=dry_run, lines=tuple(lines))

    async def _import(
        self, one: PlannedLimit, by: tuple[str | None, str | None], *, dry_run: bool
    ) -> str:
        """Set or remove one limit unless it is so; return what became of it."""
        read = await self._transport.drive(flows.settled(ReadLimits(quota=one.quota)))
        if one.is_so(read.standings):
            return THERE
        if dry_run:
            return PLANNED
        name = one.quota
        try:
            await self._change(name.account, name.quota_type, one.action, one.limit, (*by, None))
        except LimitNotFoundError:  # somebody else removed it meanwhile
            return THERE
        return SET if one.action is Action.SET else REMOVED

    async def _change(
        self,
        account: str,
        quota_type: str,
        action: Action,
        limit: Limit,
        by: tuple[str | None, str | None, str | None],
    ) -> SetLimits:
        operator, reason, operation_id = by
        if operation_id is None:
            operation_id = new_id("limit", self._transport.now_ms())
        operator, reason = _by(operator, reason)
        command = change_to(
            checked_quota(account, quota_type, self._settings),
            checked_id(operation_id, name="operation id"),
            action,
            limit,
            now_ms=self._now_ms(),
            operator=operator,
            reason=reason,
        )
        return await self._transport.drive(flows.settled(command), "set_limit")

    def _now_ms(self) -> int:
        now_ms = self._transport.now_ms()
        return time.time_ns() // 1_000_000 if now_ms is None else now_ms


def _by(operator: str | None, reason: str | None) -> tuple[str | None, str | None]:
    return checked_text(operator, name="operator"), checked_text(reason, name="reason")
