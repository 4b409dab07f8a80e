"""
Metered calls while Redis is away: one charge and one usage record each, as the policy says.

Goal: a model's answer is neither taken away nor given away. Method: both engines, a server that is
killed before, during or after the call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quota_engine import EngineUnavailableError
from quota_engine.metering import COUNTERS
from tests.metered import (
    ACCOUNT,
    ANSWER,
    CHARGED,
    CHUNK,
    END,
    ESTIMATE,
    LAST,
    fund,
    records,
    spent,
)
from tests.spools import OPEN, Away, replayed_by_itself

PLAN: dict[str, Any] = {"estimate": ESTIMATE}
WIDE = {**OPEN, "offline_allowance": 1_000}


async def test_a_call_that_ends_while_redis_is_away_is_charged_once(away: Away) -> None:
    async with away.engine() as call:
        await fund(call)
        spooled = COUNTERS["spooled"]

        @call.engine.requires_quota("text_token", **PLAN)
        async def function(account: str) -> Any:
            away.server.kill()
            return ANSWER

        assert await function(ACCOUNT) is ANSWER
        assert COUNTERS["spooled"] == spooled + 1
        away.server.start()
        await replayed_by_itself(call)
        assert await spent(call) == CHARGED
        [record] = await records(call)
        assert (record["status"], record["amount"]) == ("success", CHARGED)


async def test_closed_refuses_the_call_before_it_is_made(away: Away) -> None:
    async with away.engine() as call:
        await fund(call)
        made = []

        @call.engine.requires_quota("text_token", **PLAN)
        async def function(account: str) -> Any:
            made.append(account)

        away.server.kill()
        with pytest.raises(EngineUnavailableError, match="QUOTA_ENGINE_OFFLINE_POLICY"):
            await function(ACCOUNT)
        assert made == []
        away.server.start()
        assert await spent(call) == 0
        assert await records(call) == []


async def test_open_makes_the_call_and_charges_it_once_when_redis_is_back(away: Away) -> None:
    async with away.engine(**WIDE) as call:
        await fund(call)

        @call.engine.requires_quota("text_token", **PLAN)
        async def function(account: str) -> Any:
            return ANSWER

        away.server.kill()
        for _ in range(3):
            assert await function(ACCOUNT) is ANSWER
        assert call.engine.spool.waiting() == 3
        away.server.start()
        await replayed_by_itself(call)
        assert await spent(call) == 3 * CHARGED
        assert [record["amount"] for record in await records(call)] == [CHARGED] * 3


async def test_a_stream_and_a_failure_without_redis(away: Away) -> None:
    async with away.engine(**WIDE) as call:
        await fund(call)

        @call.engine.requires_quota("text_token", **PLAN)
        async def stream(account: str) -> Any:
            for chunk in (CHUNK, END, LAST):
                yield chunk

        @call.engine.requires_quota("text_token", **PLAN)
        async def failing(account: str) -> Any:
            raise ValueError("no answer")

        away.server.kill()
        assert [chunk async for chunk in stream(ACCOUNT)] == [CHUNK, END, LAST]
        with pytest.raises(ValueError, match="no answer"):
            await failing(ACCOUNT)
        away.server.start()
        await replayed_by_itself(call)
        assert await spent(call) == CHARGED
        found = {record["status"]: record["amount"] for record in await records(call)}
        assert found == {"success": CHARGED, "failed": 0}


async def test_several_types_are_charged_once_when_redis_is_back(away: Away) -> None:
    async with away.engine(**WIDE) as call:
        await fund(call)
        await fund(call, "image")
        used = replace(ESTIMATE, images=2)

        @call.engine.requires_quota(("text_token", "image"), estimate=used, usage=lambda _: used)
        async def function(account: str) -> Any:
            away.server.kill()
            return ANSWER

        assert await function(ACCOUNT) is ANSWER
        with pytest.raises(EngineUnavailableError, match="Nothing is admitted"):
            await function(ACCOUNT)  # an allowance is of one quota type
        away.server.start()
        await replayed_by_itself(call)
        assert await spent(call) == ESTIMATE.total_tokens
        assert await spent(call, "image") == 2
        assert [record["images"] for record in await records(call)] == [2]
