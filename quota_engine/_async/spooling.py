"""
Calls while Redis is away: what must not be lost goes to the spool, what may be admitted is.

While all is well this costs a call nothing but one more frame: no file is looked at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from quota_engine._async.transport import AsyncTransport
from quota_engine.backing import Backing
from quota_engine.commands import (
    CaptureHold,
    Debit,
    Debited,
    ExtendedHold,
    ExtendHold,
    Flow,
    PlacedHold,
    PlaceHold,
    ReleaseHold,
)
from quota_engine.errors import (
    AccountBarredError,
    EngineUnavailableError,
    HoldNotFoundError,
    IdempotencyConflictError,
    QuotaError,
    RedisAwayError,
)
from quota_engine.keys import QuotaName
from quota_engine.policies import LastKnown
from quota_engine.refusals import SHADOW, reason_of
from quota_engine.settings import Settings
from quota_engine.spool import Spool, SpoolError
from quota_engine.spooled import Spoolable, operation_of, result_of
from quota_engine.waiting import in_thread

log = logging.getLogger("quota_engine.spool")
T = TypeVar("T")

#: After PostgreSQL did not answer either, it is asked about accounts again so late.
ASK_AGAIN_SECONDS = 5.0
CLOSED = (
    "Nothing is admitted meanwhile: see QUOTA_ENGINE_OFFLINE_POLICY for accounts that may go on."
)


class AsyncSpooling:
    """Drives flows, and knows what to do with those that Redis does not answer."""

    def __init__(self, transport: AsyncTransport, backing: Backing, settings: Settings) -> None:
        self._transport = transport
        self._backing = backing
        self._settings = settings
        self._spool: Spool | None = None
        self._last_known = LastKnown()
        self._ask_at = 0.0
        #: Called when something was spooled.
        self.on_noted: Callable[[], None] | None = None

    @property
    def spool(self) -> Spool:
        """The deployment's spool on this machine. May ask the ledger whose it is, once."""
        if self._spool is None:
            self._spool = Spool(self._settings.spool_place, self._backing.deployment_id)
        return self._spool

    def close(self) -> None:
        """Close the file; what waits in it stays."""
        if self._spool is not None:
            self._spool.close()

    def now_ms(self) -> int:
        """Return the client's clock, or this machine's."""
        now_ms = self._transport.now_ms()
        return time.time_ns() // 1_000_000 if now_ms is None else now_ms

    async def settled(self, command: Spoolable, flow: Flow[T], hold: object = None) -> T:
        """
        Drive what must not be lost; spool it when its outcome stays unknown.

        ``hold``: the hold as the caller gave it. One that was admitted offline ends in the file.
        """
        started = time.monotonic()
        try:
            result = await self._settle(command, flow, hold)
        except QuotaError as error:
            self._transport.metrics.failed(command.script, time.monotonic() - started, error)
            raise
        self._transport.metrics.done(command.script, time.monotonic() - started, result)
        return result

    async def _settle(self, command: Spoolable, flow: Flow[T], hold: object) -> T:
        failure: EngineUnavailableError | None = None
        try:
            if not getattr(hold, "offline", False):
                return await self._transport.drive(flow)
        except EngineUnavailableError as error:
            failure = error
        except (HoldNotFoundError, IdempotencyConflictError):
            if not await in_thread(self._is_offline, command):
                raise
        is_known = hold is not None and not isinstance(hold, str)
        return cast("T", await in_thread(self._note, command, is_known, failure))

    async def admitted(
        self,
        command: PlaceHold | Debit,
        flow: Flow[T],
        called: tuple[str | None, str | None] = (None, None),
    ) -> T:
        """
        Drive what must be admitted; while Redis is away, the account's allowance decides.

        ``called``: the provider and model, by which a refusal is counted.
        """
        started = time.monotonic()
        try:
            result = await self._try_to_admit(command, flow)
        except QuotaError as error:
            self._transport.metrics.failed(command.script, time.monotonic() - started, error)
            self.count_refusal(command.quota, error, called)
            raise
        self._transport.metrics.done(command.script, time.monotonic() - started, result)
        if shadowed := getattr(result, "shadowed", ()):
            self._count_shadowed(command.quota, result, shadowed[0].reason, called)
        return result

    def _count_shadowed(
        self, quota: QuotaName, result: Any, reason: str, called: tuple[str | None, str | None]
    ) -> None:
        """Count a call that would have been refused, once."""
        if not result.replayed:
            provider, model = called
            now_ms, refusals = self.now_ms(), self._transport.refusals
            refusals.count(quota, SHADOW + reason, now_ms, provider=provider, model=model)

    def count_refusal(
        self, quota: QuotaName, error: QuotaError, called: tuple[str | None, str | None]
    ) -> None:
        """Count a call that was refused, for the reports."""
        if reason_of(error) is not None:
            provider, model = called
            now_ms = self.now_ms()
            self._transport.refusals.add(quota, error, now_ms, provider=provider, model=model)

    async def _try_to_admit(self, command: PlaceHold | Debit, flow: Flow[T]) -> T:
        try:
            admitted = await self._transport.drive(flow)
        except AccountBarredError as error:
            self._last_known.note(error)
            raise
        except RedisAwayError as error:
            failure = error
        else:
            self._last_known.forget(command.quota.account)
            return admitted
        return cast("T", await in_thread(self._admit, command, failure))

    async def extended(
        self, command: ExtendHold, flow: Flow[ExtendedHold], hold: object
    ) -> ExtendedHold:
        """Drive an extension; a hold that was admitted offline is extended in the file."""
        started = time.monotonic()
        try:
            result = await self._try_to_extend(command, flow, hold)
        except QuotaError as error:
            self._transport.metrics.failed(command.script, time.monotonic() - started, error)
            raise
        self._transport.metrics.done(command.script, time.monotonic() - started, result)
        return result

    async def _try_to_extend(
        self, command: ExtendHold, flow: Flow[ExtendedHold], hold: object
    ) -> ExtendedHold:
        failure: QuotaError
        if getattr(hold, "offline", False):
            failure = HoldNotFoundError(f"hold {command.hold_id} is not in {self.spool.path}")
        else:
            try:
                return await self._transport.drive(flow)
            except (HoldNotFoundError, RedisAwayError) as error:
                failure = error
        found = await in_thread(self._extend, command)
        if found is None:
            raise failure
        return found

    # -- these block

    def _is_offline(self, command: Spoolable) -> bool:
        """Whether a command ends a hold that was admitted offline, and Redis never saw."""
        if not isinstance(command, CaptureHold | ReleaseHold):
            return False
        return self.spool.has_hold(command.quota, command.hold_id)

    def _note(self, command: Spoolable, is_known: bool, failure: Exception | None) -> Any:
        operation = operation_of(command, self.now_ms(), is_known=is_known)
        try:
            is_new = self.spool.note(operation)
        except SpoolError as error:
            said = "" if failure is None else f"{failure} "
            raise EngineUnavailableError(f"{said}Nor could it be spooled: {error}") from error
        if failure is not None:
            what = f"{operation.kind} {operation.operation_id} of {operation.quota}"
            log.warning("%s waits in the spool: %s", what, failure)
        self._tell()
        return result_of(operation, replayed=not is_new)

    def _admit(self, command: PlaceHold | Debit, failure: RedisAwayError) -> Any:
        self._refuse_barred(command.quota.account)
        allowance = self._settings.offline_allowance_of(command.quota)
        has_types = any(quota.account == command.quota.account for quota in command.others)
        if not allowance or has_types:  # an allowance is of one quota type
            raise RedisAwayError(f"{failure} {CLOSED}") from failure
        if isinstance(command, PlaceHold):
            return self._place(command, allowance)
        operation = operation_of(command, self.now_ms(), is_offline=True)
        is_new = self.spool.debit(operation, allowance=allowance)
        self._tell()
        return cast("Debited", result_of(operation, replayed=not is_new))

    def _place(self, command: PlaceHold, allowance: int) -> PlacedHold:
        return self.spool.place(command, allowance=allowance, now_ms=self.now_ms())

    def _refuse_barred(self, account: str) -> None:
        """Refuse an account that is not active, by the ledger; else as it was last known to be."""
        if time.monotonic() >= self._ask_at:
            try:
                self._last_known.learn(account, self._backing.account_store.read_path(account))
            except EngineUnavailableError:
                self._ask_at = time.monotonic() + ASK_AGAIN_SECONDS
        barred = self._last_known.barred(account)
        if barred is not None:
            raise barred

    def _extend(self, command: ExtendHold) -> ExtendedHold | None:
        if not self.spool.exists():
            return None
        if command.amount and self.spool.has_hold(command.quota, command.hold_id):
            self._refuse_barred(command.quota.account)
        allowance = self._settings.offline_allowance_of(command.quota)
        return self.spool.extend(command, allowance=allowance, now_ms=self.now_ms())

    def _tell(self) -> None:
        if self.on_noted is not None:
            self.on_noted()
