"""
What is admitted while Redis is away: nothing, or no more than the allowance.

Goal: every unit that was admitted offline is charged once, and no doubtful answer admits anything.
Method: both engines against a server that is killed, stopped and started again.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from quota_engine import (
    EngineFault,
    EngineUnavailableError,
    HoldNotFoundError,
)
from quota_engine.errors import RedisAwayError
from tests.engines import Engines
from tests.spools import (
    ACCOUNT,
    GRANTED,
    OPEN,
    TYPE,
    Away,
    entries,
    proven,
    replayed_by_itself,
    until,
)


@pytest.mark.row(
    61,
    injection="connections to Redis are refused; offline_policy is closed, the default",
    outcome="holds and debits are refused at once with what to do; captures wait in the spool",
)
async def test_closed_admits_nothing_and_says_what_to_do(away: Away) -> None:
    async with away.engine() as call:
        await away.funded(call)
        away.server.kill()
        for method in ("place_hold", "debit"):
            with pytest.raises(EngineUnavailableError, match="QUOTA_ENGINE_OFFLINE_POLICY"):
                await call(method, ACCOUNT, TYPE, 1)
        assert not call.engine.spool.exists()
        away.server.start()
        assert (await call("place_hold", ACCOUNT, TYPE, 1)).offline is False
        assert await entries(call) == []


@pytest.mark.row(
    61,
    injection="the same, and offline_policy is open with an allowance",
    outcome="admitted up to the allowance, charged once when Redis is back",
)
async def test_open_admits_up_to_the_allowance_and_charges_later(away: Away) -> None:
    async with away.engine(**OPEN) as call:
        await away.funded(call)
        away.server.kill()
        hold = await call("place_hold", ACCOUNT, TYPE, 60, operation_id="offline")
        assert (hold.offline, hold.balance) == (True, None)
        debited = await call("debit", ACCOUNT, TYPE, 30, operation_id="at-once")
        assert (debited.spooled, debited.balance) == (True, None)
        with pytest.raises(RedisAwayError, match="10 are left, 11 required"):
            await call("place_hold", ACCOUNT, TYPE, 11)
        assert (await call("extend_hold", hold, amount=70)).offline
        with pytest.raises(RedisAwayError):
            await call("debit", ACCOUNT, TYPE, 1)
        assert (await call("place_hold", "user:2", TYPE, 100)).offline
        captured = await call("capture_hold", hold, 45, usage={"input_tokens": 45})
        assert captured.spooled
        away.server.start()
        await replayed_by_itself(call)
        found = {one.operation_id: one for one in await entries(call)}
        assert {id_: (one.kind, one.amount) for id_, one in found.items()} == {
            "at-once": ("quota.debited", 30),
            "offline:capture": ("quota.debited", 45),
        }
        assert found["offline:capture"].details["usage"]["input_tokens"] == 45
        again = await call("capture_hold", hold, 45, usage={"input_tokens": 45})
        assert (again.replayed, again.spooled) == (True, True)
        by_id = {"account": ACCOUNT, "quota_type": TYPE, "usage": {"input_tokens": 45}}
        assert (await call("capture_hold", "offline", 45, **by_id)).replayed
        away.server.kill()  # the allowance is whole again
        assert (await call("place_hold", ACCOUNT, TYPE, 100)).offline
        away.server.start()
        await call("read_balance", ACCOUNT, TYPE)
        await proven(call)


async def test_an_offline_debit_that_cannot_be_paid_is_recorded_as_shortfall(away: Away) -> None:
    async with away.engine(**OPEN) as call:
        await away.funded(call, amount=20)
        away.server.kill()
        assert (await call("debit", ACCOUNT, TYPE, 50, operation_id="d")).spooled
        away.server.start()
        await replayed_by_itself(call)
        [charge] = await entries(call)
        assert (charge.amount, charge.shortfall, charge.balance_after) == (50, 30, 0)
        await proven(call)


async def test_an_offline_hold_is_released_and_leaves_a_record(away: Away) -> None:
    async with away.engine(**OPEN) as call:
        await away.funded(call)
        away.server.kill()
        hold = await call("place_hold", ACCOUNT, TYPE, 100)
        await call("release_hold", hold, usage={"input_tokens": 3})
        quiet = await call("place_hold", ACCOUNT, TYPE, 100)
        assert (await call("release_hold", quiet)).spooled
        away.server.start()
        await replayed_by_itself(call)
        assert [one.kind for one in await entries(call)] == ["usage.recorded"]
        assert (await call("read_balance", ACCOUNT, TYPE)).balance == GRANTED


async def test_a_hold_that_reached_redis_all_the_same_is_captured_there(away: Away) -> None:
    async with away.engine(**OPEN) as call:
        await away.funded(call)
        await call("debit", ACCOUNT, TYPE, 1)
        pid = away.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            hold = await call("place_hold", ACCOUNT, TYPE, 50, operation_id="both")
            assert hold.offline
        finally:
            os.kill(pid, signal.SIGCONT)
        await until(
            lambda: call.engine.for_renewals().read_balance(ACCOUNT, TYPE).held == 50,
            "the late hold is placed",
        )
        assert (await call("capture_hold", hold, 20)).spooled
        await replayed_by_itself(call)
        charges = await entries(call)
        assert [(one.kind, one.amount) for one in charges] == [
            ("quota.debited", 1),
            ("hold.captured", 20),
        ]
        assert (await call("read_balance", ACCOUNT, TYPE)).held == 0
        await proven(call)


async def test_rules_decide_for_their_accounts(away: Away) -> None:
    rules = {
        "acme": {"policy": "open", "allowance": {TYPE: 5}},
        "acme/free": {"policy": "closed"},
        "user:*": {"policy": "open", "allowance": 2},
    }
    async with away.engine(offline_rules=rules) as call:
        away.server.kill()
        for account, amount in (("acme/team/u", 5), ("acme", 5), ("user:9", 2)):
            assert (await call("place_hold", account, TYPE, amount)).offline
        for account, quota_type in (("acme/free/u", TYPE), ("acmex", TYPE), ("acme", "image")):
            with pytest.raises(RedisAwayError):
                await call("place_hold", account, quota_type, 1)


async def test_an_answer_that_is_no_yes_admits_nothing(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with away.engine(**OPEN) as call:
        await away.funded(call)
        for error in (
            EngineFault("unknown answer"),
            EngineUnavailableError("the gate is closed"),
            HoldNotFoundError("x"),
        ):

            def drive(flow: Any, error: Exception = error) -> Any:
                raise error

            monkeypatch.setattr(call.engine._transport, "drive", drive)
            for method in ("place_hold", "debit"):
                with pytest.raises(type(error)):
                    await call(method, ACCOUNT, TYPE, 1)
        assert not call.engine.spool.exists()


async def test_an_engine_opens_without_redis_where_something_may_be_admitted(away: Away) -> None:
    async with away.engine() as call:
        await away.funded(call)
    away.server.kill()
    with pytest.raises(EngineUnavailableError):
        async with away.engine():
            pass
    async with away.engine(**OPEN) as call:
        hold = await call("place_hold", ACCOUNT, TYPE, 60)
        assert hold.offline
        assert (await call("capture_hold", hold, 25)).spooled
        with pytest.raises(EngineUnavailableError):
            await call("read_balance", ACCOUNT, TYPE)
        away.server.start()
        await replayed_by_itself(call)
        assert [one.amount for one in await entries(call)] == [25]
        await call("read_balance", ACCOUNT, TYPE)
        assert not call.engine._transport.reach.is_away


async def test_once_it_is_known_to_be_away_nobody_waits_long(away: Away) -> None:
    async with away.engine(call_timeout_seconds=30.0, **OPEN) as call:
        await away.funded(call)
        away.server.kill()
        call.engine._transport.reach.is_away = True  # as after the first call's thirty seconds
        for _ in range(20):
            await asyncio.wait_for(_in_time(call), 25)
        away.server.start()
        assert (await call("place_hold", ACCOUNT, TYPE, 1)).offline is False


async def _in_time(call: Engines) -> None:
    assert (await call("place_hold", ACCOUNT, TYPE, 1)).offline
