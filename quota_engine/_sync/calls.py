# Written by tools/unasync.py from quota_engine/_async/calls.py. Edit that file instead.
"""The engine's calls: arguments are checked here, flows do the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from quota_engine import flows
from quota_engine._sync.holds import HoldBlock
from quota_engine._sync.pricing import Pricing
from quota_engine._sync.transport import Transport
from quota_engine.amounts import checked_amount
from quota_engine.arguments import (
    checked_overdraft_limit,
    checked_quota,
    checked_terms,
    checked_text,
    checked_ttl_ms,
)
from quota_engine.backing import Backing
from quota_engine.commands import (
    Balance,
    CapturedHold,
    CaptureHold,
    Debit,
    Debited,
    ExtendedHold,
    ExtendHold,
    IssuedGrant,
    IssueGrant,
    OverdraftLimit,
    PlacedHold,
    PlaceHold,
    ReadBalance,
    RecordedUsage,
    RecordUsage,
    ReleasedHold,
    ReleaseHold,
    SetOverdraftLimit,
    VoidedGrant,
    VoidGrant,
)
from quota_engine.commands.arguments import details_text
from quota_engine.errors import InvalidArgumentError
from quota_engine.history import HistoryEntry
from quota_engine.ids import checked_id, new_id
from quota_engine.keys import QuotaName
from quota_engine.settings import Settings
from quota_engine.usage import Counted, usage_counts
from quota_engine.waiting import in_place

#: A hold itself, or its id with ``account=`` and ``quota_type=``.
HoldArgument = PlacedHold | ExtendedHold | HoldBlock | str
UsageArgument = Counted | Mapping[str, Any] | None


class Calls(Pricing):
    """
    Holds, charges and grants quota, in real time.

    Amounts are whole units of the quota type. Every mutation takes an operation id or makes one;
    the same id with the same arguments has one effect and gets the first answer again. Any call
    may raise ``EngineUnavailableError`` after the call timeout: then its outcome is unknown, and a
    retry with the same id is safe. Costs one round trip to Redis where nothing else is said.
    """

    def __init__(self, transport: Transport, backing: Backing, settings: Settings) -> None:
        super().__init__(transport, backing, settings)
        self._transport = transport
        self._backing = backing
        self._settings = settings

    def issue_grant(
        self,
        account: str,
        quota_type: str,
        amount: int,
        *,
        source: str = "admin_grant",
        reference: str | None = None,
        description: str | None = None,
        grant_id: str | None = None,
        priority: int = 50,
        starts_at: datetime | None = None,
        expires_at: datetime | None = None,
        actor: str | None = None,
    ) -> IssuedGrant:
        """
        Put quota in, live from ``starts_at`` (now) until ``expires_at`` (never), exactly.

        ``actor``: who did it, kept with the entry. Idempotent by ``grant_id``; other terms raise
        ``IdempotencyConflictError``. Promised in PostgreSQL first: after
        ``EngineUnavailableError`` the workers issue it by that promise.
        """
        quota = self._quota(account, quota_type)
        terms = checked_terms(
            amount,
            source=source,
            reference=reference,
            description=description,
            priority=priority,
            starts_at=starts_at,
            expires_at=expires_at,
        )
        details = {
            "source": terms.source,
            "reference": reference,
            "description": description,
            "actor": checked_text(actor, name="actor"),
        }
        command = IssueGrant(
            quota=quota,
            grant_id=self._id(grant_id, "grant"),
            terms=terms,
            grants_max=self._settings.grants_max,
            details=details_text(details),
        )
        return self._transport.drive(flows.issued(command))

    def void_grant(
        self,
        account: str,
        quota_type: str,
        grant_id: str,
        *,
        reference: str | None = None,
        actor: str | None = None,
    ) -> VoidedGrant:
        """
        Cancel what remains of a grant; what was used, or is held, stays with who has it.

        Raises ``GrantNotFoundError`` when there is no such grant or nothing of it is left.
        """
        command = VoidGrant(
            quota=self._quota(account, quota_type),
            grant_id=checked_id(grant_id, name="grant id"),
            details=details_text(
                {
                    "reference": checked_text(reference, name="reference"),
                    "actor": checked_text(actor, name="actor"),
                }
            ),
        )
        return self._transport.drive(flows.settled(command))

    def read_balance(self, account: str, quota_type: str) -> Balance:
        """Return what an account has now. An unknown account reads as zero."""
        command = ReadBalance(quota=self._quota(account, quota_type))
        return self._transport.drive(flows.settled(command))

    def has_quota(self, account: str, quota_type: str, amount: int) -> bool:
        """Return whether ``amount`` would be admitted now. Changes and promises nothing."""
        wanted = checked_amount(amount)
        command = ReadBalance(quota=self._quota(account, quota_type), with_grants=False)
        balance = self._transport.drive(flows.settled(command))
        return not balance.frozen and (balance.spendable is None or wanted <= balance.spendable)

    def debit(
        self,
        account: str,
        quota_type: str,
        amount: int,
        *,
        operation_id: str | None = None,
        usage: UsageArgument = None,
        reference: str | None = None,
        already_used: bool = False,
    ) -> Debited:
        """
        Take units at once. Above spendable: ``QuotaInsufficientError``, and no effect.

        With ``already_used`` the call has happened: it is charged, and what can't be paid is
        recorded as shortfall.
        """
        details = {
            "usage": usage_counts(usage),
            "reference": checked_text(reference, name="reference"),
        }
        command = Debit(
            quota=self._quota(account, quota_type),
            operation_id=self._id(operation_id, "op"),
            amount=checked_amount(amount),
            already_used=bool(already_used),
            details=details_text(details),
        )
        return self._transport.drive(flows.settled(command))

    def place_hold(
        self,
        account: str,
        quota_type: str,
        amount: int,
        *,
        operation_id: str | None = None,
        ttl: float | None = None,
        reference: str | None = None,
    ) -> PlacedHold:
        """
        Set units aside for ``ttl`` seconds, or raise ``QuotaInsufficientError``.

        The hold's id is the operation id.
        """
        seconds = self._settings.hold_ttl_seconds if ttl is None else ttl
        command = PlaceHold(
            quota=self._quota(account, quota_type),
            hold_id=self._id(operation_id, "hold"),
            amount=checked_amount(amount),
            ttl_ms=checked_ttl_ms(seconds),
            details=details_text({"reference": checked_text(reference, name="reference")}),
        )
        return self._transport.drive(flows.settled(command))

    def extend_hold(
        self,
        hold: HoldArgument,
        amount: int | None = None,
        ttl: float | None = None,
        *,
        account: str | None = None,
        quota_type: str | None = None,
    ) -> ExtendedHold:
        """
        Let a hold grow to a new total, or live ``ttl`` seconds from now.

        Raises ``HoldClosedError``, ``HoldNotFoundError``, ``QuotaInsufficientError``, and
        ``InvalidAmountError`` for a total below what is held.
        """
        if amount is None and ttl is None:
            raise InvalidArgumentError("extend_hold needs an amount (the new total) or a ttl")
        quota, hold_id = self._hold(hold, account, quota_type)
        command = ExtendHold(
            quota=quota,
            hold_id=hold_id,
            operation_id=self._id(None, "op"),
            amount=0 if amount is None else checked_amount(amount),
            ttl_ms=0 if ttl is None else checked_ttl_ms(ttl),
        )
        return self._transport.drive(flows.extended(command))

    def capture_hold(
        self,
        hold: HoldArgument,
        amount: int,
        *,
        usage: UsageArgument = None,
        final: bool = True,
        operation_id: str | None = None,
        account: str | None = None,
        quota_type: str | None = None,
    ) -> CapturedHold:
        """
        Charge what was used, 0 included. Never refused: above the hold it is charged as far as it
        can be paid, after the hold has closed it is charged late, the rest is shortfall.

        ``final`` closes the hold, and the same amount again is replayed. A part (``final=False``)
        keeps the rest held; it is idempotent by ``operation_id``, so give one to retry it.
        Raises ``HoldNotFoundError`` if neither Redis nor the ledger has ever seen the hold.
        """
        quota, hold_id = self._hold(hold, account, quota_type)
        if final and operation_id is not None:
            raise InvalidArgumentError(
                "the final capture takes its operation id from the hold; only a part takes one"
            )
        command = CaptureHold(
            quota=quota,
            hold_id=hold_id,
            operation_id=f"{hold_id}:capture" if final else self._id(operation_id, "op"),
            amount=checked_amount(amount, zero_allowed=True),
            is_final=bool(final),
            details=details_text({"usage": usage_counts(usage)}),
        )
        return self._transport.drive(flows.captured(command))

    def release_hold(
        self,
        hold: HoldArgument,
        *,
        usage: UsageArgument = None,
        account: str | None = None,
        quota_type: str | None = None,
    ) -> ReleasedHold:
        """
        Give a hold back unused. One that is closed already stays as it is.

        ``usage`` tells of a call that failed; it is recorded and charges nothing.
        """
        quota, hold_id = self._hold(hold, account, quota_type)
        details = details_text({"usage": usage_counts(usage)})
        command = ReleaseHold(quota=quota, hold_id=hold_id, details=details)
        return self._transport.drive(flows.released(command))

    def record_usage(
        self,
        account: str,
        quota_type: str,
        usage: UsageArgument,
        *,
        operation_id: str | None = None,
        reference: str | None = None,
    ) -> RecordedUsage:
        """Keep a record of a call that charges nothing: unbilled, or failed without a hold."""
        details = {
            "usage": usage_counts(usage) or {},
            "reference": checked_text(reference, name="reference"),
        }
        command = RecordUsage(
            quota=self._quota(account, quota_type),
            operation_id=self._id(operation_id, "op"),
            details=details_text(details),
        )
        return self._transport.drive(flows.settled(command))

    def hold(self, account: str, quota_type: str, amount: int, **options: Any) -> HoldBlock:
        """Return a block that holds ``amount`` units; options are those of ``place_hold``."""
        return HoldBlock(self, account, quota_type, amount, options)

    def set_overdraft_limit(
        self,
        account: str,
        quota_type: str,
        limit: int | None,
        *,
        operation_id: str | None = None,
        reference: str | None = None,
    ) -> OverdraftLimit:
        """Say how far below zero a quota may go. None: record, never refuse."""
        command = SetOverdraftLimit(
            quota=self._quota(account, quota_type),
            operation_id=self._id(operation_id, "op"),
            overdraft_limit=checked_overdraft_limit(limit),
            details=details_text({"reference": checked_text(reference, name="reference")}),
        )
        return self._transport.drive(flows.settled(command))

    def history(self, account: str, quota_type: str) -> Sequence[HistoryEntry]:
        """Return a quota's entries, oldest first, pending ones included. Reads PostgreSQL."""
        quota = self._quota(account, quota_type)
        self._transport.connect()
        return in_place(self._backing.history, quota)

    def drain(self) -> int:
        """Persist everything that is pending now; return how many entries that was."""
        self._transport.connect()
        return in_place(self._backing.drain)

    def reconcile(self, repair: bool = False) -> Any:
        """
        Compare every quota in Redis with the ledger and what is pending.

        ``.checked``, ``.drifts`` (each with account, quota_type, redis, ledger, cause) and
        ``.repaired``. Online: other clients go on.
        """
        self._transport.connect()
        return in_place(self._backing.reconcile, repair=repair)

    def run_schedule(self) -> dict[str, str]:
        """
        Do now what is due, as the workers do by themselves; return what came of each duty.

        Grants and holds begin and end on time without it: it tells the ledger, and keeps promises.
        """
        self._transport.connect()
        return in_place(self._backing.run_schedule, self._transport.now_ms())

    def _quota(self, account: str, quota_type: str) -> QuotaName:
        return checked_quota(account, quota_type, self._settings)

    def _id(self, given: str | None, prefix: str) -> str:
        if given is None:
            return new_id(prefix, self._transport.now_ms())
        return checked_id(given, name=f"{prefix} id")

    def _hold(
        self, hold: HoldArgument, account: str | None, quota_type: str | None
    ) -> tuple[QuotaName, str]:
        if isinstance(hold, str):
            if account is None or quota_type is None:
                raise InvalidArgumentError("a hold's id needs account= and quota_type= beside it")
            return self._quota(account, quota_type), checked_id(hold, name="hold id")
        if isinstance(hold, PlacedHold | ExtendedHold | HoldBlock):
            return QuotaName(hold.account, hold.quota_type), hold.hold_id
        raise InvalidArgumentError(f"hold must be a hold or its id, not {type(hold).__name__}")
