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
#: Plans by the month: name, the share of users whom it is enough for, whether rests roll over.
TIERS = (("small", 0.5, False), ("middle", 0.9, True), ("large", 1.0, False))
ZONES = ("UTC", "Asia/Shanghai", "America/New_York")


@dataclass(frozen=True, slots=True)
class PlannedGrant:
    """A grant to come. ``lasts_seconds`` counts from its issue; None: it never ends."""

    source: str
    amount: int
    priority: int
    lasts_seconds: float | None


@dataclass(frozen=True, slots=True)
class PlannedPlan:
    """A plan of the run: ``amount`` every month; ``rolls_over``: rests live for a period more."""

    name: str
    amount: int
    rolls_over: bool


@dataclass(frozen=True, slots=True)
class User:
    """One account of the run, and what it is granted, or which plan it subscribes to."""

    account: str
    grants: tuple[PlannedGrant, ...] = ()
    plan: PlannedPlan | None = None
    time_zone: str = "UTC"

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

    def share_of_users(self, client: int, clients: int) -> list[tuple[Call, str]]:
        """Return all calls of one client's own users, who are nobody else's."""
        return [
            (call, self.users[user].account)
            for call, user in zip(self.calls, self.user_of, strict=True)
            if user % clients == client
        ]


def plan(
    calls: Sequence[Call], *, prefix: str, users: int, seed: int, promotion_seconds: float
) -> Workload:
    """Return who makes which call and what everybody is granted. ``prefix``: of all accounts."""
    chance = random.Random(seed)
    user_of, demands = _drawn(calls, users, chance)
    planned = tuple(
        User(account, _grants(chance, demands[place], _runs_dry(place), promotion_seconds))
        for place, account in enumerate(_accounts(prefix, users))
    )
    return Workload(calls, planned, user_of)


def plan_months(
    calls: Sequence[Call], *, prefix: str, users: int, seed: int, days: int
) -> Workload:
    """
    Return who makes which call over so many days, and which monthly plan everybody has.

    Of three plans each user has the smallest that is enough, or if it is to run dry the next
    smaller one. Rests of the middle one roll over. ``prefix``: of all accounts and plans.
    """
    user_of, demands = _drawn(calls, users, random.Random(seed))
    monthly = [max(LEAST_TOKENS, demand * 31 // days) for demand in demands]
    ordered = sorted(monthly)
    plans = [
        PlannedPlan(f"{prefix}{name}", 12 * ordered[int(share * (users - 1))] // 10, rolls_over)
        for name, share, rolls_over in TIERS
    ]
    planned = []
    for place, account in enumerate(_accounts(prefix, users)):
        enough = next(tier for tier, one in enumerate(plans) if one.amount >= monthly[place])
        chosen = plans[max(0, enough - _runs_dry(place))]
        planned.append(User(account, plan=chosen, time_zone=ZONES[place % len(ZONES)]))
    return Workload(calls, tuple(planned), user_of)


def _drawn(
    calls: Sequence[Call], users: int, chance: random.Random
) -> tuple[list[int], list[int]]:
    """Return the user of each call, and how many tokens each user's calls use."""
    weights = list(accumulate(1 / rank for rank in range(1, users + 1)))
    user_of = chance.choices(range(users), cum_weights=weights, k=len(calls))
    demands = [0] * users
    for call, user in zip(calls, user_of, strict=True):
        demands[user] += call.context_tokens + call.generated_tokens
    return user_of, demands


def _accounts(prefix: str, users: int) -> list[str]:
    width = len(str(users))
    return [f"{prefix}user-{number:0{width}d}" for number in range(1, users + 1)]


def _runs_dry(place: int) -> bool:
    return place % DRY_EVERY == DRY_EVERY - 1


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
