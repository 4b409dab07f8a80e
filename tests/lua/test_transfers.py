"""transfer_quota, transfer_out, transfer_in: units move on the terms they have, or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quota_engine.commands import FreezeQuota, IssueGrant, Transfer, TransferIn, TransferOut
from quota_engine.commands.grants import GrantTerms
from quota_engine.commands.transfers import TransferQuota
from quota_engine.instants import NEVER_MS
from tests.lua.scenes import BACK, NAME, OTHER, TRANSFER, Scene, meets
from tests.shards import NOON_MS, Raw

ARRIVAL = TRANSFER.arrival_id


def moved(scene: Scene, amount: int, transfer_id: str = "t", **limits: Any) -> Raw:
    """Move units from one quota to the other."""
    transfer = Transfer(transfer_id=transfer_id, source=NAME, target=OTHER, amount=amount)
    return scene.call(TransferQuota(quota=NAME, transfer=transfer, **limits))


def sent(scene: Scene, amount: int, transfer_id: str = "t", **limits: Any) -> Raw:
    """Let units leave."""
    transfer = Transfer(transfer_id=transfer_id, source=NAME, target=OTHER, amount=amount)
    return scene.call(TransferOut(quota=NAME, transfer=transfer, **limits))


def arrived(scene: Scene, terms: str, amount: int = 5, **limits: Any) -> Raw:
    """Let units arrive."""
    transfer = replace(BACK, amount=amount)
    return scene.call(TransferIn(quota=NAME, transfer=transfer, terms=terms, **limits))


def of_other(scene: Scene) -> dict[str, str]:
    return scene.hash_of(scene.keys.quota(str(OTHER)))


@meets("transfer_quota", "TRANSFERRED", "REPLAYED", "IDEMPOTENCY_CONFLICT")
def test_units_keep_their_end_and_priority_and_move_once(scene: Scene) -> None:
    scene.load()
    scene.issue("soon", 30, expires_at_ms=NOON_MS + 1000, priority=-1)
    scene.issue("one", 10)
    scene.issue("two", 10)
    answer = moved(scene, 45)
    assert answer[0] == "TRANSFERRED"
    terms = f"30 -1 {NOON_MS + 1000} 15 50 {NEVER_MS}"
    assert answer[2:] == [
        *("4", "45", "0", "5", "0", "0", "", terms),
        "soon -30 0 one -10 0 two -5 0",
    ]
    assert moved(scene, 45) == ["REPLAYED", *answer[1:]]
    assert moved(scene, 46) == ["IDEMPOTENCY_CONFLICT"]
    stored, arrival_id = of_other(scene), replace(TRANSFER, transfer_id="t").arrival_id
    assert stored[f"g:{arrival_id}:1"].endswith(f"-1 {NOON_MS} {NOON_MS + 1000} {NOON_MS}")
    assert stored[f"g:{arrival_id}:2"].startswith("15 0 l")
    assert (stored["remaining"], stored["head"]) == ("45", f"{arrival_id}:1")
    kinds = [entry.kind for entry in scene.entries()]
    assert kinds[-2:] == ["quota.transferred_out", "quota.transferred_in"]
    assert {entry.subject for entry in scene.entries()[-2:]} == {"t"}


@meets("transfer_quota", "DENIED")
@meets("transfer_out", "DENIED")
def test_what_is_held_or_only_an_overdraft_limit_admits_stays(scene: Scene) -> None:
    scene.funded()
    scene.limit(1000)
    assert moved(scene, 91) == ["DENIED", "90"]
    assert sent(scene, 91) == ["DENIED", "90"]
    scene.place("uncovered", 95)
    assert sent(scene, 1) == ["DENIED", "0"]
    scene.release("uncovered")
    assert moved(scene, 90)[0] == "TRANSFERRED"
    assert scene.sums == (10, 10, 0)
    scene.release("h")
    scene.debit("d", 40)
    assert scene.sums == (-30, 0, 30)
    assert moved(scene, 1, "again") == ["DENIED", "0"]


@meets("transfer_out", "SENT", "REPLAYED")
@meets("transfer_in", "ARRIVED", "REPLAYED")
def test_what_left_comes_back_on_its_terms(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 10, expires_at_ms=NOON_MS + 1000, priority=7)
    left = sent(scene, 5)
    assert (left[0], left[9]) == ("SENT", f"5 7 {NOON_MS + 1000}")
    assert sent(scene, 5) == ["REPLAYED", *left[1:]]
    back = arrived(scene, left[9])
    assert back[0] == "ARRIVED"
    assert arrived(scene, left[9]) == ["REPLAYED", *back[1:]]
    assert scene.sums == (10, 0, 0)
    scene.pass_time(1000)
    scene.run("catch_up")
    assert scene.log[-1][0] == "grant.expired"
    assert scene.sums == (0, 0, 0)


def test_what_ends_on_its_way_ends_as_an_entry_and_pays_no_debt(scene: Scene) -> None:
    scene.load()
    scene.limit(100)
    scene.debit("d", 30)
    terms = f"20 50 {NOON_MS} 15 50 {NOON_MS + 5}"
    assert arrived(scene, terms, 35)[0] == "ARRIVED"
    (kind, operation_id, delta) = scene.log[-1]
    assert (kind, operation_id, delta) == ("grant.expired", f"{BACK.arrival_id}:1:expire", -20)
    assert scene.sums == (-15, 0, 15)
    assert not [field for field in scene.stored if field.startswith("g:")]


@meets("transfer_quota", "TOO_MANY_PARTS")
@meets("transfer_out", "TOO_MANY_PARTS")
def test_what_would_arrive_as_too_many_grants_stays(scene: Scene) -> None:
    scene.load()
    for number in range(3):
        scene.issue(f"g{number}", 10, priority=number)
    for move in (moved, sent):
        assert move(scene, 21, parts_max=2) == ["TOO_MANY_PARTS"]
    assert scene.sums == (30, 0, 0)
    assert moved(scene, 20, parts_max=2)[0] == "TRANSFERRED"


@meets("transfer_quota", "TOO_MANY_GRANTS", "AMOUNT_OVERFLOW", "GRANT_EXISTS")
@meets("transfer_in", "TOO_MANY_GRANTS", "AMOUNT_OVERFLOW", "GRANT_EXISTS")
def test_what_cannot_arrive_does_not_leave(scene: Scene) -> None:
    scene.funded(20)
    terms = GrantTerms(amount=2**53 - 4, source="purchase")
    scene.call(IssueGrant(quota=OTHER, grant_id="most", terms=terms))
    assert moved(scene, 4) == ["AMOUNT_OVERFLOW"]
    assert moved(scene, 1, grants_max=1) == ["TOO_MANY_GRANTS"]
    taken = GrantTerms(amount=1, source="purchase")
    scene.call(IssueGrant(quota=OTHER, grant_id=f"{ARRIVAL}:1", terms=taken))
    assert moved(scene, 1, "new") == ["GRANT_EXISTS"]
    assert scene.sums == (20, 10, 0)
    ends = f"5 50 {NEVER_MS}"
    assert arrived(scene, ends, grants_max=1) == ["TOO_MANY_GRANTS"]
    assert arrived(scene, f"{2**53 - 1} 50 {NEVER_MS}", 2**53 - 1) == ["AMOUNT_OVERFLOW"]
    scene.issue(f"{BACK.arrival_id}:1", 1)
    assert arrived(scene, ends) == ["GRANT_EXISTS"]


@meets("transfer_quota", "QUOTA_FROZEN", "QUOTA_NOT_LOADED", "CATCH_UP", "IDEMPOTENCY_CONFLICT")
def test_the_other_quota_is_asked_as_well(scene: Scene) -> None:
    scene.funded()
    scene.call(FreezeQuota(quota=OTHER, reason="in doubt"))
    assert moved(scene, 1) == ["QUOTA_FROZEN"]
    scene.call(FreezeQuota(quota=OTHER, reason=""))
    for number in range(2):
        ends = GrantTerms(amount=1, source="purchase", expires_at_ms=NOON_MS + 5)
        scene.call(IssueGrant(quota=OTHER, grant_id=f"g{number}", terms=ends))
    arrival = TransferIn(quota=OTHER, transfer=TRANSFER, terms=f"5 50 {NEVER_MS}")
    scene.call(arrival)
    assert moved(scene, 5, "new") == ["IDEMPOTENCY_CONFLICT"]
    scene.pass_time(5)
    transfer = replace(TRANSFER, transfer_id="t")
    assert scene.call(TransferQuota(quota=NAME, transfer=transfer), due_max=1) == ["CATCH_UP"]
    scene.client.delete(scene.keys.quota(str(OTHER)))
    assert moved(scene, 1) == ["QUOTA_NOT_LOADED"]
    assert scene.sums == (100, 10, 0)
