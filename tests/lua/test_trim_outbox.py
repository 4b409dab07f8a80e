"""trim_outbox: the oldest events go, of this epoch only."""

from __future__ import annotations

from typing import Any

from quota_engine.commands.outbox import TrimOutbox
from quota_engine.events import EventId
from quota_engine.keys import ShardKeys
from tests.lua.scenes import Scene, meets
from tests.shards import EPOCH


def ids(scene: Scene) -> list[str]:
    events: Any = scene.client.xrange(ShardKeys(7).outbox)
    return [event_id for event_id, _ in events]


@meets("trim_outbox", "TRIMMED", "FENCED")
def test_what_is_older_goes_and_ids_go_on(scene: Scene) -> None:
    scene.funded()
    trim = TrimOutbox(min_id=EventId(EPOCH, 2))
    assert scene.call(trim, epoch=EPOCH - 1) == ["FENCED"]
    assert scene.call(trim) == ["TRIMMED", "2"]
    assert ids(scene) == [f"{EPOCH}-2"]
    assert scene.call(TrimOutbox(min_id=EventId(EPOCH, 99))) == ["TRIMMED", "1"]
    scene.debit("d", 1)
    assert ids(scene) == [f"{EPOCH}-3"], "an emptied outbox still knows where it was"
