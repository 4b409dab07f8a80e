"""A server that was set back a little: running clients bring back what they were answered."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from quota_engine import HoldNotFoundError, QuotaEngine
from quota_engine.embedded import ValkeyServer
from quota_engine.jobs.verify import verify
from quota_engine.resending import Resent
from tests.engines import Engines
from tests.faults import aof

TOKENS = ("user:1", "text_token")
MakeEngine = Callable[..., Any]


class Power:
    """A server that loses power: its file ends where it ended when ``synced`` was called."""

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self._size = 0

    @property
    def _path(self) -> Any:
        return aof.last_file(self._server.place / "data")

    def synced(self) -> None:
        self._size = self._path.stat().st_size

    def fails(self) -> None:
        self._server.kill()
        assert aof.cut(self._path, aof.boundary_before(self._path, self._size)) > 0
        self._server.start()


@pytest.fixture
def power(server: ValkeyServer) -> Power:
    return Power(server)


@pytest.fixture(params=["sync", "async"])
async def make_engine(
    request: pytest.FixtureRequest, server: ValkeyServer, database_url: str
) -> AsyncIterator[MakeEngine]:
    """Opens engines of one flavour, and closes them."""
    made: list[Engines] = []

    async def make(**settings: Any) -> Engines:
        options = {"shards": 2, "resend_seconds": 60, **settings}
        made.append(await Engines(request.param).open(server.url, database_url, **options))
        return made[-1]

    yield make
    for engines in made:
        await engines.close()


def figures(balance: Any) -> tuple[int, int, int]:
    return balance.balance, balance.held, balance.debt


async def check_sound(call: Any) -> None:
    await call("drain")
    ledger = call.engine.deployment.ledger
    assert list(verify(ledger)) == []
    found = call.engine.reconcile()
    report = await found if inspect.isawaitable(found) else found
    assert report.drifts == ()


async def test_what_was_lost_happens_again_before_the_next_call(
    make_engine: MakeEngine, power: Power
) -> None:
    call = await make_engine()
    await call("issue_grant", *TOKENS, 1_000, grant_id="g1")
    kept = await call("debit", *TOKENS, 10, operation_id="kept")
    await call("cancel", *TOKENS, "never")
    power.synced()
    lost = await call("debit", *TOKENS, 20, operation_id="lost")
    first = await call("place_hold", *TOKENS, 100)
    await call("extend_hold", first, amount=150)
    await call("capture_hold", first, 30)
    second = await call("place_hold", *TOKENS, 200)
    await call("release_hold", await call("place_hold", *TOKENS, 7))
    await call("issue_grant", *TOKENS, 5, grant_id="g2")
    await call("void_grant", *TOKENS, "g2")
    await call("set_overdraft_limit", *TOKENS, 50)
    await call("record_usage", *TOKENS, {"input_tokens": 3}, operation_id="usage")
    power.fails()
    balance = await call("read_balance", *TOKENS)
    assert figures(balance) == (940, 200, 0)
    assert balance.overdraft_limit == 50
    resent = call.engine.resent
    assert (resent.restored + resent.survived, resent.dropped, resent.failed) == (14, 0, 0)
    assert resent.restored >= 9
    entries = await call("history", *TOKENS)
    assert len({entry.operation_id for entry in entries}) == len(entries) == 14
    again = await call("debit", *TOKENS, 10, operation_id="kept")
    assert (again.replayed, again.version) == (True, kept.version)
    assert (await call("debit", *TOKENS, 20, operation_id="lost")).amount == lost.amount
    assert (await call("capture_hold", second, 200)).late is False
    await check_sound(call)


async def test_a_second_failure_loses_nothing_either(
    make_engine: MakeEngine, power: Power
) -> None:
    call, other = await make_engine(), await make_engine()
    await call("issue_grant", *TOKENS, 1_000)
    power.synced()
    await call("debit", *TOKENS, 20)
    for _ in range(2):
        power.fails()
        assert (await other("read_balance", *TOKENS)).balance == 1_000
        power.synced()
        assert (await call("read_balance", *TOKENS)).balance == 980
    assert call.engine.resent == Resent(survived=2, restored=2)
    await check_sound(call)


async def test_what_others_spent_meanwhile_is_not_spent_twice_and_nothing_is_denied(
    make_engine: MakeEngine, power: Power
) -> None:
    call, other = await make_engine(), await make_engine()
    await call("issue_grant", *TOKENS, 1_050, grant_id="g1")
    power.synced()
    await call("debit", *TOKENS, 600, operation_id="d1")
    hold = await call("place_hold", *TOKENS, 300)
    released = await call("place_hold", *TOKENS, 150)
    power.fails()
    assert (await other("debit", *TOKENS, 950)).shortfall == 0
    debit = await call("debit", *TOKENS, 600, operation_id="d1")
    assert (debit.replayed, debit.shortfall) == (True, 500)
    named = {"account": TOKENS[0], "quota_type": TOKENS[1]}
    captured = await call("capture_hold", hold.hold_id, 250, **named)
    assert (captured.late, captured.amount, captured.shortfall) == (True, 250, 250)
    assert (await call("capture_hold", hold.hold_id, 250, **named)).replayed
    assert (await call("release_hold", released.hold_id, **named)).amount == 0
    assert call.engine.resent == Resent(survived=1, restored=1, dropped=2)
    await check_sound(call)


async def test_a_hold_that_both_stores_lost_is_charged_when_it_is_shown(
    make_engine: MakeEngine, power: Power
) -> None:
    call, other = await make_engine(resend_seconds=0), await make_engine()
    await call("issue_grant", *TOKENS, 1_000)
    power.synced()
    hold = await call("place_hold", *TOKENS, 300)
    power.fails()
    with pytest.raises(HoldNotFoundError):
        await other("capture_hold", hold.hold_id, 5, account=TOKENS[0], quota_type=TOKENS[1])
    captured = await other("capture_hold", hold, 250)
    assert (captured.late, captured.shortfall) == (True, 0)
    assert (await other("release_hold", hold)).amount == 0
    assert call.engine.resent == Resent()
    await check_sound(other)


async def test_a_whole_account_that_was_lost_comes_back(
    make_engine: MakeEngine, power: Power
) -> None:
    call = await make_engine()
    await call("issue_grant", "user:2", "image", 1)
    power.synced()
    await call("issue_grant", *TOKENS, 1_000, grant_id="g1")
    hold = await call("place_hold", *TOKENS, 300)
    await call("capture_hold", hold, 250)
    await call("debit", *TOKENS, 100)
    power.fails()
    assert figures(await call("read_balance", *TOKENS)) == (650, 0, 0)
    assert call.engine.resent.dropped == 0
    await check_sound(call)


async def test_one_that_waits_for_nothing_remembers_nothing(
    make_engine: MakeEngine, power: Power
) -> None:
    call = await make_engine(resend_seconds=0)
    await call("issue_grant", *TOKENS, 1_000)
    power.synced()
    await call("debit", *TOKENS, 20)
    power.fails()
    assert (await call("read_balance", *TOKENS)).balance == 1_000


async def test_many_calls_at_once_wait_for_what_is_sent_again(
    make_engine: MakeEngine, power: Power
) -> None:
    call = await make_engine()
    await call("issue_grant", *TOKENS, 10_000)
    power.synced()
    holds = [await call("place_hold", *TOKENS, 10) for _ in range(250)]
    power.fails()
    if call.flavour == "async":
        captured = await asyncio.gather(*(call("capture_hold", hold, 10) for hold in holds))
    else:
        captured = [await call("capture_hold", hold, 10) for hold in holds]
    assert [one.late for one in captured] == [False] * 250
    assert figures(await call("read_balance", *TOKENS)) == (7_500, 0, 0)
    assert call.engine.resent.restored == 250
    await check_sound(call)


def test_a_forked_child_sends_nothing_again(
    server: ValkeyServer, database_url: str, power: Power
) -> None:
    with QuotaEngine.open(server.url, database_url, resend_seconds=60) as engine:
        engine.issue_grant(*TOKENS, 1_000)
        power.synced()
        engine.debit(*TOKENS, 20)
        power.fails()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if engine.read_balance(*TOKENS).balance == 1_000 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert engine.read_balance(*TOKENS).balance == 980
