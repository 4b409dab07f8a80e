"""A server that tests may kill, a deployment on it; and the engine in both flavours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from quota_engine.embedded import ValkeyServer
from quota_engine.spool import Spool
from tests.deployments import Deployment
from tests.engines import Engines, TestClock
from tests.servers import TestServers
from tests.spools import Away


@pytest.fixture(scope="session")
def own_server(servers: TestServers) -> ValkeyServer:
    """A server that tests kill and start again."""
    return servers.valkey()


@pytest.fixture
def server(own_server: ValkeyServer) -> ValkeyServer:
    """That server, running, emptied, and with its usual settings."""
    own_server.start()
    with redis.Redis.from_url(own_server.url) as client:
        client.flushall()
        client.script_flush()
        client.config_set("maxmemory-policy", "noeviction")
    return own_server


@pytest.fixture
def deployment(server: ValkeyServer, database_url: str) -> Iterator[Deployment]:
    """A deployment on a server that may be killed, not opened yet."""
    with Deployment(server.url, database_url) as made:
        yield made


@pytest.fixture(params=["sync", "async"])
async def call(
    request: pytest.FixtureRequest, redis_url: str, database_url: str
) -> AsyncIterator[Engines]:
    """Call a method of an engine by name. Each test runs once per engine."""
    engines = Engines(request.param)
    await engines.open(redis_url, database_url)
    yield engines
    await engines.close()


@pytest.fixture
def clock() -> TestClock:
    """The clock of ``timed``."""
    return TestClock()


@pytest.fixture(params=["sync", "async"])
async def timed(
    request: pytest.FixtureRequest, redis_url: str, database_url: str, clock: TestClock
) -> AsyncIterator[Engines]:
    """The same, with the test's own clock."""
    engines = Engines(request.param)
    await engines.open(redis_url, database_url, clock=clock)
    yield engines
    await engines.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool that nothing was noted in yet."""
    return Spool(tmp_path / "spools", "deployment_1")


@pytest.fixture(params=["sync", "async"])
def away(
    request: pytest.FixtureRequest, server: ValkeyServer, database_url: str, tmp_path: Path
) -> Away:
    """A deployment whose Redis goes away, and comes back."""
    return Away(request.param, server, database_url, tmp_path / "spools")
