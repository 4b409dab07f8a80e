"""Quotas for large-model APIs: Redis decides, PostgreSQL remembers."""

from quota_engine.engine import AsyncQuotaEngine, QuotaEngine
from quota_engine.errors import (
    BackpressureError,
    EngineFault,
    EngineUnavailableError,
    GrantNotFoundError,
    HoldClosedError,
    HoldNotFoundError,
    IdempotencyConflictError,
    InvalidAmountError,
    InvalidArgumentError,
    PricingNotFoundError,
    QuotaError,
    QuotaFrozenError,
    QuotaInsufficientError,
)
from quota_engine.usage import Usage

__all__ = [
    "AsyncQuotaEngine",
    "BackpressureError",
    "EngineFault",
    "EngineUnavailableError",
    "GrantNotFoundError",
    "HoldClosedError",
    "HoldNotFoundError",
    "IdempotencyConflictError",
    "InvalidAmountError",
    "InvalidArgumentError",
    "PricingNotFoundError",
    "QuotaEngine",
    "QuotaError",
    "QuotaFrozenError",
    "QuotaInsufficientError",
    "Usage",
]
