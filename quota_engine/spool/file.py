"""
The file of a spool: made, opened, written in transactions, and set aside when it is broken.

A write-ahead log with full syncs: when ``write`` has returned, neither a killed process nor a
power cut takes it back. This module must not know what the tables mean.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from quota_engine.errors import EngineUnavailableError

log = logging.getLogger("quota_engine.spool")
T = TypeVar("T")

FORMAT = 2
BUSY_SECONDS = 10.0
BROKEN = ".broken-"
_BROKEN_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
#: Connections of the parent process. Closed in a child, they could take its locks away.
_INHERITED: list[sqlite3.Connection] = []

_TABLES = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """
    CREATE TABLE operations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL, account TEXT NOT NULL, quota_type TEXT NOT NULL,
        operation_id TEXT NOT NULL, noted_ms INTEGER NOT NULL, hold_id TEXT NOT NULL,
        amount INTEGER NOT NULL, is_final INTEGER NOT NULL, is_known INTEGER NOT NULL,
        is_offline INTEGER NOT NULL, details TEXT NOT NULL,
        fingerprint TEXT NOT NULL, checksum TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
        tried_ms INTEGER, last_error TEXT,
        claimed_until_ms INTEGER NOT NULL DEFAULT 0, claimed_by TEXT,
        others TEXT NOT NULL DEFAULT '',
        UNIQUE (account, quota_type, operation_id)
    )
    """,
    """
    CREATE TABLE holds (
        account TEXT NOT NULL, quota_type TEXT NOT NULL, hold_id TEXT NOT NULL,
        placed_amount INTEGER NOT NULL, amount INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
        state TEXT NOT NULL, fingerprint TEXT NOT NULL, changed_ms INTEGER NOT NULL,
        PRIMARY KEY (account, quota_type, hold_id)
    )
    """,
)


class SpoolError(EngineUnavailableError):
    """The spool cannot be used now. Says why, and what to do."""


class SpoolFile:
    """
    One file. Safe between threads and processes, and over a fork; opened when first used.

    ``salvage`` is given a broken file that was set aside, and what writes to its successor.
    """

    def __init__(
        self,
        path: Path,
        deployment_id: str,
        salvage: Callable[[Path, Callable[[Callable[[sqlite3.Connection], T]], T]], int],
    ) -> None:
        self.path = path
        self._deployment_id = deployment_id
        self._salvage = salvage
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def exists(self) -> bool:
        """Whether anything was ever noted here. Costs one look at the folder."""
        return self.path.exists()

    def broken(self) -> list[Path]:
        """Return the files that were found broken and set aside, oldest first."""
        found = self.path.parent.glob(f"{self.path.stem}{BROKEN}*{self.path.suffix}")
        return sorted(found)

    def complaint(self) -> str:
        """Return why the file could not be written if it had to be, or nothing. Makes nothing."""
        place = self.path if self.path.exists() else self.path.parent
        while not place.exists():
            place = place.parent
        return "" if os.access(place, os.W_OK) else f"{place} may not be written"

    def close(self) -> None:
        """Close the connection; the next use opens another one."""
        with self._mine():
            self._close()

    def write(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """
        Run ``act`` in one transaction; when this returns it is on the disk. Raises ``SpoolError``.

        A file that turns out to be broken is set aside, and ``act`` runs again on a new one.
        """
        with self._mine():
            for is_last in (False, True):
                try:
                    return self._write(act)
                except sqlite3.Error as error:
                    self._close()
                    if is_last or not _is_broken(error):
                        raise self._unusable(error) from error
                    self._set_aside(error)
                except OSError as error:
                    raise self._unusable(error) from error
        raise AssertionError("the second try either returns or raises")

    def _write(self, act: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        try:
            outcome = act(connection)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return outcome

    @contextmanager
    def _mine(self) -> Iterator[None]:
        if self._pid != os.getpid():
            if self._connection is not None:
                _INHERITED.append(self._connection)
            self._pid, self._lock, self._connection = os.getpid(), threading.RLock(), None
        with self._lock:
            yield

    # -- opening

    def _opened(self) -> sqlite3.Connection:
        """Return the connection, if it is still that of the file at the path; else a new one."""
        if self._connection is not None:
            with suppress(FileNotFoundError):
                if self.path.stat().st_ino == self._inode:
                    return self._connection
            self._close()
        with self._alone():
            return self._open()

    def _open(self) -> sqlite3.Connection:
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            _sync_folder(self.path.parent)
        self._inode = self.path.stat().st_ino
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS syncs only half otherwise
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise _BrokenError(found)
        self._prepare(connection)
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables, or see that they are this release's and this deployment's."""
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for table in _TABLES:
                connection.execute(table)
            about = [("deployment", self._deployment_id), ("replayed", "0")]
            connection.executemany("INSERT INTO about VALUES (?, ?)", about)
        if version == 1:
            connection.execute("ALTER TABLE operations ADD COLUMN others TEXT NOT NULL DEFAULT ''")
        if version < FORMAT:
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
        if version > FORMAT:
            self._close()
            raise SpoolError(f"the spool {self.path} is of a newer release: update this one")
        query = "SELECT value FROM about WHERE name = 'deployment'"
        owner = connection.execute(query).fetchone()[0]
        if owner != self._deployment_id:
            self._close()
            raise SpoolError(
                f"the spool {self.path} is of deployment {owner}, not of {self._deployment_id}:"
                " see that QUOTA_ENGINE_SPOOL_FOLDER is right"
            )

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from making, opening or setting aside the file meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self.path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    # -- what is wrong

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Give a broken file another name, begin a new one, and take over what can be read."""
        with self._alone():
            if not self.path.exists() or self.path.stat().st_ino != self._inode:
                return  # another process did it
            aside = self.path.with_name(
                f"{self.path.stem}{BROKEN}{time.time_ns() // 1_000_000}{self.path.suffix}"
            )
            for ending in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.replace(f"{self.path}{ending}", f"{aside}{ending}")
            _sync_folder(self.path.parent)
        log.error("the spool %s is broken (%s): it is %s now", self.path, error, aside)
        saved = self._salvage(aside, self.write)
        log.error("of %s, %d operations could be taken over", aside, saved)

    def _unusable(self, error: Exception) -> SpoolError:
        return SpoolError(
            f"the spool {self.path} cannot be used: {error}; see that QUOTA_ENGINE_SPOOL_FOLDER is"
            " a folder on a local disk with space left, which this user may write"
        )


class _BrokenError(sqlite3.DatabaseError):
    """The file's own check found a fault."""


def _is_broken(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) or 0
    return isinstance(error, _BrokenError) or code & 0xFF in _BROKEN_CODES


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
