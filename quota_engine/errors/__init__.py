"""
Every error the engine raises on purpose. It must not know who raises them.

* QuotaError
  x QuotaInsufficientError    the quota cannot pay; nothing changed
    x LimitExceededError      a limit lets no more through now; nothing changed
  x LimitNotFoundError        the quota has no such limit
  x InvalidAmountError        not a whole number the engine can count (also a ValueError)
  x InvalidArgumentError      any other argument that cannot be meant (also a ValueError)
  x GrantNotFoundError        no such grant in this quota
  x HoldNotFoundError         never placed
  x BatchRefusedError         a table of grants with lines that cannot be meant (see above)
  x OperationNotFoundError    no such charge in this quota
  x HoldClosedError           captured, released or expired; it cannot be extended any more
  x IdempotencyConflictError  the same operation id came back with other arguments
  x OperationCancelledError   it was cancelled before it came; it will never happen
  x PackageNotFoundError      no package by this name
  x PlanNotFoundError         no plan by this name
  x PurchaseNotFoundError     no order by this id
  x PurchaseRefusedError      not sold, bought too often, or the order is in another state
  x SubscriptionNotFoundError no subscription by this id
  x SubscriptionRefusedError  it has ended, is paused, or its plan is not offered
  x TransferRefusedError      the other account can not take the units; they are back
  x MoveRefusedError          an account that cannot move to where it was told to
  x NotSeenError              a report on accounts that the viewer does not see
  x PricingNotFoundError      no price for what was used
  x ModelDisabledError        the catalog says that no new call may use the model
  x AlertNotFoundError        no alert, rule, channel or message by this name
  x PoolNotFoundError         no provider pool by this name
  x PoolEmptyError            nothing is left of what the provider was paid; the call was not made
  x AccountBarredError        the account, or one above it, is not active
    x AccountSuspendedError   no new holds, debits and growth; what was held may be captured
    x AccountClosedError      the same, and no grants
  x QuotaFrozenError          the quota's log is in doubt; it takes no new holds until it is mended
  x BackpressureError         too much waits to be persisted; new holds are refused for a while
  x EngineUnavailableError    Redis, PostgreSQL or the shard cannot answer now
    x RedisAwayError          Redis cannot be reached at all
  x EngineFault               a bug or an incompatible deployment; page someone

Refusals carry their numbers as attributes. An unknown answer is a fault, never a yes.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from quota_engine.errors.refused import (
    LimitExceededError,
    LimitTold,
    QuotaError,
    QuotaInsufficientError,
    ScopeStanding,
)

#: What is made elsewhere in this package, and known by this name.
__all__ = [
    "LimitExceededError",
    "LimitTold",
    "QuotaError",
    "QuotaInsufficientError",
    "ScopeStanding",
]


class _NotFoundError(QuotaError):
    """What is named is not there."""

    http_status = 404


class _ConflictError(QuotaError):
    """What is named is not in a state for it."""

    http_status = 409


class LimitNotFoundError(_NotFoundError):
    """The quota has no such limit."""


class InvalidArgumentError(QuotaError, ValueError):
    """An argument that cannot be meant: says what was wrong and what was expected."""

    http_status = 400


class BatchRefusedError(InvalidArgumentError):
    """A table not to be meant; nothing was changed. ``problems``: lines, and what is wrong."""

    def __init__(self, message: str, *, problems: tuple[tuple[int, str], ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class InvalidAmountError(InvalidArgumentError):
    """Not a whole number of units between 1 and 2**53 - 1."""


class GrantNotFoundError(_NotFoundError):
    """No such grant in this quota."""


class HoldNotFoundError(_NotFoundError):
    """Neither Redis nor the ledger has ever seen this hold."""


class OperationNotFoundError(_NotFoundError):
    """Neither Redis nor the ledger has a charge by this operation id in the quota."""


class HoldClosedError(QuotaError):
    """The hold was captured, released or expired, and cannot be extended any more."""

    http_status = 410


class IdempotencyConflictError(_ConflictError):
    """The same operation id was used before with other arguments. Nothing was changed."""


class OperationCancelledError(_ConflictError):
    """The operation was cancelled before it came: it has not happened, and never will."""


class PackageNotFoundError(_NotFoundError):
    """No package by this name was ever defined."""


class PlanNotFoundError(_NotFoundError):
    """No plan by this name was ever defined."""


class PurchaseNotFoundError(_NotFoundError):
    """No order by this id was ever made."""


class PurchaseRefusedError(_ConflictError):
    """A package that is not sold, or bought too often; or an order in another state."""


class SubscriptionNotFoundError(_NotFoundError):
    """No subscription by this id was ever made."""


class SubscriptionRefusedError(_ConflictError):
    """A plan that is not offered any more; or a subscription that ended, is paused, or runs."""


class CodeNotFoundError(_NotFoundError):
    """No such redemption code was ever made."""


class CodeRefusedError(_ConflictError):
    """A redemption code that is expired, revoked, or was redeemed by somebody else."""


class TransferRefusedError(_ConflictError):
    """The account that units were to arrive at cannot take them: they are back where they were."""


class MoveRefusedError(QuotaError):
    """An account that cannot move, or not to that place. Nothing was changed."""

    http_status = 409


class NotSeenError(QuotaError):
    """The viewer sees its own account and those below it. Says nothing of whether others exist."""

    http_status = 403


class PricingNotFoundError(_NotFoundError):
    """
    No price is in force for something that was used.

    ``missing`` names what: pricing types, with a word more where it helps.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        model: str | None = None,
        missing: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.model = model
        self.missing = missing


class ModelDisabledError(QuotaError):
    """The catalog says that no new call may use this model. Nothing was held, or called."""

    http_status = 403

    def __init__(self, provider: str, model: str) -> None:
        super().__init__(
            f"{provider}/{model} is disabled in the catalog; `quota-engine models set {provider}"
            f" {model} --enabled` allows it again"
        )
        self.provider = provider
        self.model = model

    def __reduce__(self) -> tuple[object, ...]:
        return ModelDisabledError, (self.provider, self.model)


class AlertNotFoundError(_NotFoundError):
    """There is no alert, rule, channel or message by this name, or the viewer does not see it."""

    http_status = 404


class PoolNotFoundError(_NotFoundError):
    """No pool was ever defined for this provider, or not in this currency."""


class PoolEmptyError(QuotaError):
    """
    Nothing is left of what was paid to a provider in advance. Nothing was held, or called.

    ``available`` is the pool's balance in ``currency``: 0, or below.
    """

    http_status = 503

    def __init__(self, provider: str, currency: str, available: Decimal) -> None:
        super().__init__(
            f"the pool of {provider} has {available:f} {currency} left; recharge it, and tell so:"
            f" `quota-engine pools recharge {provider} AMOUNT --currency {currency}`"
        )
        self.provider = provider
        self.currency = currency
        self.available = available

    def __reduce__(self) -> tuple[object, ...]:
        return PoolEmptyError, (self.provider, self.currency, self.available)


class AccountBarredError(QuotaError):
    """
    An account is not active, and neither are those below it. Nothing was changed.

    ``account`` is the one whose ``state`` it is, perhaps one above the caller's, with ``reason``
    and ``since``.
    """

    http_status = 403
    state: ClassVar[str]

    def __init__(self, account: str, *, reason: str, since: datetime) -> None:
        super().__init__(f"{account} is {self.state}" + (f": {reason}" if reason else ""))
        self.account = account
        self.reason = reason
        self.since = since

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_barred, (type(self), self.account, self.reason, self.since)


def _rebuild_barred(
    kind: type[AccountBarredError], account: str, reason: str, since: datetime
) -> AccountBarredError:
    return kind(account, reason=reason, since=since)


class AccountSuspendedError(AccountBarredError):
    """It takes no new holds, debits and growth of holds; captures and releases pass."""

    state = "suspended"


class AccountClosedError(AccountBarredError):
    """As a suspended one, and no grants, transfers, purchases and subscriptions."""

    state = "closed"


class QuotaFrozenError(QuotaError):
    """The quota's log is in doubt: it takes captures and releases, but no new holds or debits."""

    http_status = 503


class BackpressureError(QuotaError):
    """
    Too much waits to be persisted, or Redis is full: what is new is refused, what was used passes.

    ``pending`` entries of ``shard`` wait and ``limit`` may; all None when Redis is full. Nothing
    was changed: retry when the workers have caught up.
    """

    http_status = 503
    retry_after = 5.0

    def __init__(
        self,
        message: str,
        *,
        pending: int | None = None,
        limit: int | None = None,
        shard: int | None = None,
    ) -> None:
        super().__init__(message)
        self.pending = pending
        self.limit = limit
        self.shard = shard


class EngineUnavailableError(QuotaError):
    """Redis, PostgreSQL or the shard cannot answer now. The message says what to do."""

    http_status = 503
    retry_after = 1.0


class RedisAwayError(EngineUnavailableError):
    """
    Redis cannot be reached, or is loading its data: nothing of it answers.

    Not raised when Redis answers and refuses, nor when only PostgreSQL or the gate is missing.
    """


class EngineFault(QuotaError):
    """Something answered in a way that only a bug or a foreign deployment explains."""
