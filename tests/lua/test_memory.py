"""When memory is full, what is new is refused whole, and what has been used still passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lua.scenes import WRITING, Scene
from tests.shards import WRITING_ROWS

PASSES = (
    *("capture_hold", "release_hold", "catch_up", "record_usage", "record_repair", "debit_used"),
    "cancel_operation",
)


@pytest.fixture
def full(scene: Scene) -> Iterator[Scene]:
    """A shard whose server has no memory left."""
    scene.funded()
    used: Any = scene.client.info("memory")
    scene.client.config_set("maxmemory", used["used_memory"] // 2)
    yield scene
    scene.client.config_set("maxmemory", 0)


@pytest.mark.parametrize("script", sorted(WRITING))
def test_only_what_was_used_passes_when_memory_is_full(full: Scene, script: str) -> None:
    row = full.run(script)[0]
    assert row in WRITING_ROWS if script in PASSES else row == "OOM"


def test_what_was_refused_succeeds_when_there_is_memory_again(full: Scene) -> None:
    assert full.place("i", 5) == ["OOM"]
    full.client.config_set("maxmemory", 0)
    assert full.place("i", 5)[0] == "PLACED"
