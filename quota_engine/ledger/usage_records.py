"""
Usage records in PostgreSQL: the rows that the persister copies, and how they are read.

What a record tells stands twice: as the JSON that came, which is the truth, and in columns, which
reports ask. Rows that an older release has written have the JSON only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, select, tuple_

from quota_engine.corrections import CallOfModel
from quota_engine.events import (
    TELL_USAGE,
    Event,
    MalformedEntryError,
    UnknownFormatError,
    parse_entry,
)
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables
from quota_engine.ledger.incoming import details_of
from quota_engine.recorded import READERS, RecordedCall, UsageQuery, recorded_call, told_by

#: Escaped backslashes and whole pairs, which are legal; NUL and half characters, which are not.
_ESCAPES = re.compile(r"\\\\|\\ud[89ab]..\\ud[c-f]..|\\u0000|\\ud[89a-f]..")

#: A hold lives at most so long.
DAY_MS = 86_400_000

#: The columns that are made from the JSON, in the order of ``columns_told_by``.
TOLD_COLUMNS = tuple(READERS)


def _array(texts: tuple[str, ...]) -> str:
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def _json(value: Mapping[str, Any]) -> str:
    """Return JSON that SQL's operators can read: they fail at a NUL or half a character."""
    text = json.dumps(value)
    return _ESCAPES.sub(_kept, text) if "\\u" in text else text


def _kept(escape: re.Match[str]) -> str:
    is_legal = escape[0] == "\\\\" or len(escape[0]) == len(r"\ud83d\ude00")
    return escape[0] if is_legal else r"\ufffd"


#: Columns that COPY wants as text of their own, and what writes it.
_TEXTS: Mapping[str, Callable[[Any], str]] = {
    "price_ids": _array,
    "anomaly": _json,
    "metadata": _json,
    **dict.fromkeys(("audio_seconds", "video_seconds", "cost"), str),
}
_WRITTEN = tuple((TOLD_COLUMNS.index(name), write) for name, write in _TEXTS.items())


def columns_told_by(usage: Any) -> list[Any]:
    """Return the columns of a record's JSON, as COPY takes them."""
    row = told_by(usage)
    for place, write in _WRITTEN:
        if (value := row[place]) is not None:
            row[place] = write(value)
    return row


def read_usage(connection: Connection, query: UsageQuery) -> list[RecordedCall]:
    """Return the records that are asked for, oldest first."""
    table = tables.usage_records
    columns = table.c
    wanted = select(
        *(columns[name] for name in ("account", "quota_type", "version", "operation_id")),
        *(columns[name] for name in ("amount", "shortfall", "late")),
        *(columns[name] for name in ("usage", "at_ms", "recorded_at")),
    ).where(columns.account == query.account)
    for name in ("quota_type", "provider", "model", "status"):
        if (asked := getattr(query, name)) is not None:
            wanted = wanted.where(columns[name] == asked)
    if query.since_ms is not None:
        wanted = wanted.where(columns.at_ms >= query.since_ms)
    if query.until_ms is not None:
        wanted = wanted.where(columns.at_ms < query.until_ms)
    if query.operation_id is not None:
        wanted = wanted.where(columns.operation_id.in_(query.operation_ids))
    rows = connection.execute(wanted.order_by(columns.at_ms, columns.id).limit(query.limit))
    return [recorded_call(**row._mapping) for row in rows]


def calls_of_model(
    connection: Connection,
    provider: str,
    model: str,
    between_ms: tuple[int, int],
    *,
    after: tuple[int, int] | None,
    limit: int,
) -> list[CallOfModel]:
    """
    Return a page of a model's billed calls, in the order of their end, after a place.

    A call that was admitted before an instant may end up to a day after it.
    """
    columns = tables.usage_records.c
    wanted = (
        select(
            columns.account, columns.quota_type, columns.operation_id, columns.at_ms, columns.id
        )
        .where(columns.provider == provider, columns.model == model)
        .where(columns.at_ms >= between_ms[0], columns.at_ms < between_ms[1] + DAY_MS)
        .where(columns.corrects.is_(None), columns.unbilled.is_(None))
        .order_by(columns.at_ms, columns.id)
        .limit(limit)
    )
    if after is not None:
        wanted = wanted.where(tuple_(columns.at_ms, columns.id) > tuple_(*after))
    return [
        CallOfModel(QuotaName(row.account, row.quota_type), row.operation_id, (row.at_ms, row.id))
        for row in connection.execute(wanted)
    ]


def pending_call(event: Event) -> RecordedCall | None:
    """Return the usage record that an entry in an outbox will leave; None if it leaves none."""
    try:
        entry = parse_entry(event.entry.decode())
    except (UnicodeDecodeError, MalformedEntryError, UnknownFormatError):
        return None
    details = details_of(entry)
    if entry.kind not in TELL_USAGE or details.usage is None:
        return None
    return recorded_call(
        details.told,
        account=entry.name.account,
        quota_type=entry.name.quota_type,
        version=entry.version,
        operation_id=entry.operation_id,
        amount=entry.charged,
        shortfall=entry.shortfall,
        late="late" in entry.flags.split(),
        at_ms=entry.at_ms,
        recorded_at=None,
    )
