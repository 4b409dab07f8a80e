"""How a command gets its engine, and how a person writes instants."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from quota_engine.engine import QuotaEngine

Account = Annotated[str, typer.Argument(help="Who spends: your own id, such as user:42.")]
QuotaType = Annotated[str, typer.Argument(help="What is spent, such as text_token.")]
Actor = Annotated[str | None, typer.Option(help="Who does this; kept with the entry.")]
Reference = Annotated[str | None, typer.Option(help="What it is for; kept with the entry.")]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FROM_NOW = re.compile(r"\+(\d{1,9})([smhdw])\Z")


@contextmanager
def opened_engine() -> Iterator[QuotaEngine]:
    """Yield an engine on the deployment that QUOTA_ENGINE_* names, and close it at the end."""
    from quota_engine.engine import QuotaEngine

    hush()
    with QuotaEngine.open() as engine:
        yield engine


def hush() -> None:
    """Keep the engine's log off the screen: a command says itself what it found."""
    log = logging.getLogger("quota_engine")
    if not log.handlers:
        log.addHandler(logging.NullHandler())


def parse_instant(text: str | None, *, name: str) -> datetime | None:
    """Return the instant that ISO 8601 with a time zone, or ``+30d`` from now, says."""
    if text is None:
        return None
    try:
        if ahead := _FROM_NOW.match(text):
            return datetime.now(UTC) + timedelta(**{_UNITS[ahead[2]]: int(ahead[1])})
        instant = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidArgumentError(
            f"{name} {text!r} is no instant: write 2026-12-31T00:00:00+08:00, 2026-12-31T00:00Z"
            " or +30d (s, m, h, d, w from now)"
        ) from None
    if instant.utcoffset() is None:
        raise InvalidArgumentError(
            f"{name} {text!r} has no time zone: write {instant.isoformat()}Z for UTC, or"
            f" {instant.isoformat()}+08:00"
        )
    return instant


def parse_span(text: str | None, *, name: str) -> timedelta | None:
    """Return the time that a number and its unit say: ``7d``."""
    if text is None:
        return None
    span = _FROM_NOW.match(f"+{text}")
    try:
        if span:
            return timedelta(**{_UNITS[span[2]]: int(span[1])})
    except OverflowError:
        pass
    raise InvalidArgumentError(f"{name} {text!r} is no time: write 7d or 36h (s, m, h, d, w)")
