"""Quotas for large-model APIs: Redis decides, PostgreSQL remembers."""

from typing import TYPE_CHECKING, Any

from quota_engine.account_moves import AccountMove
from quota_engine.commands import (
    Allocation,
    Balance,
    CancelledOperation,
    CapturedHold,
    Debited,
    ExtendedHold,
    Grant,
    IssuedGrant,
    OverdraftLimit,
    PlacedHold,
    Refunded,
    ReleasedHold,
    Shadowed,
    Transferred,
    VoidedGrant,
)
from quota_engine.corrections import CorrectedUsage
from quota_engine.errors import (
    AccountBarredError,
    AccountClosedError,
    AccountSuspendedError,
    AlertNotFoundError,
    BackpressureError,
    BatchRefusedError,
    CodeNotFoundError,
    CodeRefusedError,
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
    ModelDisabledError,
    MoveRefusedError,
    NotSeenError,
    OperationCancelledError,
    OperationNotFoundError,
    PackageNotFoundError,
    PlanNotFoundError,
    PoolEmptyError,
    PoolNotFoundError,
    PricingNotFoundError,
    PurchaseNotFoundError,
    PurchaseRefusedError,
    QuotaError,
    QuotaFrozenError,
    QuotaInsufficientError,
    SubscriptionNotFoundError,
    SubscriptionRefusedError,
    TransferRefusedError,
)
from quota_engine.history import HistoryEntry
from quota_engine.listed import ListedGrant
from quota_engine.policies import AccountChange, AccountPolicy, AccountStanding
from quota_engine.pools import PoolEntry, PoolStanding
from quota_engine.recorded import RecordedCall
from quota_engine.reminders import Reminder
from quota_engine.statements import Statement
from quota_engine.usage import Usage

if TYPE_CHECKING:
    from quota_engine.engine import AsyncQuotaEngine, QuotaEngine
    from quota_engine.metering import configure, requires_quota

__all__ = [
    "AccountBarredError",
    "AccountChange",
    "AccountClosedError",
    "AccountMove",
    "AccountPolicy",
    "AccountStanding",
    "AccountSuspendedError",
    "AlertNotFoundError",
    "Allocation",
    "AsyncQuotaEngine",
    "BackpressureError",
    "Balance",
    "BatchRefusedError",
    "CancelledOperation",
    "CapturedHold",
    "CodeNotFoundError",
    "CodeRefusedError",
    "CorrectedUsage",
    "Debited",
    "EngineFault",
    "EngineUnavailableError",
    "ExtendedHold",
    "Grant",
    "GrantNotFoundError",
    "HistoryEntry",
    "HoldClosedError",
    "HoldNotFoundError",
    "IdempotencyConflictError",
    "InvalidAmountError",
    "InvalidArgumentError",
    "IssuedGrant",
    "LimitExceededError",
    "LimitNotFoundError",
    "ListedGrant",
    "ModelDisabledError",
    "MoveRefusedError",
    "NotSeenError",
    "OperationCancelledError",
    "OperationNotFoundError",
    "OverdraftLimit",
    "PackageNotFoundError",
    "PlacedHold",
    "PlanNotFoundError",
    "PoolEmptyError",
    "PoolEntry",
    "PoolNotFoundError",
    "PoolStanding",
    "PricingNotFoundError",
    "PurchaseNotFoundError",
    "PurchaseRefusedError",
    "QuotaEngine",
    "QuotaError",
    "QuotaFrozenError",
    "QuotaInsufficientError",
    "RecordedCall",
    "Refunded",
    "ReleasedHold",
    "Reminder",
    "Shadowed",
    "Statement",
    "SubscriptionNotFoundError",
    "SubscriptionRefusedError",
    "TransferRefusedError",
    "Transferred",
    "Usage",
    "VoidedGrant",
    "configure",
    "requires_quota",
]


def __getattr__(name: str) -> Any:
    """Import the engines when they are first asked for: the CLI's help needs neither driver."""
    if name in ("AsyncQuotaEngine", "QuotaEngine"):
        from quota_engine import engine

        return getattr(engine, name)
    if name in ("configure", "requires_quota"):
        from quota_engine import metering

        return getattr(metering, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
