"""
Columns as PostgreSQL array texts, for statements that take a batch through unnest.

Far cheaper to make than the driver's arrays, which look at every value's type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Value = str | int | None


def columns(rows: Iterable[Sequence[Value]], width: int) -> list[str]:
    """Return rows of ``width`` values as one array text per column."""
    turned = list(zip(*rows, strict=True)) or [()] * width
    return ["{" + ",".join(map(_literal, column)) + "}" for column in turned]


def _literal(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)
