"""refund: a charge goes back to debt and to the grants that paid it."""

from __future__ import annotations

from collections.abc import Iterable

from quota_engine.commands import (
    Debit,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    Refund,
    RefundPart,
    Snapshot,
)
from quota_engine.commands.loading import FreezeQuota
from quota_engine.instants import NEVER_MS
from quota_engine.keys import QuotaName
from tests.lua.scenes import NAME, OTHER, Scene, meets
from tests.shards import EPOCH, NOON_MS


def part(grant_id: str, units: int, ends: int = NEVER_MS, priority: int = 50) -> RefundPart:
    return RefundPart(grant_id, units, priority, NOON_MS, ends, NOON_MS)


@meets("refund", "REFUNDED", "REPLAYED", "IDEMPOTENCY_CONFLICT")
def test_units_return_to_their_grant_once(scene: Scene) -> None:
    scene.funded()
    scene.debit("d", 30)
    refunded = scene.refund("r", 20, part("g", 20))
    assert refunded[0] == "REFUNDED"
    assert refunded[2:] == ["4", "20", "0", "90", "10", "0", "", "0 0", "g 20 0"]
    assert scene.refund("r", 20, part("g", 20)) == ["REPLAYED", *refunded[1:]]
    assert scene.refund("r", 10, part("g", 10)) == ["IDEMPOTENCY_CONFLICT"]
    assert scene.sums == (90, 10, 0)


def test_a_grant_that_was_used_up_is_live_again_and_ends_on_time(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 10, expires_at_ms=NOON_MS + 1000)
    scene.debit("d", 10)
    assert "g:g" not in scene.stored
    scene.refund("r", 4, part("g", 4, NOON_MS + 1000))
    assert scene.stored["g:g"].startswith("4 0 l")
    scene.pass_time(1000)
    assert scene.debit("e", 1) == ["DENIED", "0"]
    scene.run("catch_up")
    assert scene.log[-1] == ("grant.expired", "g:expire", -4)


def test_what_was_debt_pays_debt_before_grants_get_anything(scene: Scene) -> None:
    scene.load()
    scene.limit(50)
    scene.issue("g", 10)
    scene.debit("d", 40)
    assert scene.sums == (-30, 0, 30)
    assert scene.refund("r", 35, part("g", 5))[5:] == ["5", "0", "0", "", "0 0", "g 5 0"]
    assert scene.refund("s", 5, part("g", 5))[5:] == ["10", "0", "0", "", "0 0", "g 5 0"]


def test_what_paid_the_debt_later_becomes_a_grant_without_end(scene: Scene) -> None:
    scene.load()
    scene.limit(50)
    scene.debit("d", 40)
    scene.issue("later", 100)
    assert scene.refund("r", 40)[5:] == ["60", "0", "0", "", "0 40", ""]
    assert scene.log[-1] == ("grant.issued", "r:rest", 40)
    assert scene.sums == (100, 0, 0)
    assert scene.client.zcard(scene.keys.changes(str(NAME))) == 0


def test_an_ended_grant_s_part_is_forfeited_or_lives_on_for_a_grace(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 10, expires_at_ms=NOON_MS + 5)
    scene.debit("d", 10)
    scene.pass_time(5)
    ended = part("g", 4, NOON_MS + 5)
    assert scene.refund("r", 4, ended)[5:] == ["0", "0", "0", "", "4 0", ""]
    assert scene.refund("s", 4, ended, grace_ms=100)[5:] == ["0", "0", "0", "", "0 4", ""]
    assert scene.sums == (4, 0, 0)
    scene.pass_time(100)
    scene.run("catch_up")
    assert scene.log[-1] == ("grant.expired", "s:grace:expire", -4)


def test_what_another_account_paid_is_counted_and_moves_nothing(scene: Scene) -> None:
    scene.funded()
    scene.debit("d", 30)
    before = scene.sums
    answer = scene.refund("r", 20, RefundPart.counted("acme/pool 1", 20))
    assert answer[5:] == ["70", "10", "0", "counted by:acme/pool%201", "20 0", ""]
    assert scene.sums == before


def test_what_was_not_collected_comes_back_to_nobody(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 10, expires_at_ms=NOON_MS + 5)
    scene.issue("h", 10)
    scene.debit("d", 18)
    parts = (RefundPart.unreturned(7), part("h", 5), part("g", 3, NOON_MS + 5))
    scene.pass_time(5)
    answer = scene.refund("r", 15, *parts, grace_ms=100)
    assert answer[5:] == ["7", "0", "0", "unreturned 7", "7 3", "h 5 0"]
    assert scene.log[-1] == ("grant.issued", "r:grace", 3)
    assert scene.sums == (10, 0, 0)
    scene.issue("most", 2**53 - 20)
    assert scene.refund("s", 12, RefundPart.unreturned(12))[0] == "REFUNDED"


def of(quota: QuotaName, *parts: RefundPart, beside: tuple[Refund, ...] = ()) -> Refund:
    amount = sum(one.units for one in parts)
    told = {"refund_id": "r", "charge_id": "d", "amount": amount, "beside": beside}
    return Refund(quota=quota, parts=parts, **told)


def spent(scene: Scene, quotas: Iterable[QuotaName]) -> None:
    """Give each quota 100 units, of which a call took 30."""
    scene.load()
    terms = GrantTerms(amount=100, source="purchase")
    for quota in quotas:
        scene.call(HydrateQuota(snapshot=Snapshot(quota=quota, epoch=EPOCH), may_create=True))
        scene.call(IssueGrant(quota=quota, grant_id="g", terms=terms))
        assert scene.call(Debit(quota=quota, operation_id="d", amount=30))[0] == "DEBITED"


def test_what_a_call_took_in_several_quotas_comes_back_in_one_step(scene: Scene) -> None:
    others = (OTHER, QuotaName(f"{NAME.account}/a key|x", NAME.quota_type))
    spent(scene, (NAME, *others))
    beside = tuple(of(one, RefundPart.unreturned(5), part("g", 15)) for one in others)
    whole = of(NAME, part("g", 20), beside=beside)
    scene.call(FreezeQuota(quota=others[1], reason="in doubt"))
    before = scene.dump()
    assert scene.call(whole) == ["QUOTA_FROZEN"]
    assert scene.dump() == before
    scene.call(FreezeQuota(quota=others[1], reason=""))
    refunded = whole.parse(scene.call(whole))
    told = [(one.account, one.balance, one.unreturned) for one in (refunded, *refunded.scopes)]
    assert told == [(NAME.account, 90, 0), *((one.account, 85, 5) for one in others)]
    assert whole.parse(scene.call(whole)).replayed
    assert [scene.call(one)[0] for one in beside] == ["REPLAYED", "REPLAYED"]


def test_who_has_its_part_already_is_left_out(scene: Scene) -> None:
    spent(scene, (NAME, OTHER))
    other = of(OTHER, part("g", 20))
    assert scene.call(other)[0] == "REFUNDED"
    whole = of(NAME, part("g", 20), beside=(other,))
    refunded = whole.parse(scene.call(whole))
    assert (refunded.balance, refunded.scopes) == (90, ())
    assert scene.call(other)[5] == "90"


def test_a_voided_grant_gets_nothing_back_even_if_the_ledger_has_not_heard_of_it(
    scene: Scene,
) -> None:
    scene.funded()
    scene.debit("d", 30)
    scene.release("h")
    scene.void("g")
    assert scene.refund("r", 30, part("g", 30))[5:] == ["0", "0", "0", "", "30 0", ""]


def test_the_grant_of_an_open_hold_that_has_ended_gets_nothing_back(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 10, expires_at_ms=NOON_MS + 5)
    scene.place("h", 6)
    scene.debit("d", 4)
    scene.pass_time(5)
    assert scene.refund("r", 4, part("g", 4, NOON_MS + 5))[9] == "4 0"
    assert scene.sums == (6, 6, 0)


def test_several_grants_get_theirs_back_in_the_order_given(scene: Scene) -> None:
    scene.load()
    scene.issue("a", 10, priority=1)
    scene.issue("b", 10, priority=2)
    scene.debit("d", 15)
    answer = scene.refund("r", 8, part("b", 5, priority=2), part("a", 3, priority=1))
    assert answer[-1] == "b 5 0 a 3 0"
    assert scene.debit("e", 4)[-1] == "a -3 0 b -1 0"


@meets("refund", "AMOUNT_OVERFLOW")
def test_a_quota_holds_no_more_than_it_can_count(scene: Scene) -> None:
    scene.load()
    scene.issue("a", 10)
    scene.debit("d", 10)
    scene.issue("b", 2**53 - 5)
    before = scene.stored
    assert scene.refund("r", 10, part("a", 10)) == ["AMOUNT_OVERFLOW"]
    assert scene.stored == before
