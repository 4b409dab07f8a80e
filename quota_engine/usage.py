"""
Usage: what one model call used, in normalised counts. It must not know any provider's shapes.

``input_tokens`` includes cached and cache-write tokens; ``output_tokens`` includes reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

from quota_engine.amounts import checked_amount
from quota_engine.errors import InvalidAmountError, InvalidArgumentError

_SECONDS = frozenset({"audio_seconds", "video_seconds"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """
    Normalised counts of one call: tokens, images, characters, seconds.

    Counts are whole numbers from 0; seconds may have decimals. Raises ``InvalidAmountError`` for
    a negative or fractional count, or a part that is greater than its whole.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0
    characters: int = 0
    audio_seconds: int | float | Decimal = 0
    video_seconds: int | float | Decimal = 0
    resolution: str | None = None
    requests: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "resolution":
                continue
            if field.name in _SECONDS:
                _check_seconds(value, field.name)
            else:
                checked_amount(value, zero_allowed=True, name=field.name)
        parts = self.cached_input_tokens + self.cache_write_tokens + self.cache_write_1h_tokens
        if parts > self.input_tokens:
            raise InvalidAmountError(
                f"cached and cache-write tokens ({parts}) exceed input_tokens"
                f" ({self.input_tokens}), which includes them"
            )
        if self.reasoning_tokens > self.output_tokens:
            raise InvalidAmountError(
                f"reasoning_tokens ({self.reasoning_tokens}) exceed output_tokens"
                f" ({self.output_tokens}), which includes them"
            )

    @classmethod
    def from_response(cls, response: object, provider: str | None = None) -> Usage:
        """
        Return what a provider's whole response says was used, from an SDK's object or a mapping.

        Raises ``InvalidAmountError`` for a report that cannot be, ``InvalidArgumentError`` when
        there is none. ``quota_engine.extraction.extract`` tells the same without raising.
        """
        from quota_engine.extraction import Reported, extract

        found = extract(response, provider)
        if found is None:
            raise InvalidArgumentError(f"this {type(response).__name__} reports no usage")
        if not isinstance(found, Reported):
            raise InvalidAmountError(f"the provider's usage cannot be: {found.reason}")
        return found.usage

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def counts(self) -> dict[str, Any]:
        """Return what was used, without the zeros, as JSON can say it."""
        return {
            name: str(value) if isinstance(value, Decimal) else value
            for name in _FIELDS
            if (value := getattr(self, name)) not in (0, None)
        }


_FIELDS = tuple(field.name for field in fields(Usage))


@runtime_checkable
class Counted(Protocol):
    """What can say what was used: a ``Usage``, or a record that holds more beside it."""

    def counts(self) -> dict[str, Any]:
        """Return it as JSON can say it."""


def usage_counts(usage: Counted | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a caller's usage as counts; a mapping must have the fields of ``Usage``."""
    if usage is None:
        return None
    if isinstance(usage, Usage | Counted):  # a protocol is asked last: that takes a while
        return usage.counts()
    return checked_usage(usage).counts()


def checked_used(used: object, *, name: str = "usage") -> Usage | int:
    """Return what a caller says was used: counts, or whole units of the quota type."""
    if isinstance(used, Usage | Mapping):
        return checked_usage(used)
    return checked_amount(used, zero_allowed=True, name=name)


def checked_usage(usage: object) -> Usage:
    """Return a usage, or a mapping of its fields, as a ``Usage``."""
    if isinstance(usage, Usage):
        return usage
    if not isinstance(usage, Mapping):
        raise InvalidArgumentError(
            f"usage must be a Usage or a mapping of its fields, not {type(usage).__name__}"
        )
    unknown = sorted(str(name) for name in usage if name not in _FIELDS)
    if unknown:
        raise InvalidArgumentError(
            f"usage has no {', '.join(unknown)}; it knows {', '.join(sorted(_FIELDS))}"
        )
    return Usage(**usage)


def _check_seconds(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise InvalidAmountError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 <= value < 2**53:  # a NaN is in no range
        raise InvalidAmountError(f"{name} must be from 0 to 2**53 - 1, not {value}")
