"""A server that tests may kill, and a deployment on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from quota_engine.embedded import ValkeyServer
from tests.deployments import Deployment
from tests.servers import TestServers


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
