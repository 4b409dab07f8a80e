"""Spools for tests: operations to note, and a deployment whose Redis goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from quota_engine.commands import PlaceHold
from quota_engine.embedded import ValkeyServer
from quota_engine.keys import QuotaName
from quota_engine.spool import Spool
from quota_engine.spooled import SpooledOperation
from tests.engines import Engines

QUOTA = QuotaName("user:1", "text_token")
NOW = 1_767_268_800_000
MINUTE = 60_000


def capture(number: int, amount: int = 7, **facts: Any) -> SpooledOperation:
    return SpooledOperation(
        kind="capture_hold",
        account=QUOTA.account,
        quota_type=QUOTA.quota_type,
        operation_id=f"hold-{number}:capture",
        hold_id=f"hold-{number}",
        amount=amount,
        noted_ms=NOW + number,
        details='{"usage":{"input_tokens":3}}',
        **facts,
    )


def debit(number: int, amount: int) -> SpooledOperation:
    return SpooledOperation(
        kind="debit",
        account=QUOTA.account,
        quota_type=QUOTA.quota_type,
        operation_id=f"debit-{number}",
        amount=amount,
        noted_ms=NOW,
        is_offline=True,
    )


def place(number: int, amount: int, ttl_ms: int = MINUTE) -> PlaceHold:
    return PlaceHold(quota=QUOTA, hold_id=f"hold-{number}", amount=amount, ttl_ms=ttl_ms)


ACCOUNT, TYPE = "user:1", "text_token"
GRANTED = 1_000
#: A call waits so long for a server that does not answer.
PATIENCE: dict[str, Any] = {
    "call_timeout_seconds": 2.5,
    "socket_timeout_seconds": 0.5,
    "connect_timeout_seconds": 0.5,
    "shards": 2,
}
OPEN: dict[str, Any] = {"offline_policy": "open", "offline_allowance": 100}


class Away:
    """A deployment whose Redis goes away and comes back, and the engines that use it."""

    def __init__(
        self, flavour: str, server: ValkeyServer, database_url: str, folder: Path
    ) -> None:
        self.flavour = flavour
        self.server = server
        self.database_url = database_url
        self.folder = folder

    @asynccontextmanager
    async def engine(self, **settings: Any) -> AsyncIterator[Engines]:
        """Yield an engine of this machine: all of them share the spool."""
        call = Engines(self.flavour)
        given = {**PATIENCE, "spool_folder": str(self.folder), **settings}
        await call.open(self.server.url, self.database_url, **given)
        try:
            yield call
        finally:
            await call.close()

    async def funded(self, call: Engines, amount: int = GRANTED) -> None:
        await call("issue_grant", ACCOUNT, TYPE, amount)


async def until(is_true: Callable[[], bool], what: str) -> None:
    for _ in range(600):
        if await asyncio.to_thread(is_true):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(what)


async def replayed_by_itself(call: Engines) -> None:
    await until(lambda: call.engine.spool.waiting() == 0, "the spool is replayed")


async def entries(call: Engines, *kinds: str, account: str = ACCOUNT) -> list[Any]:
    return [
        one
        for one in await call("history", account, TYPE)
        if one.kind in (kinds or ("hold.captured", "quota.debited", "usage.recorded"))
    ]


async def proven(call: Engines) -> None:
    """Persist all, and check that both stores agree."""
    await call("drain")
    assert (await call("reconcile")).drifts == ()


def claimed(spool: Spool, now_ms: int = NOW) -> list[SpooledOperation]:
    return [one.operation for one in spool.claim(now_ms)]
