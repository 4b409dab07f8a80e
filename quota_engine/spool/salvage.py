"""Salvage: what can still be read of a broken spool goes to its successor. Nothing is believed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from quota_engine.spool.rows import OPERATION, insert_operation, is_sound, operation_from

Act = Callable[[sqlite3.Connection], int]


def salvage(broken: Path, write: Callable[[Act], int]) -> int:
    """
    Copy the operations whose checksum is right, and the offline holds; return how many.

    An operation that the new file has already stays as it is: ids are unique.
    """
    rows = _read(broken, f"SELECT {OPERATION}, checksum FROM operations WHERE state <> 'dropped'")
    sound = [operation_from(row[:-1]) for row in rows if is_sound(row[:-1], row[-1])]
    holds = _read(broken, "SELECT * FROM holds")

    def copy(sql: sqlite3.Connection) -> int:
        saved = sum(insert_operation(sql, operation) for operation in sound)
        for hold in holds:
            marks = ", ".join("?" * len(hold))
            sql.execute(f"INSERT OR IGNORE INTO holds VALUES ({marks})", hold)
        return saved

    return write(copy)


def _read(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return the rows before the first fault, and those after the last one."""
    found: dict[tuple[Any, ...], None] = {}
    for order in ("rowid", "rowid DESC"):
        with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as connection:
            for row in connection.execute(f"{query} ORDER BY {order}"):
                found[row] = None
    return list(found)
