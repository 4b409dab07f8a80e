"""
While Redis is away: what was used is noted and charged once, what may be admitted is, and no more.

Goal: no charge is lost or doubled, whoever is restarted. Method: both engines against a server
that is killed, stopped and started again; the ledger says what came of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import Any

import pytest
import redis

from quota_engine import (
    EngineUnavailableError,
    IdempotencyConflictError,
    Usage,
)
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from quota_engine.spooled import SpooledOperation
from tests.programs import Program
from tests.spools import (
    ACCOUNT,
    GRANTED,
    OPEN,
    TYPE,
    Away,
    entries,
    proven,
    replayed_by_itself,
)


async def test_a_capture_is_noted_and_charged_once_when_redis_is_back(away: Away) -> None:
    async with away.engine() as call:
        await away.funded(call)
        hold = await call("place_hold", ACCOUNT, TYPE, 100)
        away.server.kill()
        noted = await call("capture_hold", hold, 60, usage={"input_tokens": 60})
        assert (noted.spooled, noted.balance, noted.version, noted.amount) == (True, None, 0, 60)
        again = await call("capture_hold", hold, 60, usage={"input_tokens": 60})
        assert (again.spooled, again.replayed) == (True, True)
        with pytest.raises(IdempotencyConflictError):
            await call("capture_hold", hold, 61)
        assert call.engine.spool.waiting() == 1
        away.server.start()
        await replayed_by_itself(call)
        [charge] = await entries(call)
        assert (charge.kind, charge.amount, charge.late) == ("hold.captured", 60, False)
        assert charge.details["usage"] == {"input_tokens": 60, "requests": 1}
        told = await call("capture_hold", hold, 60, usage={"input_tokens": 60})
        assert (told.spooled, told.replayed, told.balance) == (False, True, GRANTED - 60)
        await proven(call)


async def test_all_that_has_happened_is_noted(away: Away) -> None:
    async with away.engine() as call:
        await away.funded(call)
        first = await call("place_hold", ACCOUNT, TYPE, 100, operation_id="first")
        second = await call("place_hold", ACCOUNT, TYPE, 50, operation_id="second")
        await call("place_hold", ACCOUNT, TYPE, 10, operation_id="third")
        away.server.kill()
        part = {"final": False, "operation_id": "part"}
        outcomes = [
            await call("capture_hold", first, 30, **part),
            await call("capture_hold", first, 20),
            await call("release_hold", second, usage={"input_tokens": 5}),
            await call("capture_hold", "third", 0, account=ACCOUNT, quota_type=TYPE),
            await call("debit", ACCOUNT, TYPE, 7, operation_id="used", already_used=True),
            await call("record_usage", ACCOUNT, TYPE, Usage(input_tokens=3), operation_id="seen"),
        ]
        assert all(outcome.spooled and not outcome.replayed for outcome in outcomes)
        away.server.start()
        await replayed_by_itself(call)
        kinds = ("hold.captured", "hold.released", "quota.debited", "usage.recorded")
        found = {one.operation_id: one for one in await entries(call, *kinds)}
        assert {id_: one.amount for id_, one in found.items()} == {
            "part": 30,
            "first:capture": 20,
            "second:release": 50,
            "third:capture": 0,
            "used": 7,
            "seen": 0,
        }
        balance = await call("read_balance", ACCOUNT, TYPE)
        assert (balance.balance, balance.held) == (GRANTED - 57, 0)
        await proven(call)


async def test_what_was_noted_survives_its_engine(away: Away) -> None:
    async with away.engine() as call:
        await away.funded(call)
        holds = [await call("place_hold", ACCOUNT, TYPE, 10) for _ in range(5)]
        away.server.kill()
        for hold in holds:
            assert (await call("capture_hold", hold, 4)).spooled
    away.server.start()
    async with away.engine() as call:  # by itself: nobody calls
        await replayed_by_itself(call)
        assert [one.amount for one in await entries(call)] == [4] * 5
        await proven(call)


async def test_a_block_ends_in_the_spool(away: Away) -> None:
    async with away.engine() as call:
        await away.funded(call)
        if away.flavour == "sync":
            with call.engine.hold(ACCOUNT, TYPE, 10) as hold:
                away.server.kill()
                assert hold.capture(3).spooled
            away.server.start()
            await replayed_by_itself(call)
            with call.engine.hold(ACCOUNT, TYPE, 10):
                away.server.kill()
        else:
            async with call.engine.hold(ACCOUNT, TYPE, 10) as hold:
                away.server.kill()
                assert (await hold.capture(3)).spooled
            away.server.start()
            await replayed_by_itself(call)
            async with call.engine.hold(ACCOUNT, TYPE, 10):
                away.server.kill()
        away.server.start()
        await replayed_by_itself(call)
        balance = await call("read_balance", ACCOUNT, TYPE)
        assert (balance.balance, balance.held) == (GRANTED - 3, 0)


async def test_a_capture_that_arrives_late_all_the_same_is_charged_once(away: Away) -> None:
    async with away.engine() as call:
        await away.funded(call)
        hold = await call("place_hold", ACCOUNT, TYPE, 100)
        pid = away.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            assert (await call("capture_hold", hold, 60)).spooled
        finally:
            os.kill(pid, signal.SIGCONT)  # and takes what its sockets still hold
        await replayed_by_itself(call)
        [charge] = await entries(call)
        assert charge.amount == 60
        await proven(call)


async def test_two_who_replay_at_once_charge_once(away: Away) -> None:
    async with away.engine() as call:
        await away.funded(call)
        holds = [await call("place_hold", ACCOUNT, TYPE, 10) for _ in range(12)]
        away.server.kill()
        for hold in holds:
            await call("capture_hold", hold, 3)
    away.server.start()
    async with away.engine() as one, away.engine() as other:
        outcomes = await asyncio.gather(
            *(
                asyncio.to_thread(engine.engine.for_renewals().replay_spool)
                for engine in (one, other)
            )
        )
        assert all(outcome.error is None for outcome in outcomes)
        await replayed_by_itself(one)
        assert [entry.amount for entry in await entries(one)] == [3] * 12
        await proven(one)


async def test_an_old_operation_is_looked_up_in_the_ledger_first(away: Away) -> None:
    async with away.engine() as call:
        await away.funded(call)
        await call("debit", ACCOUNT, TYPE, 7, operation_id="used", already_used=True)
        quota = QuotaName(ACCOUNT, TYPE)
        keys = ShardKeys(shard_of(ACCOUNT, 2))
        with redis.Redis.from_url(away.server.url) as client:  # Redis forgets
            client.delete(keys.ops0(str(quota)), keys.ops1(str(quota)))
        hour_ago = call.engine._spooling.now_ms() - 3_600_000
        call.engine.spool.note(
            SpooledOperation(
                kind="debit_used",
                account=ACCOUNT,
                quota_type=TYPE,
                operation_id="used",
                amount=7,
                noted_ms=hour_ago,
            )
        )
        outcome = await call("replay_spool")
        assert (outcome.replayed, outcome.waiting) == (1, 0)
        assert [one.amount for one in await entries(call)] == [7]


async def test_a_hold_that_redis_lost_is_charged_and_one_that_never_was_is_refused(
    away: Away,
) -> None:
    async with away.engine() as call:
        await away.funded(call)
        hold = await call("place_hold", ACCOUNT, TYPE, 100, operation_id="lost")
        await call("release_hold", hold)
        lost = type(hold)(**{**_fields(hold), "hold_id": "gone"})
        away.server.kill()
        assert (await call("capture_hold", lost, 60)).spooled
        typo = await call("capture_hold", "no-such-hold", 5, account=ACCOUNT, quota_type=TYPE)
        assert typo.spooled
        away.server.start()
        await replayed_by_itself(call)
        assert [(one.kind, one.amount) for one in await entries(call)] == [("quota.debited", 60)]
        [refused] = [row for row in call.engine.spool.rows() if row.state == "refused"]
        assert refused.operation_id == "no-such-hold:capture"
        assert "never placed" in refused.last_error
        await proven(call)


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


async def test_without_a_spool_the_call_says_so(away: Away) -> None:
    away.folder.parent.mkdir(exist_ok=True)
    away.folder.write_text("in the way")
    async with away.engine() as call:
        await away.funded(call)
        hold = await call("place_hold", ACCOUNT, TYPE, 10)
        away.server.kill()
        with pytest.raises(EngineUnavailableError, match="Nor could it be spooled"):
            await call("capture_hold", hold, 5)
        away.server.start()
        captured = await call("capture_hold", hold, 5)
        assert (captured.spooled, captured.balance) == (False, GRANTED - 5)


async def test_while_all_is_well_no_file_is_touched(away: Away) -> None:
    async with away.engine(**OPEN) as call:
        await away.funded(call)
        hold = await call("place_hold", ACCOUNT, TYPE, 10)
        await call("extend_hold", hold, amount=20)
        await call("capture_hold", hold, 5)
        await call("debit", ACCOUNT, TYPE, 5)
        assert not away.folder.exists()


CLIENT = """
import json, os, signal, sys
from quota_engine import QuotaEngine
url, database, folder, account = sys.argv[1:]
engine = QuotaEngine.open(url, database, spool_folder=folder, shards=2, call_timeout_seconds=0.8)
hold = engine.place_hold(account, "text_token", 50, operation_id="call-1")
print("placed", flush=True)
sys.stdin.readline()
assert engine.capture_hold(hold, 33, usage={"input_tokens": 33}).spooled
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.row(
    60,
    injection="SIGKILL of a gateway that has noted its capture while Redis is away",
    outcome="another process replays the note: charged once",
)
async def test_what_a_killed_process_noted_is_replayed_by_another(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with away.engine() as call:
        await away.funded(call)
    place = (away.server.url, away.database_url, str(away.folder), ACCOUNT)
    with Program(CLIENT, *place, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"placed\n"
        away.server.kill()
        client.communicate(b"\n", timeout=60)
        assert client.returncode == -signal.SIGKILL
    away.server.start()
    async with away.engine() as call:
        await replayed_by_itself(call)
        [charge] = await entries(call)
        assert (charge.operation_id, charge.amount) == ("call-1:capture", 33)
