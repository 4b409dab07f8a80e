"""read_balance: what is due counts, and nothing is written."""

from __future__ import annotations

from quota_engine.commands import ReadBalance
from tests.lua.scenes import NAME, Scene, meets
from tests.shards import EPOCH, NOON_MS

READ = ReadBalance(quota=NAME)


@meets("read_balance", "BALANCE", "CATCH_UP")
def test_what_is_due_counts_and_nothing_is_written(scene: Scene) -> None:
    scene.funded()
    scene.issue("later", 7, starts_at_ms=NOON_MS + 5)
    scene.limit(3)
    assert scene.call(READ)[1:9] == ["4", "100", "10", "0", "3", "93", "", "g"]
    scene.pass_time(60_000)
    answer = scene.call(READ)
    assert answer[1:9] == ["4", "107", "0", "0", "3", "110", "", "g"]
    balance = READ.parse(answer)
    assert [(grant.grant_id, grant.remaining) for grant in balance.grants] == [
        ("g", 100),
        ("later", 7),
    ]
    assert scene.call(ReadBalance(quota=NAME, due_max=1)) == ["CATCH_UP"]
    assert scene.log[-1][0] == "overdraft_limit.set"


@meets("read_balance", "FENCED", "QUOTA_NOT_LOADED")
def test_a_balance_is_read_in_the_right_epoch_of_a_loaded_quota(scene: Scene) -> None:
    assert scene.call(READ) == ["QUOTA_NOT_LOADED"]
    scene.funded()
    assert scene.call(READ, epoch=EPOCH + 1) == ["FENCED"]


def test_a_balance_without_its_grants_is_short(scene: Scene) -> None:
    scene.funded()
    assert len(scene.call(ReadBalance(quota=NAME, with_grants=False))) == 12


def test_an_unlimited_quota_says_so(scene: Scene) -> None:
    scene.funded()
    scene.limit(None)
    balance = READ.parse(scene.call(READ))
    assert (balance.spendable, balance.overdraft_limit) == (None, None)
