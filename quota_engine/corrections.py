"""
What has to be done when a call turns out to have used, or cost, something else. Pure.

The entries of the call stay. What is charged too little is debited as used; what is charged too
much is refunded: each quota of the call gives back what it has collected above what was used, the
caller's own together with who paid in its place. The entry of a correction carries a record with
the difference: all records of a call add up. Of what a call took of further quota types, no entry
has a record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import Any, TypeAlias

from quota_engine.commands import ChargeEntry, ChargeFate, DebitUsed, RecordUsage, RefundRequest
from quota_engine.commands.arguments import details_text
from quota_engine.commands.refunds import Settled
from quota_engine.errors import InvalidArgumentError
from quota_engine.events import CHARGES, QUOTA_REFUNDED
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName
from quota_engine.prices.cost import Cost
from quota_engine.prices.price import plain
from quota_engine.units import currency_of, is_credit, units_of
from quota_engine.usage import Usage

_COUNTS = tuple(field.name for field in fields(Usage) if field.name != "resolution")
#: What a correction's record repeats of the call's own.
_SAME = (
    *("usage_type", "status", "provider", "model", "resolution", "service_tier", "priced_at"),
    *("request_id", "metadata"),
)

#: ``<operation id>:correction:<n>``: so a correction that is tried again finds itself.
CORRECTION = ":correction:"
#: So ends the id of each entry of a correction, in the call's own quota or in another account's.
CORRECTION_ID = re.compile(r":correction:[0-9]+(@[0-9a-f]{16})?$")
#: In the details of a correction that gives back: to how many units the call is settled.
SETTLED_TO = "settled_to"

Step: TypeAlias = DebitUsed | RefundRequest | RecordUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """
    What a call used after all: units of its quota type, counts, cost.

    ``counts`` None: they stay. ``cost`` None: nothing says what it costs, and its cost stays.
    """

    units: int
    counts: Mapping[str, Any] | None = None
    cost: Decimal | None = None
    currency: str | None = None
    price_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedUsage:
    """
    A call that was settled anew. ``units`` and ``cost`` are what it is charged now in all.

    ``difference`` and ``cost_difference``: to before. ``operation_ids``: of the entries that were
    written; none when all was right already. ``beside``: the same of the further quota types that
    the call took, where a ``Usage`` settled it whole.
    """

    account: str
    quota_type: str
    operation_id: str
    units: int
    difference: int
    cost: Decimal | None
    cost_difference: Decimal
    currency: str | None
    operation_ids: tuple[str, ...]
    beside: tuple[CorrectedUsage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedQuota:
    """What re-rating changes for one quota: its calls that cost something else now."""

    account: str
    quota_type: str
    currency: str | None
    calls: int = 0
    cost_before: Decimal = Decimal(0)
    cost_after: Decimal = Decimal(0)
    #: Units that are charged on top, or negative: given back. 0 where units are not money.
    units_difference: int = 0

    @property
    def cost_difference(self) -> Decimal:
        """What the calls cost now beyond what was recorded."""
        return self.cost_after - self.cost_before


@dataclass(frozen=True, slots=True, kw_only=True)
class RerateReport:
    """
    What re-rating changed, or with ``is_dry_run`` would change.

    ``calls`` were looked at; ``changed`` of them cost something else now, in one or several of
    their quotas; ``unpriced`` have no price now, and stay as they are.
    """

    provider: str
    model: str
    calls: int
    changed: int
    unpriced: int
    quotas: tuple[RatedQuota, ...]
    is_dry_run: bool


@dataclass(frozen=True, slots=True)
class CallOfModel:
    """A recorded call. ``place``: where it stands in time, to go on after it."""

    quota: QuotaName
    operation_id: str
    place: tuple[int, int]


def admitted_at(charge: ChargeEntry) -> datetime:
    """Return when a call was admitted, whose prices it pays; else when it ended, less its time."""
    told = charge.usage.get("priced_at")
    if isinstance(told, str):
        with suppress(ValueError):
            return datetime.fromisoformat(told)
    latency_ms = charge.usage.get("latency_ms")
    return from_ms(charge.at_ms - (latency_ms if isinstance(latency_ms, int) else 0))


def currency_of_call(quotas: Iterable[QuotaName]) -> str | None:
    """Return in which currency a call pays credit; None if it pays none."""
    credit = (quota.quota_type for quota in quotas if is_credit(quota.quota_type))
    return next((currency_of(quota_type) for quota_type in credit), None)


def is_unbilled(fate: ChargeFate) -> bool:
    """Whether the call ran without charge, for want of a price; corrections leave that so."""
    return fate.charge is not None and bool(fate.charge.usage.get("unbilled"))


def is_beside(fate: ChargeFate) -> bool:
    """Whether a call took this beside another quota, with which its record is kept."""
    return fate.charge is not None and fate.charge.called_by is not None


def check_correctable(quota: QuotaName, fate: ChargeFate, used: Usage | int) -> None:
    """Raise ``InvalidArgumentError`` where a correction means nothing."""
    assert fate.charge is not None
    corrects = fate.charge.usage.get("corrects")
    if is_beside(fate) and CORRECTION in fate.charge.operation_id:
        corrects = fate.charge.operation_id.partition(CORRECTION)[0]
    if corrects:
        raise InvalidArgumentError(
            f"{fate.charge.operation_id} is itself a correction: correct the call, {corrects}"
        )
    if (caller := fate.charge.called_by) not in {None, quota.account}:
        raise InvalidArgumentError(
            f"{fate.charge.operation_id} is what a call of {caller} charged here: correct it there"
        )
    if is_unbilled(fate) and isinstance(used, int):
        raise InvalidArgumentError(
            f"{fate.charge.operation_id} ran unbilled and is charged nothing: pass a Usage to"
            " correct its record, or debit what it owes"
        )


def units_now(
    quota: QuotaName, fate: ChargeFate, record: ChargeFate, usage: Usage, cost: Cost | None
) -> int:
    """Return what a call is to be charged for a usage; one that ran unbilled stays so."""
    if is_unbilled(record):
        return charged_units(fate)
    if cost is not None and is_credit(quota.quota_type):
        return cost.nano_units
    return units_of(quota.quota_type, usage)


def charged_units(fate: ChargeFate) -> int:
    """Return what a call is charged now, earlier corrections included; other refunds are gifts."""
    return sum(
        entry.amount * (1 if entry.kind in CHARGES else -1)
        for entry in _entries(fate)
        if entry.kind in CHARGES or entry.kind == QUOTA_REFUNDED
    )


def counted(fate: ChargeFate) -> dict[str, Any]:
    """Return what a call is recorded to have used, earlier corrections included."""
    sums = {
        name: sum((_number(one.usage, name) for one in _entries(fate)), Decimal(0))
        for name in _COUNTS
    }
    return {name: _plain(value) for name, value in sums.items() if value}


def recorded_cost(fate: ChargeFate) -> tuple[Decimal | None, str | None]:
    """Return what a call is recorded to have cost, and in which currency."""
    told = [entry.usage for entry in _entries(fate) if entry.usage.get("cost") is not None]
    if not told:
        return None, None
    return sum((Decimal(one["cost"]) for one in told), Decimal(0)), told[0].get("currency")


def steps(
    quota: QuotaName, fate: ChargeFate, used: Used, details: Mapping[str, Any]
) -> list[Step]:
    """
    Return what settles the difference between what was charged and what was used, in order.

    ``details``: what is kept with each entry beside the record. Empty when there is none.
    """
    charge = fate.charge
    assert charge is not None
    numbers = count(len(fate.corrections) + 1)
    changed = _changed(fate, used)
    told = {name: charge.usage[name] for name in _SAME if name in charge.usage}
    told |= {
        "quality": "exact",
        "corrects": charge.operation_id,
        "price_ids": list(used.price_ids),
    }
    if currency := used.currency or recorded_cost(fate)[1]:
        told["currency"] = currency
    excess, payer = charged_units(fate) - used.units, charge.paid_by
    charges = tuple(entry for entry in _entries(fate) if entry.kind in CHARGES)
    made: list[Step] = []

    def text(**more: Any) -> str:
        """Return an entry's details: of which call it is, and what changes."""
        kept = {**details, "reference": charge.operation_id, **more}
        if is_beside(fate):
            return details_text({**kept, "account": charge.called_by})  # as the call's own
        return details_text({**kept, "usage": {**told, **changed}})

    if excess > 0:
        made.append(
            RefundRequest(
                quota=quota,
                refund_id=_id(charge, next(numbers)),
                operation_id=charges[-1].operation_id,
                amount=excess,
                details=text(settled_to=used.units),
                settled=Settled(quota=quota, units=used.units, charges=charges),
            )
        )
    elif excess < 0:
        made.append(
            DebitUsed(
                quota=quota,
                operation_id=_id(charge, next(numbers)),
                amount=-excess,
                details=text(),
                payers=() if payer is None else (QuotaName(payer, quota.quota_type),),
                paid_by=payer,
            )
        )
    elif changed:
        made.append(
            RecordUsage(quota=quota, operation_id=_id(charge, next(numbers)), details=text())
        )
    return made


def _id(charge: ChargeEntry, number: int) -> str:
    return f"{charge.operation_id}{CORRECTION}{number}"


def corrected(
    quota: QuotaName, fate: ChargeFate, used: Used, operation_ids: Iterable[str]
) -> CorrectedUsage:
    """Return the outcome of the steps."""
    assert fate.charge is not None
    before, currency = recorded_cost(fate)
    cost = before if used.cost is None else used.cost
    return CorrectedUsage(
        account=quota.account,
        quota_type=quota.quota_type,
        operation_id=fate.charge.operation_id,
        units=used.units,
        difference=used.units - charged_units(fate),
        cost=cost,
        cost_difference=(cost or Decimal(0)) - (before or Decimal(0)),
        currency=used.currency or currency,
        operation_ids=tuple(operation_ids),
    )


def _entries(fate: ChargeFate) -> list[ChargeEntry]:
    assert fate.charge is not None
    return [fate.charge, *fate.corrections]


def _changed(fate: ChargeFate, used: Used) -> dict[str, Any]:
    """Return the fields of the record that change, by how much; empty when none does."""
    changed: dict[str, Any] = {}
    if used.counts is not None:
        before = counted(fate)
        for name in _COUNTS:
            if change := _number(used.counts, name) - _number(before, name):
                changed[name] = _plain(change)
    if used.cost is not None:
        cost, currency = recorded_cost(fate)
        if currency not in {None, used.currency}:
            raise InvalidArgumentError(
                f"the call is recorded in {currency} and would now cost {used.currency}: set a"
                f" price in {currency}, amounts of two currencies are never added"
            )
        if change := used.cost - (cost or Decimal(0)):
            changed["cost"] = str(plain(change))
    return changed


def _number(counts: Mapping[str, Any], name: str) -> Decimal:
    value = counts.get(name, 0)
    return Decimal(str(value))


def _plain(number: Decimal) -> int | str:
    """Return a count as JSON can say it exactly."""
    return int(number) if number == int(number) else str(plain(number))
