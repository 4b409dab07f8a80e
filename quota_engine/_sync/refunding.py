# Written by tools/unasync.py from quota_engine/_async/refunding.py. Edit that file instead.
"""The calls that give back a charge, or settle it anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from quota_engine import corrections, flows, refunding
from quota_engine._sync.calling import Calling
from quota_engine.amounts import checked_amount
from quota_engine.arguments import checked_span_ms, checked_text
from quota_engine.commands import ChargeFate, Command, DebitUsed, Refunded, RefundRequest
from quota_engine.commands.arguments import details_text
from quota_engine.commands.shares import Share
from quota_engine.corrections import CorrectedUsage, Used, admitted_at
from quota_engine.errors import (
    IdempotencyConflictError,
    InvalidArgumentError,
    OperationNotFoundError,
    PricingNotFoundError,
)
from quota_engine.ids import checked_id
from quota_engine.keys import QuotaName
from quota_engine.prices.cost import Cost
from quota_engine.scopes import accounts_beside
from quota_engine.units import currency_of, is_credit
from quota_engine.usage import Usage, checked_used
from quota_engine.waiting import in_place


class Refunding(Calling):
    """Refunds and corrections."""

    def refund(
        self,
        account: str,
        quota_type: str,
        operation_id: str,
        amount: int | None = None,
        refund_id: str | None = None,
        *,
        grace: timedelta | None = None,
        scopes: Iterable[str] | None = None,
        reference: str | None = None,
        actor: str | None = None,
    ) -> Refunded:
        """
        Give back what a debit or capture took, or ``amount`` of it; a hold's id means its capture.

        They return to the grants that paid, last taken first; what was debt pays debt. What ended
        grants had paid is forfeited, or with ``grace`` becomes a grant that lives so long. Never
        more than was taken, all refunds together: else ``InvalidAmountError``. So do the other
        quotas that the call charged (``scopes``: of these accounts only), each of the same units
        what it had collected of them: ``.scopes``; the rest is ``.unreturned`` there. Idempotent
        by ``refund_id``. Raises ``OperationNotFoundError``. Waits until the ledger has the charge.
        """
        others = None if scopes is None else accounts_beside(account, scopes)
        request = RefundRequest(
            quota=self._quota(account, quota_type),
            refund_id=self._id(refund_id, "refund"),
            operation_id=checked_id(operation_id, name="operation id"),
            amount=None if amount is None else checked_amount(amount),
            grace_ms=0 if grace is None else checked_span_ms(grace, name="grace"),
            details=details_text(
                {
                    "reference": checked_text(reference, name="reference"),
                    "actor": checked_text(actor, name="actor"),
                }
            ),
        )
        return self._transport.drive(refunding.refunded(request, others), "refund")

    def correct_usage(
        self,
        operation_id: str,
        usage: Usage | Mapping[str, Any] | int,
        *,
        account: str | None = None,
        quota_type: str | None = None,
        scopes: Iterable[str] | None = None,
        reference: str | None = None,
        actor: str | None = None,
    ) -> CorrectedUsage:
        """
        Settle the difference to a provider's final bill; the entries of the call stay.

        ``operation_id``: of the debit or capture, or the hold's id. ``usage``: what the call used
        in all, or units of one quota type. A ``Usage`` settles each type that the call took, the
        further ones in ``.beside``, unless ``quota_type`` names one. More than was charged is
        charged as used, less is refunded to the grants that paid, and a record of the difference
        is kept; where another account paid for the call, all this is with that one. Cost is
        counted by the prices that were in force when the call was admitted; a call that ran
        unbilled stays so, only its record is corrected. The same usage again changes nothing; two
        callers who correct a call at once have one effect, or ``IdempotencyConflictError``: ask
        again then. Account and quota type are needed where the id is used in several quotas.
        The other quotas that the call charged (``scopes``: of these accounts only) are settled as
        it is: none is charged more than was used.
        Raises ``OperationNotFoundError``. Waits until the ledger has the call.
        """
        self._transport.connect()
        id_ = checked_id(operation_id, name="operation id")
        whole = checked_used(usage)
        quota = self._quota_of_call(id_, account, quota_type)
        fate = self._transport.drive(refunding.call_of(quota, id_))
        corrections.check_correctable(quota, fate, whole)
        record = fate if isinstance(whole, int) else self._record_of(quota, fate)
        calls = [(quota, fate)]
        if quota_type is None and not isinstance(whole, int):
            calls += self._beside(quota, fate)
        # all is known before anything is written
        currency = corrections.currency_of_call(quota for quota, _ in calls)
        asked = [(*call, self._used(*call, record, whole, currency)) for call in calls]
        others = None if scopes is None else accounts_beside(quota.account, scopes)
        first, *beside = [
            self._settle(*one, others, reference=reference, actor=actor) for one in asked
        ]
        if beside:
            self._check_undisturbed(quota, fate, first)
        return replace(first, beside=tuple(beside))

    def _check_undisturbed(self, quota: QuotaName, seen: ChargeFate, made: CorrectedUsage) -> None:
        """Raise where somebody else has settled a call meanwhile, in part perhaps."""
        now = self._transport.drive(refunding.call_of(quota, made.operation_id))
        known = {entry.operation_id for entry in seen.corrections} | {*made.operation_ids}
        if {entry.operation_id for entry in now.corrections} - known:
            raise IdempotencyConflictError(
                f"{made.operation_id} was settled anew by somebody else meanwhile: ask again, so"
                " that all of its quota types follow one bill"
            )

    def _quota_of_call(
        self, operation_id: str, account: str | None, quota_type: str | None
    ) -> QuotaName:
        if account is not None and quota_type is not None:
            return self._quota(account, quota_type)
        found = [
            quota
            for quota in in_place(self._backing.quotas_of_call, operation_id)
            if account in {None, quota.account}
        ]
        if quota_type is not None:  # perhaps one that the call took beside
            found = [self._quota(one, quota_type) for one in {quota.account for quota in found}]
        if not found:
            raise OperationNotFoundError(
                f"no call left a record by the operation id {operation_id}"
            )
        if len(found) > 1:
            names = ", ".join(map(str, found[:3]))
            raise InvalidArgumentError(
                f"{operation_id} is in {len(found)} quotas ({names}): say account= and quota_type="
            )
        return found[0]

    def _record_of(self, quota: QuotaName, fate: ChargeFate) -> ChargeFate:
        """Return the charge that the record of a call is kept with: it tells of which model."""
        assert fate.charge is not None
        if fate.charge.first_type is None:
            return fate
        id_ = fate.charge.operation_id
        first = QuotaName(quota.account, fate.charge.first_type)
        record = self._transport.drive(refunding.call_of(first, id_))
        assert record.charge is not None
        if not record.charge.usage:
            raise OperationNotFoundError(
                f"{id_} left no record that tells which model was called: say units of {quota}"
            )
        return record

    def _beside(self, quota: QuotaName, fate: ChargeFate) -> list[tuple[QuotaName, ChargeFate]]:
        """Return what a call took of further quota types."""
        assert fate.charge is not None
        id_ = fate.charge.operation_id
        return [
            (other, self._transport.drive(refunding.call_of(other, id_)))
            for other in in_place(self._backing.quotas_beside, quota, id_)
        ]

    def _used(
        self,
        quota: QuotaName,
        fate: ChargeFate,
        record: ChargeFate,
        whole: Usage | int,
        currency: str | None,
    ) -> Used:
        """Return what a call used after all, in units and at the prices of its own time."""
        if isinstance(whole, int):
            return Used(units=whole)
        cost = self._cost_then(quota, record, whole, currency)
        units = corrections.units_now(quota, fate, record, whole, cost)
        if corrections.is_beside(fate):
            return Used(units=units)
        return Used(
            units=units,
            counts=whole.counts(),
            cost=None if cost is None else cost.amount,
            currency=None if cost is None else cost.currency,
            price_ids=() if cost is None else tuple(cost.price_ids),
        )

    def _cost_then(
        self, quota: QuotaName, fate: ChargeFate, usage: Usage, currency: str | None
    ) -> Cost | None:
        """
        Return what a usage cost when the call was admitted; None where nothing prices it.

        ``currency``: of a record that tells none, for it had no price.
        """
        assert fate.charge is not None
        told = fate.charge.usage
        own = currency_of(quota.quota_type) if is_credit(quota.quota_type) else None
        try:
            return self.cost(
                usage,
                provider=told.get("provider", ""),
                model=told.get("model", ""),
                usage_type=told.get("usage_type"),
                at=admitted_at(fate.charge),
                service_tier=told.get("service_tier"),
                currency=own or told.get("currency") or currency,
            )
        except (PricingNotFoundError, InvalidArgumentError):
            if is_credit(quota.quota_type) and not corrections.is_unbilled(fate):
                raise
            return None

    def _settle(
        self,
        quota: QuotaName,
        fate: ChargeFate,
        used: Used,
        scopes: Sequence[str] | None,
        *,
        reference: str | None,
        actor: str | None,
    ) -> CorrectedUsage:
        """Write what settles a call anew."""
        details = {
            "actor": checked_text(actor, name="actor"),
            "why": checked_text(reference, name="reference"),
        }
        operation_ids = []
        for step in corrections.steps(quota, fate, used, details):
            if isinstance(step, RefundRequest):
                self._transport.drive(refunding.refunded(step, scopes))
                operation_ids.append(step.refund_id)
            else:
                command: Command[Any] = step
                if isinstance(step, DebitUsed):
                    charged = self._transport.drive(refunding.charged_by(quota, fate, scopes))
                    shares = tuple(Share(other, step.amount) for other in charged)
                    command = replace(step, shares=shares)
                self._transport.drive(flows.settled(command))
                operation_ids.append(step.operation_id)
        return corrections.corrected(quota, fate, used, operation_ids)
