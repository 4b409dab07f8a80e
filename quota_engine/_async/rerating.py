"""A price was wrong: calls are settled anew at what should have been in force."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from decimal import Decimal

from quota_engine import corrections, refunding
from quota_engine._async.refunding import AsyncRefunding
from quota_engine.commands import ChargeFate
from quota_engine.corrections import CorrectedUsage, RatedQuota, RerateReport, Used, admitted_at
from quota_engine.errors import InvalidArgumentError, PricingNotFoundError
from quota_engine.instants import to_ms
from quota_engine.keys import QuotaName
from quota_engine.prices.price import checked_model, checked_provider
from quota_engine.units import is_credit
from quota_engine.usage import Usage
from quota_engine.waiting import in_thread

#: Told how many calls have been looked at.
Progress = Callable[[int], None]


class AsyncRerating(AsyncRefunding):
    """Re-rating of recorded calls."""

    async def rerate(
        self,
        provider: str,
        model: str,
        *,
        since: datetime,
        until: datetime,
        dry_run: bool = True,
        reference: str | None = None,
        actor: str | None = None,
        progress: Progress | None = None,
    ) -> RerateReport:
        """
        Price the calls of a model again that were admitted from ``since`` until before ``until``.

        Their prices are those in force then by the price book as it is now: set the right price
        first, from the same instant as the wrong one. ``dry_run`` (the default) only says what
        would change, per account. Else each call's difference is settled by ``correct_usage``'s
        rules: records of every quota type get the cost, ``credit`` quotas the units too. Entries
        that exist stay, and doing it again changes nothing. Unbilled calls stay unbilled. Drains
        first, and takes a few milliseconds per call.
        """
        owner, name = checked_provider(provider), checked_model(model)
        since_ms, until_ms = to_ms(since, name="since"), to_ms(until, name="until")
        if until_ms <= since_ms:
            raise InvalidArgumentError(f"until must be after since: since {since}, until {until}")
        await self._transport.connect()
        await in_thread(self._backing.drain)
        self.prices.forget()
        quotas: dict[tuple[QuotaName, str | None], RatedQuota] = {}
        calls = changed = unpriced = 0
        async for quota, fate in self._calls_of(owner, name, since_ms, until_ms):
            calls += 1
            if progress is not None:
                progress(calls)
            rated = await self._rated_call(quota, fate)
            if rated is None:
                unpriced += 1
                continue
            rated = [one for one in rated if corrections.steps(*one, {})]
            changed += bool(rated)
            for one in rated:
                outcome = corrections.corrected(*one, ())
                if not dry_run:
                    outcome = await self._settle(*one, None, reference=reference, actor=actor)
                _add(quotas, one[0], outcome)
        places = sorted(quotas, key=lambda place: (place[0].account, place[0].quota_type))
        return RerateReport(
            provider=owner,
            model=name,
            calls=calls,
            changed=changed,
            unpriced=unpriced,
            quotas=tuple(quotas[place] for place in places),
            is_dry_run=dry_run,
        )

    async def _calls_of(
        self, provider: str, model: str, since_ms: int, until_ms: int
    ) -> AsyncIterator[tuple[QuotaName, ChargeFate]]:
        """Yield the calls that were admitted in a time, each with all that was done to it."""
        after: tuple[int, int] | None = None
        while True:
            page = await in_thread(
                self._backing.calls_of_model, provider, model, (since_ms, until_ms), after
            )
            for call in page:
                fate = await self._transport.drive(
                    refunding.call_of(call.quota, call.operation_id)
                )
                assert fate.charge is not None
                if since_ms <= to_ms(admitted_at(fate.charge), name="admitted at") < until_ms:
                    yield call.quota, fate
            if not page:
                return
            after = page[-1].place

    async def _rated_call(
        self, quota: QuotaName, fate: ChargeFate
    ) -> list[tuple[QuotaName, ChargeFate, Used]] | None:
        """Return what a call, and the credit beside, should have been; None: unpriced."""
        beside = await self._beside(quota, fate)
        calls = [(quota, fate), *(one for one in beside if is_credit(one[0].quota_type))]
        currency = corrections.currency_of_call(quota for quota, _ in calls)
        rated = []
        for name, there in calls:
            used = await self._rated(name, there, fate, currency)
            if used is not None:
                rated.append((name, there, used))
            elif name == quota:
                return None
        return rated

    async def _rated(
        self, quota: QuotaName, fate: ChargeFate, record: ChargeFate, currency: str | None
    ) -> Used | None:
        """Return what a call costs by the prices now known; None where nothing prices it."""
        assert record.charge is not None
        told = record.charge.usage
        try:
            usage = Usage(**corrections.counted(record), resolution=told.get("resolution"))
            cost = await self._cost_then(quota, record, usage, currency)
        except (PricingNotFoundError, InvalidArgumentError):
            return None
        if cost is None:
            return None
        is_money = is_credit(quota.quota_type)
        return Used(
            units=cost.nano_units if is_money else corrections.charged_units(fate),
            cost=None if corrections.is_beside(fate) else cost.amount,
            currency=cost.currency,
            price_ids=tuple(cost.price_ids),
        )


def _add(
    quotas: dict[tuple[QuotaName, str | None], RatedQuota], quota: QuotaName, call: CorrectedUsage
) -> None:
    place = (quota, call.currency)
    before = quotas.get(place) or RatedQuota(
        account=quota.account, quota_type=quota.quota_type, currency=call.currency
    )
    cost = call.cost or Decimal(0)
    quotas[place] = RatedQuota(
        account=quota.account,
        quota_type=quota.quota_type,
        currency=call.currency,
        calls=before.calls + 1,
        cost_before=before.cost_before + cost - call.cost_difference,
        cost_after=before.cost_after + cost,
        units_difference=before.units_difference + call.difference,
    )
