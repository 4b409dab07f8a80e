"""
Metering: quota around model calls.

* requires_quota      decorate a function; the engine is found at its first call
* configure           say which engine that is
* Plan                what a metered function says of itself
* metered_block       the same around a block
* COUNTERS            what the metered calls of this process came to
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from quota_engine.errors import EngineUnavailableError
from quota_engine.metering.blocks import AsyncMeteredBlock, MeteredBlock
from quota_engine.metering.call import MeteredCall
from quota_engine.metering.decorator import F, metered
from quota_engine.metering.meter import Meter
from quota_engine.metering.plan import Arguments, Plan
from quota_engine.metrics.model_calls import COUNTERS

__all__ = [
    "COUNTERS",
    "AsyncMeteredBlock",
    "Meter",
    "MeteredBlock",
    "Plan",
    "configure",
    "decorating",
    "metered",
    "metered_block",
    "requires_quota",
]

_configured: list[Any] = []


def configure(engine: Any) -> None:
    """Use ``engine`` for what the module's ``requires_quota`` decorates; None: none any more."""
    _configured[:] = [] if engine is None else [engine]


def _engine() -> Any:
    if not _configured:
        raise EngineUnavailableError(
            "no engine is configured: call quota_engine.configure(engine) once, at the start"
        )
    return _configured[0]


def requires_quota(quota_type: str | Iterable[str], **plan: Any) -> Callable[[F], F]:
    """Meter a function with the configured engine: see ``QuotaEngine.requires_quota``."""
    return decorating(_engine, quota_type, plan)


def decorating(
    find_engine: Callable[[], Any],
    quota_type: str | Iterable[str],
    plan: dict[str, Any],
    *,
    async_only: bool = False,
) -> Callable[[F], F]:
    """Return the decorator of one plan; ``async_only`` refuses functions that are not async."""
    meter = Meter(find_engine, Plan(quota_type=quota_type, **plan))
    return lambda function: metered(function, meter, async_only=async_only)


def metered_block(
    engine: Any,
    account: str,
    quota_type: str | Iterable[str],
    *,
    request: Any = None,
    **plan: Any,
) -> tuple[Meter, MeteredCall]:
    """Return what a block around one call is made of; ``request`` is what it asks the model."""
    meter = Meter(lambda: engine, Plan(quota_type=quota_type, account=account, **plan))
    values = {} if request is None else {"request": request}
    return meter, MeteredCall(meter.plan, Arguments(values))
