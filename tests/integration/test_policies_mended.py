"""
What somebody has edited of an account in Redis is mended once, however many mend it at once.

Goal: the history tells of each mend once. Method: two reconcilers that have seen the same, one
after the other and at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from quota_engine import AccountSuspendedError, QuotaEngine
from quota_engine.jobs.driving import Driver
from quota_engine.jobs.pinned import undecoded
from quota_engine.jobs.policies import mend_policies, policy_drifts
from quota_engine.keys import ShardKeys, shard_of
from quota_engine.policies import REPAIR

ACME, TOKENS = "acme", "text_token"
#: What somebody writes to Redis by hand: a word, and the field.
EDITS = (
    (("HDEL", "acme|"), ACME),
    (("HDEL", "@accounts"), ACME),
    (("HSET", "acme|", "7\nactive\n0\n"), ACME),
    (("HSET", "acme/x|", "1\nclosed\n5\nforged"), "acme/x"),
)


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=4) as opened:
        opened.issue_grant(ACME, TOKENS, 1_000)
        opened.accounts.suspend(ACME, reason="unpaid", operator="ann")
        yield opened


def edit(engine: QuotaEngine, words: tuple[str, ...]) -> None:
    versions = ShardKeys(shard_of(ACME, 4)).versions
    engine.deployment.client.execute_command(words[0], versions, *words[1:])


def mends(engine: QuotaEngine, account: str) -> list[str | None]:
    """Return who mended what Redis had of an account, mend by mend."""
    history = engine.accounts.history(account)
    return [change.operator for change in history if change.action == REPAIR]


@pytest.mark.parametrize(("words", "account"), EDITS)
def test_two_who_have_seen_the_same_leave_one_mend(
    engine: QuotaEngine, words: tuple[str, ...], account: str
) -> None:
    deployment = engine.deployment
    with undecoded(deployment.client) as client:
        driver = Driver(client, deployment.ledger, deployment.opened)
        for turn in (1, 2):  # the same edit again is another one to mend
            edit(engine, words)
            looks = [policy_drifts(client, deployment.ledger, deployment.opened) for _ in "ab"]
            assert [len(found) for found in looks] == [1, 1]
            assert mend_policies(driver, looks[0], "ann") == 1
            assert mend_policies(driver, looks[1], "bob") == 1
            assert mends(engine, account) == ["ann"] * turn
    assert engine.reconcile().drifts == ()
    with pytest.raises(AccountSuspendedError):
        engine.debit(ACME, TOKENS, 1)


def test_many_who_mend_at_once_leave_one_mend(engine: QuotaEngine) -> None:
    for turn in range(1, 4):
        edit(engine, EDITS[2][0])
        threads = [
            threading.Thread(target=engine.reconcile, kwargs={"repair": True}) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(mends(engine, ACME)) == turn
    assert engine.reconcile().drifts == ()


def test_what_was_changed_since_it_was_seen_is_not_called_mended(engine: QuotaEngine) -> None:
    deployment = engine.deployment
    edit(engine, EDITS[0][0])
    with undecoded(deployment.client) as client:
        found = policy_drifts(client, deployment.ledger, deployment.opened)
        engine.accounts.activate(ACME, operator="cleo")
        driver = Driver(client, deployment.ledger, deployment.opened)
        assert mend_policies(driver, found, "ann") == 1
    assert mends(engine, ACME) == []
    assert engine.debit(ACME, TOKENS, 1).balance == 999
