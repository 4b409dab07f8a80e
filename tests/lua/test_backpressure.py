"""When too much waits to be persisted, what is new is refused whole, and what was used passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from quota_engine.commands import ExtendHold
from quota_engine.commands.outbox import NotePersisted, TrimOutbox
from quota_engine.events import EventId
from tests.lua.scenes import NAME, WRITING, Scene, meets
from tests.shards import EPOCH, WRITING_ROWS

REFUSED = (
    *("place_hold", "extend_hold", "debit", "issue_grant", "set_overdraft_limit"),
    *("set_limit", "transfer_out", "transfer_quota"),
)


@pytest.fixture
def scene(any_redis_url: str) -> Iterator[Scene]:
    """A shard on the newest Valkey, and on the oldest Redis; a quota with two entries."""
    made = Scene(any_redis_url)
    made.funded()
    yield made
    made.close()


@pytest.mark.parametrize("script", sorted(WRITING))
def test_only_what_is_new_is_refused(scene: Scene, script: str) -> None:
    assert scene.client.xlen(scene.keys.outbox) == 3, "a marker and two entries"
    row = scene.run(script, outbox_max=3)[0]
    assert row == "BACKPRESSURE" if script in REFUSED else row in WRITING_ROWS


test_only_what_is_new_is_refused.rows = {  # type: ignore[attr-defined]
    (script, "BACKPRESSURE") for script in REFUSED
}


@pytest.mark.parametrize("script", REFUSED)
def test_below_the_limit_nothing_is_refused(scene: Scene, script: str) -> None:
    assert scene.run(script, outbox_max=4)[0] in WRITING_ROWS


def test_the_refusal_says_how_much_waits_where(scene: Scene) -> None:
    command: Any = WRITING["place_hold"]
    spec = scene.scripts["place_hold"]
    argv = [EPOCH, str(NAME), "", 900_000, 32, "new", "print", 5, 1000, "", 3, "", 0, ""]
    refused = scene.evalsha("place_hold", command.keys(scene.keys), argv)
    assert len(argv) == len(spec.argv)
    assert str(refused) == "BACKPRESSURE 3 3 {qe:07}:outbox"


def test_a_repeat_and_a_renewal_are_not_new(scene: Scene) -> None:
    answer = scene.debit("d", 5)
    again = WRITING["debit"]
    assert scene.run("debit")[0] == "DEBITED"
    assert scene.call(again, outbox_max=1)[0] == "REPLAYED"
    renewal = ExtendHold(quota=NAME, hold_id="h", operation_id="r", ttl_ms=90_000)
    assert scene.call(renewal, outbox_max=1)[0] == "EXTENDED"
    assert answer[0] == "DEBITED"


@meets("note_persisted", "NOTED", "FENCED")
def test_what_is_persisted_does_not_press(scene: Scene) -> None:
    note = NotePersisted(cursor=EventId(EPOCH, 1))
    assert scene.call(note, epoch=EPOCH - 1) == ["FENCED"]
    assert scene.call(note) == ["NOTED", "2"], "the marker and an entry"
    assert scene.run("place_hold", outbox_max=1) == ["BACKPRESSURE"]
    assert scene.run("place_hold", outbox_max=2)[0] == "PLACED"
    scene.client.delete(scene.keys.outbox)
    assert scene.call(note) == ["FENCED"]


def test_what_is_trimmed_is_not_counted_as_kept(scene: Scene) -> None:
    scene.call(NotePersisted(cursor=EventId(EPOCH, 1)))
    assert scene.call(TrimOutbox(min_id=EventId(EPOCH, 2))) == ["TRIMMED", "2"]
    assert scene.hash_of(scene.keys.versions)["@persisted"] == "0"
    assert scene.run("place_hold", outbox_max=1) == ["BACKPRESSURE"]
    assert scene.run("place_hold", outbox_max=2)[0] == "PLACED"


def test_the_noted_cursor_only_rises(scene: Scene) -> None:
    scene.call(NotePersisted(cursor=EventId(EPOCH, 2)))
    assert scene.call(NotePersisted(cursor=EventId(EPOCH, 1))) == ["NOTED", "2"]
    noted = scene.hash_of(scene.keys.versions)
    assert (noted["@cursor"], noted["@persisted"]) == (f"{EPOCH}-2", "2")


def test_persisted_entries_of_earlier_epochs_are_counted(scene: Scene) -> None:
    scene.client.xadd(scene.keys.outbox, {"marker": "{}"}, id=f"{EPOCH + 1}-0")
    scene.client.hset(scene.keys.versions, "@epoch", EPOCH + 1)
    note = NotePersisted(cursor=EventId(EPOCH + 1, 0))
    assert scene.call(note, epoch=EPOCH + 1) == ["NOTED", "4"]
