"""
Who makes which call, and what each user was granted. Decided by a seed, nothing else.

Few users make most calls, as everywhere: the user of rank r is drawn with weight 1/r. Each gets
three grants: a promotion that pays first and ends within seconds, a membership that ends in a
month, and a purchase that never ends. Together they cover what the user will use once to twice
over, except for every fourth user, who gets too little and runs dry.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from quota_engine.replay.trace import Call

MONTH_SECONDS = 30 * 86_400.0
#: What a user is granted who makes no call at all.
LEAST_TOKENS = 10_000
DRY_EVERY = 4
DRY_SHARE = (0.3, 0.9)
AMPLE_SHARE = (1.2, 2.0)
#: Of everything granted: the promotion's part, and the membership's.
PROMOTION_SHARE, MEMBERSHIP_SHARE = 0.2, 0.5


@dataclass(frozen=True, slots=True)
class PlannedGrant:
    """A grant to come. ``lasts_seconds`` counts from its issue; None: it never ends."""

    source: str
    amount: int
    priority: int
    lasts_seconds: float | None


@dataclass(frozen=True, slots=True)
class User:
    """One account of the run, and what it is granted."""

    account: str
    grants: tuple[PlannedGrant, ...]

    @property
    def granted(self) -> int:
        """Units of all its grants."""
        return sum(grant.amount for grant in self.grants)


@dataclass(frozen=True, slots=True)
class Workload:
    """Every user, and for each call the place of its user."""

    calls: Sequence[Call]
    users: tuple[User, ...]
    user_of: Sequence[int]

    def share(self, client: int, clients: int) -> list[tuple[Call, str]]:
        """Return one client's calls with their accounts: every ``clients``-th, so all mix."""
        places = range(client, len(self.calls), clients)
        return [(self.calls[place], self.users[self.user_of[place]].account) for place in places]


def plan(
    calls: Sequence[Call], *, prefix: str, users: int, seed: int, promotion_seconds: float
) -> Workload:
    """Return who makes which call and what everybody is granted. ``prefix``: of all accounts."""
    chance = random.Random(seed)
    weights = list(accumulate(1 / rank for rank in range(1, users + 1)))
    user_of = chance.choices(range(users), cum_weights=weights, k=len(calls))
    demands = [0] * users
    for call, user in zip(calls, user_of, strict=True):
        demands[user] += call.context_tokens + call.generated_tokens
    width = len(str(users))
    planned = tuple(
        User(
            f"{prefix}user-{place + 1:0{width}d}",
            _grants(chance, demand, place % DRY_EVERY == DRY_EVERY - 1, promotion_seconds),
        )
        for place, demand in enumerate(demands)
    )
    return Workload(calls, planned, user_of)


def _grants(
    chance: random.Random, demand: int, runs_dry: bool, promotion_seconds: float
) -> tuple[PlannedGrant, ...]:
    share = chance.uniform(*(DRY_SHARE if runs_dry else AMPLE_SHARE))
    total = max(LEAST_TOKENS, int(demand * share))
    promotion = int(total * PROMOTION_SHARE)
    membership = int(total * MEMBERSHIP_SHARE)
    ends = chance.uniform(0.3, 1.0) * promotion_seconds
    return (
        PlannedGrant("promotion", promotion, 10, ends),
        PlannedGrant("membership", membership, 50, MONTH_SECONDS),
        PlannedGrant("purchase", total - promotion - membership, 100, None),
    )
