"""
The tree of a run: who is below whom, and what each account may use. Decided by a seed alone.

Three organisations of eight teams; users are dealt out in turn. Users have the grants of a plain
replay and limits of calls a minute and of holds at once. Teams and organisations have a budget and
four limits of units: per minute and month, sliding and calendar. Some budgets run dry, and of each
kind of limit some are tight, by what the trace asks. Two teams of each organisation have no
budget: one is only limited, and the other has nothing, so it is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import quantiles

from quota_engine.instants import to_ms
from quota_engine.keys import parents_of
from quota_engine.limits import CALENDAR, CALLS, HOLDS, SLIDING, UNITS, UTC
from quota_engine.replay.trace import Call
from quota_engine.replay.workload import PlannedGrant, User, Workload, plan

ORGANISATIONS, TEAMS = 3, 8
ORGANISATION, TEAM, USER = LEVELS = ("organisation", "team", "user")
ZONES = (UTC, "Asia/Shanghai", "America/New_York")
MINUTE_MS = 60_000
#: How long a call takes: before its answer begins, and for each token of it.
CALL_SECONDS, TOKEN_SECONDS = 0.5, 0.03

DRY, MINUTE, MONTH, AMPLE = "dry", "minute", "month", "ample"
#: What is short of each organisation and team, in turn, and in which window.
SHORT_ORGANISATIONS = ((MINUTE, SLIDING), (MONTH, CALENDAR), (DRY, ""))
SHORT_TEAMS = (
    *((DRY, ""), (MINUTE, CALENDAR), (MONTH, CALENDAR), (AMPLE, "")),
    *((MINUTE, SLIDING), (MONTH, SLIDING), (MINUTE, SLIDING), (AMPLE, "")),
)
#: The teams that have limits alone, and that have nothing.
LIMITED_TEAM, BARE_TEAM = 6, 7
#: Of what is asked of an account: its budget, its units a month, of which a run has two.
DRY_SHARE, AMPLE_SHARE = 0.5, 2.0
MONTH_SHARES = {SLIDING: 0.6, CALENDAR: 0.35}
#: Percentiles that tight limits are sized by.
TIGHT_MINUTE, TIGHT_CALLS, TIGHT_HOLDS = 60, 70, 60


@dataclass(frozen=True, slots=True)
class Pace:
    """Simulated time: ``factor`` seconds pass for each of the trace."""

    starts_at: datetime
    factor: float
    span_seconds: float

    @property
    def ends_at(self) -> datetime:
        """When all is over, the last call included."""
        return self.instant_of(self.span_seconds) + timedelta(hours=1)

    def instant_of(self, offset_seconds: float) -> datetime:
        """Return when a call comes that the trace has at an offset."""
        return self.starts_at + timedelta(seconds=offset_seconds * self.factor)

    def ms_of(self, call: Call) -> int:
        """Return when a call comes, in whole milliseconds."""
        return to_ms(self.instant_of(call.offset_seconds), name="instant")


def pace_of(calls: Sequence[Call], days: int | None, now: datetime) -> Pace:
    """
    Return the pace of a run: the trace's own, half of it before a month's first instant (UTC).

    Never before ``now``. ``days``: it takes so many days from now on instead.
    """
    span = max(call.offset_seconds for call in calls)
    if days is not None:
        return Pace(now, timedelta(days=days).total_seconds() / (span or 1.0), span)
    half = timedelta(seconds=span // 2)
    first = (now + half).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    month = (first + timedelta(days=32)).replace(day=1)
    return Pace(month - half, 1.0, span)


@dataclass(frozen=True, slots=True)
class PlannedLimit:
    """A limit to come, as ``engine.limits.set`` takes it."""

    amount: int
    of: str
    per: str | None = None
    window: str | None = None
    time_zone: str = UTC

    @property
    def words(self) -> str:
        """What it is of, as refusals are counted."""
        return words_of(self.of, self.per, self.window)


def words_of(of: str, per: str | None, window: str | None) -> str:
    """Return the kind of a limit in words."""
    return f"{of} a {per}, {window}" if per else f"{of} at once"


@dataclass(frozen=True, slots=True)
class Node:
    """An account of the tree that has something: grants, limits or both."""

    level: str
    user: User
    limits: tuple[PlannedLimit, ...] = ()

    @property
    def account(self) -> str:
        return self.user.account

    @property
    def gates(self) -> bool:
        """Whether it pays; else it is only limited."""
        return bool(self.user.grants)


@dataclass(frozen=True, slots=True)
class Tree:
    """Every account that has something, users first, and who makes which call."""

    workload: Workload
    nodes: tuple[Node, ...]
    pace: Pace

    @property
    def everybody(self) -> Workload:
        """The workload with all accounts of the tree as its users."""
        return replace(self.workload, users=tuple(node.user for node in self.nodes))

    def account_of(self, call: Call) -> str:
        """Return the account that makes a call."""
        return self.workload.users[self.workload.user_of[call.number - 1]].account

    def above(self, account: str) -> tuple[str, ...]:
        """Return the accounts above one that a call of it must act on, the nearest first."""
        acting = {node.account for node in self.nodes if node.level != USER}
        return tuple(parent for parent in parents_of(account) if parent in acting)


@dataclass(frozen=True, slots=True)
class Demand:
    """What the trace asks of one account: (instant in ms, held, used, end in ms) of each call."""

    calls: Sequence[tuple[int, int, int, int]]

    @property
    def used(self) -> int:
        return sum(used for _, _, used, _ in self.calls)

    @property
    def held_most(self) -> int:
        return max((held for _, held, _, _ in self.calls), default=1)

    @property
    def by_minute(self) -> list[int]:
        """Units used in each minute that has calls."""
        sums = Counter[int]()
        for at_ms, _, used, _ in self.calls:
            sums[at_ms // MINUTE_MS] += used
        return list(sums.values())

    @property
    def calls_by_minute(self) -> list[int]:
        return list(Counter(at_ms // MINUTE_MS for at_ms, _, _, _ in self.calls).values())

    @property
    def at_once(self) -> list[int]:
        """Calls that were open when each one began, itself included."""
        found, open_until = [], list[int]()
        for at_ms, _, _, ends_ms in self.calls:
            open_until = [end for end in open_until if end > at_ms] + [ends_ms]
            found.append(len(open_until))
        return found


def plan_tree(
    calls: Sequence[Call], *, prefix: str, users: int, seed: int, pace: Pace, output_limit: int
) -> Tree:
    """Return the tree of a run: ``prefix`` is of all organisations."""
    half = pace.span_seconds * pace.factor / 2
    flat = plan(calls, prefix="", users=users, seed=seed, promotion_seconds=max(half, 1.0))
    named = tuple(
        replace(user, account=f"{prefix}{_team_of(place)}/{user.account}")
        for place, user in enumerate(flat.users)
    )
    workload = replace(flat, users=named)
    asked: dict[str, list[tuple[int, int, int, int]]] = {}
    for call, place in zip(calls, workload.user_of, strict=True):
        account, at_ms = named[place].account, pace.ms_of(call)
        used, held = call.context_tokens + call.generated_tokens, call.context_tokens
        ends_ms = at_ms + lasts_ms(call)
        for each in (account, *parents_of(account)):
            asked.setdefault(each, []).append((at_ms, held + output_limit, used, ends_ms))
    demands = {account: Demand(sorted(found)) for account, found in asked.items()}
    nodes = [
        Node(USER, user, _user_limits(place, demands.get(user.account, Demand(()))))
        for place, user in enumerate(named)
    ]
    for number in range(ORGANISATIONS):
        account = f"{prefix}org-{number + 1}"
        demand = demands.get(account, Demand(()))
        nodes.append(_group(ORGANISATION, account, demand, SHORT_ORGANISATIONS[number], number))
        for team in range(TEAMS):
            if team == BARE_TEAM:
                continue
            account = f"{prefix}org-{number + 1}/team-{team + 1}"
            demand = demands.get(account, Demand(()))
            node = _group(TEAM, account, demand, SHORT_TEAMS[team], number + team)
            if team == LIMITED_TEAM:
                node = replace(node, user=User(account))
            nodes.append(node)
    return Tree(workload, tuple(nodes), pace)


def lasts_ms(call: Call) -> int:
    """Return how long a call takes, from its hold to its capture."""
    return int(1000 * (CALL_SECONDS + TOKEN_SECONDS * call.generated_tokens))


def _team_of(place: int) -> str:
    team = place // ORGANISATIONS % TEAMS
    return f"org-{place % ORGANISATIONS + 1}/team-{team + 1}"


def _group(level: str, account: str, demand: Demand, short: tuple[str, str], number: int) -> Node:
    """Return an organisation or team: its budget and limits, of which one thing may be short."""
    what, where = short
    spare, zone = 3 * demand.held_most, ZONES[(number + 2) % len(ZONES)]
    budget = int(demand.used * (DRY_SHARE if what == DRY else AMPLE_SHARE)) + spare
    limits = []
    for window in (SLIDING, CALENDAR):
        in_zone = zone if window == CALENDAR else UTC
        minute = 3 * max(demand.by_minute, default=0) + spare
        if (what, where) == (MINUTE, window):
            minute = max(_percentile(demand.by_minute, TIGHT_MINUTE), demand.held_most)
        month = 3 * demand.used + spare
        if (what, where) == (MONTH, window):
            month = int(demand.used * MONTH_SHARES[window]) + demand.held_most
        limits += [
            PlannedLimit(minute, UNITS, "minute", window, in_zone),
            PlannedLimit(month, UNITS, "month", window, in_zone),
        ]
    grants = (PlannedGrant("admin_grant", budget, 50, None),)
    return Node(level, User(account, grants), tuple(limits))


def _user_limits(place: int, demand: Demand) -> tuple[PlannedLimit, ...]:
    calls = 3 * max(demand.calls_by_minute, default=0) + 5
    holds = 3 * max(demand.at_once, default=0) + 5
    if place % 3 == 0:
        calls = _percentile(demand.calls_by_minute, TIGHT_CALLS)
    elif place % 3 == 1:
        holds = _percentile(demand.at_once, TIGHT_HOLDS)
    return (PlannedLimit(calls, CALLS, "minute", SLIDING), PlannedLimit(holds, HOLDS))


def _percentile(values: Sequence[int], percent: int) -> int:
    """Return a value that so many per cent of them do not exceed; 1 at least."""
    if len(values) < 2:
        return max(values, default=1)
    return max(1, int(quantiles(values, n=100, method="inclusive")[percent - 1]))
