"""
Reading: look into whatever a provider answered, be it mapping, model, dataclass or plain object.

Nothing here knows what a field means. A look never raises and never believes a stand-in: what is
neither number, text, list nor something to look into further reads as absent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from quota_engine.amounts import AMOUNT_MAX, checked_amount
from quota_engine.errors import InvalidAmountError

_LEAVES = frozenset({type(None), str, bytes, bytearray, bool, int, float, Decimal, list, tuple})
_REPORTABLE = (int, float, Decimal, str)  # a tuple: these checks are most of the work
_NO_MODEL: Any = object()
_DEPTH_MAX = 6
_LIST_MAX = 50
_TEXT_MAX = 200


def look(source: Any, *path: str) -> Any:
    """Return what lies under ``path``, through items and attributes alike, or None."""
    for name in path:
        kind = type(source)
        if kind in _LEAVES:
            return None
        source = source.get(name) if kind is dict else _field(source, name)
    return source


def _field(source: Any, name: str) -> Any:
    """
    Return one field of an object.

    A pydantic model takes microseconds to say that it lacks an attribute, and most looks are for
    what is not there: its fields are looked up where it keeps them.
    """
    if isinstance(source, Mapping):
        return source.get(name)
    try:
        extra = getattr(source, "__pydantic_extra__", _NO_MODEL)
        if extra is _NO_MODEL or name.startswith("_"):
            return getattr(source, name, None)
        own = source.__dict__
        return own[name] if name in own else (extra or {}).get(name)
    except Exception:  # a property of a foreign object may raise anything
        return None


def look_text(source: Any, *path: str) -> str | None:
    """Return the text under ``path``; None where there is none, or an empty one."""
    found = look(source, *path)
    return found if isinstance(found, str) and found else None


def look_list(source: Any, *path: str) -> list[Any] | tuple[Any, ...]:
    """Return the list under ``path``, an empty one where there is none."""
    found = look(source, *path)
    return found if isinstance(found, list | tuple) else ()


def is_reported(value: Any) -> bool:
    """Whether a provider meant to say a number, sensible or not."""
    return isinstance(value, _REPORTABLE)


def look_count(source: Any, *path: str) -> int | None:
    """
    Return the whole number under ``path``, or None where no number is.

    Raises ``InvalidAmountError`` for a number no call can have used: negative, fractional, not a
    number, 2**53 or more. Some gateways write 12 as 12.0; that is whole.
    """
    value = look(source, *path)
    if not is_reported(value):
        return None
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    return checked_amount(value, zero_allowed=True, name=".".join(path))


def largest_count(source: Any, *paths: tuple[str, ...]) -> int:
    """Return the largest of the counts under several paths: one figure told in several places."""
    return max((look_count(source, *path) or 0 for path in paths), default=0)


def look_seconds(source: Any, *path: str) -> Decimal | None:
    """Return the seconds under ``path`` exactly as they were written; decimals are legal."""
    value = look(source, *path)
    if not is_reported(value):
        return None
    name = ".".join(path)
    try:
        seconds = Decimal(repr(value) if isinstance(value, float) else value)
    except (ArithmeticError, ValueError) as error:
        raise InvalidAmountError(f"{name} must be a number, not {value!r:.80}") from error
    if isinstance(value, bool) or not seconds.is_finite() or not 0 <= seconds <= AMOUNT_MAX:
        raise InvalidAmountError(f"{name} must be from 0 to 2**53 - 1, not {value!r:.80}")
    return seconds


def plain(value: Any, depth: int = 0) -> Any:
    """
    Return ``value`` as JSON can say it, shortened: what an anomaly keeps for people to read.

    Numbers JSON readers would bend (NaN, 2**53 and above) become text.
    """
    if value is None or isinstance(value, bool | str):
        return value[:_TEXT_MAX] if isinstance(value, str) else value
    if isinstance(value, int):
        return value if abs(value) <= AMOUNT_MAX else str(Decimal(value))[:_TEXT_MAX]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):
        return str(value)
    if depth >= _DEPTH_MAX:
        return type(value).__name__
    if isinstance(value, list | tuple):
        return [plain(each, depth + 1) for each in value[:_LIST_MAX]]
    fields = fields_of(value)
    if fields is None:
        return type(value).__name__
    return {str(name): plain(each, depth + 1) for name, each in fields.items()}


def deep_fields(value: Any, depth: int = 0) -> Any:
    """Return ``value`` as mappings and lists all the way down; numbers and texts stay as is."""
    if value is None or is_reported(value):
        return value
    if depth >= _DEPTH_MAX:
        return None
    if isinstance(value, list | tuple):
        return [deep_fields(each, depth + 1) for each in value[:_LIST_MAX]]
    fields = fields_of(value)
    if fields is None:
        return None
    return {str(name): deep_fields(each, depth + 1) for name, each in fields.items()}


def fields_of(value: Any) -> Mapping[str, Any] | None:
    """Return the fields of a mapping, a model, a dataclass or a plain object; None of the rest."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name, None) for name in names}
    dump = getattr(value, "model_dump", None) or getattr(value, "to_dict", None)
    if callable(dump):
        try:
            dumped = dump()
        except Exception:  # a foreign object may raise anything
            return None
        return dumped if isinstance(dumped, Mapping) else None
    own = getattr(value, "__dict__", None)
    if not isinstance(own, dict):
        return None
    return {name: each for name, each in own.items() if not name.startswith("_")}
