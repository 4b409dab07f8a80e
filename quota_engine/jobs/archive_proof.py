"""
Proving an archive: against its manifest, its own chains and sums, and the ledger's log.

Only reads. Files are checked as they are first; what they say is believed only after that.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping
from itertools import groupby, zip_longest
from pathlib import Path

from sqlalchemy import text

from quota_engine.events import GENESIS, next_chain
from quota_engine.jobs.archive import (
    BALANCE_COLUMNS,
    BALANCES,
    ENTRIES,
    ENTRY_COLUMNS,
    RECORD_COLUMNS,
    RECORDS,
    Manifest,
    checksum_of,
    file_of,
    read_manifest,
)
from quota_engine.ledger import Ledger

#: An entry's details are at most some kilobytes; the csv module wants a bound.
FIELD_BYTES_MAX = 16 * 1024 * 1024
_TOLD = ENTRY_COLUMNS[ENTRY_COLUMNS.index("format") : ENTRY_COLUMNS.index("details") + 1]
_AT = text("""
SELECT e.chain, q.version AS head FROM quotas q
LEFT JOIN ledger_entries e
    ON e.account = q.account AND e.quota_type = q.quota_type AND e.version = :version
WHERE q.account = :account AND q.quota_type = :quota_type
""")

Row = Mapping[str, str]


def archive_problems(ledger: Ledger, folder: Path) -> Iterator[str]:
    """
    Yield everything that is wrong with an archive, in words; nothing: it is proved.

    Raises ``InvalidArgumentError`` where there is no manifest. Reads each row once; asks the
    ledger for one entry of each quota.
    """
    manifest = read_manifest(folder)
    damaged = list(_damaged(folder, manifest))
    yield from damaged
    if damaged:
        return
    if manifest.deployment_id != ledger.deployment_id:
        yield f"it is of deployment {manifest.deployment_id}, not of {ledger.deployment_id}"
        return
    usual = csv.field_size_limit(FIELD_BYTES_MAX)  # the whole process has it
    try:
        yield from _chain_problems(folder, manifest)
        yield from _ledger_problems(ledger, folder)
    except (csv.Error, OSError, EOFError, zlib.error, ValueError, KeyError) as error:
        yield f"a file can not be read: {error}"
    finally:
        csv.field_size_limit(usual)


def _damaged(folder: Path, manifest: Manifest) -> Iterator[str]:
    for name, told in manifest.files.items():
        path = file_of(folder, name)
        try:
            length, digest = checksum_of(path)
        except OSError as error:
            yield f"{path.name} can not be read: {error.strerror}"
            continue
        if (length, digest) != (told.bytes, told.sha256):
            yield f"{path.name} is not the file of the manifest: its checksum is {digest}"


def _rows(folder: Path, name: str, columns: tuple[str, ...]) -> Iterator[Row]:
    with gzip.open(file_of(folder, name), "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if tuple(reader.fieldnames or ()) != columns:
            raise ValueError(f"{name} has other columns")
        yield from reader


def _quota(row: Row) -> tuple[str, str]:
    return row["account"], row["quota_type"]


def _place(row: Row | None) -> tuple[str, str, int] | None:
    return None if row is None else (row["account"], row["quota_type"], int(row["version"]))


def _chain_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Replay each log's numbers, chain and sums; compare its end and its usage records."""
    records = _rows(folder, RECORDS, RECORD_COLUMNS)
    record = next(records, None)
    counts = dict.fromkeys(manifest.files, 0)
    lines = _rows(folder, BALANCES, BALANCE_COLUMNS)
    logs = groupby(_rows(folder, ENTRIES, ENTRY_COLUMNS), key=_quota)
    for log, line in zip_longest(logs, lines):
        if log is None or line is None or log[0] != _quota(line):
            yield "balances and entries are not of the same quotas"
            return
        counts[BALANCES] += 1
        name, version, chain, balance, held = "|".join(log[0]), 0, GENESIS, 0, 0
        for row in log[1]:
            counts[ENTRIES] += 1
            if (wrong := _misfit(row, version, chain, balance, held)) is not None:
                yield f"{name} version {row['version']}: {wrong}"
            if record is not None and _place(record) == _place(row):
                if any(record[one] != row[one] for one in ("operation_id", "at_ms")):
                    yield f"{name} version {row['version']}: its usage record is another call's"
                counts[RECORDS] += 1
                record = next(records, None)
            version, chain, last = int(row["version"]), row["chain"], row
            balance, held = int(row["balance_after"]), int(row["held_after"])
        if any(last[one] != line[one] for one in BALANCE_COLUMNS):
            yield f"{name}: it is carried forward from another entry than its last"
    if record is not None:
        yield f"a usage record without its entry: {_place(record)}"
    for name, count in counts.items():
        if count != manifest.files[name].rows and record is None:
            yield f"{name} has {count} rows, the manifest says {manifest.files[name].rows}"


def _misfit(row: Row, version: int, chain: str, balance: int, held: int) -> str | None:
    """Return why an entry does not follow the one before it."""
    if int(row["version"]) != version + 1:
        return f"it comes after version {version}"
    told = [row[name] for name in _TOLD]
    told.insert(_TOLD.index("kind") + 1, f"{row['account']}|{row['quota_type']}")
    if next_chain(chain, "\n".join(told)) != row["chain"]:
        return "it is not chained to the one before"
    if int(row["balance_after"]) != balance + int(row["delta"]):
        return "its balance is not that before it and its change"
    if int(row["held_after"]) != held + int(row["held_delta"]):
        return "what is held is not that before it and its change"
    return None


def _ledger_problems(ledger: Ledger, folder: Path) -> Iterator[str]:
    """Compare where each log was cut with the same place in the ledger."""
    with ledger.transaction() as connection:
        for line in _rows(folder, BALANCES, BALANCE_COLUMNS):
            name, version = "|".join(_quota(line)), int(line["version"])
            asked = {"account": line["account"], "quota_type": line["quota_type"]}
            found = connection.execute(_AT, asked | {"version": version}).one_or_none()
            if found is None or found.head < version:
                yield f"{name}: the ledger has not got to version {version}"
            elif found.chain != line["chain"]:
                yield f"{name} version {version}: the ledger has another chain"
