"""
A spool whose file is broken, full or foreign: nothing is lost silently.

Goal: what was noted and can still be read is replayed, the rest is kept and said. Method: files
that are damaged as disks and people do it.
"""

from __future__ import annotations

import os
import resource
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from quota_engine.spool import Spool, SpoolError, spools_in
from quota_engine.spool.file import FORMAT
from tests.programs import run
from tests.spools import (
    NOW,
    QUOTA,
    capture,
    claimed,
    place,
)


def test_a_file_that_is_none_is_set_aside_and_said(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    spool.path.parent.mkdir()
    spool.path.write_bytes(b"this is no database, and it is long enough" * 100)
    assert spool.note(capture(1))
    assert claimed(spool) == [capture(1)]
    [broken] = spool.status(NOW).broken
    assert broken.read_bytes().startswith(b"this is no database")
    assert "is broken" in caplog.text
    assert [one.path for one in spools_in(spool.path.parent)] == [spool.path]


def fill(spool: Spool, count: int) -> None:
    for number in range(count):
        spool.note(replace(capture(number), details="x" * 600))
    spool.place(place(7_777, 5), allowance=5, now_ms=NOW)
    spool.close()


def damage(path: Path, page: int) -> None:
    """Overwrite one page in the middle of the file."""
    with path.open("r+b") as stream:
        stream.seek(page * 4096)
        stream.write(os.urandom(4096))


def test_what_can_be_read_of_a_broken_file_is_taken_over(spool: Spool) -> None:
    fill(spool, 60)
    pages = spool.path.stat().st_size // 4096
    assert pages > 12
    damage(spool.path, pages - 2)
    assert spool.note(capture(1_000))
    [broken] = spool.status(NOW).broken
    kept = [row.operation_id for row in spool.rows()]
    assert len(kept) == len(set(kept))
    assert 20 < len(kept) <= 61
    assert "hold-1000:capture" in kept
    assert broken.exists()
    assert spool.has_hold(QUOTA, "hold-7777")


def test_a_truncated_file_is_set_aside(spool: Spool) -> None:
    fill(spool, 60)
    os.truncate(spool.path, 8 * 4096 + 100)
    assert spool.note(capture(1_000))
    assert len(spool.status(NOW).broken) == 1
    assert "hold-1000:capture" in [row.operation_id for row in spool.rows()]


def test_a_torn_end_of_the_log_loses_only_what_nobody_was_told(spool: Spool) -> None:
    for number in range(3):
        spool.note(capture(number))
    log = Path(f"{spool.path}-wal")
    copy = spool.path.parent.parent / "after"
    copy.mkdir()
    (copy / spool.path.name).write_bytes(spool.path.read_bytes())
    (copy / log.name).write_bytes(log.read_bytes() + os.urandom(3000))
    assert claimed(Spool(copy, "deployment_1")) == [capture(number) for number in range(3)]


def test_a_damaged_row_is_not_believed(spool: Spool) -> None:
    spool.note(capture(1))
    spool.note(capture(2))
    spool.close()
    with sqlite3.connect(spool.path) as sql:
        sql.execute("UPDATE operations SET amount = 70000000 WHERE id = 1")
    sql.close()
    assert claimed(spool) == [capture(2)]
    [bad] = [row for row in spool.rows() if row.state == "refused"]
    assert "damaged" in str(bad.last_error)


def test_another_process_finds_the_new_file(spool: Spool) -> None:
    other = Spool(spool.path.parent, spool.deployment_id)
    fill(spool, 60)
    assert other.waiting() == 60  # and keeps the file open
    damage(spool.path, 3)
    for page in range(4, 9):
        damage(spool.path, page)
    spool.note(capture(1_000))
    assert len(spool.status(NOW).broken) == 1
    other.note(capture(1_001))
    assert {"hold-1000:capture", "hold-1001:capture"} <= {r.operation_id for r in spool.rows()}
    assert len(other.status(NOW).broken) == 1


def test_the_spool_of_another_deployment_is_never_used(spool: Spool) -> None:
    spool.note(capture(1))
    spool.close()
    moved = spool.path.with_name("deployment_2.sqlite")
    spool.path.rename(moved)
    other = Spool(spool.path.parent, "deployment_2")
    for use in (other.waiting, lambda: other.claim(NOW), lambda: other.note(capture(2))):
        with pytest.raises(SpoolError, match="deployment_1"):
            use()


def test_a_file_of_a_newer_release_is_left_alone(spool: Spool) -> None:
    spool.note(capture(1))
    spool.close()
    with sqlite3.connect(spool.path) as sql:
        sql.execute(f"PRAGMA user_version = {FORMAT + 1}")
    sql.close()
    with pytest.raises(SpoolError, match="newer release"):
        spool.note(capture(2))


FULL = """
import resource, sys
from pathlib import Path
from quota_engine.spool import Spool, SpoolError
from tests.spools import capture
spool = Spool(Path(sys.argv[1]), "deployment_1")
spool.note(capture(0))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
for number in range(1, 1000):
    try:
        spool.note(capture(number))
    except SpoolError as error:
        print(error)
        break
print(number)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert spool.note(capture(number)), "and it goes on when there is space"
"""


def test_a_full_disk_is_said_and_loses_nothing(spool: Spool) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    ended = run(FULL, str(spool.path.parent))
    assert ended.returncode == 0, ended.stderr
    *_, said, number = ended.stdout.splitlines()
    assert "QUOTA_ENGINE_SPOOL_FOLDER" in said
    assert int(number) > 3
    assert spool.waiting() == int(number) + 1
    assert spool.status(NOW).broken == ()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    spool = Spool(tmp_path / "file" / "spools", "deployment_1")
    with pytest.raises(SpoolError, match="QUOTA_ENGINE_SPOOL_FOLDER"):
        spool.note(capture(1))
