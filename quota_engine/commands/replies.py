"""
Error replies: which first word of a script's error raises which exception.

Some of them never reach a caller: flows and transports answer them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quota_engine.errors import (
    AccountBarredError,
    AccountClosedError,
    AccountSuspendedError,
    BackpressureError,
    EngineFault,
    EngineUnavailableError,
    GrantNotFoundError,
    HoldClosedError,
    HoldNotFoundError,
    IdempotencyConflictError,
    InvalidAmountError,
    InvalidArgumentError,
    LimitExceededError,
    LimitNotFoundError,
    LimitTold,
    OperationCancelledError,
    QuotaError,
    QuotaFrozenError,
    QuotaInsufficientError,
    ScopeStanding,
)
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName, shard_in
from quota_engine.payers import quota_of

#: By the account's state.
_BARS: Mapping[str, type[AccountBarredError]] = {
    kind.state: kind for kind in (AccountSuspendedError, AccountClosedError)
}


class FencedError(QuotaError):
    """The caller's epoch is not the shard's: the gate must be asked."""


class QuotaNotLoadedError(QuotaError):
    """Redis does not hold the quota: hydrate it and retry."""


class CatchUpError(QuotaError):
    """More changes are due than one call applies: catch up and retry."""


class PeriodsOverError(QuotaError):
    """
    A limit knows of no period at ``at_ms``: renew ``limits``, which are those of ``quota``.

    Of a limit that is just set, the instant around which its periods were told was too far away.
    """

    def __init__(self, at_ms: int, limits: str, quota: QuotaName) -> None:
        super().__init__(f"the limits of {quota} know of no period at {at_ms} ms")
        self.at_ms, self.limits, self.quota = at_ms, limits, quota


class PayersWantedError(QuotaError):
    """A quota is short, or was paid for by another: send the call again with these quotas."""

    def __init__(self, quotas: Sequence[QuotaName]) -> None:
        super().__init__(f"who may pay must be sent along: {', '.join(map(str, quotas))}")
        self.quotas = tuple(quotas)


BY_CODE: dict[str, type[QuotaError]] = {
    "AMOUNT_OVERFLOW": InvalidAmountError,
    "BACKPRESSURE": BackpressureError,
    "CATCH_UP": CatchUpError,
    "FENCED": FencedError,
    "GRANT_ENDED": InvalidArgumentError,
    "GRANT_EXISTS": IdempotencyConflictError,
    "GRANT_NOT_FOUND": GrantNotFoundError,
    "HOLD_CLOSED": HoldClosedError,
    "HOLD_NOT_FOUND": HoldNotFoundError,
    "HOLD_SHRINKS": InvalidAmountError,
    "IDEMPOTENCY_CONFLICT": IdempotencyConflictError,
    "LIMIT_NOT_FOUND": LimitNotFoundError,
    "OOM": BackpressureError,
    "OPERATION_CANCELLED": OperationCancelledError,
    "PAYERS_WANTED": PayersWantedError,
    "PERIODS_OVER": PeriodsOverError,
    "QUOTA_FROZEN": QuotaFrozenError,
    "QUOTA_NOT_LOADED": QuotaNotLoadedError,
    "TOO_MANY_GRANTS": InvalidArgumentError,
    "TOO_MANY_LIMITS": InvalidArgumentError,
    "TOO_MANY_PARTS": InvalidArgumentError,
}

#: What the server itself answers before a script begins: nothing was written, and it may pass.
_NOT_NOW = {
    "BUSY": "Redis is busy with a script that does not end: {}",
    "MASTERDOWN": "this Redis is a replica that has lost its master: {}",
    "MISCONF": "Redis cannot write its files, and refuses writes until it can (disk?): {}",
    "NOREPLICAS": "this master has lost its replicas and refuses writes: {}",
}
BY_CODE |= dict.fromkeys(_NOT_NOW, EngineUnavailableError)

_MEANINGS = _NOT_NOW | {
    "GRANT_ENDED": "a grant must end after it starts, and in the future, not at {}",
    "GRANT_EXISTS": "grant {} exists with other terms",
    "GRANT_NOT_FOUND": "grant {} is not in this quota, or nothing of it is left",
    "HOLD_CLOSED": "hold {} was captured, released or has expired",
    "HOLD_NOT_FOUND": "hold {} was never placed on this quota",
    "HOLD_SHRINKS": "an extended hold can only grow: {}",
    "IDEMPOTENCY_CONFLICT": "operation id {} was used before with other arguments",
    "LIMIT_NOT_FOUND": "the quota has no limit {}",
    "OOM": "Redis is full: new holds, debits and grants wait until the workers have drained ({})",
    "OPERATION_CANCELLED": "operation {} was cancelled before it came",
    "TOO_MANY_LIMITS": "a quota has no more limits than it has already: {}",
    "TOO_MANY_PARTS": "too many grants have terms of their own: transfer fewer units at once"
    " (grants they would arrive as, and the most: {})",
    "QUOTA_FROZEN": "the quota is frozen until its log is mended: {}",
}


def _backpressure(detail: str) -> BackpressureError:
    """Return the refusal that ``<pending> <limit> <outbox key>`` stands for."""
    pending, limit, outbox = detail.split(" ")
    shard = shard_in(outbox)
    return BackpressureError(
        f"{pending} entries of shard {shard} wait to be persisted, {limit} may: new holds, debits"
        " and grants are refused until the workers have caught up",
        pending=int(pending),
        limit=int(limit),
        shard=shard,
    )


def error_from(message: str) -> QuotaError:
    """Return the exception that an error reply stands for; a ``EngineFault`` if it is unknown."""
    code, _, detail = message.partition(" ")
    if code not in BY_CODE:
        return EngineFault(message)
    if code == "BACKPRESSURE":
        return _backpressure(detail)
    if code == "GRANT_ENDED":
        detail = str(from_ms(int(detail)))
    if code == "PAYERS_WANTED":
        return PayersWantedError([quota_of(word) for word in detail.split()])
    if code == "PERIODS_OVER":
        at_ms, limits, name = detail.split(" ", 2)
        return PeriodsOverError(int(at_ms), limits, QuotaName.parse(name))
    return BY_CODE[code](_MEANINGS.get(code, "{}").format(detail))


def denial(told: Sequence[str]) -> QuotaInsufficientError:
    """
    Return the refusal that a script's ``DENIED`` stands for.

    Of each quota it tells the name, what was asked of it and what it could have admitted. The
    first that has too little is the one that refused.
    """
    standings = _standings(told)
    refusing = next(each for each in standings if each.required > each.available)
    return QuotaInsufficientError(
        refusing.account,
        refusing.quota_type,
        required=refusing.required,
        available=refusing.available,
        scopes=standings,
    )


def barred(told: Sequence[str]) -> AccountBarredError:
    """Return the refusal that a script's ``BARRED`` stands for."""
    account, state, since_ms, reason = told
    return _BARS[state](account, reason=reason, since=from_ms(int(since_ms)))


def exceeding(told: Sequence[str]) -> LimitExceededError:
    """
    Return the refusal that a script's ``EXCEEDED`` stands for.

    It tells the limit that refuses, with what is asked of it and what is left, and how long to
    wait; then the same of each quota as ``DENIED`` does.
    """
    name, of, per, window, zone, cap, required, left, wait_ms, *rest = told
    quota = QuotaName.parse(name)
    return LimitExceededError(
        quota.account,
        quota.quota_type,
        required=int(required),
        available=int(left),
        limit=LimitTold(of, int(cap), per, window, zone),
        retry_after=int(wait_ms) / 1000 if wait_ms else None,
        scopes=_standings(rest),
    )


def _standings(told: Sequence[str]) -> tuple[ScopeStanding, ...]:
    return tuple(
        _standing(name, int(required), int(available))
        for name, required, available in zip(told[::3], told[1::3], told[2::3], strict=True)
    )


def _standing(name: str, required: int, available: int) -> ScopeStanding:
    quota = QuotaName.parse(name)
    return ScopeStanding(quota.account, quota.quota_type, required, available)
