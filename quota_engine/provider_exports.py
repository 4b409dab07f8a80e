"""
A provider's own export of calls, and what comes of comparing it with the usage records.

An export is a CSV file in UTF-8 under a heading; one line is a call, or a part of one. It is read
line by line. Pure: no file, no store.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain
from zoneinfo import ZoneInfo

from quota_engine.amounts import checked_amount
from quota_engine.errors import InvalidArgumentError
from quota_engine.instants import from_ms, to_ms
from quota_engine.periods import checked_time_zone
from quota_engine.prices.price import (
    EXACT,
    checked_currency,
    checked_instant,
    checked_money,
    plain,
)

MATCHED, DIFFERING = "matched", "differing"
MISSING_AT_US, MISSING_AT_THEM = "missing_at_us", "missing_at_them"

#: Words that providers use, in small letters with underscores; the first that is there counts.
HEADINGS: Mapping[str, tuple[str, ...]] = {
    "time": ("time", "timestamp", "created_at", "created", "request_time", "start_time", "date"),
    "id": ("request_id", "id", "response_id", "generation_id", "call_id", "reference"),
    "cost": ("cost", "total_cost", "cost_total", "amount", "charge", "fee", "price"),
    "model": ("model", "model_name", "model_id", "model_permaslug"),
    "input_tokens": ("input_tokens", "prompt_tokens", "tokens_in", "tokens_prompt"),
    "output_tokens": ("output_tokens", "completion_tokens", "tokens_out", "tokens_completion"),
    "currency": ("currency",),
}
REQUIRED = ("time", "id", "cost")

_COST = re.compile(r"-?\d{1,18}(\.\d{1,18})?([eE][+-]?\d{1,2})?\Z", re.ASCII)
_COUNT = re.compile(r"\d{1,15}\Z", re.ASCII)
_UNIX = re.compile(r"(\d{9,11})(?:\.(\d{1,9}))?\Z", re.ASCII)
_UNIX_MS = re.compile(r"\d{12,14}\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What an export is compared by. ``columns``: our word to the export's heading."""

    provider: str
    currency: str
    columns: Mapping[str, str]
    since: datetime | None
    until: datetime | None
    time_zone: ZoneInfo
    cost_tolerance: Decimal
    token_tolerance: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportLine:
    """A line of an export. ``line``: its number in the file; None is what it does not tell."""

    line: int
    id: str | None
    at_ms: int
    cost: Decimal
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    currency: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """
    A call that the two sides do not tell alike. ``ours`` of the ledger, ``theirs`` of the export.

    ``what``: ``missing_at_us``, ``missing_at_them`` or ``differing``, then in ``fields``: cost,
    input_tokens, output_tokens, model. ``line``: the first of its lines in the export.
    """

    what: str
    fields: tuple[str, ...]
    id: str | None
    at: datetime
    line: int | None
    account: str | None
    operation_id: str | None
    model_ours: str | None
    model_theirs: str | None
    cost_ours: Decimal | None
    cost_theirs: Decimal | None
    input_tokens_ours: int | None
    input_tokens_theirs: int | None
    output_tokens_ours: int | None
    output_tokens_theirs: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """
    An export beside the usage records of a period. Costs are in ``currency``.

    ``lines`` of the file; of these ``other_currency`` and ``outside`` of the period are left out.
    Calls: ``matched`` in all that both tell, ``differing``, ``missing_at_us``,
    ``missing_at_them``. Totals are of all calls that were compared. ``differences``: the first.
    """

    provider: str
    currency: str
    since: datetime
    until: datetime
    lines: int
    other_currency: int
    outside: int
    matched: int
    differing: int
    missing_at_us: int
    missing_at_them: int
    cost_ours: Decimal
    cost_theirs: Decimal
    input_tokens_ours: int
    input_tokens_theirs: int
    output_tokens_ours: int
    output_tokens_theirs: int
    differences: tuple[Difference, ...]

    @property
    def cost_difference(self) -> Decimal:
        """What the provider tells beyond what was recorded."""
        return plain(EXACT.subtract(self.cost_theirs, self.cost_ours))

    @property
    def is_clean(self) -> bool:
        """Whether both sides tell the same calls alike."""
        return not (self.differing or self.missing_at_us or self.missing_at_them)


def checked_comparison(
    provider: str,
    currency: str,
    *,
    columns: Mapping[str, str] | None,
    since: object,
    until: object,
    time_zone: object,
    cost_tolerance: object,
    token_tolerance: object,
    limit: object,
) -> Comparison:
    """Return what an export is to be compared by; raise ``InvalidArgumentError``."""
    if unknown := sorted(set(columns or {}) - set(HEADINGS)):
        raise InvalidArgumentError(
            f"columns are told for {', '.join(HEADINGS)}, not for {', '.join(map(repr, unknown))}"
        )
    begin = None if since is None else checked_instant(since, name="since")
    end = None if until is None else checked_instant(until, name="until")
    if begin is not None and end is not None and end <= begin:
        raise InvalidArgumentError(f"until must be after since: since {since}, until {until}")
    return Comparison(
        provider=provider,
        currency=currency,
        columns=dict(columns or {}),
        since=begin,
        until=end,
        time_zone=checked_time_zone(time_zone),
        cost_tolerance=checked_money(cost_tolerance, name="cost_tolerance"),
        token_tolerance=checked_amount(token_tolerance, zero_allowed=True, name="token_tolerance"),
        limit=checked_amount(limit, zero_allowed=True, name="limit"),
    )


def read_export(lines: Iterable[bytes], comparison: Comparison) -> Iterator[ExportLine]:
    """Yield the lines of an export; raise ``InvalidArgumentError`` with a bad one's number."""
    texts = _texts(lines)
    heading = next(texts, "")
    reader = csv.reader(chain([heading], texts), delimiter=_delimiter(heading), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        places = _places(names, comparison.columns)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise _wrong(
                    reader.line_num, f"{len(cells)} columns, the heading has {len(names)}"
                )
            told = {name: cells[place].strip() for name, place in places.items()}
            yield _line(reader.line_num, told, comparison.time_zone)
    except csv.Error as error:
        raise _wrong(reader.line_num, f"it is no CSV: {error}") from None


def _wrong(line: int, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"line {max(line, 1)}: {what}")


def _texts(lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise _wrong(1, "the file is UTF-16; save it as UTF-8")
        if number == 1 and line.startswith((b"PK", b"\x1f\x8b", b"\xd0\xcf")):
            raise _wrong(1, "the file is packed or a spreadsheet; save it as CSV in UTF-8")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise _wrong(number, "it is not UTF-8; save the file as UTF-8") from None
        if "\0" in text:
            raise _wrong(number, "it holds a NUL character")
        yield text


def _delimiter(heading: str) -> str:
    return max(",;\t", key=heading.count)


def _places(names: list[str], columns: Mapping[str, str]) -> dict[str, int]:
    """Return where each of our words stands in a line of the export."""
    places: dict[str, int] = {}
    plain = [name.lower().replace(" ", "_").replace("-", "_") for name in names]
    for word, usual in HEADINGS.items():
        if word in columns:
            if names.count(columns[word]) != 1:
                count = names.count(columns[word])
                raise _wrong(1, f"column {columns[word]!r} is there {count} times, not once")
            places[word] = names.index(columns[word])
        elif found := [plain.index(name) for name in usual if plain.count(name) == 1]:
            places[word] = found[0]
    missing = [word for word in REQUIRED if word not in places]
    if missing:
        raise _wrong(
            1,
            f"no column is known to be the {' or the '.join(missing)}; say which, such as"
            f" {missing[0]}=HEADING; there are {', '.join(map(repr, names)) or 'none'}",
        )
    return places


def _line(number: int, told: Mapping[str, str], zone: ZoneInfo) -> ExportLine:
    try:
        return ExportLine(
            line=number,
            id=told["id"] or None,
            at_ms=_at_ms(told["time"], zone),
            cost=_cost(told["cost"]),
            model=told.get("model") or None,
            input_tokens=_count(told, "input_tokens"),
            output_tokens=_count(told, "output_tokens"),
            currency=checked_currency(told["currency"]) if told.get("currency") else None,
        )
    except InvalidArgumentError as error:
        raise _wrong(number, str(error)) from None


def _at_ms(text: str, zone: ZoneInfo) -> int:
    if unix := _UNIX.match(text):
        return int(unix[1]) * 1000 + int(f"{unix[2] or ''}000"[:3])
    if _UNIX_MS.match(text):
        return int(text)
    try:
        at = datetime.fromisoformat(text.replace("/", "-").removesuffix(" UTC"))
        at = at.replace(tzinfo=zone) if at.utcoffset() is None else at
        return to_ms(at.astimezone(UTC), name="time")
    except (ValueError, OverflowError):
        raise InvalidArgumentError(
            f"the time {text!r:.40} cannot be read: write 2026-10-01T12:00:00Z or seconds since"
            " 1970"
        ) from None


def _cost(text: str) -> Decimal:
    if not _COST.match(text):
        raise InvalidArgumentError(f"the cost must be a number such as 0.0125, not {text!r:.40}")
    return Decimal(text)


def _count(told: Mapping[str, str], name: str) -> int | None:
    text = told.get(name)
    if not text:
        return None
    if not _COUNT.match(text):
        raise InvalidArgumentError(f"{name} must be a whole number from 0, not {text!r:.40}")
    return int(text)


def whole_days(first_ms: int, last_ms: int) -> tuple[datetime, datetime]:
    """Return the whole days (UTC) that hold two instants: their begin and their end."""
    day_ms = 86_400_000
    begin = first_ms // day_ms * day_ms
    return from_ms(begin), from_ms(last_ms // day_ms * day_ms + day_ms)
