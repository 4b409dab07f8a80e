"""
Why a call would be admitted or refused now: by which quota, and what is the cheapest way out.

A dry hold decides; then each quota that the call acts on is looked at. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from quota_engine.commands import (
    Balance,
    Flow,
    Grant,
    LimitStanding,
    PlacedHold,
    PlaceHold,
    ReadBalance,
    ReadLimits,
    Shadowed,
    Share,
)
from quota_engine.commands.reconcile import SnapshotQuota, Snapshotted
from quota_engine.errors import (
    AccountBarredError,
    BackpressureError,
    LimitExceededError,
    LimitTold,
    QuotaError,
    QuotaFrozenError,
    QuotaInsufficientError,
    ScopeStanding,
)
from quota_engine.flows import settled
from quota_engine.history import HistoryEntry
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName
from quota_engine.limits import HOLDS, UNITS
from quota_engine.statements import Statement

#: How a hold's change is named in Redis.
_HOLD = "a:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """Units that come back by themselves. ``cause``: ``hold.expired`` or ``grant.started``."""

    at: datetime
    amount: int
    cause: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeExplained:
    """One quota that the call acts on, and how it stands, in its units."""

    account: str
    quota_type: str
    required: int
    #: What its balance could admit now; None: everything, its overdraft limit is unlimited.
    available: int | None
    balance: int
    held: int
    debt: int
    overdraft_limit: int | None
    frozen: str
    grants: int
    #: What comes back soonest: open holds that end, grants that start.
    relief: tuple[Relief, ...]
    #: Those that pay now, in burn-down order.
    live_grants: tuple[Grant, ...] = ()
    #: How its limits stand.
    limits: tuple[LimitStanding, ...] = ()
    #: Whether it does not gate: only its limits are asked.
    is_counted: bool = False

    @property
    def shortage(self) -> int:
        """How much is missing here."""
        if self.available is None or self.is_counted:
            return 0
        return max(self.required - self.available, 0)

    @property
    def headroom(self) -> int | None:
        """How many units its limits let through; None: they bound none."""
        units = [limit.headroom for limit in self.limits if limit.of == UNITS]
        others = [0 for limit in self.limits if limit.of != UNITS and not limit.headroom]
        return min([*units, *others], default=None)

    @property
    def admits(self) -> int | None:
        """How many units it could admit now by its balance and its limits; None: any."""
        balance = None if self.is_counted else self.available
        bounds = [bound for bound in (balance, self.headroom) if bound is not None]
        return min(bounds, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """
    Why a call would be admitted or refused now.

    ``refused_by``: the account whose quota refuses, or that is not active. ``retry_after``:
    seconds until enough came back by itself if nothing else happens; None: never, or it needs no
    waiting. ``fix``: what to do. ``limit``: which one refuses. ``statement``: what made the
    balance of the account's own quota.
    """

    account: str
    quota_type: str
    admitted: bool
    reason: str
    refused_by: str | None
    required: int
    available: int | None
    retry_after: float | None
    fix: str
    scopes: tuple[ScopeExplained, ...]
    limit: LimitTold | None = None
    statement: Statement | None = None
    #: The last of the entries that made that balance, oldest first.
    entries: tuple[HistoryEntry, ...] = ()
    #: Quotas in the shadow that would refuse, and let the call through.
    shadowed: tuple[Shadowed, ...] = ()
    #: The account that would pay in place of the own quota, which is short; None: none would.
    paid_by: str | None = None
    #: Those that were asked to pay in its place and cannot, with what each could have paid.
    cannot_pay: tuple[ScopeStanding, ...] = ()


def explained(command: PlaceHold) -> Flow[Explanation]:
    """Ask by a dry hold, then look at each quota."""
    refusal: QuotaError | None = None
    placed: PlacedHold | None = None
    try:
        placed = yield from settled(command)
    except (
        *(QuotaInsufficientError, AccountBarredError, QuotaFrozenError),
        BackpressureError,
    ) as error:
        refusal = error
    scopes: list[ScopeExplained] = []
    now: datetime | None = None
    for share in (Share(command.quota, command.amount), *command.shares):
        balance = yield from settled(ReadBalance(quota=share.quota))
        now = balance.at or now
        if share.quota.account == command.quota.account or balance.limits_others:
            found: Snapshotted = yield SnapshotQuota(quota=share.quota)
            scope = _scope(share, balance, found)
            if balance.is_limited:
                read = yield from settled(ReadLimits(quota=share.quota, asked=share.amount))
                scope = replace(scope, limits=read.standings, is_counted=not balance.gates)
            scopes.append(scope)
    judged = _judged(command.quota, scopes)
    if placed is not None and placed.paid_by is not None:
        judged = (replace(judged[0], is_counted=True), *judged[1:])
    explanation = _explanation(command.quota, refusal, judged, now)
    if placed is not None:
        return replace(explanation, shadowed=placed.shadowed, paid_by=placed.paid_by)
    known = {(scope.account, scope.quota_type) for scope in judged}
    told = getattr(refusal, "scopes", ())
    others = (one for one in told if (one.account, one.quota_type) not in known)
    return replace(explanation, cannot_pay=tuple(others))


def _judged(own: QuotaName, scopes: Sequence[ScopeExplained]) -> tuple[ScopeExplained, ...]:
    """Return scopes; the caller's own gate unless another account's of their type does."""
    gated = {
        scope.quota_type
        for scope in scopes
        if scope.account != own.account and not scope.is_counted
    }
    return tuple(
        replace(scope, is_counted=False)
        if scope.account == own.account and scope.quota_type not in gated
        else scope
        for scope in scopes
    )


def _scope(share: Share, balance: Balance, found: Snapshotted) -> ScopeExplained:
    spendable = balance.spendable
    return ScopeExplained(
        account=balance.account,
        quota_type=balance.quota_type,
        required=share.amount,
        available=None if spendable is None else max(spendable, 0),
        balance=balance.balance,
        held=balance.held,
        debt=balance.debt,
        overdraft_limit=balance.overdraft_limit,
        frozen=balance.frozen,
        grants=len(balance.grants),
        relief=tuple(sorted(_reliefs(balance, found), key=lambda relief: relief.at)),
        live_grants=balance.grants,
    )


def _reliefs(balance: Balance, found: Snapshotted) -> Iterable[Relief]:
    for grant in balance.pending_grants:
        yield Relief(
            at=grant.starts_at,
            amount=grant.remaining,
            cause="grant.started",
            subject=grant.grant_id,
        )
    loaded = found.seen.loaded
    for hold_id, facts in () if loaded is None else loaded.holds.items():
        at_ms = loaded.changes.get(_HOLD + hold_id) if loaded is not None else None
        if at_ms is not None:
            yield Relief(
                at=from_ms(at_ms), amount=facts.amount, cause="hold.expired", subject=hold_id
            )


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Why, by whose quota, for how long, and what to do."""

    reason: str = ""
    scope: ScopeExplained | None = None
    fix: str = ""
    retry_after: float | None = None


def _explanation(
    own: QuotaName,
    refusal: QuotaError | None,
    scopes: tuple[ScopeExplained, ...],
    now: datetime | None,
) -> Explanation:
    verdict = _verdict(refusal, scopes, now)
    least = min((bound for one in scopes if (bound := one.admits) is not None), default=None)
    refused_by = None if verdict.scope is None else verdict.scope.account
    required = (verdict.scope or scopes[0]).required
    available = least if verdict.scope is None else verdict.scope.admits
    if isinstance(refusal, AccountBarredError):
        refused_by = refusal.account
    if isinstance(refusal, LimitExceededError):
        required, available = refusal.required, refusal.available
    return Explanation(
        account=own.account,
        quota_type=own.quota_type,
        admitted=refusal is None,
        reason=verdict.reason,
        refused_by=refused_by,
        required=required,
        available=available,
        retry_after=verdict.retry_after,
        fix=verdict.fix,
        scopes=scopes,
        limit=getattr(refusal, "limit", None),
    )


def _verdict(
    refusal: QuotaError | None, scopes: tuple[ScopeExplained, ...], now: datetime | None
) -> _Verdict:
    own = scopes[0]
    if refusal is None:
        return _Verdict()
    if isinstance(refusal, QuotaInsufficientError):
        return _of_units(refusal, scopes, now)
    if isinstance(refusal, QuotaFrozenError):
        refusing = next((scope for scope in scopes if scope.frozen), own)
        name = f"'{refusing.account}|{refusing.quota_type}'"
        fix = f"mend its log: `quota-engine quarantine show {name}` ({refusing.frozen})"
        return _Verdict("frozen", refusing, fix)
    if isinstance(refusal, AccountBarredError):
        fix = f"{refusal}: `quota-engine accounts activate {refusal.account}`"
        return _Verdict(refusal.state, None, fix)
    fix = "start workers: `quota-engine worker` persists what waits"
    return _Verdict("backpressure", None, fix)


def _of_units(
    refusal: QuotaInsufficientError, scopes: tuple[ScopeExplained, ...], now: datetime | None
) -> _Verdict:
    """Return the verdict on a call that is refused units, with all that has to change."""
    refusing = _named(scopes, refusal) or scopes[0]
    limits = list(_limits_in_the_way(scopes, now))
    if isinstance(refusal, LimitExceededError):
        reason, fixes, waits = "limited", [], []
        limits = [refusal, *(limit for limit in limits if _place(limit) != _place(refusal))]
    else:
        short = [scope for scope in scopes if scope.shortage]
        reason, waits = "insufficient", [_retry_after(short, now)]
        fixes = [_fix(scope) for scope in short or [refusing]]
    fixes += map(_fix_of_limit, limits)
    # nobody knows when an open hold closes: as the script, wait for what is known to pass
    waits += (limit.retry_after for limit in limits if limit.limit.of != HOLDS)
    known = [wait for wait in waits if wait is not None]
    wait = max(known, default=None) if len(known) == len(waits) else None
    return _Verdict(reason, refusing, "; and ".join(fixes), wait)


def _limits_in_the_way(
    scopes: Sequence[ScopeExplained], now: datetime | None
) -> Iterable[LimitExceededError]:
    """Yield what each limit that does not let the call through would say."""
    for scope in scopes:
        for limit in scope.limits:
            required = scope.required if limit.of == UNITS else 1
            if limit.headroom >= required:
                continue
            passes = limit.passes_at
            wait = None if passes is None or now is None else (passes - now).total_seconds()
            yield LimitExceededError(
                *(scope.account, scope.quota_type),
                required=required,
                available=limit.headroom,
                limit=LimitTold(
                    *(limit.of, limit.cap, limit.per or "", limit.window or ""),
                    limit.time_zone or "",
                ),
                retry_after=wait,
            )


def _place(refusal: LimitExceededError) -> tuple[str, str, str, str, str]:
    limit = refusal.limit
    return refusal.account, refusal.quota_type, limit.of, limit.per, limit.window


def _fix_of_limit(refusal: LimitExceededError) -> str:
    """Return what would make a limit let the call through."""
    limit = refusal.limit
    named = f"{refusal.account} {refusal.quota_type}"
    options = "".join(
        f" --{name} {value}"
        for name, value in (("per", limit.per), ("of", limit.of), ("window", limit.window))
        if value
    )
    least = limit.amount + refusal.required - refusal.available
    advice = f"raise it: `quota-engine limits raise {named} {least}{options} --until +1d`"
    if limit.of == UNITS and refusal.available:
        advice += f", or ask for at most {refusal.available:,}"
    if refusal.retry_after is not None:
        advice += f", or wait {refusal.retry_after:,.1f} s"
    elif limit.of == HOLDS:
        advice += ", or wait until a hold closes"
    return f"{named} is limited to {limit}: {advice}"


def _named(
    scopes: Sequence[ScopeExplained], refusal: QuotaInsufficientError
) -> ScopeExplained | None:
    names = (refusal.account, refusal.quota_type)
    return next((one for one in scopes if (one.account, one.quota_type) == names), None)


def _fix(scope: ScopeExplained) -> str:
    """Return what would make one quota admit the call."""
    missing, where = scope.shortage, f"{scope.account} {scope.quota_type}"
    advice = f"grant {missing:,} more: `quota-engine grants issue {where} {missing}`"
    if scope.admits:
        advice += f", or ask for at most {scope.admits:,}"
    if relief := _enough(scope):
        advice += f", or wait until {relief.at:%Y-%m-%d %H:%M:%S} UTC ({relief.cause})"
    return advice


def _enough(scope: ScopeExplained) -> Relief | None:
    """Return the relief with which what comes back makes up for the shortage."""
    missing = scope.shortage
    for relief in scope.relief:
        missing -= relief.amount
        if missing <= 0:
            return relief
    return None


def _retry_after(short: Sequence[ScopeExplained], now: datetime | None) -> float | None:
    """Return seconds until every quota that has too little has enough; None: one never has."""
    found = [_enough(scope) for scope in short]
    if now is None or not found or None in found:
        return None
    return max(0.0, *((one.at - now).total_seconds() for one in found if one is not None))
