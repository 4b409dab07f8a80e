"""
Why a call would be admitted or refused now: by which quota, and what is the cheapest way out.

A dry hold decides; then each quota that the call acts on is looked at. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from quota_engine.commands import (
    Balance,
    Flow,
    PlaceHold,
    ReadBalance,
    Share,
)
from quota_engine.commands.reconcile import SnapshotQuota, Snapshotted
from quota_engine.errors import (
    AccountBarredError,
    BackpressureError,
    QuotaError,
    QuotaFrozenError,
    QuotaInsufficientError,
)
from quota_engine.flows import settled
from quota_engine.instants import from_ms
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
    #: What it could admit now; None: everything, its overdraft limit is unlimited.
    available: int | None
    balance: int
    held: int
    debt: int
    overdraft_limit: int | None
    frozen: str
    grants: int
    #: What comes back soonest.
    relief: tuple[Relief, ...]

    @property
    def shortage(self) -> int:
        """How much is missing here."""
        return 0 if self.available is None else max(self.required - self.available, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """
    Why a call would be admitted or refused now.

    ``refused_by``: the account whose quota refuses, or that is not active. ``retry_after``:
    seconds until enough came back by itself if nothing else happens; None: never, or it needs no
    waiting. ``fix``: what to do. ``statement``: what made the balance of the account's own quota.
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
    statement: Statement | None = None


def explained(command: PlaceHold) -> Flow[Explanation]:
    """Ask by a dry hold, then look at each quota."""
    refusal: QuotaError | None = None
    try:
        yield from settled(command)
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
            scopes.append(_scope(share, balance, found))
    return _explanation(command, refusal, tuple(scopes), now)


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


def _explanation(
    command: PlaceHold,
    refusal: QuotaError | None,
    scopes: tuple[ScopeExplained, ...],
    now: datetime | None,
) -> Explanation:
    own = scopes[0]
    short = [scope for scope in scopes if scope.shortage]
    frozen = [scope for scope in scopes if scope.frozen]
    refusing, reason, fix = None, "", ""
    if isinstance(refusal, QuotaInsufficientError):
        refusing, reason = _named(scopes, refusal) or own, "insufficient"
        fix = "; and ".join(_fix(scope) for scope in short or [refusing])
    elif isinstance(refusal, QuotaFrozenError):
        refusing, reason = (frozen or [own])[0], "frozen"
        fix = (
            f"mend its log: `quota-engine quarantine show '{refusing.account}"
            f"|{refusing.quota_type}'` ({refusing.frozen})"
        )
    elif isinstance(refusal, AccountBarredError):
        reason = refusal.state
        fix = f"{refusal}: `quota-engine accounts activate {refusal.account}`"
    elif refusal is not None:
        reason, fix = "backpressure", "start workers: `quota-engine worker` persists what waits"
    least = min((scope.available for scope in scopes if scope.available is not None), default=None)
    told = refusing or own
    refused_by = None if refusing is None else refusing.account
    if isinstance(refusal, AccountBarredError):
        refused_by = refusal.account
    return Explanation(
        account=command.quota.account,
        quota_type=command.quota.quota_type,
        admitted=refusal is None,
        reason=reason,
        refused_by=refused_by,
        required=told.required,
        available=least if refusing is None else refusing.available,
        retry_after=_retry_after(short, now) if reason == "insufficient" else None,
        fix=fix,
        scopes=scopes,
    )


def _named(
    scopes: Sequence[ScopeExplained], refusal: QuotaInsufficientError
) -> ScopeExplained | None:
    names = (refusal.account, refusal.quota_type)
    return next((one for one in scopes if (one.account, one.quota_type) == names), None)


def _fix(scope: ScopeExplained) -> str:
    """Return what would make one quota admit the call."""
    missing, where = scope.shortage, f"{scope.account} {scope.quota_type}"
    advice = f"grant {missing:,} more: `quota-engine grants issue {where} {missing}`"
    if scope.available:
        advice += f", or ask for at most {scope.available:,}"
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
