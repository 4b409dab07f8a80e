"""
Who sees a crossing or tells of it dies on the way: the message arrives, under one id.

Method: a process of its own crosses, persists and delivers, and kills itself at a step; then we
do what is left. What a claim waits for has passed in SQL.
"""

from __future__ import annotations

import pytest
from sqlalchemy import text

from quota_engine import QuotaEngine
from tests.programs import killed
from tests.receivers import Hook, serving

pytestmark = pytest.mark.fault

TELLER = """
import os, signal, sys
from quota_engine import QuotaEngine
from quota_engine.delivering import attending
from quota_engine.jobs import crash_points
from quota_engine.ledger.alert_deliveries import Deliveries

step, redis_url, database_url = sys.argv[1:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

with QuotaEngine.open(redis_url, database_url, shards=1) as engine:
    if step in crash_points.NAMES:
        crash_points.reach = lambda name: name == step and die()
    engine.debit("user:42", "text_token", 60)
    engine.drain()
    if step == "claimed":
        attending.attempt = die
    if step == "sent":
        Deliveries.mark_delivered = die
    engine.alerts.deliver()
"""


@pytest.mark.parametrize("step", ["before_commit", "after_commit", "claimed", "sent"])
def test_whoever_dies_the_message_arrives(redis_url: str, database_url: str, step: str) -> None:
    with serving(Hook()) as hook, QuotaEngine.open(redis_url, database_url, shards=1) as engine:
        engine.alerts.remove_channel("log")
        engine.alerts.add_channel("ops", "webhook", target=hook.url)
        engine.alerts.define("low", "balance", warning=50)
        engine.issue_grant("user:42", "text_token", 100)
        engine.drain()
        killed(TELLER, step, redis_url, database_url)
        assert len(engine.alerts.list()) == (step != "before_commit")
        engine.drain()
        assert len(engine.alerts.list()) == 1
        if step in ("claimed", "sent"):
            assert engine.alerts.deliver() == (0, 0), "it may still be under way"
            with engine.deployment.ledger.transaction() as sql:
                sql.execute(text("UPDATE alert_deliveries SET due_at = now()"))
        assert engine.alerts.deliver() == (1, 0)
        assert engine.alerts.deliver() == (0, 0)
        assert len(hook.posted) == (2 if step == "sent" else 1)
        assert len({post.headers["webhook-id"] for post in hook.posted}) == 1
        (sent,) = engine.alerts.deliveries()
        assert (sent.state, sent.action) == ("delivered", "fired")
