"""Instants: aware datetimes at the public edge, whole milliseconds since 1970 (UTC) inside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from quota_engine.amounts import AMOUNT_MAX
from quota_engine.errors import InvalidArgumentError

#: ``expires_at`` of what never ends.
NEVER_MS = AMOUNT_MAX

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def to_ms(instant: object, *, name: str) -> int:
    """Return an aware datetime as milliseconds, fractions dropped."""
    if not isinstance(instant, datetime) or instant.utcoffset() is None:
        raise InvalidArgumentError(
            f"{name} must be a datetime with a time zone, not {instant!r:.80}"
        )
    return (instant - _EPOCH) // _MILLISECOND


def from_ms(instant_ms: int) -> datetime:
    """Return milliseconds as a datetime in UTC."""
    return _EPOCH + timedelta(milliseconds=instant_ms)


def from_ms_or_none(instant_ms: int) -> datetime | None:
    """Return milliseconds as a datetime in UTC, and ``NEVER_MS`` as None."""
    return None if instant_ms == NEVER_MS else from_ms(instant_ms)
