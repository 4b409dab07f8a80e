"""
Opening balances: what accounts had left in a module that kept totals and used in a database.

Of each line of {account, quota type, monthly total and used, permanent total and used} the monthly
rest becomes a grant that ends with the period, the permanent rest one that does not end. Who used
more than the total is refused by name, or forgiven on demand: a debt would be paid by the next
grant, and nobody agreed to that. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime

from quota_engine.amounts import checked_amount
from quota_engine.arguments import checked_terms
from quota_engine.batches import (
    OPENING,
    Batch,
    PlannedGrant,
    Problems,
    digest_of,
    read_rows,
    whole,
)
from quota_engine.commands.grants import GrantTerms
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_account
from quota_engine.keys import QuotaName

COLUMNS = (
    *("account", "quota_type", "monthly_total", "monthly_used", "permanent_total"),
    "permanent_used",
)
REFUSE, FORGIVE = "refuse", "forgive"


@dataclass(slots=True)
class OpeningSums:
    """
    What the table of one quota type adds up to, in units.

    ``monthly_total − monthly_used + monthly_forgiven = monthly_left``, and so for the permanent
    ones. ``forgiven`` was used beyond a total.
    """

    accounts: int = 0
    monthly_total: int = 0
    monthly_used: int = 0
    monthly_forgiven: int = 0
    monthly_left: int = 0
    permanent_total: int = 0
    permanent_used: int = 0
    permanent_forgiven: int = 0
    permanent_left: int = 0

    @property
    def left(self) -> int:
        """Units that are granted."""
        return self.monthly_left + self.permanent_left


@dataclass(frozen=True, slots=True)
class OpeningTable:
    """A checked table of opening balances: its grants, and its sums by quota type."""

    batch: Batch
    sums: Mapping[str, OpeningSums] = field(default_factory=dict)


def read_opening(
    table: bytes,
    import_id: str,
    period_ends_at: datetime,
    check_type: Callable[[str], str],
    *,
    overused: str = REFUSE,
) -> OpeningTable:
    """Return the grants of a table of balances; raise ``BatchRefusedError`` with all problems."""
    if overused not in {REFUSE, FORGIVE}:
        raise InvalidArgumentError(f"overused must be {REFUSE} or {FORGIVE}, not {overused!r:.40}")
    problems, grants = Problems(), []
    sums: dict[str, OpeningSums] = {}
    seen: dict[QuotaName, int] = {}
    rows = read_rows(table, COLUMNS)
    for line, words in rows:
        try:
            quota = QuotaName(checked_account(words["account"]), check_type(words["quota_type"]))
            first = seen.setdefault(quota, line)
            if first != line:
                raise InvalidArgumentError(f"{quota} is on line {first} already")
            of_type = sums.setdefault(quota.quota_type, OpeningSums())
            of_type.accounts += 1
            for part, ends in (("monthly", period_ends_at), ("permanent", None)):
                left = _left(words, part, of_type, overused)
                if left:
                    grant = PlannedGrant(
                        line=line,
                        quota=quota,
                        grant_id=f"opening:{import_id}:{line}:{part}",
                        terms=_terms(import_id, part, left, ends),
                    )
                    grants.append(grant)
        except InvalidArgumentError as error:
            problems.add(line, error)
    problems.refuse()
    batch = Batch(
        batch_id=import_id,
        kind=OPENING,
        digest=digest_of(rows, period_ends_at.timestamp(), overused),
        lines=len(rows),
        grants=tuple(grants),
    )
    return OpeningTable(batch, sums)


def _left(words: Mapping[str, str], part: str, sums: OpeningSums, overused: str) -> int:
    """Return what is left of a total; add it up."""
    names = (f"{part}_total", f"{part}_used")
    total, used = (
        checked_amount(whole(words, name), zero_allowed=True, name=name) for name in names
    )
    beyond = max(used - total, 0)
    if beyond and overused == REFUSE:
        raise InvalidArgumentError(
            f"{part}_used {used} is {beyond} above {part}_total {total}: mend the table, or say"
            f" overused={FORGIVE}"
        )
    figures = (("total", total), ("used", used), ("forgiven", beyond), ("left", total - used))
    for name, units in figures:
        place = f"{part}_{name}"
        setattr(sums, place, getattr(sums, place) + max(units, 0))
    return max(total - used, 0)


def _terms(import_id: str, part: str, left: int, ends: datetime | None) -> GrantTerms:
    return checked_terms(
        left,
        source="batch_admin_grant",
        reference=f"opening:{import_id}",
        description=f"opening balance, {part}",
        priority=50,
        starts_at=None,
        expires_at=ends,
    )


def plain_sums(sums: Mapping[str, OpeningSums]) -> list[dict[str, object]]:
    """Return one row for each quota type, with what is granted at its end."""
    return [
        {
            "quota_type": quota_type,
            **{one.name: getattr(of_type, one.name) for one in fields(of_type)},
            "granted": of_type.left,
        }
        for quota_type, of_type in sorted(sums.items())
    ]
