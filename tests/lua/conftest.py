"""A shard for each test, and a look at whether the test met the rows that it says it meets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lua.scenes import Scene
from tests.shards import rows_met


@pytest.fixture
def scene(redis_url: str) -> Iterator[Scene]:
    """A shard on Valkey, opened by hand."""
    made = Scene(redis_url)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _rows_are_met(request: pytest.FixtureRequest) -> Iterator[None]:
    before = rows_met.copy()
    yield
    said = getattr(request.function, "rows", set())
    if not hasattr(request.node, "callspec"):
        assert {row for row in said if rows_met[row] == before[row]} == set()
