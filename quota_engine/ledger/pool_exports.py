"""
A provider's own export beside the usage records, compared in SQL in the caller's transaction.

The file streams into a table of the transaction's own, so neither side must fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Row, text

from quota_engine.errors import InvalidArgumentError
from quota_engine.instants import from_ms, to_ms
from quota_engine.prices.price import EXACT, plain
from quota_engine.provider_exports import (
    DIFFERING,
    MATCHED,
    MISSING_AT_THEM,
    MISSING_AT_US,
    Comparison,
    Difference,
    ExportReport,
    read_export,
    whole_days,
)

LINE_LENGTH_MAX = 1_000_000
#: Lines after which progress is told; rows that are fetched at once.
PAGE = 1_000
#: The two sides' clocks, and their ideas of when a call is, differ by less.
DAY_MS = 86_400_000

_MAKE = text("""
CREATE TEMPORARY TABLE pool_export (
    line BIGINT, id TEXT, at_ms BIGINT, model TEXT, input_tokens BIGINT, output_tokens BIGINT,
    cost NUMERIC
) ON COMMIT DROP
""")
_COPY = """
COPY pool_export (line, id, at_ms, model, input_tokens, output_tokens, cost) FROM STDIN
"""
_TIMES = text("SELECT count(*), min(at_ms), max(at_ms) FROM pool_export")

# A provider tells a dated version of the model that was asked for; theirs begins with ours.
_IS_VERSION = """(
    starts_with(lower({0}), lower({1}))
    AND substr(lower({0}), length({1}) + 1) ~ '^([-@:][0-9][0-9-]*)?$'
)"""
_MODELS_DIFFER = (
    f"NOT ({_IS_VERSION.format('theirs.model', 'ours.model')}"
    f" OR {_IS_VERSION.format('ours.model', 'theirs.model')})"
)
_TOKENS_DIFFER = "abs(coalesce(ours.{0}, 0) - theirs.{0}) > :token_tolerance"
_COMPARE = text(f"""
CREATE TEMPORARY TABLE pool_compared ON COMMIT DROP AS
WITH theirs AS (
    SELECT id, min(line) AS line, count(*) AS lines, min(at_ms) AS at_ms, min(model) AS model,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(cost) AS cost
    FROM pool_export
    GROUP BY id, CASE WHEN id IS NULL THEN line END
), changes AS (
    SELECT account, quota_type, corrects, sum(input_tokens) AS input_tokens,
        sum(output_tokens) AS output_tokens, sum(cost) AS cost
    FROM usage_records
    WHERE provider = :provider AND corrects IS NOT NULL AND at_ms >= :first_ms
    GROUP BY account, quota_type, corrects
), calls AS (
    SELECT coalesce(u.request_id, e.reference, u.operation_id) AS id, u.at_ms, u.account,
        u.operation_id, u.model,
        coalesce(u.input_tokens, 0) + coalesce(c.input_tokens, 0) AS input_tokens,
        coalesce(u.output_tokens, 0) + coalesce(c.output_tokens, 0) AS output_tokens,
        CASE WHEN u.cost IS NOT NULL OR c.cost IS NOT NULL
            THEN coalesce(u.cost, 0) + coalesce(c.cost, 0) END AS cost,
        coalesce(u.status, 'success') = 'success' OR u.cost <> 0 AS is_expected
    FROM usage_records u
    LEFT JOIN ledger_entries e ON u.request_id IS NULL AND e.account = u.account
        AND e.quota_type = u.quota_type AND e.version = u.version
    LEFT JOIN changes c ON c.account = u.account AND c.quota_type = u.quota_type
        AND c.corrects = u.operation_id
    WHERE u.provider = :provider AND coalesce(u.currency, :currency) = :currency
        AND u.corrects IS NULL AND u.at_ms >= :first_ms AND u.at_ms < :last_ms
), ours AS (
    SELECT id, min(at_ms) AS at_ms, min(account) AS account, min(operation_id) AS operation_id,
        min(model) AS model, sum(input_tokens) AS input_tokens,
        sum(output_tokens) AS output_tokens, sum(cost) AS cost,
        coalesce(bool_or(is_expected), false) AS is_expected
    FROM calls
    GROUP BY id
), pairs AS (
    SELECT coalesce(theirs.id, ours.id) AS id, theirs.line, theirs.lines, ours.account,
        ours.operation_id, ours.is_expected, coalesce(theirs.at_ms, ours.at_ms) AS at_ms,
        ours.model AS model_ours, theirs.model AS model_theirs,
        ours.cost AS cost_ours, theirs.cost AS cost_theirs,
        ours.input_tokens AS input_tokens_ours, theirs.input_tokens AS input_tokens_theirs,
        ours.output_tokens AS output_tokens_ours, theirs.output_tokens AS output_tokens_theirs,
        coalesce(ours.at_ms >= :since_ms AND ours.at_ms < :until_ms, false)
            OR coalesce(theirs.at_ms >= :since_ms AND theirs.at_ms < :until_ms, false) AS is_asked,
        array_remove(ARRAY[
            CASE WHEN abs(coalesce(ours.cost, 0) - theirs.cost) > :cost_tolerance
                THEN 'cost' END,
            CASE WHEN {_TOKENS_DIFFER.format("input_tokens")} THEN 'input_tokens' END,
            CASE WHEN {_TOKENS_DIFFER.format("output_tokens")} THEN 'output_tokens' END,
            CASE WHEN {_MODELS_DIFFER} THEN 'model' END
        ], NULL) AS fields
    FROM theirs FULL JOIN ours ON theirs.id = ours.id
)
SELECT pairs.*, CASE
        WHEN NOT is_asked THEN 'outside'
        WHEN operation_id IS NULL THEN '{MISSING_AT_US}'
        WHEN line IS NULL THEN '{MISSING_AT_THEM}'
        WHEN fields <> '{{}}' THEN '{DIFFERING}'
        ELSE '{MATCHED}'
    END AS what
FROM pairs
WHERE line IS NOT NULL OR is_asked AND is_expected
""")
_TOTALS = text("""
SELECT what, count(*) AS calls, coalesce(sum(lines), 0) AS lines,
    coalesce(sum(cost_ours), 0) AS cost_ours, coalesce(sum(cost_theirs), 0) AS cost_theirs,
    coalesce(sum(input_tokens_ours), 0) AS input_tokens_ours,
    coalesce(sum(input_tokens_theirs), 0) AS input_tokens_theirs,
    coalesce(sum(output_tokens_ours), 0) AS output_tokens_ours,
    coalesce(sum(output_tokens_theirs), 0) AS output_tokens_theirs
FROM pool_compared GROUP BY what
""")
_DIFFERENCES = text(f"""
SELECT what, CASE WHEN what = '{DIFFERING}' THEN fields ELSE '{{}}' END AS fields, id, at_ms, line,
    account, operation_id, model_ours, model_theirs, cost_ours, cost_theirs, input_tokens_ours,
    input_tokens_theirs, output_tokens_ours, output_tokens_theirs
FROM pool_compared
WHERE what IN ('{DIFFERING}', '{MISSING_AT_US}', '{MISSING_AT_THEM}')
ORDER BY at_ms, id, line
""").execution_options(yield_per=PAGE)

Progress = Callable[[int, int], None]
OnDifference = Callable[[Difference], object]


def compare_export(
    connection: Connection,
    comparison: Comparison,
    file: Path,
    on_difference: OnDifference | None,
    progress: Progress | None,
) -> ExportReport:
    """Compare an export with the records; raise ``InvalidArgumentError`` if it cannot be read."""
    connection.execute(_MAKE)
    try:
        with file.open("rb") as opened:
            lines, others = _load(connection, comparison, opened, progress)
    except OSError as error:
        raise InvalidArgumentError(f"{file} cannot be read: {error.strerror}") from None
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{file.name}: {error}") from None
    count, first_ms, last_ms = connection.execute(_TIMES).one()
    if not count:
        left = f" in {comparison.currency}" if others else ""
        raise InvalidArgumentError(f"{file.name}: there are no calls{left} under its heading")
    since, until = whole_days(first_ms, last_ms)
    since, until = comparison.since or since, comparison.until or until
    _compare(connection, comparison, since, until)
    report = _report(connection, comparison, (since, until), (lines, others))
    kept: list[Difference] = []
    with connection.execute(_DIFFERENCES) as rows:
        for row in rows:
            difference = _difference(row)
            if len(kept) < comparison.limit:
                kept.append(difference)
            elif on_difference is None:
                break
            if on_difference is not None:
                on_difference(difference)
    return replace(report, differences=tuple(kept))


def _load(
    connection: Connection, comparison: Comparison, file: IO[bytes], progress: Progress | None
) -> tuple[int, int]:
    """Copy an export into the table; return its lines, and how many have another currency."""
    driver: Any = connection.connection.driver_connection
    size, lines, others = file.seek(0, 2), 0, 0
    file.seek(0)
    with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        for one in read_export(_lines(file), comparison):
            lines += 1
            if one.currency not in (None, comparison.currency):
                others += 1
            else:
                tokens = (one.input_tokens, one.output_tokens)
                copy.write_row((one.line, one.id, one.at_ms, one.model, *tokens, one.cost))
            if progress is not None and lines % PAGE == 0:
                progress(file.tell(), size)
    if progress is not None:
        progress(size, size)
    return lines, others


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    number = 0
    while line := file.readline(LINE_LENGTH_MAX):
        number += 1
        if len(line) == LINE_LENGTH_MAX:
            raise InvalidArgumentError(f"line {number}: it is longer than {LINE_LENGTH_MAX} bytes")
        yield line


def _compare(
    connection: Connection, comparison: Comparison, since: datetime, until: datetime
) -> None:
    since_ms, until_ms = to_ms(since, name="since"), to_ms(until, name="until")
    connection.execute(text("ANALYZE pool_export"))
    connection.execute(
        _COMPARE,
        {
            "provider": comparison.provider,
            "currency": comparison.currency,
            "since_ms": since_ms,
            "until_ms": until_ms,
            "first_ms": since_ms - DAY_MS,
            "last_ms": until_ms + DAY_MS,
            "cost_tolerance": comparison.cost_tolerance,
            "token_tolerance": comparison.token_tolerance,
        },
    )


def _difference(row: Row[Any]) -> Difference:
    told = dict(row._mapping)
    told["fields"], told["at"] = tuple(row.fields), from_ms(told.pop("at_ms"))
    for name, value in told.items():
        if value is not None and name.startswith("cost_"):
            told[name] = plain(value)
        elif value is not None and "_tokens_" in name:
            told[name] = int(value)
    return Difference(**told)


def _report(
    connection: Connection,
    comparison: Comparison,
    period: tuple[datetime, datetime],
    lines: tuple[int, int],
) -> ExportReport:
    rows = {row.what: row for row in connection.execute(_TOTALS)}
    outside = rows.pop("outside", None)
    calls = {
        what: rows[what].calls if what in rows else 0
        for what in (MATCHED, DIFFERING, MISSING_AT_US, MISSING_AT_THEM)
    }
    tokens = {
        name: int(sum(getattr(row, name) for row in rows.values()))
        for side in ("ours", "theirs")
        for name in (f"input_tokens_{side}", f"output_tokens_{side}")
    }
    return ExportReport(
        provider=comparison.provider,
        currency=comparison.currency,
        since=period[0],
        until=period[1],
        lines=lines[0],
        other_currency=lines[1],
        outside=0 if outside is None else int(outside.lines),
        cost_ours=_total(row.cost_ours for row in rows.values()),
        cost_theirs=_total(row.cost_theirs for row in rows.values()),
        differences=(),
        **calls,
        **tokens,
    )


def _total(costs: Iterable[Decimal]) -> Decimal:
    return plain(reduce(EXACT.add, costs, Decimal(0)))
