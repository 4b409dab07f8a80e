"""Arguments of the public methods, checked and turned into what commands carry."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from quota_engine.amounts import AMOUNT_MAX, checked_amount
from quota_engine.commands import GrantTerms
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_account, checked_id, checked_quota_type
from quota_engine.instants import NEVER_MS, to_ms
from quota_engine.keys import QuotaName
from quota_engine.settings import Settings

TTL_MAX_SECONDS = 86_400
SPAN_MAX = timedelta(days=36_500)
PRIORITY_MAX = 1_000_000
TEXT_LENGTH_MAX = 2_000

#: How the ids end that the engine makes of a hold's or grant's: of what somebody asks for, and of
#: what the clock does.
DERIVED_ENDINGS = (":capture", ":release", ":void")
CLOCK_ENDINGS = (":expire", ":start")

GRANT_SOURCES = (
    "membership",
    "purchase",
    "admin_grant",
    "batch_admin_grant",
    "promotion",
    "rollover",
    "refund",
)

_MILLISECOND = timedelta(milliseconds=1)


def checked_quota(account: object, quota_type: object, settings: Settings) -> QuotaName:
    """Return the quota that two arguments name; the type must be one of the deployment's."""
    return QuotaName(checked_account(account), checked_type(quota_type, settings))


def checked_type(quota_type: object, settings: Settings) -> str:
    """Return a quota type that the deployment knows."""
    name = checked_quota_type(quota_type)
    known = settings.known_quota_types
    if name not in known and not name.startswith("credit_"):
        raise InvalidArgumentError(
            f"unknown quota type {name}: known are {', '.join(sorted(known))} and"
            " credit_<currency>; add own ones with QUOTA_ENGINE_QUOTA_TYPES"
        )
    return name


def checked_ttl_ms(ttl: object) -> int:
    """Return seconds to live as milliseconds: above 0, at most a day."""
    is_number = isinstance(ttl, int | float) and not isinstance(ttl, bool)
    if not is_number or not math.isfinite(ttl) or not 0.001 <= ttl <= TTL_MAX_SECONDS:  # type: ignore[arg-type, operator]
        raise InvalidArgumentError(
            f"ttl must be seconds above 0 and at most {TTL_MAX_SECONDS}, not {ttl!r:.80}"
        )
    return int(ttl * 1000)  # type: ignore[operator]


def checked_span(span: object, *, name: str) -> timedelta:
    """Return a length of time: from a millisecond to 36,500 days."""
    if not isinstance(span, timedelta) or not _MILLISECOND <= span <= SPAN_MAX:
        raise InvalidArgumentError(
            f"{name} must be a timedelta above 0 and at most {SPAN_MAX.days} days,"
            f" not {span if isinstance(span, timedelta) else repr(span)!s:.80}"
        )
    return span


def checked_span_ms(span: object, *, name: str) -> int:
    """Return a length of time as milliseconds, fractions dropped."""
    return checked_span(span, name=name) // _MILLISECOND


def checked_text(text: object, *, name: str) -> str | None:
    """Return a text of the caller that is kept with an entry, or None."""
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > TEXT_LENGTH_MAX:
        raise InvalidArgumentError(
            f"{name} must be a str of at most {TEXT_LENGTH_MAX} characters, not {text!r:.80}"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{name} holds half a character: {text!r:.80}") from error
    if "\x00" in text:
        raise InvalidArgumentError(f"{name} must not hold a NUL character")
    return text


def checked_cancellable(operation_id: object) -> str:
    """
    Return the id of an operation that may be cancelled, those of a hold's ends included.

    What the clock does by itself comes whatever anybody says.
    """
    if not isinstance(operation_id, str):
        return checked_id(operation_id, name="operation id")
    for ending in CLOCK_ENDINGS:
        if operation_id.endswith(ending):
            raise InvalidArgumentError(
                f"the clock does what ends with {ending}: {operation_id!r:.160} is not to cancel"
            )
    for ending in DERIVED_ENDINGS:
        if operation_id.endswith(ending):
            checked_id(operation_id.removesuffix(ending), name="operation id")
            return operation_id
    return checked_id(operation_id, name="operation id")


def checked_overdraft_limit(limit: object) -> int | None:
    """Return an overdraft limit in units; None: unlimited."""
    if limit is None:
        return None
    return checked_amount(limit, zero_allowed=True, name="overdraft limit")


def checked_terms(
    amount: object,
    *,
    source: object,
    reference: object,
    description: object,
    priority: object,
    starts_at: datetime | None,
    expires_at: datetime | None,
) -> GrantTerms:
    """Return the terms of a grant; raise for what no grant can mean."""
    if source not in GRANT_SOURCES:
        raise InvalidArgumentError(
            f"source must be one of {', '.join(GRANT_SOURCES)}, not {source!r:.80}"
        )
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InvalidArgumentError(f"priority must be a whole number, not {priority!r:.80}")
    if abs(priority) > PRIORITY_MAX:
        raise InvalidArgumentError(f"priority must be within ±{PRIORITY_MAX}, not {priority}")
    starts_at_ms = 0 if starts_at is None else to_ms(starts_at, name="starts_at")
    expires_at_ms = NEVER_MS if expires_at is None else to_ms(expires_at, name="expires_at")
    if not 0 <= starts_at_ms < expires_at_ms <= AMOUNT_MAX:
        raise InvalidArgumentError(
            f"a grant must end after it starts: starts_at {starts_at}, expires_at {expires_at}"
        )
    return GrantTerms(
        amount=checked_amount(amount),
        source=str(source),
        reference=checked_text(reference, name="reference"),
        description=checked_text(description, name="description"),
        priority=priority,
        starts_at_ms=starts_at_ms,
        expires_at_ms=expires_at_ms,
    )
