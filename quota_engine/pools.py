"""
Provider pools: what is still there of what was paid to a provider in advance, in one currency.

A pool's balance is what was recharged, plus or less what was corrected, less what the usage
records of its provider and currency cost since it began. It may fall below zero: calls that were
made have been made. Pure: no clock, no store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation

from quota_engine.arguments import checked_text
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_id
from quota_engine.prices.price import (
    EXACT,
    checked_currency,
    checked_instant,
    checked_money,
    checked_provider,
    plain,
)

OK, WARNING, CRITICAL, EMPTY = "ok", "warning", "critical", "empty"
#: From well to worst.
LEVELS = (OK, WARNING, CRITICAL, EMPTY)

DEFINED, RECHARGED, CORRECTED, USED = "defined", "recharged", "corrected", "used"

#: A percentage is of the largest of so many recharges, so that a small one does not lower it.
RECHARGES_LOOKED_AT = 3
#: Where no critical threshold is said, it is such a part of the warning threshold.
CRITICAL_PART = Decimal("0.2")

_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%\s*\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class PoolName:
    """Which pool: a provider bills in one currency, or has a pool for each."""

    provider: str
    currency: str

    def __str__(self) -> str:
        return f"{self.provider} in {self.currency}"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A balance at which a pool's level worsens: an amount, or per cent of the last recharges."""

    value: Decimal
    is_percent: bool

    def __str__(self) -> str:
        return f"{self.value:f}%" if self.is_percent else f"{self.value:f}"

    def amount(self, base: Decimal) -> Decimal:
        """Return the threshold in the pool's currency."""
        if not self.is_percent:
            return self.value
        return plain(EXACT.divide(EXACT.multiply(base, self.value), Decimal(100)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTerms:
    """
    What a pool is told at its definition. ``starts_at`` None: now, or as it is.

    ``critical`` None: a fifth of the warning threshold.
    """

    warning: Threshold
    critical: Threshold | None
    starts_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolEntry:
    """
    One line of a pool's history; amounts are signed, in its currency.

    ``kind``: ``defined`` (its thresholds were said), ``recharged``, ``corrected``, or ``used``:
    what the records of a ``day`` (UTC) cost, ``at`` its end or, on the current one, now.
    ``balance_after`` is None in the answer to a replayed entry.
    """

    provider: str
    currency: str
    kind: str
    at: datetime
    amount: Decimal
    day: date | None = None
    entry_id: str | None = None
    operator: str | None = None
    remark: str | None = None
    balance_after: Decimal | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStanding:
    """
    A pool as it is now, as far as calls are persisted. Amounts are in its currency.

    ``balance`` = ``recharged`` + ``corrected`` − ``spent``. ``level``: ok, warning, critical or
    empty; ``warning_at`` and ``critical_at`` are the balances at which it becomes that, and
    ``warning`` and ``critical`` what was said of them. ``percent_of``: what per cents are of.
    """

    provider: str
    currency: str
    level: str
    balance: Decimal
    recharged: Decimal
    corrected: Decimal
    spent: Decimal
    warning: str
    critical: str | None
    warning_at: Decimal
    critical_at: Decimal
    percent_of: Decimal
    last_recharge: Decimal | None
    last_recharged_at: datetime | None
    starts_at: datetime


def level_of(balance: Decimal, warning_at: Decimal, critical_at: Decimal) -> str:
    """Return the level of a balance: the worst whose threshold it has reached."""
    if balance <= 0:
        return EMPTY
    if balance <= critical_at:
        return CRITICAL
    return WARNING if balance <= warning_at else OK


def base_of(recharges: Sequence[Decimal]) -> Decimal:
    """Return what per cents are of: the largest of the last recharges, given newest first."""
    return max(recharges[:RECHARGES_LOOKED_AT], default=Decimal(0))


def thresholds_of(terms: PoolTerms, base: Decimal) -> tuple[Decimal, Decimal]:
    """Return the balances at which a pool warns and is critical; the latter is never above."""
    warning_at = terms.warning.amount(base)
    if terms.critical is None:
        return warning_at, plain(EXACT.multiply(warning_at, CRITICAL_PART))
    return warning_at, min(terms.critical.amount(base), warning_at)


def standing_of(
    name: PoolName,
    terms: PoolTerms,
    *,
    recharges: Sequence[tuple[Decimal, datetime]],
    recharged: Decimal,
    corrected: Decimal,
    spent: Decimal,
) -> PoolStanding:
    """Return a pool's standing; ``recharges``: the last ones, newest first."""
    assert terms.starts_at is not None
    balance = EXACT.subtract(EXACT.add(recharged, corrected), spent)
    base = base_of([amount for amount, _ in recharges])
    warning_at, critical_at = thresholds_of(terms, base)
    last = recharges[0] if recharges else (None, None)
    return PoolStanding(
        provider=name.provider,
        currency=name.currency,
        level=level_of(balance, warning_at, critical_at),
        balance=plain(balance),
        recharged=plain(recharged),
        corrected=plain(corrected),
        spent=plain(spent),
        warning=str(terms.warning),
        critical=None if terms.critical is None else str(terms.critical),
        warning_at=warning_at,
        critical_at=critical_at,
        percent_of=plain(base),
        last_recharge=None if last[0] is None else plain(last[0]),
        last_recharged_at=last[1],
        starts_at=terms.starts_at,
    )


def history_of(
    name: PoolName,
    entries: Iterable[PoolEntry],
    days: Iterable[tuple[date, Decimal]],
    now: datetime,
) -> list[PoolEntry]:
    """
    Return a pool's entries and the costs of its days, oldest first, each with the balance after.

    A day's costs stand at its end, after the entries of that day.
    """
    costs = [
        PoolEntry(
            provider=name.provider,
            currency=name.currency,
            kind=USED,
            at=min(_end_of(day), now),
            amount=plain(cost).copy_negate(),
            day=day,
        )
        for day, cost in days
    ]
    balance, told = Decimal(0), []
    for entry in sorted([*entries, *costs], key=lambda one: (one.at, one.kind == USED)):
        balance = plain(EXACT.add(balance, entry.amount))
        told.append(replace(entry, balance_after=balance))
    return told


def _end_of(day: date) -> datetime:
    return datetime.combine(day + timedelta(days=1), time(), UTC)


def checked_pool(provider: object, currency: object) -> PoolName:
    """Return the name of a pool."""
    return PoolName(checked_provider(provider), checked_currency(currency))


def checked_pool_terms(
    *, warning: object, critical: object = None, starts_at: object = None
) -> PoolTerms:
    """Return what a pool is told at its definition."""
    return PoolTerms(
        warning=checked_threshold(warning, name="warning"),
        critical=None if critical is None else checked_threshold(critical, name="critical"),
        starts_at=None if starts_at is None else checked_instant(starts_at, name="starts_at"),
    )


def checked_threshold(said: object, *, name: str) -> Threshold:
    """Return what ``"10%"`` or an amount such as ``"500"`` says."""
    if isinstance(said, str) and (percent := _PERCENT.match(said)):
        value = plain(Decimal(percent[1]))
        if value > 100:
            raise InvalidArgumentError(f"{name} must be at most 100%, not {said!r:.80}")
        return Threshold(value, is_percent=True)
    try:
        return Threshold(checked_money(said, name=name), is_percent=False)
    except InvalidArgumentError:
        raise InvalidArgumentError(
            f'{name} must be an amount from 0 such as "500", or per cent of the last recharges'
            f' such as "10%", not {said!r:.80}'
        ) from None


def checked_recharge(amount: object) -> Decimal:
    """Return what is paid in: above 0, to a millionth of a millionth."""
    return _checked_places(checked_money(amount, name="amount"), amount, "above 0")


def checked_correction(amount: object) -> Decimal:
    """Return by how much a pool is corrected: any amount but 0."""
    if isinstance(amount, str | Decimal | int) and not isinstance(amount, bool):
        try:
            signed = Decimal(amount)
        except InvalidOperation:
            signed = Decimal(0)
        if signed.is_finite() and signed < 0:
            paid = checked_money(signed.copy_negate(), name="amount")
            return _checked_places(paid, amount, "not 0").copy_negate()
    return _checked_places(checked_money(amount, name="amount"), amount, "not 0")


def _checked_places(amount: Decimal, said: object, wanted: str) -> Decimal:
    places = -int(amount.as_tuple().exponent)
    if not amount or places > 12:
        raise InvalidArgumentError(
            f"amount must be {wanted}, with at most 12 places after the point, not {said!r:.80}"
        )
    return amount


def checked_entry(
    *, entry_id: object, operator: object, remark: object
) -> tuple[str, str | None, str | None]:
    """Return the id, the operator and the remark of an entry."""
    return (
        checked_id(entry_id, name="id"),
        checked_text(operator, name="operator"),
        checked_text(remark, name="remark"),
    )
