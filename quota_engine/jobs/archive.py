"""
Archives: old entries and usage records as files that prove themselves. Nothing is deleted.

A folder has three gzipped CSV files as PostgreSQL's COPY writes them, in the order of quotas and
versions, and ``manifest.json``, written last: without it an archive is not finished. Each quota's
log is cut at a place, as statements are: before the first entry of the day or later. The file of
balances carries each log forward: its version, chain and balance where it is cut.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any, cast

from sqlalchemy import Connection, text

from quota_engine.errors import InvalidArgumentError
from quota_engine.instants import to_ms
from quota_engine.ledger import Ledger
from quota_engine.ledger.tables import usage_records

FORMAT = 1
MANIFEST = "manifest.json"
ENTRIES, RECORDS, BALANCES = "ledger_entries", "usage_records", "balances"

#: The columns that the chain was computed over stand in the order of an entry's lines.
ENTRY_COLUMNS = (
    *("account", "quota_type", "format", "kind", "version", "at_ms", "operation_id"),
    *("fingerprint", "amount", "delta", "held_delta", "balance_after", "held_after"),
    *("debt_after", "shortfall", "subject", "flags", "terms", "movements", "details"),
    *("chain", "event_id", "duplicate_of", "late", "reference", "recorded_at"),
)
RECORD_COLUMNS = tuple(
    column.name for column in usage_records.columns if column.name not in ("id", "occurred_at")
)
BALANCE_COLUMNS = (
    *("account", "quota_type", "version", "chain", "balance_after", "held_after", "debt_after"),
    "at_ms",
)
_CUT = """
WITH cut AS (
    SELECT account, quota_type,
        coalesce(min(version) FILTER (WHERE at_ms >= {cut_ms}), max(version) + 1) AS next
    FROM ledger_entries GROUP BY account, quota_type
)
SELECT {columns} FROM {table} r JOIN cut c USING (account, quota_type)
WHERE r.version {place} ORDER BY account COLLATE "C", quota_type COLLATE "C", version
"""
_PARTS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    ENTRIES: ("ledger_entries", ENTRY_COLUMNS, "< c.next"),
    RECORDS: ("usage_records", RECORD_COLUMNS, "< c.next"),
    BALANCES: ("ledger_entries", BALANCE_COLUMNS, "= c.next - 1"),
}


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One file of an archive: its rows without the heading, its bytes and their checksum."""

    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an archive is of, and its files by the name of what they hold."""

    format: int
    deployment_id: str
    before: date
    made_at: datetime
    files: Mapping[str, ArchivedFile]


def write_archive(ledger: Ledger, folder: Path, before: date) -> Manifest:
    """
    Write what the ledger has from before a day (UTC), as of one instant; return the manifest.

    The folder is made, or is empty. Raises ``InvalidArgumentError`` where it is not, or the day is
    not over. Memory is bounded; the ledger is only read.
    """
    _make_empty(folder)
    with ledger.transaction() as connection:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        connection.execute(text("SET LOCAL TIME ZONE 'UTC'"))
        made_at = connection.execute(text("SELECT now()")).scalar_one().astimezone(UTC)
        if before > made_at.date():
            raise InvalidArgumentError(
                f"{before} is to come: only days that are over are archived"
            )
        cut_ms = to_ms(datetime(before.year, before.month, before.day, tzinfo=UTC), name="before")
        files = {name: _write_part(connection, folder, name, cut_ms) for name in _PARTS}
    manifest = Manifest(
        format=FORMAT,
        deployment_id=ledger.deployment_id,
        before=before,
        made_at=made_at,
        files=files,
    )
    plain = asdict(manifest) | {"before": str(before), "made_at": made_at.isoformat()}
    path = folder / MANIFEST
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.rename(path)
    return manifest


def file_of(folder: Path, name: str) -> Path:
    """Return the file of an archive that holds entries, records or balances."""
    return folder / f"{name}.csv.gz"


def read_manifest(folder: Path) -> Manifest:
    """Return an archive's manifest; raise ``InvalidArgumentError`` where there is none."""
    path = folder / MANIFEST
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["format"] != FORMAT:
            raise InvalidArgumentError(f"{path} is of format {said['format']}, not {FORMAT}")
        return Manifest(
            format=FORMAT,
            deployment_id=str(said["deployment_id"]),
            before=date.fromisoformat(said["before"]),
            made_at=datetime.fromisoformat(said["made_at"]),
            files={name: ArchivedFile(**said["files"][name]) for name in _PARTS},
        )
    except OSError as error:
        raise InvalidArgumentError(f"{path} can not be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InvalidArgumentError):
            raise
        raise InvalidArgumentError(f"{path} is no manifest of an archive") from None


def checksum_of(path: Path) -> tuple[int, str]:
    """Return a file's length in bytes and its SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InvalidArgumentError(
                f"{folder} is not empty: an archive has a folder of its own"
            )
    except OSError as error:
        raise InvalidArgumentError(f"{folder} can not be written: {error.strerror}") from None


def _write_part(connection: Connection, folder: Path, name: str, cut_ms: int) -> ArchivedFile:
    """Copy rows into a gzipped file, whose bytes depend on nothing but them."""
    table, columns, place = _PARTS[name]
    asked = _CUT.format(cut_ms=cut_ms, table=table, columns=", ".join(columns), place=place)
    path = file_of(folder, name)
    driver: Any = connection.connection.driver_connection
    try:
        with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            target = cast("IO[bytes]", packed)
            with driver.cursor() as cursor:
                with cursor.copy(f"COPY ({asked}) TO STDOUT (FORMAT csv, HEADER)") as copy:
                    for data in copy:
                        target.write(data)
                rows = cursor.rowcount
    except OSError as error:
        raise InvalidArgumentError(f"{path} can not be written: {error.strerror}") from None
    return ArchivedFile(rows, *checksum_of(path))
