"""What holds for every script that changes a quota: fences, repeats, refusals, foreign keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from quota_engine.commands import Command
from tests.lua.scenes import NAME, NEED_SOUND_LOG, REPEATABLE, WRITING, Scene
from tests.shards import EPOCH, NOON_MS, WRITING_ROWS

every_script = pytest.mark.parametrize("script", sorted(WRITING))
repeatable = pytest.mark.parametrize("script", REPEATABLE)
MOST = 2**53 - 1
#: Those whose operation is the same whatever else they say.
UNALTERABLE = {"release_hold", "cancel_operation"}
#: What PEXPIRETIME says of a key that stays.
NO_END = -1


@pytest.fixture
def scene(any_redis_url: str) -> Iterator[Scene]:
    """A shard on the newest Valkey, and on the oldest Redis."""
    made = Scene(any_redis_url)
    yield made
    made.close()


@every_script
def test_an_older_epoch_is_fenced(scene: Scene, script: str) -> None:
    scene.funded()
    assert scene.run(script, epoch=EPOCH - 1) == ["FENCED"]
    assert scene.run(script, epoch=EPOCH + 1) == ["FENCED"]


@every_script
def test_a_missing_epoch_is_fenced(scene: Scene, script: str) -> None:
    scene.funded()
    scene.client.hdel(scene.keys.versions, "@epoch")
    assert scene.run(script) == ["FENCED"]


@every_script
def test_a_missing_outbox_is_fenced(scene: Scene, script: str) -> None:
    scene.funded()
    scene.client.delete(scene.keys.outbox)
    assert scene.run(script) == ["FENCED"]


@repeatable
def test_a_missing_outbox_is_fenced_even_for_a_repeat(scene: Scene, script: str) -> None:
    scene.funded()
    scene.run(script)
    scene.client.delete(scene.keys.outbox)
    assert scene.run(script) == ["FENCED"]


@repeatable
def test_a_newer_epoch_s_marker_is_fenced(scene: Scene, script: str) -> None:
    scene.funded()
    scene.client.xadd(scene.keys.outbox, {"marker": "{}"}, id=f"{EPOCH + 1}-0")
    assert scene.run(script) == ["FENCED"]


@every_script
def test_a_quota_that_is_not_loaded_says_so(scene: Scene, script: str) -> None:
    assert scene.run(script) == ["QUOTA_NOT_LOADED"]


@every_script
def test_a_quota_of_an_older_life_is_not_loaded(scene: Scene, script: str) -> None:
    scene.funded()
    scene.client.hset(scene.keys.versions, str(NAME), "99")
    assert scene.run(script) == ["QUOTA_NOT_LOADED"]


@repeatable
def test_more_than_is_applied_on_the_way_asks_to_catch_up(scene: Scene, script: str) -> None:
    scene.funded()
    scene.place("soon", 1, ttl_ms=5)
    scene.place("sooner", 1, ttl_ms=4)
    scene.pass_time(10)
    assert scene.run(script, due_max=1) == ["CATCH_UP"]
    assert scene.run(script, due_max=2)[0] in WRITING_ROWS


@pytest.mark.parametrize("script", NEED_SOUND_LOG)
def test_a_frozen_quota_refuses_what_needs_a_sound_log(scene: Scene, script: str) -> None:
    scene.funded()
    scene.freeze()
    assert scene.run(script) == ["QUOTA_FROZEN"]


@pytest.mark.parametrize("script", sorted(set(WRITING) - set(NEED_SOUND_LOG) - {"extend_hold"}))
def test_a_frozen_quota_takes_what_has_been_used(scene: Scene, script: str) -> None:
    scene.funded()
    scene.freeze()
    assert scene.run(script)[0] in WRITING_ROWS


@repeatable
def test_a_repeat_gets_the_first_answer_and_has_no_effect(scene: Scene, script: str) -> None:
    scene.funded()
    first = scene.run(script)
    assert first[0] in WRITING_ROWS
    scene.debit("between", 1)
    before = scene.log
    again = scene.run(script)
    if script == "extend_hold":  # its answer is the hold as it is
        assert again[:2] == first[:2]
    else:
        assert again == ["REPLAYED", *first[1:]]
    assert scene.log == before


def altered(command: Any) -> Command[Any]:
    """Return the same operation with other arguments."""
    if hasattr(command, "transfer"):
        more = replace(command.transfer, amount=command.transfer.amount + 1)
        return replace(command, transfer=more)
    if hasattr(command, "amount"):
        return replace(command, amount=command.amount + 1)
    if hasattr(command, "terms"):
        return replace(command, terms=replace(command.terms, priority=7))
    if hasattr(command, "overdraft_limit"):
        return replace(command, overdraft_limit=None)
    if hasattr(command, "cause"):
        return replace(command, cause="chain")
    return replace(command, details='{"reference":"other"}')


@pytest.mark.parametrize("script", sorted(set(REPEATABLE) - UNALTERABLE))
def test_a_repeat_with_other_arguments_conflicts(scene: Scene, script: str) -> None:
    scene.funded()
    scene.run(script)
    assert scene.call(altered(WRITING[script])) == ["IDEMPOTENCY_CONFLICT"]


@pytest.mark.parametrize("script", sorted(set(REPEATABLE) - {"cancel_operation"}))
def test_what_was_cancelled_before_it_came_is_refused_for_good(scene: Scene, script: str) -> None:
    scene.funded()
    command: Any = WRITING[script]
    operation_id = getattr(command, "operation_id", getattr(command, "arrival_id", "new"))
    assert scene.cancel(operation_id)[0] == "CANCELLED"
    before = scene.log
    for _ in range(2):
        assert scene.run(script) == ["OPERATION_CANCELLED"]
    assert scene.log == before
    assert scene.sums == (100, 10, 0)


def test_a_release_under_another_s_operation_id_conflicts(scene: Scene) -> None:
    scene.funded()
    scene.debit("h:release", 1)
    assert scene.release("h") == ["IDEMPOTENCY_CONFLICT"]


@pytest.mark.parametrize("is_due", [True, False])
@every_script
def test_a_key_of_another_type_is_met_before_any_write(
    scene: Scene, script: str, is_due: bool
) -> None:
    """The call is refused with nothing written, or never touches the key."""
    for place, name in enumerate(scene.scripts[script].keys):
        scene.open()
        scene.funded()
        scene.issue("soon", 5, expires_at_ms=(scene.now_ms or 0) + 50)
        scene.place("ends", 5, ttl_ms=50)
        scene.pass_time(100 * is_due)
        key = WRITING[script].keys(scene.keys)[place]
        scene.client.delete(key)
        scene.client.set(key, "junk")
        row = scene.run(script)[0]
        assert row in WRITING_ROWS | {"WRONGTYPE"}, f"{name} is a string: {row}"


def test_nothing_that_carries_money_has_a_time_to_live(scene: Scene) -> None:
    scene.funded()
    scene.debit("d", 5)
    names = [name for name, (_, ends_ms, _) in scene.dump().items() if ends_ms != NO_END]
    assert names != []
    assert all(":ops" in name for name in names), "only the memory of operations ends"


def test_numbers_keep_every_digit(scene: Scene) -> None:
    scene.load()
    assert scene.issue("g", MOST)[3] == str(MOST)
    assert scene.place("h", MOST - 2)[0] == "PLACED"
    assert scene.extend("h", MOST - 1) == ["EXTENDED", str(MOST - 1), str(NOON_MS + 60_000)]
    assert scene.capture("h", MOST - 2)[3] == str(MOST - 2)
    assert scene.sums == (2, 0, 0)
    assert [entry.amount for entry in scene.entries()] == [MOST, MOST - 2, MOST - 1, MOST - 2]
    assert scene.limit(MOST)[0] == "LIMITED"
    assert scene.debit("d", MOST, used=True)[0] == "DEBITED"
    assert scene.sums == (2 - MOST, 0, MOST - 2)


def test_operations_are_forgotten_after_the_horizon_and_never_before(scene: Scene) -> None:
    """The server's clock counts, not the caller's; the horizon is an argument."""
    scene.funded()
    horizon_ms = 1000
    command = WRITING["debit"]
    first = scene.call(command, horizon_ms=horizon_ms)
    began = time.monotonic()
    while time.monotonic() - began < horizon_ms / 1000 * 0.4:
        assert scene.call(command, horizon_ms=horizon_ms) == ["REPLAYED", *first[1:]]
    keys = [scene.keys.ops0(str(NAME)), scene.keys.ops1(str(NAME))]
    for key in keys:  # what is due to be forgotten is, without waiting for it
        if scene.client.hexists(key, "new"):
            scene.client.pexpire(key, 0)
    assert scene.call(command, horizon_ms=horizon_ms)[0] == "DEBITED"


def test_a_memory_that_is_about_to_end_does_not_take_the_newest_with_it(scene: Scene) -> None:
    """In the first moment of a period, the key may still be that of the period before last."""
    scene.funded()
    server_ms = time.time_ns() // 1_000_000
    horizon_ms = server_ms - 300  # so period 1 has begun 300 ms ago
    key = scene.keys.ops1(str(NAME))
    scene.client.delete(key)
    scene.client.hset(key, "old", "x")
    scene.client.pexpire(key, 500)
    scene.run("debit", horizon_ms=horizon_ms)
    ends_ms: Any = scene.client.pexpiretime(key)
    assert scene.client.hexists(key, "new")
    assert ends_ms == 3 * horizon_ms


@every_script
def test_ids_may_hold_what_looks_like_a_separator(scene: Scene, script: str) -> None:
    scene.load()
    odd = "組|{qe:07}:=,;'\"%s\\"
    scene.issue(odd, 50)
    scene.issue("next" + odd, 50)
    scene.place(odd + "1", 60)
    scene.capture(odd + "1", 45)
    scene.void(odd)
    assert scene.sums == (5, 0, 0)
    assert scene.run(script)[0] in WRITING_ROWS | {"HOLD_NOT_FOUND", "GRANT_NOT_FOUND"}


def rows_of_all(scripts: Any, row: str) -> set[tuple[str, str]]:
    return {(script, row) for script in scripts}


test_an_older_epoch_is_fenced.rows = rows_of_all(WRITING, "FENCED")  # type: ignore[attr-defined]
test_a_quota_that_is_not_loaded_says_so.rows = rows_of_all(  # type: ignore[attr-defined]
    WRITING, "QUOTA_NOT_LOADED"
)
test_more_than_is_applied_on_the_way_asks_to_catch_up.rows = rows_of_all(  # type: ignore[attr-defined]
    REPEATABLE, "CATCH_UP"
)
test_a_frozen_quota_refuses_what_needs_a_sound_log.rows = rows_of_all(  # type: ignore[attr-defined]
    NEED_SOUND_LOG, "QUOTA_FROZEN"
)
test_a_repeat_gets_the_first_answer_and_has_no_effect.rows = rows_of_all(  # type: ignore[attr-defined]
    set(REPEATABLE) - {"extend_hold"}, "REPLAYED"
)
test_a_repeat_with_other_arguments_conflicts.rows = rows_of_all(  # type: ignore[attr-defined]
    set(REPEATABLE) - {"cancel_operation"}, "IDEMPOTENCY_CONFLICT"
)
test_what_was_cancelled_before_it_came_is_refused_for_good.rows = rows_of_all(  # type: ignore[attr-defined]
    set(REPEATABLE) - {"cancel_operation"}, "OPERATION_CANCELLED"
)
