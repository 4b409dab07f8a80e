"""
What a model call left behind, as a reader sees it: its usage record, made from JSON.

Anybody may have written that JSON: a metered call, or a caller's plain usage. What in it is not
what its name promises is taken as not told, never guessed at and never an error; the JSON itself
is kept. The table's columns and the reader's values are made by the same rules, told here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from quota_engine.amounts import AMOUNT_MAX, checked_amount
from quota_engine.arguments import checked_quota
from quota_engine.errors import InvalidAmountError, InvalidArgumentError
from quota_engine.ids import checked_account, checked_id
from quota_engine.instants import from_ms, to_ms
from quota_engine.settings import Settings
from quota_engine.usage import Usage

STATUSES = ("success", "failed", "timeout", "cancelled")
NAME_LENGTH_MAX, ERROR_LENGTH_MAX, PRICE_IDS_MAX = 200, 2_000, 100
COST_PLACES, COST_DIGITS = 12, 36
_NUMBER = re.compile(r"-?[0-9]{1,60}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,2})?\Z")
#: NUL and half characters.
_NOT_KEPT = re.compile("[\0\ud800-\udfff]")
_USUAL_COST = re.compile(r"-?[0-9]{1,36}(\.[0-9]{1,12})?\Z")


def _text(value: Any, length_max: int = NAME_LENGTH_MAX) -> str | None:
    """Return a text that PostgreSQL can keep and index."""
    if not isinstance(value, str) or not 1 <= len(value) <= length_max:
        return None
    if value.isascii() and "\0" not in value:
        return value
    return _NOT_KEPT.sub("\N{REPLACEMENT CHARACTER}", value)


def _error(value: Any) -> str | None:
    return _text(value, ERROR_LENGTH_MAX)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= AMOUNT_MAX else None


def _number(value: Any) -> Decimal | None:
    """Return an exact number, told as text or as JSON's own."""
    text = repr(value) if type(value) in (int, float) else value
    return Decimal(text) if isinstance(text, str) and _NUMBER.match(text) else None


def _change(value: Any) -> int | None:
    return value if type(value) is int and abs(value) <= AMOUNT_MAX else None


def _change_of_seconds(value: Any) -> Decimal | None:
    number = _number(value)
    return number if number is not None and abs(number) <= AMOUNT_MAX else None


def _seconds(value: Any) -> Decimal | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= AMOUNT_MAX else None


def _cost(value: Any) -> Decimal | None:
    """Return money, which is told as text, with at most twelve places."""
    if not isinstance(value, str):
        return None
    if _USUAL_COST.match(value):
        return Decimal(value)
    number = _number(value)
    if number is None or number.adjusted() >= COST_DIGITS:
        return None
    place = number.normalize().as_tuple().exponent
    return number if isinstance(place, int) and place >= -COST_PLACES else None


def _price_ids(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not 1 <= len(value) <= PRICE_IDS_MAX:
        return None
    found = tuple(_text(item) for item in value)
    return None if None in found else found  # type: ignore[return-value]


def _object(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, dict) else None


#: What a record may tell, in the order of the table's columns, and what makes a value of it.
READERS: Mapping[str, Callable[[Any], Any]] = {
    "usage_type": _text,
    "status": _text,
    "quality": _text,
    "provider": _text,
    "model": _text,
    "input_tokens": _count,
    "cached_input_tokens": _count,
    "cache_write_tokens": _count,
    "cache_write_1h_tokens": _count,
    "output_tokens": _count,
    "reasoning_tokens": _count,
    "images": _count,
    "characters": _count,
    "audio_seconds": _seconds,
    "video_seconds": _seconds,
    "resolution": _text,
    "requests": _count,
    "cost": _cost,
    "currency": _text,
    "price_ids": _price_ids,
    "unbilled": _text,
    "unpriced": _text,
    "anomaly": _object,
    "error": _error,
    "held": _count,
    "latency_ms": _count,
    "first_token_ms": _count,
    "request_id": _text,
    "metadata": _object,
    "service_tier": _text,
    "corrects": _text,
}
_PLACES = {name: (place, read) for place, (name, read) in enumerate(READERS.items())}
_USAGE = tuple(field.name for field in fields(Usage))
_REST = tuple(name for name in READERS if name not in _USAGE)


_SIGNED: Mapping[Any, Callable[[Any], Any]] = {_count: _change, _seconds: _change_of_seconds}


def told_by(usage: Any) -> list[Any]:
    """
    Return what a record's JSON tells, in the order of ``READERS``; None where it does not.

    A record that corrects another tells differences, which may be negative.
    """
    told: list[Any] = [None] * len(_PLACES)
    if isinstance(usage, dict):
        readers = _SIGNED if _text(usage.get("corrects")) else {}
        for name, value in usage.items():
            if (known := _PLACES.get(name)) is not None:
                place, read = known
                told[place] = readers.get(read, read)(value)
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """
    One usage record. ``amount``: units charged; ``held``: units; latencies in milliseconds.

    ``operation_id`` is the entry's: of a hold it is ``<hold id>:capture`` or ``:release``. What
    the record does not tell is None; a caller's plain usage has counts only. ``usage`` is None
    where its counts cannot be. ``recorded_at`` is None while the record is pending.

    A record that ``corrects`` another call has no usage but ``differences`` of counts; its amount
    and cost are differences too: those of all records of a call add up.
    """

    account: str
    quota_type: str
    version: int
    operation_id: str
    amount: int
    shortfall: int
    late: bool
    usage: Usage | None
    usage_type: str | None
    status: str | None
    quality: str | None
    provider: str | None
    model: str | None
    cost: Decimal | None
    currency: str | None
    price_ids: tuple[str, ...]
    unbilled: str | None
    unpriced: str | None
    anomaly: Mapping[str, Any] | None
    error: str | None
    held: int | None
    latency_ms: int | None
    first_token_ms: int | None
    request_id: str | None
    metadata: Mapping[str, Any] | None
    service_tier: str | None
    corrects: str | None
    differences: Mapping[str, int | Decimal]
    occurred_at: datetime
    recorded_at: datetime | None

    def counted(self, name: str) -> int | Decimal:
        """Return a count of the usage, or by how much this record corrects it."""
        if self.usage is not None:
            return getattr(self.usage, name)  # type: ignore[no-any-return]
        return self.differences.get(name, 0)

    @property
    def is_pending(self) -> bool:
        """Whether the record is still on its way to the ledger."""
        return self.recorded_at is None


def recorded_call(
    usage: Any, *, at_ms: int, recorded_at: datetime | None, **entry: Any
) -> RecordedCall:
    """Return a record's JSON as its readers see it; ``entry``: what its entry says."""
    told = dict(zip(READERS, told_by(usage), strict=True))
    rest = {name: told[name] for name in _REST}
    return RecordedCall(
        **{**rest, **entry, "price_ids": rest["price_ids"] or ()},
        usage=None if told["corrects"] else _usage(told),
        differences=_differences(told) if told["corrects"] else {},
        occurred_at=from_ms(at_ms),
        recorded_at=recorded_at,
    )


def _differences(told: Mapping[str, Any]) -> dict[str, int | Decimal]:
    counts = {name: told[name] for name in _USAGE if name != "resolution"}
    return {name: value for name, value in counts.items() if value}


def _usage(told: Mapping[str, Any]) -> Usage | None:
    """Return the counts: one that is not told was nothing."""
    counts: dict[str, Any] = {name: told[name] or 0 for name in _USAGE}
    try:
        return Usage(**{**counts, "resolution": told["resolution"]})
    except InvalidAmountError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which records are asked for. ``since`` counts, ``until`` does not; milliseconds."""

    account: str
    quota_type: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    provider: str | None = None
    model: str | None = None
    status: str | None = None
    operation_id: str | None = None
    limit: int | None = None

    @property
    def operation_ids(self) -> tuple[str, ...]:
        """The ids that mean the operation: its own, and those that a hold's ends have."""
        own = self.operation_id
        return () if own is None else (own, f"{own}:capture", f"{own}:release")

    def fits(self, call: RecordedCall) -> bool:
        """Whether a record of the account is one of those."""
        wanted = (
            (self.quota_type, call.quota_type),
            (self.provider, call.provider),
            (self.model, call.model),
            (self.status, call.status),
        )
        return (
            all(asked in (None, said) for asked, said in wanted)
            and (self.since_ms is None or call.occurred_at >= from_ms(self.since_ms))
            and (self.until_ms is None or call.occurred_at < from_ms(self.until_ms))
            and (self.operation_id is None or call.operation_id in self.operation_ids)
        )


def checked_usage_query(
    settings: Settings,
    account: object,
    quota_type: object,
    *,
    since: object,
    until: object,
    provider: object,
    model: object,
    status: object,
    operation_id: object,
    limit: object,
) -> UsageQuery:
    """Return what is asked for; raise ``InvalidArgumentError`` for what cannot be meant."""
    since_ms = None if since is None else to_ms(since, name="since")
    until_ms = None if until is None else to_ms(until, name="until")
    if since_ms is not None and until_ms is not None and until_ms <= since_ms:
        raise InvalidArgumentError(f"until must be after since: since {since}, until {until}")
    if status is not None and status not in STATUSES:
        raise InvalidArgumentError(
            f"status must be one of {', '.join(STATUSES)}, not {status!r:.80}"
        )
    quota = None if quota_type is None else checked_quota(account, quota_type, settings)
    owner = _checked_name(provider, "provider")
    return UsageQuery(
        account=checked_account(account),
        quota_type=None if quota is None else quota.quota_type,
        since_ms=since_ms,
        until_ms=until_ms,
        provider=None if owner is None else owner.lower(),
        model=_checked_name(model, "model"),
        status=None if status is None else str(status),
        operation_id=None
        if operation_id is None
        else checked_id(operation_id, name="operation id"),
        limit=None if limit is None else checked_amount(limit, name="limit"),
    )


def _checked_name(name: object, what: str) -> str | None:
    if name is None:
        return None
    found = _text(name)
    if found is None:
        raise InvalidArgumentError(
            f"{what} must be a str of 1 to {NAME_LENGTH_MAX} characters, not {name!r:.80}"
        )
    return found.strip()
