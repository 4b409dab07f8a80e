"""hydrate_quota: a quota comes back as it was, or not at all."""

from __future__ import annotations

from dataclasses import replace

from quota_engine.commands import HydrateQuota, Snapshot
from quota_engine.commands.snapshots import GrantState, HoldState, Operation
from quota_engine.events import parse_movements
from tests.lua.scenes import NAME, Scene, meets
from tests.shards import EPOCH, NOON_MS

EMPTY = Snapshot(quota=NAME, epoch=EPOCH)


def full(version: int = 7) -> Snapshot:
    return Snapshot(
        quota=NAME,
        epoch=EPOCH,
        version=version,
        chain="a" * 40,
        debt=0,
        overdraft_limit=None,
        frozen="in doubt",
        grants=(
            GrantState("g", 60, 40, 50, NOON_MS - 5, NOON_MS + 9000, NOON_MS - 5, "live"),
            GrantState("later", 5, 0, 50, NOON_MS + 500, 2**53 - 1, NOON_MS - 4, "pending"),
            GrantState("gone", 0, 3, 50, NOON_MS - 9, NOON_MS - 1, NOON_MS - 9, "expired"),
        ),
        holds=(HoldState("h", 50, NOON_MS + 700, (("g", 40), ("gone", 3))),),
        operations=(
            Operation("h", "f1", 6, 50, 0, 103, 50, 0, "", "1", parse_movements("g -40 40")),
        ),
    )


@meets("hydrate_quota", "LOADED", "PRESENT")
def test_a_quota_comes_back_as_it_was(scene: Scene) -> None:
    load = HydrateQuota(snapshot=full())
    assert scene.call(load) == ["LOADED"]
    assert scene.call(load) == ["PRESENT"]
    stored = scene.stored
    assert stored["version"] == "7"
    assert (stored["remaining"], stored["covered"], stored["held"]) == ("60", "43", "50")
    assert (stored["pending"], stored["frozen"], stored["overdraft"]) == (
        *("5", "in doubt", "unlimited"),
    )
    assert scene.client.zscore(scene.keys.due, str(NAME)) == NOON_MS + 500
    scene.freeze("")
    assert scene.place("h", 50)[0] == "IDEMPOTENCY_CONFLICT"
    assert scene.capture("h", 50)[3:6] == ["50", "0", "53"]


@meets("hydrate_quota", "WAIT_DRAIN")
def test_a_stale_reading_of_the_ledger_is_refused(scene: Scene) -> None:
    scene.funded()
    scene.client.delete(scene.keys.quota(str(NAME)))
    assert scene.call(HydrateQuota(snapshot=full(1))) == ["WAIT_DRAIN", "2"]
    assert scene.call(HydrateQuota(snapshot=EMPTY, may_create=True)) == ["WAIT_DRAIN", "2"]
    assert scene.call(HydrateQuota(snapshot=full(2))) == ["LOADED"]


def test_an_older_life_is_replaced_whole(scene: Scene) -> None:
    scene.funded()
    scene.client.hset(scene.keys.versions, str(NAME), "7")
    assert scene.call(HydrateQuota(snapshot=replace(full(), holds=()))) == ["LOADED"]
    assert scene.hash_of(scene.keys.holds(str(NAME))) == {}
    assert set(scene.hash_of(scene.keys.ops0(str(NAME)))) <= {"h"}


@meets("hydrate_quota", "UNKNOWN")
def test_a_quota_that_nobody_knows_is_made_only_on_demand(scene: Scene) -> None:
    assert scene.call(HydrateQuota(snapshot=EMPTY)) == ["UNKNOWN"]
    assert scene.call(HydrateQuota(snapshot=EMPTY, may_create=True)) == ["LOADED"]
    assert scene.stored["version"] == "0"


@meets("hydrate_quota", "FENCED")
def test_a_reading_of_another_epoch_is_refused(scene: Scene) -> None:
    old = replace(full(), epoch=EPOCH - 1)
    assert scene.call(HydrateQuota(snapshot=old)) == ["FENCED"]


def test_a_key_of_another_type_is_replaced_or_met_before_any_write(scene: Scene) -> None:
    load = HydrateQuota(snapshot=full())
    for key in load.keys(scene.keys):
        scene.open()
        scene.client.delete(key)
        scene.client.set(key, "junk")
        assert scene.call(load)[0] in {"LOADED", "WRONGTYPE"}


def test_a_quota_with_thousands_of_grants_is_loaded(scene: Scene) -> None:
    grants = tuple(
        GrantState(f"g{number:05}", 2, 0, 50, 1, 2**53 - 1, 1, "live") for number in range(5000)
    )
    snapshot = Snapshot(quota=NAME, epoch=EPOCH, version=9, grants=grants)
    assert scene.call(HydrateQuota(snapshot=snapshot)) == ["LOADED"]
    assert scene.debit("d", 9_999)[3:6] == ["9999", "0", "1"]
