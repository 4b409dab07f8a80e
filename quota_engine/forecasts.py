"""
When a quota runs dry at the present pace: its grants are burned down in thought. Pure.

What a grant has left when it ends is lost, so a quota may run dry earlier than its balance says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from quota_engine.commands import Balance, Grant

#: Further ahead nobody looks.
HORIZON = timedelta(days=3_650)
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """
    How long a quota lasts. Units of the quota type; ``pace``: units a day, over ``days``.

    ``runs_dry_at``: when nothing is spendable any more; None: not within ten years, or unlimited.
    ``expiring``: units that end unused before that. Grants that start later are counted in;
    renewals and purchases to come are not.
    """

    account: str
    quota_type: str
    spendable: int | None
    pace: Decimal
    days: Decimal
    runs_dry_at: datetime | None
    days_left: Decimal | None
    expiring: int


def forecast(balance: Balance, now: datetime, consumed: int, since: datetime) -> Forecast:
    """Return how long a balance lasts if what was consumed from ``since`` to ``now`` goes on."""
    elapsed = max(now - since, timedelta(minutes=1))
    days = Decimal(elapsed / timedelta(milliseconds=1)) / Decimal(DAY / timedelta(milliseconds=1))
    pace = Decimal(max(consumed, 0)) / days
    dry_at, lost = None, 0
    if balance.spendable is not None:
        dry_at, lost = _burn(balance, now, pace)
    left = None if dry_at is None else Decimal((dry_at - now) / DAY)
    return Forecast(
        account=balance.account,
        quota_type=balance.quota_type,
        spendable=balance.spendable,
        pace=pace.quantize(Decimal("0.01")),
        days=days.quantize(Decimal("0.01")),
        runs_dry_at=dry_at,
        days_left=None if left is None else left.quantize(Decimal("0.01")),
        expiring=lost,
    )


def _burn(balance: Balance, now: datetime, pace: Decimal) -> tuple[datetime | None, int]:
    """Return when the last unit is spent, and how many units ended before they were."""
    grants = [*balance.grants, *balance.pending_grants]
    left = {grant.grant_id: Decimal(grant.remaining) for grant in grants}
    # What may be spent beyond the grants: the overdraft limit less what of it is used up.
    beyond = Decimal((balance.spendable or 0) - sum(one.remaining for one in balance.grants))
    lost, at, end = 0, now, now + HORIZON
    for until in _turns(grants, now, end):
        for grant in grants:
            if grant.expires_at is not None and grant.expires_at <= at:
                lost += int(left.pop(grant.grant_id, Decimal(0)))
        running = _running(grants, left, at)
        room = sum((left[grant.grant_id] for grant in running), Decimal(0)) + beyond
        if room <= 0:
            return at, lost
        wanted = pace * Decimal((until - at) / DAY)
        if wanted >= room and pace > 0:
            return at + float(room / pace) * DAY, lost
        for grant in running:
            taken = min(wanted, left[grant.grant_id])
            left[grant.grant_id] -= taken
            wanted -= taken
        beyond -= wanted
        at = until
    return None, lost


def _turns(grants: Iterable[Grant], now: datetime, end: datetime) -> list[datetime]:
    """Return the instants at which a grant begins or ends, in order, and the end of it all."""
    known = {grant.starts_at for grant in grants} | {grant.expires_at for grant in grants}
    return [*sorted(at for at in known if at is not None and now < at < end), end]


def _running(grants: Iterable[Grant], left: dict[str, Decimal], at: datetime) -> list[Grant]:
    """Return the grants that pay at an instant, in burn-down order."""
    last = datetime.max.replace(tzinfo=at.tzinfo)
    return sorted(
        (one for one in grants if one.grant_id in left and one.starts_at <= at),
        key=lambda one: (one.priority, one.expires_at or last, one.created_at, one.grant_id),
    )
