"""Redis ends and comes back with all it had: nobody loses anything, and no repeat counts twice."""

from __future__ import annotations

import pytest

from tests.faults.world import World

pytestmark = pytest.mark.fault


@pytest.mark.row(
    1,
    injection="kill -9 of Redis under load, started again on its files",
    outcome="one new epoch, nothing answered is lost",
)
def test_a_killed_redis_loses_nothing(world: World) -> None:
    with world.writing() as writers:
        writers.wait_for(150)
        world.drain()
        writers.wait_for(100)
        before = world.epochs()
        with world.fault():
            world.restart()
        writers.wait_for(100)
    world.check(writers=[writers])
    assert world.epochs() == [epoch + 1 for epoch in before]
