"""
Read a trace in the format of the Azure LLM inference traces: one call a row.

    TIMESTAMP,ContextTokens,GeneratedTokens
    2023-11-16 18:15:46.6805900,374,44

Further columns are ignored. What can't be meant is refused with its line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from quota_engine.errors import InvalidArgumentError

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
#: No model takes or makes more in one call; more is a mistake in the file.
TOKENS_MAX = 10**9


class Call(NamedTuple):
    """One recorded call. ``number`` counts from 1; ``offset_seconds`` since the first call."""

    number: int
    offset_seconds: float
    context_tokens: int
    generated_tokens: int


def read_trace(path: Path, limit: int | None = None) -> list[Call]:
    """
    Return the calls of a trace, the first ``limit`` if given, in the order of the file.

    Raises ``InvalidArgumentError`` with the line and what is wrong there.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            calls = list(_calls(path.name, csv.reader(file), limit))
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path.name} is no text file: {error.reason}") from None
    except csv.Error as error:
        raise InvalidArgumentError(f"{path.name} is no CSV file: {error}") from None
    except OSError as error:
        raise InvalidArgumentError(f"{path} can not be read: {error.strerror}") from None
    if not calls:
        raise InvalidArgumentError(f"{path.name} has no calls: nothing follows its heading")
    return calls


def _calls(name: str, rows: Iterator[list[str]], limit: int | None) -> Iterator[Call]:
    heading = [cell.strip() for cell in next(rows, [])]
    missing = [column for column in COLUMNS if column not in heading]
    if missing:
        raise InvalidArgumentError(
            f"{name} lacks the columns {', '.join(missing)}: its first line must be"
            f" {','.join(COLUMNS)}"
        )
    places = [heading.index(column) for column in COLUMNS]
    first: datetime | None = None
    number = 0
    for line, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        if number == limit:
            return
        where = f"{name} line {line}"
        if len(row) != len(heading):
            raise InvalidArgumentError(
                f"{where} has {len(row)} cells, the heading has {len(heading)}"
            )
        at, context, generated = (row[place].strip() for place in places)
        instant = _instant(where, at)
        first = first or instant
        number += 1
        yield Call(
            number,
            max(0.0, (instant - first).total_seconds()),
            _tokens(where, COLUMNS[1], context),
            _tokens(where, COLUMNS[2], generated),
        )


def _instant(where: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        raise InvalidArgumentError(
            f"{where}: TIMESTAMP must be like 2023-11-16 18:15:46.6805900, not {text!r:.60}"
        ) from None


def _tokens(where: str, column: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) > TOKENS_MAX:
        raise InvalidArgumentError(
            f"{where}: {column} must be a whole number from 0 to {TOKENS_MAX}, not {text!r:.60}"
        )
    return int(text)
