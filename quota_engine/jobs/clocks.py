"""
Do the clocks of the two stores agree? Grants and holds begin and end by the server's.

When it is more than a minute from PostgreSQL's, one of them is wrong, and nobody knows which: then
nothing is swept, until somebody has set it right.
"""

from __future__ import annotations

import redis
from sqlalchemy import text

from quota_engine.errors import EngineUnavailableError
from quota_engine.ledger.ledger import Ledger

DIFFERENCE_MAX_MS = 60_000

_NOW_MS = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)")


def server_now_ms(client: redis.Redis) -> int:
    """Return the server's clock, in milliseconds."""
    try:
        seconds, microseconds = client.time()
    except redis.RedisError as error:
        raise EngineUnavailableError(f"Redis does not answer: {error}") from error
    return seconds * 1000 + microseconds // 1000


def difference_ms(client: redis.Redis, ledger: Ledger) -> int:
    """Return by how much the server's clock is ahead of PostgreSQL's, in milliseconds."""
    with ledger.transaction() as sql:
        before = server_now_ms(client)
        recorded: int = sql.execute(_NOW_MS).scalar_one()
        after = server_now_ms(client)
    return (before + after) // 2 - recorded


def alarm(difference: int) -> str:
    """Return what such a difference, in milliseconds, says; empty when the clocks agree."""
    if abs(difference) <= DIFFERENCE_MAX_MS:
        return ""
    return (
        f"the clock of Redis is {difference / 1000:+.0f} s from PostgreSQL's; set it right: until"
        " then nothing is swept, and no promised grant is issued"
    )
