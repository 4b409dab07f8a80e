"""Worlds for the fault matrix: see ``tests/faults/world.py``. Every test here is a ``fault``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from quota_engine.embedded import PostgresServer, ValkeyServer
from tests.faults.world import World
from tests.servers import TestServers

MakeWorld = Callable[..., World]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything of this folder."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.fault)


@pytest.fixture
def make_world(servers: TestServers, database_url: str) -> Iterator[MakeWorld]:
    """
    Makes a world on a server of its own, which ends with the test.

    ``appendfsync``, ``settings``, ``binary`` and ``port`` (0: a free one) are the server's;
    ``url_of``, given the server, returns what clients use instead of its URL (a proxy's);
    other keywords are the engines' settings.
    """
    with ExitStack() as stack:

        def make(
            *,
            appendfsync: str = "everysec",
            settings: Mapping[str, str] | None = None,
            binary: Path | None = None,
            port: int | None = None,
            url_of: Callable[[ValkeyServer], str] | None = None,
            database: str = database_url,
            **engine_settings: Any,
        ) -> World:
            server = servers.valkey(
                binary=binary, port=port, appendfsync=appendfsync, settings=settings
            )
            stack.callback(server.kill)
            url = url_of(server) if url_of is not None else None
            return stack.enter_context(World(server, database, url=url, **engine_settings))

        yield make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A world whose server syncs every second."""
    return make_world()


@pytest.fixture
def postgres(servers: TestServers) -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own with the tables; what it has committed survives its death."""
    from quota_engine.ledger.migrate import upgrade

    server = servers.postgres(settings={"synchronous_commit": "on"})
    upgrade(server.url)
    yield server
    server.kill()
