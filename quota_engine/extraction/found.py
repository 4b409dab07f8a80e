"""
Findings: what could be learnt from a provider's answer, and how far it can be trusted.

A finding is one of

    Reported    the provider said it, and it makes sense            quality exact
    Observed    put together from what came through before the end  quality estimated
    Anomaly     the provider said it, and it is nonsense            charge the hold's estimate
    None        nothing was said
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quota_engine.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who answered: all of it as the provider wrote it, None where it did not."""

    provider: str | None = None
    model: str | None = None
    request_id: str | None = None
    service_tier: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """Usage as the provider counted it."""

    usage: Usage
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Usage put together from what was seen of a stream; ``usage`` is an estimate."""

    usage: Usage
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """
    A provider's report that cannot be: a negative, fractional or gigantic count, a part above
    its whole. ``raw`` keeps the report as JSON can say it. It is never a reason to give credit.
    """

    reason: str
    raw: Mapping[str, Any]
    origin: Origin = field(default_factory=Origin)
