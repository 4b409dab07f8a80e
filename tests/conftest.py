"""
Fixtures, from the cheapest to the dearest. A test that asks for none of them does no I/O.

Every test process has its own Valkey and PostgreSQL, started when a test first asks. Each test
gets an emptied Redis and a database of its own, so none shares state with another.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from quota_engine.embedded import PostgresServer, ValkeyServer, stop_servers
from tests.commands import Cli
from tests.databases import Databases
from tests.servers import TestServers, administer, end_forgotten_servers, redis7_program

REDIS7_MISSING = "no Redis 7.0: run tools/debian_parts.py, or set QUOTA_ENGINE_TEST_REDIS7"
TEMPLATE = "template_engine"
# How long an example takes says how busy the machine is.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
_bare_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio only: the drivers know no other."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests off the developer's own servers and settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("QUOTA_ENGINE_")]:
            if not name.startswith("QUOTA_ENGINE_TEST_"):
                patch.delenv(name)
        patch.setenv("QUOTA_ENGINE_HOME", "/nonexistent/quota-engine-test-without-a-home")
        patch.setenv("QUOTA_ENGINE_SPOOL_FOLDER", str(tmp_path_factory.mktemp("spools")))
        yield


@pytest.fixture(scope="session")
def servers() -> Iterator[TestServers]:
    """Starts private servers, ``.valkey()`` and ``.postgres()``, and ends them all."""
    end_forgotten_servers()
    started = TestServers()
    yield started
    started.end()


@pytest.fixture(scope="session")
def valkey_server(servers: TestServers) -> ValkeyServer:
    """The Valkey that most tests share."""
    return servers.valkey(settings={"enable-debug-command": "local"})


@pytest.fixture(scope="session")
def redis7_server(servers: TestServers) -> ValkeyServer:
    """Debian's Redis 7.0, the oldest server that is supported."""
    program = redis7_program()
    if program is None:
        pytest.skip(REDIS7_MISSING)
    return servers.valkey(binary=program, settings={"enable-debug-command": "local"})


@pytest.fixture(scope="session")
def postgres_server(servers: TestServers) -> PostgresServer:
    """The PostgreSQL that most tests share."""
    return servers.postgres()


def _emptied(server: ValkeyServer) -> str:
    """Return the server's URL, without data or scripts; a test may have killed it."""
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.script_flush()
    return server.url


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> str:
    """An empty Valkey."""
    return _emptied(valkey_server)


@pytest.fixture
def redis7_url(redis7_server: ValkeyServer) -> str:
    """An empty Redis 7.0; the test is skipped where there is none."""
    return _emptied(redis7_server)


@pytest.fixture(params=["valkey", "redis7"])
def any_redis_url(request: pytest.FixtureRequest) -> str:
    """An empty server: the test runs on the newest Valkey and on the oldest Redis."""
    url: str = request.getfixturevalue("redis_url" if request.param == "valkey" else "redis7_url")
    return url


@pytest.fixture(scope="session")
def _databases(postgres_server: PostgresServer) -> Databases:
    """Databases at the newest schema."""
    from quota_engine.ledger.migrate import upgrade

    administer(postgres_server, f"CREATE DATABASE {TEMPLATE}")
    upgrade(postgres_server.url_of(TEMPLATE))
    return Databases(postgres_server, TEMPLATE)


@pytest.fixture
def database_url(postgres_server: PostgresServer, _databases: Databases) -> Iterator[str]:
    """An empty PostgreSQL database at the newest schema, which nobody else has meanwhile."""
    name = _databases.lend()
    yield postgres_server.url_of(name)
    _databases.take_back(name)


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database of the test's own, with nothing in it."""
    name = f"bare_{next(_bare_numbers)}"
    administer(postgres_server.start(), f"CREATE DATABASE {name} TEMPLATE template0")
    yield postgres_server.url_of(name)
    administer(postgres_server.start(), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def home(servers: TestServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A QUOTA_ENGINE_HOME of the test's own; servers started in it end with the test."""
    folder = servers.folder_named("home")
    monkeypatch.setenv("QUOTA_ENGINE_HOME", str(folder))
    yield folder
    stop_servers(folder)


@pytest.fixture
def cli(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """The command line, aimed at a deployment of the test's own."""
    made = Cli(monkeypatch, capsys)
    made.aim(redis_url, database_url)
    return made
