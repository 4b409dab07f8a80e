"""How operations stand in the file: their columns, their checksums, their sums."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from quota_engine.keys import QuotaName
from quota_engine.spooled import SpooledOperation

_FIELDS = tuple(field.name for field in fields(SpooledOperation))
_FLAGS = {"is_final", "is_known", "is_offline"}
OPERATION = ", ".join(_FIELDS)

_INSERT = f"""
INSERT OR IGNORE INTO operations ({OPERATION}, fingerprint, checksum)
VALUES ({", ".join(f":{name}" for name in (*_FIELDS, "fingerprint", "checksum"))})
"""

#: Units of a quota that were admitted offline and are not replayed yet, at an instant.
_IN_USE = """
SELECT
    (
        SELECT coalesce(sum(amount), 0) FROM holds
        WHERE account = :account AND quota_type = :quota_type AND state = 'open'
            AND expires_ms > :now_ms
    ) + (
        SELECT coalesce(sum(amount), 0) FROM operations
        WHERE account = :account AND quota_type = :quota_type AND is_offline = 1
            AND state = 'waiting'
    )
"""


def insert_operation(sql: sqlite3.Connection, operation: SpooledOperation) -> int:
    """Add an operation unless its id is there; return how many were added."""
    values: dict[str, Any] = {name: getattr(operation, name) for name in _FIELDS}
    values |= {name: int(values[name]) for name in _FLAGS}
    values |= {"fingerprint": operation.fingerprint, "checksum": operation.checksum}
    return sql.execute(_INSERT, values).rowcount


def operation_from(row: Sequence[Any]) -> SpooledOperation:
    """Return the operation that the columns ``OPERATION`` say."""
    values = dict(zip(_FIELDS, row, strict=True))
    values |= {name: bool(values[name]) for name in _FLAGS}
    return SpooledOperation(**values)


def is_sound(row: Sequence[Any], checksum: object) -> bool:
    """Whether the columns ``OPERATION`` are what was written."""
    return operation_from(row).checksum == checksum


def units_in_use(sql: sqlite3.Connection, quota: QuotaName, now_ms: int) -> int:
    """Return how many units of a quota count towards its offline allowance."""
    named = {"account": quota.account, "quota_type": quota.quota_type, "now_ms": now_ms}
    units: int = sql.execute(_IN_USE, named).fetchone()[0]
    return units
