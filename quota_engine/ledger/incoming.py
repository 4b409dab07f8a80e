"""
Bytes of an outbox judged by themselves: which entry they are, of which quota, what SQL can keep.

Whatever PostgreSQL would refuse must be found here: one row that it refuses would stop the whole
shard, while bytes that are judged malformed stop only their quota.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from quota_engine.amounts import AMOUNT_MAX
from quota_engine.chain import Cause, Misfit
from quota_engine.errors import InvalidArgumentError
from quota_engine.events import Entry, Event, MalformedEntryError, parse_entry
from quota_engine.ids import ID_LENGTH_MAX, checked_account, checked_quota_type
from quota_engine.keys import QuotaName, shard_of

#: ``<grant>:expire:<hold>`` is the longest operation id the engine makes.
OPERATION_ID_LENGTH_MAX = 2 * ID_LENGTH_MAX + 16


@dataclass(frozen=True, slots=True)
class Incoming:
    """
    One message of an outbox, judged by itself.

    Either ``entry`` is there, or ``misfit`` says why not. ``quota`` is the quota whose log it
    touches, None where none can be recognised or it is another shard's.
    """

    event: Event
    quota: QuotaName | None
    entry: Entry | None = None
    text: str = ""
    chain: str = ""
    misfit: Misfit | None = None


@dataclass(frozen=True, slots=True)
class Details:
    """What the tables keep of a caller's details beside their exact text."""

    reference: str | None = None
    source: str | None = None
    description: str | None = None
    #: The usage as JSON.
    usage: str | None = None
    #: The same, parsed.
    told: Any = None


def judge(event: Event, shard: int, shards: int) -> Incoming:
    """
    Return what the bytes of ``event`` are.

    Raises ``UnknownFormatError`` for a format that this release does not know: somebody else may.
    """
    try:
        text = event.entry.decode()
        chain = event.chain.decode("ascii")
    except UnicodeDecodeError as error:
        return _malformed(event, shard, shards, f"not UTF-8: {error.reason}")
    try:
        entry = parse_entry(text)
        _check(entry, text)
    except (MalformedEntryError, InvalidArgumentError) as error:
        return _malformed(event, shard, shards, str(error))
    name, home = _checked_name(entry.quota), _home(entry.quota, shards)
    if home != shard:
        misfit = Misfit(Cause.FOREIGN_SHARD, f"{name} belongs to shard {home}")
        return Incoming(event, None, misfit=misfit)
    return Incoming(event, name, entry, text, chain)


def details_of(entry: Entry) -> Details:
    """Return the known names of the entry's details; odd or broken details have none."""
    if not entry.details:
        return _NO_DETAILS
    try:
        found = json.loads(entry.details)
    except (ValueError, RecursionError):
        return _NO_DETAILS
    if not isinstance(found, dict):
        return _NO_DETAILS
    told = found.get("usage")
    return Details(
        reference=_sql_text(found.get("reference")),
        source=_sql_text(found.get("source")),
        description=_sql_text(found.get("description")),
        usage=_sql_json(told),
        told=told,
    )


_NO_DETAILS = Details()


def _check(entry: Entry, text: str) -> None:
    """Raise unless SQL can keep the entry so that the same text comes out again."""
    if "\0" in text:
        raise MalformedEntryError("it holds a NUL character")
    _checked_name(entry.quota)
    ids = (entry.operation_id, entry.subject, *(move.grant_id for move in entry.movements))
    if not entry.operation_id or max(map(len, ids)) > OPERATION_ID_LENGTH_MAX:
        raise MalformedEntryError("an id is empty or too long")
    positive = (entry.version, entry.at_ms, entry.amount, entry.held, entry.debt, entry.shortfall)
    if min(positive) < 0 or max(positive) > AMOUNT_MAX:
        raise MalformedEntryError("a number is negative or too great")
    signed = (entry.delta, entry.held_delta, entry.balance)
    moved = (units for move in entry.movements for units in (move.remaining, move.reserved))
    if any(abs(number) > AMOUNT_MAX for number in (*signed, *moved)):
        raise MalformedEntryError("a number is too great")


def _malformed(event: Event, shard: int, shards: int, reason: str) -> Incoming:
    """Return bytes that are no entry, with the quota they name if they name one of this shard."""
    misfit = Misfit(Cause.MALFORMED, reason)
    lines = event.entry.split(b"\n", 3)
    try:
        quota = lines[2].decode()
        name = _checked_name(quota)
    except (IndexError, UnicodeDecodeError, InvalidArgumentError):
        return Incoming(event, None, misfit=misfit)
    is_ours = _home(quota, shards) == shard
    return Incoming(event, name if is_ours else None, misfit=misfit)


@lru_cache(maxsize=65_536)
def _checked_name(quota: str) -> QuotaName:
    """Return the quota that an entry's line names; raise ``InvalidArgumentError`` if none."""
    name = QuotaName.parse(quota)
    checked_account(name.account)
    checked_quota_type(name.quota_type)
    return name


@lru_cache(maxsize=65_536)
def _home(quota: str, shards: int) -> int:
    """Return the shard that a quota belongs to."""
    return shard_of(_checked_name(quota).account, shards)


def _sql_text(value: Any) -> str | None:
    """Return a text without the characters that PostgreSQL cannot keep."""
    if not isinstance(value, str):
        return None
    return value.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _sql_json(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return None
