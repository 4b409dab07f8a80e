"""
Limits as an administrator changes them: by hand or by the table, and who did what when. Pure.

A table is read and checked whole before anything happens. What its lines ask is compared with what
is there: so the same table again changes nothing, and a run that died is just run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from quota_engine.batches import Problems, read_rows, whole
from quota_engine.commands import Action, LimitTerms, SetLimit
from quota_engine.commands.limits import change_told, details_of
from quota_engine.errors import InvalidArgumentError
from quota_engine.events import Entry
from quota_engine.ids import checked_account
from quota_engine.instants import from_ms, to_ms
from quota_engine.keys import QuotaName
from quota_engine.limits import UTC, Limit, checked_limit

REQUIRED = ("account", "quota_type", "amount")
OPTIONAL = ("per", "of", "window", "time_zone", "action")
SET, REMOVED, THERE, PLANNED = "set", "removed", "there", "planned"
REFUSED, WAITS = "refused", "waits"
ACTIONS = (Action.SET, Action.REMOVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChange:
    """
    What was done to a limit, by whom and why. ``action``: set, raise or remove.

    Only what was asked is told: of a raise ``raised_to`` and ``raised_until``, else ``amount``.
    """

    account: str
    quota_type: str
    changed_at: datetime
    action: str
    of: str
    per: str | None
    window: str | None
    time_zone: str | None
    amount: int | None
    raised_to: int | None
    raised_until: datetime | None
    operator: str | None
    reason: str | None
    operation_id: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitLine:
    """
    What became of one line of a table.

    ``outcome``: set; removed; ``there`` (it was so already); refused; ``waits`` (nothing is known
    to have happened: run the table again); ``planned`` of a dry run. ``reason`` tells why not.
    ``action``: set or remove; ``amount``: None of a limit to remove.
    """

    line: int
    account: str
    quota_type: str
    of: str
    per: str | None
    window: str | None
    action: str
    amount: int | None
    outcome: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitImport:
    """What became of a table of limits."""

    is_dry_run: bool
    lines: tuple[LimitLine, ...]

    @property
    def is_done(self) -> bool:
        """Whether every limit is as its line says, or gone where it says so."""
        return all(one.outcome in {SET, REMOVED, THERE} for one in self.lines)

    @property
    def counts(self) -> dict[str, int]:
        """How many lines came to which outcome."""
        return dict(Counter(one.outcome for one in self.lines))


@dataclass(frozen=True, slots=True)
class PlannedLimit:
    """A limit that a line of a table asks for, or to be rid of; then its amount says nothing."""

    line: int
    quota: QuotaName
    action: Action
    limit: Limit

    def told(self, outcome: str, reason: str | None = None) -> LimitLine:
        """Return what became of it."""
        limit = self.limit
        return LimitLine(
            line=self.line,
            account=self.quota.account,
            quota_type=self.quota.quota_type,
            of=limit.of,
            per=limit.per or None,
            window=limit.window or None,
            action=self.action.value,
            amount=limit.amount if self.action is Action.SET else None,
            outcome=outcome,
            reason=reason,
        )

    def is_so(self, standing: Iterable[LimitTerms]) -> bool:
        """Return whether a quota's limits are as the line says; a raise is left alone."""
        wanted = LimitTerms.told_by(self.limit)
        if self.action is Action.REMOVE:
            name = (wanted.of, wanted.per, wanted.window)
            return name not in ((one.of, one.per, one.window) for one in standing)
        asked = (wanted.of, wanted.per, wanted.window, wanted.time_zone, wanted.amount)
        there = ((one.of, one.per, one.window, one.time_zone, one.amount) for one in standing)
        return asked in there


def read_limits(table: bytes, check_type: Callable[[str], str]) -> list[PlannedLimit]:
    """Return the limits that a CSV table asks for, one a line; raise ``BatchRefusedError``."""
    problems, found = Problems(), []
    seen: dict[tuple[QuotaName, str], int] = {}
    for line, words in read_rows(table, REQUIRED, OPTIONAL):
        try:
            quota = QuotaName(checked_account(words["account"]), check_type(words["quota_type"]))
            action = _action(words)
            planned = PlannedLimit(line, quota, action, _limit(words, action))
        except InvalidArgumentError as error:
            problems.add(line, error)
            continue
        first = seen.setdefault((quota, planned.limit.key), line)
        if first != line:
            problems.add(line, f"it is of the same limit as line {first}")
        found.append(planned)
    problems.refuse()
    return found


def _action(words: Mapping[str, str]) -> Action:
    told = words.get("action") or Action.SET
    if told not in ACTIONS:
        raise InvalidArgumentError(f"action must be set or remove, not {told!r}")
    return Action(told)


def _limit(words: Mapping[str, str], action: Action) -> Limit:
    return checked_limit(
        whole(words, "amount", 1 if action is Action.REMOVE else None),
        of=words.get("of") or "units",
        per=words.get("per") or None,
        window=words.get("window") or None,
        time_zone=words.get("time_zone") or UTC,
    )


def change_to(
    quota: QuotaName,
    operation_id: str,
    action: Action,
    limit: Limit,
    *,
    now_ms: int,
    operator: str | None,
    reason: str | None,
) -> SetLimit:
    """Return the command that changes a limit, with who and why in its details."""
    return SetLimit(
        quota=quota,
        operation_id=operation_id,
        action=action,
        limit=limit,
        at_ms=now_ms,
        details=details_of(action, limit, operator=operator, reason=reason),
    )


def raised(limit: Limit, until: object) -> Limit:
    """Return a limit whose amount is that of a raise until an instant."""
    until_ms = to_ms(until, name="until")
    return replace(limit, raised_to=limit.amount, raised_until_ms=until_ms)


def change_of(entry: Entry) -> LimitChange | None:
    """Return what an entry ``limit.set`` tells; None for a renewal, which nobody asked for."""
    told = change_told(entry.name, entry)
    if told is None or told.action is Action.RENEW:
        return None
    limit, by = told.limit, told.told
    return LimitChange(
        account=entry.name.account,
        quota_type=entry.name.quota_type,
        changed_at=from_ms(entry.at_ms),
        action=told.action.value,
        of=limit.of,
        per=limit.per or None,
        window=limit.window or None,
        time_zone=limit.time_zone or None,
        amount=limit.amount or None,
        raised_to=limit.raised_to or None,
        raised_until=from_ms(limit.raised_until_ms) if limit.raised_until_ms else None,
        operator=by.get("operator"),
        reason=by.get("reason"),
        operation_id=entry.operation_id,
        version=entry.version,
    )
