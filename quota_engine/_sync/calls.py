# Written by tools/unasync.py from quota_engine/_async/calls.py. Edit that file instead.
"""The engine's calls: arguments are checked here, flows do the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from quota_engine import flows
from quota_engine._sync.batching import Batching
from quota_engine._sync.codes import Redeeming
from quota_engine._sync.distributing import Distributing
from quota_engine._sync.explaining import Explaining
from quota_engine._sync.granting import Granting
from quota_engine._sync.holds import HoldBlock
from quota_engine._sync.moving import Moving
from quota_engine._sync.rerating import Rerating
from quota_engine._sync.subscribing import Subscribing
from quota_engine.arguments import (
    checked_cancellable,
    checked_text,
    checked_ttl_ms,
)
from quota_engine.commands import (
    Balance,
    CancelledOperation,
    CancelOperation,
    CapturedHold,
    CaptureHold,
    Debit,
    Debited,
    DebitUsed,
    ExtendedHold,
    ExtendHold,
    PlacedHold,
    PlaceHold,
    ReadBalance,
    RecordedUsage,
    RecordUsage,
    ReleasedHold,
    ReleaseHold,
)
from quota_engine.commands.arguments import details_text
from quota_engine.commands.shares import scopes_told
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_id
from quota_engine.keys import QuotaName
from quota_engine.scopes import (
    AmountArgument,
    Asked,
    TypeArgument,
    asked_of,
    quotas_of,
    used_of,
)
from quota_engine.usage import Counted, usage_counts

#: A hold itself, or its id with ``account=`` and ``quota_type=``.
HoldArgument = PlacedHold | ExtendedHold | HoldBlock | str
UsageArgument = Counted | Mapping[str, Any] | None
#: The quota type of a hold that is known by its id, or its types.
HeldTypes = str | Iterable[str] | None


class Calls(
    Granting,
    Moving,
    Redeeming,
    Subscribing,
    Rerating,
    Explaining,
    Batching,
    Distributing,
):
    """
    Holds, charges and grants quota, in real time.

    Amounts are whole units of the quota type. Every mutation takes an operation id or makes one;
    the same id with the same arguments has one effect and gets the first answer again. Any call
    may raise ``EngineUnavailableError`` after the call timeout: then its outcome is unknown, and a
    retry with the same id is safe. Costs one round trip to Redis where nothing else is said.
    """

    def read_balance(self, account: str, quota_type: str) -> Balance:
        """Return what an account has now. An unknown account reads as zero."""
        command = ReadBalance(quota=self._quota(account, quota_type))
        return self._transport.drive(flows.settled(command), "read_balance")

    def has_quota(self, account: str, quota_type: TypeArgument, amount: int | None = None) -> bool:
        """
        Return whether ``amount`` would be admitted now. Changes and promises nothing.

        By the account's quota and by those of the accounts above: see ``place_hold``.
        """
        asked = asked_of(account, quota_type, amount, None, self._settings)
        command = PlaceHold(
            quota=asked.quota,
            hold_id=self._id(None, "hold"),
            amount=asked.amount,
            ttl_ms=1,
            shares=asked.shares,
            is_dry=True,
        )
        return self._transport.drive(flows.admits(command), "has_quota")

    def debit(
        self,
        account: str,
        quota_type: TypeArgument,
        amount: int | None = None,
        *,
        operation_id: str | None = None,
        usage: UsageArgument = None,
        reference: str | None = None,
        already_used: bool = False,
        provider: str | None = None,
        model: str | None = None,
        scopes: Iterable[str] | None = None,
    ) -> Debited:
        """
        Take units at once. Above spendable: ``QuotaInsufficientError``, and no effect.

        Quota types and ``scopes`` as of ``place_hold``.

        With ``already_used`` the call has happened: it is charged, whatever else is refused, and
        what can't be paid is recorded as shortfall. While Redis is away it is ``.spooled``.
        ``provider`` and ``model`` are told with a refusal only: see ``reports.refusals``.
        """
        asked = asked_of(account, quota_type, amount, scopes, self._settings)
        details = {
            "usage": usage_counts(usage),
            "reference": checked_text(reference, name="reference"),
            "scopes": scopes_told(asked.quota, asked.shares),
        }
        kind = DebitUsed if already_used else Debit
        command = kind(
            quota=asked.quota,
            operation_id=self._id(operation_id, "op"),
            amount=asked.amount,
            details=details_text(details),
            shares=asked.shares,
        )
        flow = flows.settled(command)
        if already_used:
            return self._spooling.settled(command, flow)
        return self._spooling.admitted(command, flow, (provider, model))

    def place_hold(
        self,
        account: str,
        quota_type: TypeArgument,
        amount: int | None = None,
        *,
        operation_id: str | None = None,
        ttl: float | None = None,
        reference: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        scopes: Iterable[str] | None = None,
        dry_run: bool = False,
    ) -> PlacedHold:
        """
        Set units aside for ``ttl`` seconds, or raise ``QuotaInsufficientError``.

        In one step, all or nothing, on the account's own quota and on that of every account above
        it that has one (was granted something, or has an overdraft limit). ``scopes`` names other
        accounts of the same root instead; empty: only its own. A mapping from quota types to
        amounts, and no amount, holds several types. The error tells what each quota had.
        ``dry_run`` changes nothing: it only says whether the hold would be placed.

        The hold's id is the operation id. While Redis is away, ``EngineUnavailableError``, or a
        hold within the account's offline allowance, marked ``.offline``. ``provider`` and
        ``model`` are told with a refusal only: see ``reports.refusals``.
        """
        seconds = self._settings.hold_ttl_seconds if ttl is None else ttl
        asked = asked_of(account, quota_type, amount, scopes, self._settings)
        command = PlaceHold(
            quota=asked.quota,
            hold_id=self._id(operation_id, "hold"),
            amount=asked.amount,
            ttl_ms=checked_ttl_ms(seconds),
            details=details_text({"reference": checked_text(reference, name="reference")}),
            shares=asked.shares,
            is_dry=dry_run,
        )
        if dry_run:
            return self._transport.drive(flows.settled(command), "place_hold")
        called = (provider, model)
        return self._spooling.admitted(command, flows.settled(command), called)

    def extend_hold(
        self,
        hold: HoldArgument,
        amount: AmountArgument | None = None,
        ttl: float | None = None,
        *,
        account: str | None = None,
        quota_type: HeldTypes = None,
        scopes: Iterable[str] | None = None,
    ) -> ExtendedHold:
        """
        Let a hold grow to a new total, or live ``ttl`` seconds from now.

        Raises ``HoldClosedError``, ``HoldNotFoundError``, ``QuotaInsufficientError``, and
        ``InvalidAmountError`` for a total below what is held.
        """
        if amount is None and ttl is None:
            raise InvalidArgumentError("extend_hold needs an amount (the new total) or a ttl")
        hold_id, held = self._hold(hold, account, quota_type or _types_in(amount), scopes)
        if amount is not None:
            held = used_of(held.quota, held.shares, amount, zero_allowed=False)
        command = ExtendHold(
            quota=held.quota,
            hold_id=hold_id,
            operation_id=self._id(None, "op"),
            amount=held.amount if amount is not None else 0,
            ttl_ms=0 if ttl is None else checked_ttl_ms(ttl),
            shares=held.shares,
        )
        flow = flows.extended(command, was_placed=self._was_placed(hold, command))
        return self._spooling.extended(command, flow, hold)

    def capture_hold(
        self,
        hold: HoldArgument,
        amount: AmountArgument,
        *,
        usage: UsageArgument = None,
        final: bool = True,
        operation_id: str | None = None,
        account: str | None = None,
        quota_type: HeldTypes = None,
        scopes: Iterable[str] | None = None,
    ) -> CapturedHold:
        """
        Charge what was used, 0 included. Never refused: above the hold it is charged as far as it
        can be paid, after the hold has closed it is charged late, the rest is shortfall. While
        Redis is away it is noted on this machine, and charged when Redis is back: ``.spooled``.

        ``final`` closes the hold, and the same amount again is replayed. A part (``final=False``)
        keeps the rest held; it is idempotent by ``operation_id``, so give one to retry it.
        A hold of several quota types takes a mapping with an amount for each. Beside a hold's id
        stand what it was placed with: account, quota types, scopes. Other accounts are charged as
        this one, each with its own shortfall: ``.scopes``.

        Raises ``HoldNotFoundError`` for an id that neither Redis nor the ledger has ever seen; of
        a hold itself it is clear that it was placed, even if both have lost it.
        """
        hold_id, held = self._hold(hold, account, quota_type or _types_in(amount), scopes)
        if final and operation_id is not None:
            raise InvalidArgumentError(
                "the final capture takes its operation id from the hold; only a part takes one"
            )
        used = used_of(held.quota, held.shares, amount, zero_allowed=True)
        command = CaptureHold(
            quota=used.quota,
            hold_id=hold_id,
            operation_id=f"{hold_id}:capture" if final else self._id(operation_id, "op"),
            amount=used.amount,
            is_final=bool(final),
            details=details_text(
                {
                    "usage": usage_counts(usage),
                    "scopes": scopes_told(used.quota, used.shares),
                }
            ),
            shares=used.shares,
        )
        flow = flows.captured(command, was_placed=self._was_placed(hold, command))
        return self._spooling.settled(command, flow, hold)

    def release_hold(
        self,
        hold: HoldArgument,
        *,
        usage: UsageArgument = None,
        account: str | None = None,
        quota_type: HeldTypes = None,
        scopes: Iterable[str] | None = None,
    ) -> ReleasedHold:
        """
        Give a hold back unused. One that is closed already stays as it is.

        ``usage`` tells of a call that failed; it is recorded and charges nothing.
        """
        hold_id, held = self._hold(hold, account, quota_type, scopes)
        details = details_text({"usage": usage_counts(usage)})
        command = ReleaseHold(
            quota=held.quota, hold_id=hold_id, details=details, shares=held.shares
        )
        flow = flows.released(command, was_placed=self._was_placed(hold, command))
        return self._spooling.settled(command, flow, hold)

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
        return self._spooling.settled(command, flows.settled(command))

    def cancel(
        self,
        account: str,
        quota_type: str,
        operation_id: str,
        *,
        reference: str | None = None,
    ) -> CancelledOperation:
        """
        Learn what became of an operation, or see to it that it never happens: for callers who got
        no answer.

        One that has happened stays as it is, and its numbers come back: a hold that was placed is
        not released, a debit not given back. One that has not is cancelled: when it arrives later
        it raises ``OperationCancelledError`` and has no effect. Of a hold's ends the ids are
        ``<hold>:capture`` and ``<hold>:release``, of a grant's void ``<grant>:void``; a refund is
        known in the quota that paid for the charge. Cancelling again is replayed. Works on frozen
        quotas too. Reads PostgreSQL unless Redis remembers the operation.
        """
        command = CancelOperation(
            quota=self._quota(account, quota_type),
            operation_id=checked_cancellable(operation_id),
            details=details_text({"reference": checked_text(reference, name="reference")}),
        )
        return self._transport.drive(flows.cancelled(command), "cancel")

    def hold(
        self, account: str, quota_type: TypeArgument, amount: int | None = None, **options: Any
    ) -> HoldBlock:
        """Return a block that holds ``amount`` units; options are those of ``place_hold``."""
        return HoldBlock(self, account, quota_type, amount, options)

    def _was_placed(
        self, hold: HoldArgument, command: CaptureHold | ReleaseHold | ExtendHold
    ) -> Callable[[], bool]:
        """Return what tells whether a hold was placed, should both stores have lost it."""
        recent = self._transport.resending.recent
        return lambda: (
            not isinstance(hold, str) or recent.knows_hold(command.quota, command.hold_id)
        )

    def _hold(
        self,
        hold: HoldArgument,
        account: str | None,
        quota_type: HeldTypes,
        scopes: Iterable[str] | None,
    ) -> tuple[str, Asked]:
        """Return a hold's id, and the quotas that it acts on."""
        if isinstance(hold, str):
            if account is None or quota_type is None:
                raise InvalidArgumentError("a hold's id needs account= and quota_type= beside it")
            held = quotas_of(account, quota_type, scopes, self._settings)
            return checked_id(hold, name="hold id"), held
        if isinstance(hold, PlacedHold | ExtendedHold | HoldBlock):
            quota = QuotaName(hold.account, hold.quota_type)
            return hold.hold_id, Asked(quota, 0, hold.shares)
        raise InvalidArgumentError(f"hold must be a hold or its id, not {type(hold).__name__}")


def _types_in(amount: AmountArgument | None) -> HeldTypes:
    """Return the quota types that amounts are given for, if they name them."""
    return tuple(amount) if isinstance(amount, Mapping) else None
