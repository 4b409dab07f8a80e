"""The spool itself: what is noted, admitted, claimed for replay, settled, each at one stroke."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from quota_engine.commands import ExtendedHold, ExtendHold, PlacedHold, PlaceHold
from quota_engine.commands.arguments import fingerprint
from quota_engine.errors import IdempotencyConflictError
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName
from quota_engine.spool import offline
from quota_engine.spool.file import BROKEN, SpoolError, SpoolFile
from quota_engine.spool.offline import OfflineHold
from quota_engine.spool.rows import OPERATION, insert_operation, is_sound, operation_from
from quota_engine.spool.salvage import salvage
from quota_engine.spooled import SpooledOperation

SUFFIX = ".sqlite"
#: Who claimed an operation and does not settle it within this time has died; another takes it.
CLAIM_MS = 60_000
CLAIM_MAX = 50
DAMAGED = "its row was damaged: it is not believed"


@dataclass(frozen=True, slots=True)
class Claimed:
    """An operation that this process may replay now."""

    row_id: int
    operation: SpooledOperation


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledRow:
    """An operation as it stands in the file, and what came of it so far."""

    #: waiting, refused or dropped.
    state: str
    account: str
    quota_type: str
    kind: str
    operation_id: str
    amount: int
    noted_at: datetime
    is_offline: bool
    attempts: int
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStatus:
    """
    What one spool holds. Units are those of what was admitted offline and is not replayed.

    ``refused``: operations that can never be replayed, and wait for somebody.
    """

    path: Path
    deployment: str
    waiting: int
    refused: int
    replayed: int
    oldest_at: datetime | None
    offline_holds: int
    last_error: str | None
    broken: tuple[Path, ...]


class Spool:
    """The spool of one deployment on this machine. Safe in threads, processes and forks."""

    def __init__(self, folder: Path, deployment_id: str) -> None:
        self._file = SpoolFile(folder / f"{deployment_id}{SUFFIX}", deployment_id, salvage)
        self.deployment_id = deployment_id

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def exists(self) -> bool:
        """Whether anything was ever noted. Makes nothing."""
        return self._file.exists()

    def complaint(self) -> str:
        """Return why nothing could be noted, or an empty text. Makes nothing."""
        return self._file.complaint()

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._file.close()

    # -- while Redis is away

    def note(self, operation: SpooledOperation) -> bool:
        """
        Keep an operation until it is replayed; return False if it was there already.

        What ends a hold that was admitted offline ends it here. Raises ``SpoolError``, and
        ``IdempotencyConflictError`` when its id is there with other arguments.
        """

        def act(sql: sqlite3.Connection) -> bool:
            if _is_known(sql, operation):
                return False
            kept = operation
            hold = offline.find(sql, operation.quota, operation.hold_id)
            if hold is not None:
                if not offline.close(sql, hold, operation):
                    return False
                kept = replace(operation, is_offline=True, is_known=True)
            insert_operation(sql, kept)
            return True

        return self._file.write(act)

    def debit(self, operation: SpooledOperation, *, allowance: int) -> bool:
        """Admit a debit and keep it; return False if it was there. Raises ``RedisAwayError``."""

        def act(sql: sqlite3.Connection) -> bool:
            if _is_known(sql, operation):
                return False
            now_ms = operation.noted_ms
            offline.admit(sql, operation.quota, operation.amount, allowance, now_ms)
            insert_operation(sql, operation)
            return True

        return self._file.write(act)

    def place(self, command: PlaceHold, *, allowance: int, now_ms: int) -> PlacedHold:
        """Admit a hold within the allowance, once per id. Raises ``RedisAwayError``."""
        print_ = fingerprint("place_hold", command.amount, command.ttl_ms, command.details)
        sums = (command.amount, command.amount, now_ms + command.ttl_ms)
        asked = OfflineHold(command.quota, command.hold_id, *sums, offline.OPEN, print_)

        def act(sql: sqlite3.Connection) -> tuple[OfflineHold, bool]:
            offline.forget_old(sql, now_ms)
            return offline.place(sql, asked, allowance=allowance, now_ms=now_ms)

        hold, is_replayed = self._file.write(act)
        return PlacedHold(
            hold_id=hold.hold_id,
            account=hold.quota.account,
            quota_type=hold.quota.quota_type,
            amount=hold.placed_amount,
            expires_at=from_ms(hold.expires_ms),
            balance=None,
            version=0,
            replayed=is_replayed,
            offline=True,
            shares=command.shares,
        )

    def extend(self, command: ExtendHold, *, allowance: int, now_ms: int) -> ExtendedHold | None:
        """Extend a hold that was admitted here; None when it was not."""

        def act(sql: sqlite3.Connection) -> tuple[int, int] | None:
            hold = offline.find(sql, command.quota, command.hold_id)
            if hold is None:
                return None
            return offline.extend(
                sql,
                hold,
                amount=command.amount,
                expires_ms=now_ms + command.ttl_ms if command.ttl_ms else 0,
                allowance=allowance,
                now_ms=now_ms,
            )

        found = self._file.write(act)
        if found is None:
            return None
        return ExtendedHold(
            hold_id=command.hold_id,
            account=command.quota.account,
            quota_type=command.quota.quota_type,
            amount=found[0],
            expires_at=from_ms(found[1]),
            offline=True,
            shares=command.shares,
        )

    def has_hold(self, quota: QuotaName, hold_id: str) -> bool:
        """Whether a hold was admitted here while Redis was away."""
        if not self.exists():
            return False
        return self._file.write(lambda sql: offline.find(sql, quota, hold_id)) is not None

    # -- when it is back

    def claim(self, now_ms: int, limit: int = CLAIM_MAX) -> list[Claimed]:
        """Take operations to replay, oldest first; nobody else gets them for a minute."""
        owner = f"{os.getpid()}-{secrets.token_hex(4)}"

        def act(sql: sqlite3.Connection) -> list[Claimed]:
            # A claim from far ahead is of a clock that was set back since.
            rows = sql.execute(
                f"SELECT id, checksum, {OPERATION} FROM operations WHERE state = 'waiting'"
                " AND claimed_until_ms NOT BETWEEN ? AND ? ORDER BY id LIMIT ?",
                (now_ms + 1, now_ms + CLAIM_MS, limit),
            ).fetchall()
            claimed = []
            for row_id, checksum, *values in rows:
                if is_sound(values, checksum):
                    claimed.append(Claimed(row_id, operation_from(values)))
                else:
                    _refuse(sql, row_id, DAMAGED)
            sql.executemany(
                "UPDATE operations SET claimed_until_ms = ?, claimed_by = ? WHERE id = ?",
                [(now_ms + CLAIM_MS, owner, one.row_id) for one in claimed],
            )
            return claimed

        return self._file.write(act) if self.exists() else []

    def settle(
        self,
        *,
        done: Sequence[Claimed] = (),
        refused: Mapping[int, str] | None = None,
        failed: Mapping[int, str] | None = None,
        put_back: Iterable[int] = (),
        now_ms: int,
    ) -> None:
        """
        Say what came of claimed operations, by row id.

        Those that failed wait on, with the error; those put back may be claimed again at once.
        """

        def act(sql: sqlite3.Connection) -> None:
            sql.executemany("DELETE FROM operations WHERE id = ?", [(one.row_id,) for one in done])
            sql.execute(
                "UPDATE about SET value = CAST(value AS INTEGER) + ? WHERE name = 'replayed'",
                (len(done),),
            )
            for row_id, reason in (refused or {}).items():
                _refuse(sql, row_id, reason)
            for row_id, error in (failed or {}).items():
                sql.execute(
                    "UPDATE operations SET attempts = attempts + 1, tried_ms = ?, last_error = ?"
                    " WHERE id = ?",
                    (now_ms, error, row_id),
                )
            sql.executemany(
                "UPDATE operations SET claimed_until_ms = 0, claimed_by = NULL WHERE id = ?",
                [(row_id,) for row_id in put_back],
            )
            offline.forget_old(sql, now_ms)

        self._file.write(act)

    def retry_refused(self) -> int:
        """Let refused operations wait again, as somebody has asked; return how many."""
        return self._change_state("refused", "waiting", "1")

    def drop(self, operation_id: str) -> int:
        """Never replay these operations; they stay in the file as dropped. Return how many."""
        return self._change_state("refused", "dropped", "operation_id = ?", operation_id)

    def _change_state(self, old: str, new: str, condition: str, *values: str) -> int:
        if not self.exists():
            return 0
        query = f"UPDATE operations SET state = ? WHERE state = ? AND {condition}"
        return self._file.write(lambda sql: sql.execute(query, (new, old, *values)).rowcount)

    # -- for who looks

    def waiting(self) -> int:
        """Return how many operations wait to be replayed."""
        if not self.exists():
            return 0
        return self._file.write(lambda sql: _count(sql, "operations WHERE state = 'waiting'"))

    def status(self, now_ms: int) -> SpoolStatus:
        """Return what the file holds."""
        return _status(self._file, now_ms)

    def rows(self, limit: int = 1_000) -> list[SpooledRow]:
        """Return the operations in the file, oldest first."""
        if not self.exists():
            return []
        query = (
            f"SELECT state, attempts, last_error, {OPERATION} FROM operations ORDER BY id LIMIT ?"
        )
        found = self._file.write(lambda sql: sql.execute(query, (limit,)).fetchall())
        return [_row(row) for row in found]


def spools_in(folder: Path) -> Iterator[Spool]:
    """Yield the spools of a folder, by their files' names."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if BROKEN not in path.name:
            yield Spool(folder, path.name.removesuffix(SUFFIX))


def _is_known(sql: sqlite3.Connection, operation: SpooledOperation) -> bool:
    row = sql.execute(
        "SELECT fingerprint FROM operations"
        " WHERE account = ? AND quota_type = ? AND operation_id = ?",
        (operation.account, operation.quota_type, operation.operation_id),
    ).fetchone()
    if row is not None and row[0] != operation.fingerprint:
        raise IdempotencyConflictError(
            f"operation id {operation.operation_id} was used before with other arguments"
        )
    return row is not None


def _refuse(sql: sqlite3.Connection, row_id: int, reason: str) -> None:
    sql.execute(
        "UPDATE operations SET state = 'refused', attempts = attempts + 1, last_error = ?,"
        " claimed_until_ms = 0 WHERE id = ?",
        (reason, row_id),
    )


def _count(sql: sqlite3.Connection, table: str) -> int:
    count: int = sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return count


def _row(columns: Sequence[Any]) -> SpooledRow:
    state, attempts, last_error, *values = columns
    operation = operation_from(values)
    return SpooledRow(
        state=state,
        account=operation.account,
        quota_type=operation.quota_type,
        kind=operation.kind,
        operation_id=operation.operation_id,
        amount=operation.amount,
        noted_at=from_ms(operation.noted_ms),
        is_offline=operation.is_offline,
        attempts=attempts,
        last_error=last_error,
    )


def _status(file: SpoolFile, now_ms: int) -> SpoolStatus:
    def act(sql: sqlite3.Connection) -> dict[str, object]:
        oldest, error = sql.execute(
            "SELECT min(noted_ms), max(last_error) FROM operations WHERE state = 'waiting'"
        ).fetchone()
        replayed = sql.execute("SELECT value FROM about WHERE name = 'replayed'").fetchone()[0]
        is_open = f"holds WHERE state = 'open' AND expires_ms > {now_ms:d}"
        return {
            "waiting": _count(sql, "operations WHERE state = 'waiting'"),
            "refused": _count(sql, "operations WHERE state = 'refused'"),
            "replayed": int(replayed),
            "oldest_at": None if oldest is None else from_ms(oldest),
            "offline_holds": _count(sql, is_open),
            "last_error": error,
        }

    deployment = file.path.name.removesuffix(SUFFIX)
    nothing: dict[str, object] = {"waiting": 0, "refused": 0, "replayed": 0, "oldest_at": None}
    nothing |= {"offline_holds": 0, "last_error": None}
    facts = file.write(act) if file.exists() else nothing
    broken = tuple(file.broken())
    return SpoolStatus(path=file.path, deployment=deployment, broken=broken, **facts)  # type: ignore[arg-type]


__all__ = ["Claimed", "Spool", "SpoolError", "SpoolStatus", "SpooledRow", "spools_in"]
