"""One operation id, one effect: under threads, lost replies, and many processes at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from subprocess import PIPE
from typing import Any

import pytest
import redis

from quota_engine import (
    EngineUnavailableError,
    IdempotencyConflictError,
    QuotaEngine,
)
from quota_engine._sync.transport import Transport
from tests.programs import Program
from tests.proxy import Proxy

TYPE = "text_token"


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=2) as opened:
        opened.issue_grant("user:1", TYPE, 1_000, grant_id="g1")
        yield opened


@pytest.mark.row(
    19,
    injection="sixteen threads, one operation id",
    outcome="one effect; fifteen get the same answer, marked as replayed",
)
@pytest.mark.parametrize("method", ["debit", "place_hold"])
def test_sixteen_threads_with_one_id_have_one_effect_and_one_answer(
    engine: QuotaEngine, method: str
) -> None:
    ready = threading.Barrier(16)

    def call(_: int) -> Any:
        ready.wait()
        return getattr(engine, method)("user:1", TYPE, 30, operation_id="op-1")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(call, range(16)))
    assert len({replace(answer, replayed=False) for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 15
    assert engine.read_balance("user:1", TYPE).available == 970
    assert len(engine.history("user:1", TYPE)) == 2


def test_a_server_without_scripts_takes_no_call(
    engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the gate loads scripts: a client that brought its own would write past it."""

    def closed(*_: object) -> None:
        raise EngineUnavailableError("the gate is closed")

    with QuotaEngine.open(
        engine.deployment.redis_url, engine.deployment.database_url, call_timeout_seconds=0.5
    ) as client:
        client.read_balance("user:1", TYPE)
        engine.deployment.client.script_flush()
        monkeypatch.setattr(client.deployment, "reopen", closed)
        with pytest.raises(EngineUnavailableError, match="the gate is closed"):
            client.debit("user:1", TYPE, 30)
    assert len(engine.history("user:1", TYPE)) == 1


def test_sixteen_threads_issue_one_grant(engine: QuotaEngine) -> None:
    def issue(_: int) -> Any:
        return engine.issue_grant("user:1", TYPE, 50, grant_id="g2", source="purchase")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(issue, range(16)))
    assert len({replace(answer, replayed=False) for answer in answers}) == 1
    assert engine.read_balance("user:1", TYPE).balance == 1_050


@pytest.mark.row(
    20,
    injection="each kind of call again with another amount or reference",
    outcome="`IdempotencyConflictError`, and nothing changes",
)
def test_the_same_id_with_other_arguments_is_refused_and_changes_nothing(
    engine: QuotaEngine,
) -> None:
    engine.debit("user:1", TYPE, 30, operation_id="op-1")
    hold = engine.place_hold("user:1", TYPE, 30, operation_id="hold-1")
    engine.capture_hold(hold, 10)
    before = engine.read_balance("user:1", TYPE)
    for refused in (
        lambda: engine.debit("user:1", TYPE, 31, operation_id="op-1"),
        lambda: engine.debit("user:1", TYPE, 30, operation_id="op-1", reference="other"),
        lambda: engine.place_hold("user:1", TYPE, 31, operation_id="hold-1"),
        lambda: engine.capture_hold(hold, 11),
        lambda: engine.issue_grant("user:1", TYPE, 999, grant_id="g1"),
    ):
        with pytest.raises(IdempotencyConflictError):
            refused()
    assert engine.read_balance("user:1", TYPE) == before


def test_a_lost_reply_is_answered_from_the_first_effect(
    redis_url: str, database_url: str, engine: QuotaEngine
) -> None:
    proxy = Proxy(redis_url)
    with QuotaEngine.open(proxy.url, database_url) as cut:
        proxy.cut_reply_to("op-lost")
        assert cut.debit("user:1", TYPE, 30, operation_id="op-lost").replayed
        proxy.cut_reply_to("hold-lost")
        hold = cut.place_hold("user:1", TYPE, 100, operation_id="hold-lost")
        assert hold.replayed
        proxy.cut_reply_to("hold-lost:capture")
        assert cut.capture_hold(hold, 40).replayed
    proxy.close()
    assert proxy.cuts == 3
    assert engine.read_balance("user:1", TYPE).available == 1_000 - 30 - 40
    kinds = [entry.kind for entry in engine.history("user:1", TYPE)]
    assert kinds == ["grant.issued", "quota.debited", "hold.placed", "hold.captured"]


def test_a_lost_reply_is_not_called_refused_by_a_server_that_is_full_meanwhile(
    redis_url: str, engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(["lose the reply", "answer", "free the memory"])
    exchange = Transport._exchange

    def exchanging(self: Transport, client: Any, *words: Any) -> Any:
        turn = next(turns, "")
        with redis.Redis.from_url(redis_url) as admin:
            if turn == "free the memory":
                admin.config_set("maxmemory", 0)
            answer = exchange(self, client, *words)
            if turn == "lose the reply":
                admin.config_set("maxmemory", 1)
                raise redis.ConnectionError("lost")
        return answer

    monkeypatch.setattr(Transport, "_exchange", exchanging)
    assert engine.debit("user:1", TYPE, 30, operation_id="op-lost").replayed
    assert next(turns, "all were taken") == "all were taken"
    assert engine.read_balance("user:1", TYPE).available == 970


#: Prints how many holds of seven units it was admitted.
HOLDER = """
import sys
from quota_engine import QuotaEngine, QuotaInsufficientError

admitted = 0
with QuotaEngine.open(*sys.argv[1:]) as engine:
    for _ in range(40):
        try:
            engine.place_hold("user:1", "text_token", 7)
        except QuotaInsufficientError:
            continue
        admitted += 1
print(admitted)
"""


def test_eight_processes_are_admitted_exactly_what_there_is(
    redis_url: str, database_url: str, engine: QuotaEngine
) -> None:
    processes = [Program(HOLDER, redis_url, database_url, stdout=PIPE) for _ in range(8)]
    assert sum(int(process.communicate()[0]) for process in processes) == 142
    balance = engine.read_balance("user:1", TYPE)
    assert (balance.held, balance.available, balance.balance) == (994, 6, 1_000)
