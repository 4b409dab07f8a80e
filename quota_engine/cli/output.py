"""How commands print: a table for people, JSON for programs. It must not know what is printed."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
"""Every command's ``as_json: JsonFlag = False``."""

PIPE_WIDTH = 240
"""Columns when nobody looks at a terminal: wide enough that no cell is folded."""


def to_plain(value: Any) -> Any:
    """
    Return ``value`` in JSON's own kinds.

    Frozen values become objects, times ISO 8601, money (Decimal) a string so that no digit is
    lost, durations seconds.
    """
    plain: Any = value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        plain = {field.name: to_plain(getattr(value, field.name)) for field in fields}
    elif isinstance(value, Mapping):
        plain = {str(to_plain(key)): to_plain(item) for key, item in value.items()}
    elif isinstance(value, Enum):
        plain = to_plain(value.value)
    elif isinstance(value, list | tuple | set | frozenset):
        plain = [to_plain(item) for item in value]
    elif isinstance(value, datetime | date):
        plain = value.isoformat()
    elif isinstance(value, timedelta):
        plain = value.total_seconds()
    elif isinstance(value, Decimal):
        plain = f"{value:f}"  # 0.0000003, where str says 3E-7
    elif isinstance(value, Path):
        plain = str(value)
    elif isinstance(value, bytes):
        plain = value.hex()
    return plain


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(to_plain(value), ensure_ascii=False, indent=2) + "\n")


def print_rows(
    rows: Iterable[Any],
    columns: Sequence[str],
    *,
    as_json: bool,
    empty: str = "nothing to show",
) -> None:
    """
    Print values of one kind: as a JSON array of whole objects, or as a table of some fields.

    ``columns`` are the names of fields or keys; a heading reads them with spaces. Numbers stand
    to the right.
    """
    values = list(rows)
    if as_json:
        print_json(values)
        return
    if not values:
        typer.echo(empty)
        return
    from rich.table import Table

    cells = [[_field(value, column) for column in columns] for value in values]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        is_number = all(isinstance(row[number], int | Decimal | None) for row in cells)
        justify = (
            "right" if is_number and any(row[number] is not None for row in cells) else "left"
        )
        table.add_column(column.replace("_", " "), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in cells:
        table.add_row(*map(_text, row))
    _print_rich(table)


def print_facts(value: Any, *, as_json: bool, fields: Sequence[str] | None = None) -> None:
    """Print one value: as a JSON object, or one line for each field."""
    if as_json:
        print_json(value)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name in fields or list(to_plain(value)):
        table.add_row(name.replace("_", " "), _text(_field(value, name)))
    _print_rich(table)


def _print_rich(renderable: Any) -> None:
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False, markup=False).print(renderable)
        return
    text = io.StringIO()
    Console(file=text, width=PIPE_WIDTH, highlight=False, markup=False).print(renderable)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name)


def _text(value: Any) -> str:
    """Return a cell. Numbers keep every digit; nothing is a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    plain = to_plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
