"""
An empty provider pool stops the calls that ask for it, and nothing else stops a call.

Goal: a refused call was neither held nor made; what is not known refuses nobody; pools are not
read for each call. Method: both engines, decorated functions and blocks; PostgreSQL taken away.
"""

from __future__ import annotations

import inspect
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import make_url

from quota_engine import InvalidArgumentError, PoolEmptyError, QuotaEngine, Usage
from quota_engine.embedded import PostgresServer
from quota_engine.embedded.postgres import USER
from tests.engines import Engines
from tests.metered import ACCOUNT, ANSWER, ESTIMATE, fund
from tests.proxy import Proxy

pytestmark = pytest.mark.anyio


async def pools(call: Engines, method: str, *args: Any, **told: Any) -> Any:
    result = getattr(call.engine.pools, method)(*args, **told)
    return await result if inspect.isawaitable(result) else result


PLAN = {"estimate": ESTIMATE, "provider": "OpenAI", "model": "gpt-x"}


async def test_an_empty_pool_stops_calls_where_it_is_enforced(call: Engines) -> None:
    await fund(call)
    made: list[str] = []

    @call.engine.requires_quota("text_token", pool="enforce", **PLAN)
    async def enforced(account: str) -> Any:
        made.append("enforced")
        return ANSWER

    @call.engine.requires_quota("text_token", **PLAN)
    async def ignored(account: str) -> Any:
        made.append("ignored")
        return ANSWER

    await enforced(ACCOUNT)
    assert made.pop() == "enforced", "an unknown pool never blocks"
    await pools(call, "define", "openai", currency="CNY")
    with pytest.raises(PoolEmptyError) as refused:
        await enforced(ACCOUNT)
    error = refused.value
    assert (error.provider, error.currency, error.available) == ("openai", "CNY", 0)
    again = pickle.loads(pickle.dumps(error))
    assert (again.available, str(again)) == (error.available, str(error))
    await ignored(ACCOUNT)
    assert made == ["ignored"]
    await check_currencies(call, enforced)
    balance = await call("read_balance", ACCOUNT, "text_token")
    assert balance.held == 0, "what was not made holds nothing"
    with pytest.raises(InvalidArgumentError, match="pool must be"):
        call.engine.requires_quota("text_token", pool="maybe", **PLAN)


async def check_currencies(call: Engines, enforced: Any) -> None:
    """Of a call whose price is known, the pool of its currency decides."""
    await pools(call, "define", "openai", currency="USD")
    await pools(call, "recharge", "openai", 1, currency="USD")
    await enforced(ACCOUNT)
    prices = call.engine.prices
    for kind in ("input_token", "output_token"):
        result = prices.set("openai", "gpt-x", kind, "2", currency="CNY")
        if inspect.isawaitable(result):
            await result
    with pytest.raises(PoolEmptyError):
        await enforced(ACCOUNT)
    await pools(call, "recharge", "openai", "0.000001", currency="CNY")
    await enforced(ACCOUNT)
    await call("drain")
    call.engine.pools.forget()
    with pytest.raises(PoolEmptyError, match="has -"):
        await enforced(ACCOUNT)


def test_a_block_is_refused_too_and_pools_are_read_every_few_seconds_only(
    redis_url: str, database_url: str
) -> None:
    plan = {"pool": "enforce", "provider": "openai", "model": "m", "estimate": 5}
    with (
        QuotaEngine.open(redis_url, database_url) as engine,
        QuotaEngine.open(redis_url, database_url, pool_refresh_seconds=3_600) as other,
    ):
        engine.issue_grant("user:1", "text_token", 10_000)
        reads: list[int] = []
        store = other.deployment.statement_store.pools
        read = store.standings

        def counted() -> Any:
            reads.append(1)
            return read()

        store.standings = counted  # type: ignore[method-assign]
        for _ in range(3):
            with other.meter("user:1", "text_token", **plan) as block:
                block.use(Usage(input_tokens=1))
        assert len(reads) == 1
        engine.pools.define("openai", currency="USD")
        with other.meter("user:1", "text_token", **plan) as block:
            block.use(Usage(input_tokens=1))
        assert len(reads) == 1, "it goes by what it read"
        other.pools.forget()
        with pytest.raises(PoolEmptyError), other.meter("user:1", "text_token", **plan):
            raise AssertionError("the call must not be made")
        assert len(reads) == 2


def test_while_one_reads_again_the_others_go_by_what_was_read(
    redis_url: str, database_url: str
) -> None:
    started, go, reads = threading.Event(), threading.Event(), 0
    with QuotaEngine.open(redis_url, database_url, pool_refresh_seconds=0) as engine:
        engine.pools.define("openai", currency="USD")
        store = engine.deployment.statement_store.pools
        read = store.standings

        def slow() -> Any:
            nonlocal reads
            reads += 1
            started.set()
            go.wait(20)
            return read()

        def check() -> None:
            with pytest.raises(PoolEmptyError):
                engine.pools.check("OpenAI")

        check()
        store.standings = slow  # type: ignore[method-assign]
        thread = threading.Thread(target=check)
        thread.start()
        assert started.wait(20)
        check()
        assert reads == 1
        go.set()
        thread.join(30)
        check()
        assert reads == 2


@contextmanager
def before(server: PostgresServer, database_url: str) -> Iterator[tuple[Proxy, str]]:
    proxy = Proxy(str(server.socket))
    name = make_url(database_url).database
    try:
        yield proxy, f"postgresql+psycopg://{USER}@127.0.0.1:{proxy.port}/{name}"
    finally:
        proxy.close()


def test_while_postgresql_is_away_no_pool_blocks(
    redis_url: str, database_url: str, postgres_server: PostgresServer
) -> None:
    plan = {"pool": "enforce", "provider": "openai", "estimate": 5}
    with (
        before(postgres_server, database_url) as (proxy, url),
        QuotaEngine.open(redis_url, url, pool_refresh_seconds=0) as engine,
    ):
        engine.issue_grant("user:1", "text_token", 10_000)
        engine.pools.define("openai", currency="USD")
        with pytest.raises(PoolEmptyError), engine.meter("user:1", "text_token", **plan):
            raise AssertionError("the call must not be made")
        proxy.refuses = True
        proxy.cut()
        for _ in range(2):
            with engine.meter("user:1", "text_token", **plan) as block:
                block.use(Usage(input_tokens=1))
