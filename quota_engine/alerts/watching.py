"""
Watching quotas while their entries are persisted: each entry is judged, in order. Pure.

Only what an entry changes is looked at, so a dip and its recovery within one batch are both seen,
each once. It must not know where open alerts come from, nor where changes go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from quota_engine.alerts.crossing import Changes, Crossing, Limits, Subject
from quota_engine.alerts.rules import CRITICAL, OF_ENTRIES, AlertRule
from quota_engine.chain import LIVE, QuotaLog
from quota_engine.events import Entry
from quota_engine.instants import from_ms, to_ms
from quota_engine.keys import QuotaName


@dataclass(frozen=True, slots=True)
class Watch:
    """One rule on quotas, ready to be compared with; ``channels``: who is told."""

    rule: AlertRule
    limits: Limits
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """
    What a quota was granted, as the ledger has it at the end of a batch.

    ``counting``: Σ amounts of live grants of which something is left. ``is_granted``: whether it
    ever got anything; one that did not has no balance to fall.
    """

    counting: int = 0
    is_granted: bool = False


class RuleBook:
    """The rules of one revision, by the accounts that they are about."""

    def __init__(self, revision: int, rules: Iterable[AlertRule], channels: Iterable[str]) -> None:
        self.revision = revision
        self.rules = tuple(rules)
        self._channels = tuple(channels)
        self._of_account: dict[str, list[Watch]] = defaultdict(list)
        self._below: dict[str, list[Watch]] = defaultdict(list)
        self._of_all: list[Watch] = []
        for rule in self.rules:
            if rule.kind in OF_ENTRIES:
                self._place(rule).append(Watch(rule, Limits.of(rule), self.channels_of(rule)))

    def _place(self, rule: AlertRule) -> list[Watch]:
        if rule.account is None:
            return self._of_all
        return (self._below if rule.subtree else self._of_account)[rule.account]

    def channels_of(self, rule: AlertRule) -> tuple[str, ...]:
        """Return who is told of a rule's alerts: of the channels it names, those that exist."""
        if rule.channels is None:
            return self._channels
        return tuple(name for name in rule.channels if name in self._channels)

    @property
    def watches_quotas(self) -> bool:
        """Whether any rule is about the entries of quotas."""
        return bool(self._of_all or self._of_account or self._below)

    def watches_of(self, quota: QuotaName) -> tuple[Watch, ...]:
        """Return the rules on one quota."""
        found = [*self._of_all, *self._of_account.get(quota.account, ())]
        if self._below:
            path = quota.account
            while path:
                found += self._below.get(path, ())
                path = path.rpartition("/")[0]
        return tuple(one for one in found if one.rule.quota_type in (None, quota.quota_type))


class _Moment(NamedTuple):
    """What an entry left of a quota. ``counting``: Σ amounts of loaded grants that count."""

    at_ms: int
    balance: int
    debt: int
    shortfall: int
    counting: int
    has_risen: bool
    is_frozen: bool = False


@dataclass(slots=True)
class _Watched:
    watches: tuple[Watch, ...]
    log: QuotaLog
    counts_grants: bool
    moments: list[_Moment] = field(default_factory=list)

    def counting(self) -> int:
        """Return the amounts of those loaded grants of which something is left."""
        if not self.counts_grants:
            return 0
        return sum(
            grant.amount
            for grant in self.log.grants.values()
            if grant.state == LIVE and (grant.remaining or grant.reserved)
        )

    def is_calm(self, watch: Watch, others: int) -> bool:
        """Return whether nothing that was seen can have crossed, by the worst of each value."""
        moments, limits = self.moments, watch.limits
        match watch.rule.kind:
            case "balance":
                base = others + max(one.counting for one in moments)
                return limits.crossed(min(one.balance for one in moments), base) is None
            case "debt":
                return limits.crossed(max(one.debt for one in moments)) is None
            case "shortfall":
                return limits.crossed(max(one.shortfall for one in moments)) is None
        return not any(one.is_frozen for one in moments)


class Watcher:
    """The watched quotas of one batch."""

    def __init__(self, book: RuleBook, logs: Mapping[QuotaName, QuotaLog]) -> None:
        self._watched = {
            quota: _Watched(watches, log, any(one.limits.has_percent for one in watches))
            for quota, log in logs.items()
            if (watches := book.watches_of(quota))
        }

    def see(self, log: QuotaLog, entry: Entry) -> None:
        """Look at a quota after one of its entries."""
        watched = self._watched.get(log.name)
        if watched is None or not (entry.delta or entry.shortfall or entry.movements):
            return
        watched.moments.append(
            _Moment(
                entry.at_ms,
                entry.balance,
                entry.debt,
                entry.shortfall,
                watched.counting(),
                entry.delta > 0,
            )
        )

    def see_frozen(self, log: QuotaLog, at: datetime) -> None:
        """Look at a quota that has just been frozen."""
        watched = self._watched.get(log.name)
        if watched is not None and not any(one.is_frozen for one in watched.moments):
            watched.moments.append(
                _Moment(
                    to_ms(at, name="at"),
                    log.balance,
                    log.debt,
                    0,
                    watched.counting(),
                    has_risen=False,
                    is_frozen=True,
                )
            )

    @property
    def seen(self) -> list[QuotaName]:
        """Return the watched quotas of which something has changed."""
        return [quota for quota, watched in self._watched.items() if watched.moments]

    @property
    def balances(self) -> list[QuotaName]:
        """Return those of them whose balance is watched."""
        return [
            quota
            for quota in self.seen
            if any(one.rule.kind == "balance" for one in self._watched[quota].watches)
        ]

    def judge(self, changes: Changes, granted: Mapping[QuotaName, Granted]) -> None:
        """Tell ``changes`` of everything that was seen, in order."""
        for quota in self.seen:
            watched = self._watched[quota]
            subject = Subject(str(quota), quota.account, quota.quota_type)
            known = granted.get(quota, Granted())
            # What the batch did not touch counts all the time.
            others = known.counting - watched.counting()
            for watch in watched.watches:
                if watch.rule.kind == "balance" and not known.is_granted:
                    continue
                if watched.is_calm(watch, others) and not changes.knows(watch.rule, subject):
                    continue
                for moment in watched.moments:
                    _meet(changes, watch, subject, moment, others + moment.counting)


def _meet(changes: Changes, watch: Watch, subject: Subject, moment: _Moment, base: int) -> None:
    """Compare what an entry left with one rule; ``base``: what per cents are of."""
    crossing: Crossing | None
    if moment.is_frozen != (watch.rule.kind == "frozen"):
        return
    may_recover = True
    value = moment.balance
    match watch.rule.kind:
        case "frozen":
            crossing = Crossing(CRITICAL, 1)
        case "balance":
            crossing = watch.limits.crossed(value, base)
            may_recover = moment.has_risen
        case "debt":
            value = moment.debt
            crossing = watch.limits.crossed(value)
        case _:
            value = moment.shortfall
            crossing = watch.limits.crossed(value)
            may_recover = moment.has_risen and moment.balance > 0
    changes.meet(
        watch.rule,
        subject,
        crossing,
        from_ms(moment.at_ms),
        watch.channels,
        value=value,
        may_recover=may_recover,
    )
