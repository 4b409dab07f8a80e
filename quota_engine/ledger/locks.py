"""
Locks of PostgreSQL that many processes wait for, and how long one that vanished may keep them.

A client that is stopped, or whose machine is gone without a word, never ends its transaction: the
server would keep its locks for as long as TCP believes in it, hours by default. So whoever takes
one of these lets the server end a transaction that stands idle.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

#: A transaction that does nothing for so long is ended by the server, and its locks with it.
IDLE_TIMEOUT_MS = 30_000

_BOUNDS = text("""
SELECT set_config('idle_in_transaction_session_timeout', :idle, true),
    set_config('lock_timeout', :wait, true)
""")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


def bound(
    connection: Connection, *, wait_ms: int | None = None, idle_ms: int | None = None
) -> None:
    """
    Bound this transaction: how long it may stand idle, and wait for each lock (None: forever).

    A wait that is over raises ``sqlalchemy.exc.OperationalError`` (LockNotAvailable).
    """
    idle = IDLE_TIMEOUT_MS if idle_ms is None else idle_ms
    connection.execute(_BOUNDS, {"idle": f"{idle}ms", "wait": f"{wait_ms or 0}ms"})


def lock_named(connection: Connection, name: str) -> None:
    """
    Wait for a name, and keep it until the transaction ends.

    For what has no row of its own to lock. Two names may share a lock by chance, which only makes
    one wait. Who takes several takes them in sorted order.
    """
    bound(connection)
    connection.execute(_LOCK, {"name": name})
