"""Locks of PostgreSQL that have names: for what has no row of its own to lock yet."""

from __future__ import annotations

from sqlalchemy import Connection, text

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


def lock_named(connection: Connection, name: str) -> None:
    """
    Wait for a name, and keep it until the transaction ends.

    Two names may share a lock by chance, which only makes one wait. Who takes several takes them
    in sorted order.
    """
    connection.execute(_LOCK, {"name": name})
