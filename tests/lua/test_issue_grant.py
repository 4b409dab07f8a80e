"""issue_grant: live, pending, exactly on time; terms that cannot be."""

from __future__ import annotations

from tests.lua.scenes import Scene, meets
from tests.shards import NOON_MS

MOST = 2**53 - 1


@meets("issue_grant", "ISSUED", "REPLAYED", "IDEMPOTENCY_CONFLICT")
def test_a_grant_is_issued_once(scene: Scene) -> None:
    scene.load()
    issued = scene.issue("g", 100, priority=-3, expires_at_ms=NOON_MS + 5)
    terms = f"-3 {NOON_MS} {NOON_MS + 5} {NOON_MS}"
    assert issued[2:] == ["1", "100", "0", "100", "0", "0", "", terms, "g 100 0"]
    again = scene.issue("g", 100, priority=-3, expires_at_ms=NOON_MS + 5)
    assert again == ["REPLAYED", *issued[1:]]
    assert scene.issue("g", 100) == ["IDEMPOTENCY_CONFLICT"]


@meets("issue_grant", "GRANT_ENDED")
def test_a_grant_ends_after_it_starts_and_in_the_future(scene: Scene) -> None:
    scene.load()
    for starts, ends in ((5, 5), (6, 5), (0, 0), (0, -1), (-9, -1)):
        terms = {"expires_at_ms": NOON_MS + ends}
        if starts:
            terms["starts_at_ms"] = NOON_MS + starts
        assert scene.issue("g", 1, **terms) == ["GRANT_ENDED"]
    assert scene.issue("g", 1, starts_at_ms=NOON_MS - 9, expires_at_ms=NOON_MS + 1)[0] == "ISSUED"


@meets("issue_grant", "GRANT_EXISTS")
def test_a_grant_that_is_there_stays_what_it_is(scene: Scene) -> None:
    scene.funded()
    for key in (scene.keys.ops0, scene.keys.ops1):
        scene.client.delete(key(scene.entries()[0].quota))
    assert scene.issue("g", 5) == ["GRANT_EXISTS"]
    scene.debit("d", 90)
    scene.capture("h", 10)
    assert scene.issue("g", 5)[0] == "ISSUED", "of the first nothing is left"


@meets("issue_grant", "TOO_MANY_GRANTS", "AMOUNT_OVERFLOW")
def test_a_quota_has_a_most_of_grants_and_units(scene: Scene) -> None:
    scene.load()
    scene.issue("a", 10)
    scene.issue("b", 10, starts_at_ms=NOON_MS + 10)
    assert scene.issue("c", 1, grants_max=2) == ["TOO_MANY_GRANTS"]
    assert scene.issue("c", MOST - 19) == ["AMOUNT_OVERFLOW"]
    scene.place("h", 5)
    assert scene.issue("c", MOST - 19) == ["AMOUNT_OVERFLOW"]
    assert scene.issue("c", MOST - 20)[0] == "ISSUED"
    scene.pass_time(10)
    assert scene.debit("d", MOST - 5)[0] == "DEBITED"


def test_a_pending_grant_starts_exactly_on_time(scene: Scene) -> None:
    scene.load()
    pending = scene.issue("g", 10, starts_at_ms=NOON_MS + 10, expires_at_ms=NOON_MS + 20)
    assert (pending[5], pending[-1]) == ("0", "")
    scene.pass_time(9)
    assert scene.debit("d", 1) == ["DENIED", "0"]
    scene.pass_time(1)
    assert scene.debit("d", 1)[0] == "DEBITED"
    assert scene.log[1:] == [("grant.started", "g:start", 10), ("quota.debited", "d", -1)]
    scene.pass_time(10)
    assert scene.debit("e", 1) == ["DENIED", "0"]


def test_what_flows_in_pays_debt_first(scene: Scene) -> None:
    scene.load()
    scene.limit(50)
    scene.debit("d", 30)
    assert scene.issue("g", 10)[-1] == "g 0 0"
    assert scene.sums == (-20, 0, 20)
    assert scene.issue("later", 25, starts_at_ms=NOON_MS + 5)[5] == "-20"
    scene.pass_time(5)
    assert scene.run("catch_up")[:2] == ["CAUGHT_UP", "1"]
    assert scene.sums == (5, 0, 0)
    assert scene.stored["g:later"].startswith("5 0 l ")
