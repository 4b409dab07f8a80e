"""
Alert rules: what is looked at, of which accounts, and from which value on somebody is told. Pure.

A rule has a **subject** for each thing that it looks at: a quota, a grant, a pool, the accounts of
its scope together. Its **value** *crosses* a threshold where it reaches it or goes beyond.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from quota_engine.arguments import checked_text, checked_type
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_account
from quota_engine.pools import Threshold
from quota_engine.prices.price import checked_currency, checked_provider
from quota_engine.settings import Settings

WARNING, CRITICAL = "warning", "critical"
SEVERITIES = (WARNING, CRITICAL)

PERIODS = ("day", "week", "month", "quarter", "year")
CHANNELS_MAX = 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}\Z")
_NUMBER = re.compile(r"(\d{1,18}(?:\.\d{1,12})?)\s*(%?)\Z", re.ASCII)

_QUOTAS = frozenset({"account", "subtree", "quota_type"})
_CALLS = frozenset({"account", "subtree", "period"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """
    What a rule looks at. ``says``: its value, in words; ``takes``: what beside thresholds is said.

    ``is_falling``: it crosses downwards. ``has_thresholds``: else what it looks at has levels of
    its own. ``warning`` and ``critical``: where a rule says none. ``is_whole``: its value is a
    whole number.
    """

    says: str
    takes: frozenset[str]
    is_falling: bool = False
    has_thresholds: bool = True
    is_whole: bool = True
    may_be_percent: bool = False
    warning: str | None = None
    critical: str | None = None


KINDS = {
    "balance": Kind(
        says="has a balance of {value}",
        takes=_QUOTAS,
        is_falling=True,
        may_be_percent=True,
        critical="0",
    ),
    "debt": Kind(says="has a debt of {value}", takes=_QUOTAS, warning="1"),
    "shortfall": Kind(says="could not pay {value} of a charge", takes=_QUOTAS, warning="1"),
    "frozen": Kind(says="is frozen", takes=_QUOTAS, has_thresholds=False, critical="1"),
    "usage": Kind(says="used {value} this {period}", takes=_CALLS | {"quota_type", "each"}),
    "cost": Kind(
        says="cost {value} {currency} this {period}",
        takes=_CALLS | {"quota_type", "currency", "each"},
        is_whole=False,
    ),
    "unpriced": Kind(
        says="was used without a price {value} times this {period}",
        takes=_CALLS,
        warning="1",
    ),
    "run_dry": Kind(
        says="runs dry in {value} days", takes=_QUOTAS, is_falling=True, is_whole=False
    ),
    "expiring": Kind(
        says="ends unused in {value} days", takes=_QUOTAS, is_falling=True, is_whole=False
    ),
    "pool": Kind(
        says="has {value} left",
        takes=frozenset({"provider", "currency"}),
        has_thresholds=False,
        is_whole=False,
    ),
    "drift": Kind(
        says="has {value} quotas that differ between Redis and the ledger",
        takes=frozenset(),
        critical="1",
    ),
    "drain_late": Kind(
        says="has entries that wait for {value} s", takes=frozenset(), is_whole=False
    ),
    "reconcile_late": Kind(says="was done {value} s ago", takes=frozenset(), is_whole=False),
}
#: Seen by the persister, entry by entry.
OF_ENTRIES = frozenset({"balance", "debt", "shortfall", "frozen"})
#: Read from the daily sums.
OF_SUMS = frozenset({"usage", "cost", "unpriced"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTerms:
    """
    What a rule says. See ``AlertRule`` for what its fields mean.

    ``warning`` and ``critical``: a number, or per cent such as ``20%``, as plain text.
    """

    kind: str
    account: str | None = None
    subtree: bool = False
    quota_type: str | None = None
    warning: str | None = None
    critical: str | None = None
    period: str | None = None
    currency: str | None = None
    provider: str | None = None
    each: bool = False
    channels: tuple[str, ...] | None = None

    @property
    def scope(self) -> str:
        """The accounts that it is about, in a word."""
        if self.account is None:
            return "*"
        return f"{self.account}/*" if self.subtree else self.account


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """
    A rule as it is. ``revision``: counts up with every change of any rule or channel.

    ``account`` None: every account; ``subtree``: also those below its path. ``quota_type`` None:
    each. ``each``: every account of the scope is looked at for itself, else all together.
    ``channels`` None: all that there are.
    """

    name: str
    kind: str
    account: str | None
    subtree: bool
    quota_type: str | None
    warning: str | None
    critical: str | None
    period: str | None
    currency: str | None
    provider: str | None
    each: bool
    channels: tuple[str, ...] | None
    revision: int
    changed_at: datetime
    changed_by: str | None

    @property
    def terms(self) -> RuleTerms:
        """What it says."""
        return RuleTerms(**{one.name: getattr(self, one.name) for one in fields(RuleTerms)})


@dataclass(frozen=True, slots=True)
class By:
    """Who does something, and why; nobody is named where the engine acts by itself."""

    operator: str | None = None
    remark: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertChange:
    """One change of a rule or a channel: who made it, when, why, and what was said since."""

    revision: int
    at: datetime
    what: str
    name: str
    action: str
    terms: dict[str, Any]
    operator: str | None
    remark: str | None


def threshold_of(said: str | None) -> Threshold | None:
    """Return what a checked threshold says."""
    if said is None:
        return None
    return Threshold(Decimal(said.removesuffix("%")), is_percent=said.endswith("%"))


def first_day(period: str, today: date) -> date:
    """Return the first day (UTC) of the period that a day is in; weeks begin on Monday."""
    if period == "week":
        return today - timedelta(days=today.weekday())
    if period == "quarter":
        return today.replace(month=today.month - (today.month - 1) % 3, day=1)
    if period == "day":
        return today
    return today.replace(day=1) if period == "month" else today.replace(month=1, day=1)


def checked_rule_name(name: object) -> str:
    """Return the name of a rule or channel; raise ``InvalidArgumentError`` for what is none."""
    if isinstance(name, str) and _NAME.match(name):
        return name
    raise InvalidArgumentError(
        "a name must be 1 to 64 letters, digits and any of . _ : -, and begin with a letter or"
        f" digit, not {name!r:.80}"
    )


def checked_rule(kind: object, settings: Settings, **said: Any) -> RuleTerms:
    """Return what a rule says; raise ``InvalidArgumentError`` for what it cannot mean."""
    if kind not in KINDS:
        raise InvalidArgumentError(f"kind must be one of {', '.join(KINDS)}, not {kind!r:.80}")
    known = KINDS[str(kind)]
    for name in ("account", "quota_type", "period", "currency", "provider", "subtree", "each"):
        if said[name] and name not in known.takes:
            takes = ", ".join(sorted(known.takes)) or "nothing but thresholds"
            raise InvalidArgumentError(f"a rule of {kind} takes {takes}, and no {name}")
    account = None if said["account"] is None else checked_account(said["account"])
    if said["subtree"] and account is None:
        raise InvalidArgumentError("subtree needs an account: without one all are meant")
    quota_type = said["quota_type"]
    if kind == "usage" and quota_type is None:
        raise InvalidArgumentError("a rule of usage needs a quota_type: units of two never add up")
    currency = said["currency"] or (settings.currency if kind == "cost" else None)
    warning, critical = _checked_thresholds(str(kind), known, said, settings)
    return RuleTerms(
        kind=str(kind),
        account=account,
        subtree=bool(said["subtree"]),
        quota_type=None if quota_type is None else checked_type(quota_type, settings),
        warning=warning,
        critical=critical,
        period=_checked_period(said["period"]) if "period" in known.takes else None,
        currency=None if currency is None else checked_currency(currency),
        provider=None if said["provider"] is None else checked_provider(said["provider"]),
        each=bool(said["each"]),
        channels=_checked_channels(said["channels"]),
    )


def _checked_period(period: object) -> str:
    if period is None:
        return PERIODS[0]
    if period not in PERIODS:
        raise InvalidArgumentError(f"period must be {', '.join(PERIODS)}, not {period!r:.80}")
    return str(period)


def _checked_channels(channels: object) -> tuple[str, ...] | None:
    if channels is None:
        return None
    if isinstance(channels, str) or not isinstance(channels, Sequence):
        raise InvalidArgumentError(f"channels must be a list of names, not {channels!r:.80}")
    if len(channels) > CHANNELS_MAX:
        raise InvalidArgumentError(f"a rule has at most {CHANNELS_MAX} channels")
    return tuple(dict.fromkeys(checked_rule_name(name) for name in channels))


def _checked_thresholds(
    kind: str, known: Kind, said: dict[str, Any], settings: Settings
) -> tuple[str | None, str | None]:
    warning, critical = said["warning"], said["critical"]
    if not known.has_thresholds:
        if (warning, critical) != (None, None):
            raise InvalidArgumentError(f"a rule of {kind} has no thresholds: leave them out")
        return None, None
    if warning is None and critical is None:
        warning = _usual_warning(kind, known, settings)
    if critical is None:
        critical = known.critical
    if warning is None and critical is None:
        raise InvalidArgumentError(f"a rule of {kind} needs a threshold: say warning, or critical")
    least, most = (
        None if one is None else _checked_threshold(name, known, one)
        for name, one in ((WARNING, warning), (CRITICAL, critical))
    )
    if least is not None and most is not None and least.is_percent == most.is_percent:
        is_worse = most.value <= least.value if known.is_falling else most.value >= least.value
        if not is_worse:
            word = "below" if known.is_falling else "above"
            raise InvalidArgumentError(
                f"critical must be {word} warning: warning {least}, critical {most}"
            )
    return None if least is None else str(least), None if most is None else str(most)


def _usual_warning(kind: str, known: Kind, settings: Settings) -> object:
    """Return where a rule warns that says no threshold at all."""
    late = {
        "drain_late": settings.drain_late_seconds,
        "reconcile_late": settings.reconcile_late_seconds,
    }
    return f"{late[kind]:f}".rstrip("0").rstrip(".") if kind in late else known.warning


def _checked_threshold(name: str, kind: Kind, said: object) -> Threshold:
    is_number = isinstance(said, int | Decimal) and not isinstance(said, bool)
    text = f"{said:f}" if isinstance(said, Decimal) else str(said)
    found = _NUMBER.match(text) if is_number or isinstance(said, str) else None
    is_percent = found is not None and bool(found[2])
    if found is None or (is_percent and not kind.may_be_percent):
        other = ", or per cent of what was granted such as 20%" if kind.may_be_percent else ""
        raise InvalidArgumentError(f"{name} must be a number from 0{other}, not {said!r:.80}")
    value = Decimal(found[1]).normalize()
    if kind.is_whole and not is_percent and value != value.to_integral_value():
        raise InvalidArgumentError(f"{name} must be a whole number, not {said!r:.80}")
    if is_percent and value > 100:
        raise InvalidArgumentError(f"{name} must be at most 100%, not {said!r:.80}")
    return Threshold(value, is_percent=is_percent)


def checked_by(operator: object, remark: object) -> By:
    """Return who does something, and why."""
    return By(checked_text(operator, name="operator"), checked_text(remark, name="remark"))
