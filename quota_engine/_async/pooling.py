"""Provider pools, as the engine's callers see them. What the gate knows of them is cached here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

from quota_engine._async.transport import AsyncTransport
from quota_engine.backing import Backing, PoolStore
from quota_engine.errors import EngineUnavailableError, InvalidArgumentError, PoolEmptyError
from quota_engine.ids import new_id
from quota_engine.instants import from_ms
from quota_engine.pools import (
    CORRECTED,
    RECHARGED,
    PoolEntry,
    PoolName,
    PoolStanding,
    checked_correction,
    checked_entry,
    checked_pool,
    checked_pool_terms,
    checked_recharge,
)
from quota_engine.prices.price import checked_currency, checked_provider
from quota_engine.provider_exports import Difference, ExportReport, checked_comparison
from quota_engine.settings import Settings
from quota_engine.waiting import in_thread

log = logging.getLogger("quota_engine.pools")

#: After PostgreSQL did not answer, the gate lets calls pass and asks again so late.
RETRY_SECONDS = 30.0


class AsyncPools:
    """
    What is still there of what was paid to providers in advance.

    Every call reads PostgreSQL, but ``check``; calls count as soon as they are persisted. Without
    a ``currency`` a provider's only pool is meant. Raises ``PoolNotFoundError`` where there is
    none, and ``InvalidArgumentError`` for what cannot be meant.
    """

    def __init__(self, transport: AsyncTransport, backing: Backing, settings: Settings) -> None:
        self._transport = transport
        self._backing = backing
        self._settings = settings
        self._known: Mapping[PoolName, PoolStanding] = {}
        self._is_read = False
        self._next_read = float("-inf")

    async def define(
        self,
        provider: str,
        *,
        currency: str | None = None,
        warning: Decimal | int | str = "10%",
        critical: Decimal | int | str | None = None,
        starts_at: datetime | None = None,
        operator: str | None = None,
        remark: str | None = None,
    ) -> PoolStanding:
        """
        Begin to count what is left at a provider, or change when to warn.

        ``currency`` None: the deployment's. ``warning`` and ``critical``: balances, or per cent of
        the largest of the last three recharges, such as ``"10%"``; ``critical`` None: a fifth of
        ``warning``. Usage records from ``starts_at`` (now) on are deducted; that is not changed
        later. A new pool has nothing until it is recharged. The same again changes nothing.
        """
        name = checked_pool(provider, self._settings.currency if currency is None else currency)
        terms = checked_pool_terms(warning=warning, critical=critical, starts_at=starts_at)
        _, by, why = checked_entry(entry_id="-", operator=operator, remark=remark)
        made = await in_thread(
            self._store.define, name, terms, self._now(), operator=by, remark=why
        )
        self.forget()
        return made

    async def recharge(
        self,
        provider: str,
        amount: Decimal | int | str,
        *,
        recharge_id: str | None = None,
        currency: str | None = None,
        operator: str | None = None,
        remark: str | None = None,
    ) -> PoolEntry:
        """
        Record what was paid in. Idempotent by ``recharge_id``, such as the payment's.

        The same id again is replayed, with another amount it is an ``IdempotencyConflictError``;
        the first operator and remark stay. ``.balance_after`` is as of now.
        """
        told = (recharge_id or new_id("recharge"), operator, remark)
        return await self._enter(provider, currency, RECHARGED, checked_recharge(amount), told)

    async def correct(
        self,
        provider: str,
        amount: Decimal | int | str,
        *,
        correction_id: str | None = None,
        currency: str | None = None,
        operator: str | None = None,
        remark: str | None = None,
    ) -> PoolEntry:
        """
        Add to a pool's balance, or with a negative amount take away, what no record tells.

        Idempotent by ``correction_id`` as ``recharge`` is. No per cent is of a correction.
        """
        told = (correction_id or new_id("correction"), operator, remark)
        return await self._enter(provider, currency, CORRECTED, checked_correction(amount), told)

    async def standing(self, provider: str, *, currency: str | None = None) -> PoolStanding:
        """Return a pool as it is now."""
        return await in_thread(self._store.standing, await self._name(provider, currency))

    async def list(self) -> Sequence[PoolStanding]:
        """Return every pool as it is now, by provider and currency."""
        return await in_thread(self._store.standings)

    async def history(self, provider: str, *, currency: str | None = None) -> Sequence[PoolEntry]:
        """
        Return what was done to a pool and what each day (UTC) cost, oldest first.

        Each with the balance after; a day's costs stand at its end.
        """
        name = await self._name(provider, currency)
        return await in_thread(self._store.history, name, self._now())

    async def rebuild(self, provider: str, *, currency: str | None = None) -> int:
        """
        Sum a pool's costs again from the usage records; return how many days. They come out same.

        Needed only after somebody has edited them: see ``wrong_days``. Calls and workers go on.
        """
        days = await in_thread(self._store.rebuild, await self._name(provider, currency))
        self.forget()
        return days

    async def wrong_days(self, provider: str, *, currency: str | None = None) -> Sequence[date]:
        """Return the days on which a pool's costs are not those of the usage records."""
        return await in_thread(self._store.wrong_days, await self._name(provider, currency))

    async def reconcile(
        self,
        provider: str,
        export: str | Path,
        *,
        currency: str | None = None,
        columns: Mapping[str, str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        time_zone: str = "UTC",
        cost_tolerance: Decimal | int | str = "0.000001",
        token_tolerance: int = 0,
        limit: int = 1_000,
        on_difference: Callable[[Difference], object] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ExportReport:
        """
        Compare a provider's own export of calls, a CSV file, with the usage records.

        A call is found by the request id that the model answered, else the reference of its
        charge, else its operation id; what was corrected counts as corrected. ``columns``: what
        the export calls ``time``, ``id``, ``cost``, ``model``, ``input_tokens``, ``output_tokens``
        and ``currency``, where it is none of the usual words. ``since`` counts, ``until`` does
        not; None: the whole days (UTC) that the export's times lie in. ``time_zone``: of times
        that tell none. Costs and tokens that differ by no more than the tolerances are equal.

        The report has the first ``limit`` differences; ``on_difference`` is told all of them,
        ``progress`` how many bytes of how many are read (both in a thread of an async engine).
        The ledger needs no pool for it; ``currency`` None: that of the only pool, or the
        deployment's. Raises ``InvalidArgumentError``, with the line, for what cannot be read.
        """
        comparison = checked_comparison(
            checked_provider(provider),
            await self._currency(provider, currency),
            columns=columns,
            since=since,
            until=until,
            time_zone=time_zone,
            cost_tolerance=cost_tolerance,
            token_tolerance=token_tolerance,
            limit=limit,
        )
        return await in_thread(
            self._store.compare, comparison, Path(export), on_difference, progress
        )

    # -- the gate

    async def check(self, provider: str, currency: str | None = None) -> None:
        """
        Raise ``PoolEmptyError`` if nothing is left in the pool that a call would be paid from.

        ``currency`` None: if nothing is left in any of the provider's pools. Pools are read again
        after ``pool_refresh_seconds``. Of an unknown pool, and while PostgreSQL does not answer,
        nothing is known: the call may be made.
        """
        owner = provider.strip().lower()
        pools = [
            standing
            for name, standing in (await self._lately_known()).items()
            if name.provider == owner and currency in (None, name.currency)
        ]
        if pools and all(pool.balance <= 0 for pool in pools):
            emptiest = pools[0]
            raise PoolEmptyError(owner, emptiest.currency, emptiest.balance)

    async def _lately_known(self) -> Mapping[PoolName, PoolStanding]:
        now = time.monotonic()
        if now < self._next_read:
            return self._known
        if self._is_read:  # one reads again, the others go by what was read
            self._next_read = now + RETRY_SECONDS
        try:
            found = await in_thread(self._store.standings)
        except EngineUnavailableError as error:
            log.warning("provider pools are not checked: %s", error)
            self._known, self._next_read = {}, time.monotonic() + RETRY_SECONDS
        else:
            self._known = {PoolName(one.provider, one.currency): one for one in found}
            self._next_read = time.monotonic() + self._settings.pool_refresh_seconds
        self._is_read = True
        return self._known

    def forget(self) -> None:
        """Read pools again when a call is next checked."""
        self._is_read, self._next_read = False, float("-inf")

    # -- inside

    @property
    def _store(self) -> PoolStore:
        return self._backing.statement_store.pools

    async def _name(self, provider: str, currency: str | None) -> PoolName:
        known = None if currency is None else checked_currency(currency)
        return await in_thread(self._store.name_of, checked_provider(provider), known)

    async def _currency(self, provider: str, currency: str | None) -> str:
        """Return the currency that is meant: of the only pool, or the deployment's."""
        if currency is not None:
            return checked_currency(currency)
        known = await in_thread(self._store.currencies_of, checked_provider(provider))
        if len(known) > 1:
            raise InvalidArgumentError(
                f"{provider} has pools in {' and '.join(known)}: say which currency"
            )
        return known[0] if known else self._settings.currency

    async def _enter(
        self,
        provider: str,
        currency: str | None,
        kind: str,
        amount: Decimal,
        told: tuple[str, str | None, str | None],
    ) -> PoolEntry:
        entry_id, operator, remark = checked_entry(
            entry_id=told[0], operator=told[1], remark=told[2]
        )
        entry = await in_thread(
            self._store.enter,
            await self._name(provider, currency),
            kind,
            amount,
            self._now(),
            entry_id=entry_id,
            operator=operator,
            remark=remark,
        )
        self.forget()
        return entry

    def _now(self) -> datetime | None:
        now_ms = self._transport.now_ms()
        return None if now_ms is None else from_ms(now_ms)
