"""
Grants as a person asks for them: the ledger's words, what Redis says is left now, and a state.

Pure. Redis knows at once, but only grants that have something left; the ledger knows them all, a
little later. Where the two can't be read together, the ledger has to be waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from quota_engine.chain import EXPIRED, INTENT, LIVE, PENDING, VOIDED
from quota_engine.commands import Balance
from quota_engine.errors import InvalidArgumentError
from quota_engine.keys import QuotaName

PROMISED, ACTIVE, EXHAUSTED = "promised", "active", "exhausted"
#: In the order of a grant's life. A live grant is active while something is left of it.
STATES = (PROMISED, PENDING, ACTIVE, EXHAUSTED, EXPIRED, VOIDED)
#: States of grants that may still be used.
USABLE = frozenset({PROMISED, PENDING, ACTIVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedGrant:
    """
    A grant of an account. ``state``: promised (in the ledger, and on its way to Redis), pending
    (starts later), active, exhausted, expired or voided.

    ``remaining`` in units, of one that has not started all of it; ``reserved``: what open holds
    have of it beside that. ``starts_at`` None: when it is applied; ``expires_at`` None: never.
    """

    account: str
    quota_type: str
    grant_id: str
    state: str
    amount: int
    remaining: int
    reserved: int
    priority: int
    starts_at: datetime | None
    expires_at: datetime | None
    source: str | None
    reference: str | None
    description: str | None

    @property
    def quota(self) -> QuotaName:
        """The quota that it belongs to."""
        return QuotaName(self.account, self.quota_type)


@dataclass(frozen=True, slots=True)
class GrantQuery:
    """Which grants are asked for. ``expiring_within``: usable ones that end by then; None: all."""

    state: str | None
    expiring_within: timedelta | None

    def fits(self, grant: ListedGrant, now: datetime) -> bool:
        """Return whether a grant is asked for."""
        if self.state not in {None, grant.state}:
            return False
        if self.expiring_within is None:
            return True
        ends = grant.expires_at
        return grant.state in USABLE and ends is not None and ends <= now + self.expiring_within


def checked_grant_query(state: object, expiring_within: object) -> GrantQuery:
    """Return a query; raise ``InvalidArgumentError`` for what no grant can be."""
    if state is not None and state not in STATES:
        raise InvalidArgumentError(f"state must be one of {', '.join(STATES)}, not {state!r:.80}")
    if expiring_within is not None and (
        not isinstance(expiring_within, timedelta) or expiring_within < timedelta(0)
    ):
        raise InvalidArgumentError(
            f"expiring_within must be a timedelta of 0 or more, not {expiring_within!r:.80}"
        )
    return GrantQuery(None if state is None else str(state), expiring_within)


def laid_over(
    recorded: Sequence[ListedGrant], balance: Balance, now: datetime
) -> tuple[list[ListedGrant], bool]:
    """
    Return the ledger's grants as Redis has them now, and whether the ledger may know too little.

    ``recorded`` have the ledger's states. What Redis does not list has nothing left there; why,
    only the ledger can tell, once it has been drained.
    """
    current = {grant.grant_id: grant for grant in (*balance.grants, *balance.pending_grants)}
    found, is_clear = [], True
    for grant in recorded:
        here = current.pop(grant.grant_id, None)
        if here is not None:
            found.append(
                replace(
                    grant,
                    state=ACTIVE if here.state == LIVE else here.state,
                    remaining=here.remaining,
                    reserved=here.reserved,
                    starts_at=here.starts_at,
                )
            )
            continue
        seen = _by_ledger(grant, now)
        is_clear &= seen.state not in USABLE
        found.append(seen)
    return found, is_clear and not current


def _by_ledger(grant: ListedGrant, now: datetime) -> ListedGrant:
    """Return a grant that Redis does not list, as far as the ledger knows it."""
    if grant.state == INTENT:
        return replace(grant, state=PROMISED, remaining=grant.amount)
    if grant.state in (LIVE, PENDING) and grant.expires_at is not None and grant.expires_at <= now:
        return replace(grant, state=EXPIRED, remaining=0)
    if grant.state == LIVE:
        is_left = grant.remaining or grant.reserved
        return replace(grant, state=ACTIVE if is_left else EXHAUSTED)
    return grant


def in_order(grants: Sequence[ListedGrant], query: GrantQuery) -> Sequence[ListedGrant]:
    """Return grants as they are, or those that expire with the next one first."""
    if query.expiring_within is None:
        return grants
    ends = [(grant.expires_at, grant.quota_type, grant.grant_id) for grant in grants]
    return [grants[place] for _, place in sorted(zip(ends, range(len(grants)), strict=True))]
