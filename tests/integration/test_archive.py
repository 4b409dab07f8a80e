"""
An archive has all that is old, and proves itself: nobody edits it unseen.

Goal: what is written is the ledger's rows up to a place of each log, twice the same; every edit of
files, manifest or ledger is found. Method: a mixed world of calls is archived; copies of the
archive are edited, with and without their checksums.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import InvalidArgumentError, QuotaEngine
from quota_engine.jobs.archive import (
    BALANCES,
    ENTRIES,
    MANIFEST,
    RECORDS,
    checksum_of,
    file_of,
    read_manifest,
    write_archive,
)
from quota_engine.jobs.archive_proof import archive_problems
from quota_engine.ledger import Ledger
from tests.called import AFTER, ANN, FIRST, SECOND, THIRD, CalledWorld
from tests.commands import Cli
from tests.engines import TestClock


@pytest.fixture
def ledger(redis_url: str, database_url: str) -> Iterator[Ledger]:
    clock = TestClock()
    with QuotaEngine.open(redis_url, database_url, shards=2, clock=clock) as engine:
        for _ in CalledWorld(engine, clock).live():
            engine.drain()
        engine.issue_grant(
            'odd,"name', "image", 5, description='two\nlines, "quoted"', reference=""
        )
        engine.drain()
        yield engine.deployment.ledger


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    with gzip.open(file_of(folder, name), "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def count(ledger: Ledger, asked: str) -> int:
    with ledger.transaction() as sql:
        return int(sql.execute(text(asked)).scalar_one())


def test_an_archive_has_what_is_old_and_is_proved(ledger: Ledger, tmp_path: Path) -> None:
    for before in (FIRST, SECOND, AFTER):
        folder = tmp_path / str(before)
        manifest = write_archive(ledger, folder, before)
        at_ms = (before - FIRST.replace(year=1970, month=1, day=1)).days * 86_400_000
        for table in (ENTRIES, RECORDS):
            older = count(ledger, f"SELECT count(*) FROM {table} WHERE at_ms < {at_ms}")
            assert manifest.files[table].rows == len(rows_of(folder, table)) == older
        usual = csv.field_size_limit()
        assert list(archive_problems(ledger, folder)) == []
        assert csv.field_size_limit() == usual, "it is the whole process's"
        assert read_manifest(folder) == manifest
    assert manifest.files[BALANCES].rows == count(ledger, "SELECT count(*) FROM quotas")
    [line] = [row for row in rows_of(folder, BALANCES) if _is(row, ANN)]
    asked = f"SELECT balance FROM quotas WHERE account = '{ANN}' AND quota_type = 'text_token'"
    assert int(line["balance_after"]) == count(ledger, asked)
    again = write_archive(ledger, tmp_path / "again", AFTER)
    assert again.files == manifest.files, "the same rows, the same bytes"
    with pytest.raises(InvalidArgumentError, match="not empty"):
        write_archive(ledger, folder, AFTER)
    with pytest.raises(InvalidArgumentError, match="to come"):
        write_archive(ledger, tmp_path / "ahead", AFTER + timedelta(days=100_000))


def _is(row: dict[str, str], account: str) -> bool:
    return row["account"] == account and row["quota_type"] == "text_token"


def edited(
    ledger: Ledger, folder: Path, name: str, change: Callable[[list[dict[str, str]]], Any]
) -> list[str]:
    """Edit rows of a copy, and its checksum with them; return what the proof finds."""
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    rows = rows_of(copy, name)
    columns = list(rows[0])
    change(rows)
    with gzip.open(file_of(copy, name), "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    assert any("checksum" in one for one in archive_problems(ledger, copy))
    length, digest = checksum_of(file_of(copy, name))
    manifest = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][name] = {"rows": len(rows), "bytes": length, "sha256": digest}
    (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return list(archive_problems(ledger, copy))


def test_every_edit_is_found(ledger: Ledger, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    write_archive(ledger, folder, THIRD)
    edits: list[tuple[str, str, Callable[[list[dict[str, str]]], Any]]] = [
        (ENTRIES, "not chained", lambda rows: rows[2].update(amount="1")),
        (ENTRIES, "not chained", lambda rows: rows[-1].update(details="{}")),
        (ENTRIES, "comes after", lambda rows: rows.pop(1)),
        (ENTRIES, "carried forward", lambda rows: rows.pop()),
        (ENTRIES, "not of the same quotas", lambda rows: rows[0].update(account="Z")),
        (BALANCES, "carried forward", lambda rows: rows[0].update(balance_after="7")),
        (BALANCES, "not of the same quotas", lambda rows: rows.pop()),
        (RECORDS, "another call", lambda rows: rows[0].update(operation_id="x")),
        (RECORDS, "without its entry", lambda rows: rows[0].update(version="999")),
        (ENTRIES, "can not be read", lambda rows: rows[0].update(version="one")),
    ]
    for name, said, change in edits:
        found = edited(ledger, folder, name, change)
        assert any(said in one for one in found), (said, found)
    (folder / MANIFEST).rename(tmp_path / "gone.json")
    with pytest.raises(InvalidArgumentError, match="can not be read"):
        list(archive_problems(ledger, folder))


def test_the_ledger_and_another_deployment_are_compared(ledger: Ledger, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    write_archive(ledger, folder, THIRD)
    manifest = (folder / MANIFEST).read_text(encoding="utf-8")
    foreign = manifest.replace(ledger.deployment_id, "another")
    (folder / MANIFEST).write_text(foreign, encoding="utf-8")
    assert "of deployment another" in next(archive_problems(ledger, folder))
    (folder / MANIFEST).write_text(manifest, encoding="utf-8")
    last = max(int(row["version"]) for row in rows_of(folder, BALANCES) if _is(row, ANN))
    with ledger.transaction() as sql:
        sql.execute(text("SET LOCAL session_replication_role = replica"))
        place = f"account = '{ANN}' AND quota_type = 'text_token' AND version = {last}"
        sql.execute(text(f"UPDATE ledger_entries SET chain = 'f' WHERE {place}"))
    assert [f"{ANN}|text_token version {last}: the ledger has another chain"] == list(
        archive_problems(ledger, folder)
    )


def test_archives_by_command(ledger: Ledger, cli: Cli, tmp_path: Path) -> None:
    folder = str(tmp_path / "archive")
    told = cli.json("ledger", "archive", "--before", str(SECOND), "--out", folder)
    assert told["problems"] == []
    assert told["ledger_entries"] > told["usage_records"] > 10
    assert "is right" in cli.done("ledger", "archive", "--verify", folder)
    file = file_of(Path(folder), RECORDS)
    file.write_bytes(file.read_bytes()[:-1])
    found = cli.run("ledger", "archive", "--verify", folder)
    assert (found.code, "checksum" in found.out) == (3, True)
    for wrong in ((), ("--out", folder), ("--verify", str(tmp_path)), ("--before", "x")):
        assert cli.run("ledger", "archive", *wrong).code == 2
