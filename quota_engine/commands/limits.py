"""A quota's limits: changed one by one, and read with what they have let through."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Self

from quota_engine.commands.arguments import (
    details_text,
    fingerprint,
    writing_argv,
    writing_keys,
)
from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.commands.replies import error_from
from quota_engine.commands.snapshots import Operation
from quota_engine.errors import EngineFault
from quota_engine.events import Entry
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.limits import Limit, marks_at, parse_limits

#: Limits that one quota may have.
LIMITS_MAX = 16


class Action(StrEnum):
    """What is done to a limit."""

    SET = "set"
    RAISE = "raise"
    RENEW = "renew"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitTerms:
    """
    A limit: at most ``amount`` of ``of`` (units, calls, holds) in a ``window`` of one ``per``.

    Until ``raised_until`` it is ``raised_to``. ``since``: what happened later counts. ``per`` and
    ``window`` are None for holds, ``time_zone`` but for calendar windows.
    """

    of: str
    per: str | None
    window: str | None
    time_zone: str | None
    amount: int
    raised_to: int | None
    raised_until: datetime | None
    since: datetime

    @classmethod
    def told_by(cls, limit: Limit, **more: Any) -> Self:
        """Return the terms of a limit as its line tells them."""
        return cls(
            of=limit.of,
            per=limit.per or None,
            window=limit.window or None,
            time_zone=limit.time_zone or None,
            amount=limit.amount,
            raised_to=limit.raised_to or None,
            raised_until=from_ms(limit.raised_until_ms) if limit.raised_until_ms else None,
            since=from_ms(limit.since_ms),
            **more,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLimits:
    """The limits of a quota after one was changed."""

    account: str
    quota_type: str
    operation_id: str
    limits: tuple[LimitTerms, ...]
    version: int
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitStanding(LimitTerms):
    """
    A limit as it stands: ``used`` of the ``cap`` that it has now, in what it limits.

    ``resets_at``: when its calendar period ends; a sliding window has no such instant.
    ``passes_at``: when a call that was asked for, and that it refuses now, would pass it if
    nothing else happens; None: never, or nobody knows, or no call was asked for.
    """

    account: str
    quota_type: str
    cap: int
    used: int
    resets_at: datetime | None
    passes_at: datetime | None = None

    @property
    def headroom(self) -> int:
        """How much it lets through now."""
        return max(self.cap - self.used, 0)


@dataclass(frozen=True, slots=True)
class LimitsRead:
    """The limits of a quota at an instant, by the clock that decides; None: nobody knows it."""

    at: datetime | None
    standings: tuple[LimitStanding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLimit(Command[SetLimits]):
    """
    Change one limit. See ``lua/set_limit.lua``.

    ``told``: who, why and what, kept with the entry and part of what makes a repeat one. A renewal
    is the engine's own, and has no fingerprint.
    """

    script: ClassVar[str] = "set_limit"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    operation_id: str
    action: Action
    limit: Limit
    #: An instant near now: the periods that are written down are those around it.
    at_ms: int = 0
    details: str = ""

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return writing_keys(keys, self.quota)

    @property
    def fingerprint(self) -> str:
        """The hash of what makes this change this change."""
        if self.action is Action.RENEW:
            return ""
        asked = replace(self.limit, since_ms=0, marks=()).text()
        return fingerprint("set_limit", self.action, asked, self.details)

    def argv(self, context: Context) -> Sequence[Argument]:
        limit = self.limit
        if self.action in {Action.SET, Action.RENEW}:
            limit = replace(limit, marks=marks_at(limit, self.at_ms))
        rest = (self.operation_id, self.fingerprint, self.action.value, limit.text(), LIMITS_MAX)
        return (*writing_argv(context, self.quota), *rest, self.details, context.outbox_max)

    def parse(self, reply: Reply) -> SetLimits:
        match reply:
            case ["SET" | "REPLAYED" as outcome, *lines]:
                answer = Operation.parse(self.operation_id, lines)
                return SetLimits(
                    account=self.quota.account,
                    quota_type=self.quota.quota_type,
                    operation_id=self.operation_id,
                    limits=tuple(map(LimitTerms.told_by, parse_limits(answer.terms))),
                    version=answer.version,
                    replayed=outcome == "REPLAYED",
                )
        raise EngineFault(f"set_limit answered {reply!r}")

    @property
    def told(self) -> Mapping[str, Any]:
        """What is kept with the entry."""
        found: Mapping[str, Any] = json.loads(self.details or "{}")
        return found

    @property
    def may_create(self) -> bool:
        return self.action is Action.SET

    def unknown(self) -> SetLimits:
        raise error_from(f"LIMIT_NOT_FOUND {self.limit.key}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits(Command[LimitsRead]):
    """
    Say how much a quota's limits let through now, and when ``asked`` units would pass each.

    See ``lua/read_limits.lua``.
    """

    script: ClassVar[str] = "read_limits"

    quota: QuotaName
    due_max: int = 500
    asked: int | None = None

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        name = str(self.quota)
        return (keys.versions, keys.quota(name), keys.holds(name), keys.changes(name))

    def argv(self, context: Context) -> Sequence[Argument]:
        asked = "" if self.asked is None else self.asked
        return (context.epoch, str(self.quota), context.now, self.due_max, asked)

    def parse(self, reply: Reply) -> LimitsRead:
        match reply:
            case ["LIMITS", now_ms, *told]:
                rows = zip(*(told[place::5] for place in range(5)), strict=True)
                standings = (self._standing(*row) for row in rows)
                return LimitsRead(from_ms(int(now_ms)), tuple(standings))
        raise EngineFault(f"read_limits answered {reply!r}")

    def _standing(
        self, text: str, cap: str, used: str, resets_at: str, passes_at: str
    ) -> LimitStanding:
        (limit,) = parse_limits(text)
        return LimitStanding.told_by(
            limit,
            account=self.quota.account,
            quota_type=self.quota.quota_type,
            cap=int(cap),
            used=int(used),
            resets_at=from_ms(int(resets_at)) if resets_at else None,
            passes_at=from_ms(int(passes_at)) if passes_at else None,
        )

    def unknown(self) -> LimitsRead:
        return LimitsRead(None)


def details_of(action: Action, limit: Limit, **told: Any) -> str:
    """Return what is kept with the entry of a change: what was asked, by whom and why."""
    asked: dict[str, Any] = {"of": limit.of, "per": limit.per, "window": limit.window}
    if action is Action.SET:
        asked |= {"amount": limit.amount, "time_zone": limit.time_zone}
    elif action is Action.RAISE:
        asked |= {"raised_to": limit.raised_to, "raised_until_ms": limit.raised_until_ms}
    asked = {name: value for name, value in asked.items() if value != ""}
    return details_text({"action": action.value, "limit": asked, **told})


def change_told(quota: QuotaName, entry: Entry) -> SetLimit | None:
    """Return the change that an entry ``limit.set`` tells; None where it tells none."""
    try:
        told = json.loads(entry.details)
        action, asked = Action(told["action"]), told["limit"]
        limit = Limit(
            of=asked["of"],
            per=asked.get("per", ""),
            window=asked.get("window", ""),
            time_zone=asked.get("time_zone", ""),
            amount=asked.get("amount", 0),
            raised_to=asked.get("raised_to", 0),
            raised_until_ms=asked.get("raised_until_ms", 0),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return SetLimit(
        quota=quota,
        operation_id=entry.operation_id,
        action=action,
        limit=limit,
        at_ms=entry.at_ms,
        details=entry.details,
    )


def renewals(quota: QuotaName, limits: str, at_ms: int) -> list[SetLimit]:
    """
    Return what writes down the periods around an instant of those limits that know none.

    Of several callers who find them over one has the effect.
    """
    return [
        SetLimit(
            quota=quota,
            operation_id=f"limit:renew:{limit.key}:{limit.since_ms}:{limit.marks[-1]}",
            action=Action.RENEW,
            limit=replace(limit, amount=0, raised_to=0, raised_until_ms=0),
            at_ms=at_ms,
            details=details_of(Action.RENEW, limit),
        )
        for limit in parse_limits(limits)
        if limit.is_marked and at_ms >= limit.marks[-1]
    ]
