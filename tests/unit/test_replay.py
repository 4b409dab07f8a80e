"""
A trace is read or refused with its line; a seed alone decides who calls and who gets what.

Goal: a mistake in a file costs nobody a run, and a run can be made again.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quota_engine.errors import InvalidArgumentError
from quota_engine.replay.synthetic import synthetic_calls
from quota_engine.replay.timeline import Timeline
from quota_engine.replay.trace import Call, read_trace
from quota_engine.replay.workload import plan, plan_months

HEADING = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.6805900,374,44\n"


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "trace.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_trace_is_read_in_its_order(tmp_path: Path) -> None:
    text = HEADING + ROW + "\n2023-11-16 18:15:48.1805900, 396 ,0\n" + ROW
    assert read_trace(written(tmp_path, text)) == [
        Call(1, 0.0, 374, 44),
        Call(2, 1.5, 396, 0),
        Call(3, 0.0, 374, 44),
    ]
    assert len(read_trace(written(tmp_path, text), limit=2)) == 2


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    text = "﻿Model,GeneratedTokens,ContextTokens,TIMESTAMP\r\nx,44,374,2023-11-16 18:15:46\r\n"
    assert read_trace(written(tmp_path, text)) == [Call(1, 0.0, 374, 44)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks the columns TIMESTAMP, ContextTokens, GeneratedTokens"),
        ("TIMESTAMP,ContextTokens\n", "lacks the columns GeneratedTokens"),
        (HEADING, "has no calls"),
        (HEADING + "\n\n", "has no calls"),
        (HEADING + ROW + "2023-11-16 18:15:46,5\n", "line 3 has 2 cells, the heading has 3"),
        (HEADING + "2023-11-16 18:15:46,5,6,7\n", "line 2 has 4 cells"),
        (HEADING + "2023-11-16 18:15:46,many,6\n", "line 2: ContextTokens must be a whole"),
        (HEADING + "2023-11-16 18:15:46,5,-6\n", "line 2: GeneratedTokens must be a whole"),
        (HEADING + "2023-11-16 18:15:46,5.5,6\n", "not '5.5'"),
        (HEADING + "2023-11-16 18:15:46,5,1e3\n", "not '1e3'"),
        (HEADING + "2023-11-16 18:15:46,5,\n", "not ''"),
        (HEADING + "2023-11-16 18:15:46,٣,6\n", "not '٣'"),
        (HEADING + "2023-11-16 18:15:46,9999999999,6\n", "from 0 to 1000000000"),
        (HEADING + ROW + ROW + "yesterday,5,6\n", "line 4: TIMESTAMP must be like"),
        (b"\xff\xfe\x00T\n", "no text file"),
        (HEADING + '"' + "x" * 200_000 + '",5,6\n', "no CSV file"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        read_trace(written(tmp_path, text))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_seed_decides_everything() -> None:
    calls = synthetic_calls(500, seed=7)
    assert calls == synthetic_calls(500, seed=7) != synthetic_calls(500, seed=8)
    terms = {"prefix": "run:", "users": 20, "promotion_seconds": 5.0}
    assert plan(calls, seed=1, **terms) == plan(calls, seed=1, **terms)
    assert plan(calls, seed=1, **terms).user_of != plan(calls, seed=2, **terms).user_of


def test_few_users_make_most_calls_and_some_get_too_little() -> None:
    calls = synthetic_calls(5_000, seed=1)
    workload = plan(calls, prefix="run:", users=40, seed=1, promotion_seconds=5.0)
    made = Counter(workload.user_of)
    assert sum(made[user] for user in range(4)) > len(calls) * 0.4
    used = Counter[int]()
    for call, user in zip(calls, workload.user_of, strict=True):
        used[user] += call.context_tokens + call.generated_tokens
    dry = {place for place, user in enumerate(workload.users) if user.granted < used[place]}
    assert dry == set(range(3, 40, 4))
    for user in workload.users:
        promotion, membership, purchase = user.grants
        assert {grant.source for grant in user.grants} == {"promotion", "membership", "purchase"}
        assert promotion.priority < membership.priority < purchase.priority
        assert 0 < (promotion.lasts_seconds or 0) <= 5.0
        assert purchase.lasts_seconds is None


def test_every_call_is_made_by_one_client() -> None:
    calls = synthetic_calls(101, seed=1)
    workload = plan(calls, prefix="run:", users=3, seed=1, promotion_seconds=1.0)
    shares = [workload.share(client, 4) for client in range(4)]
    assert sorted(call.number for share in shares for call, _ in share) == list(range(1, 102))
    assert {account for share in shares for _, account in share} == {
        user.account for user in workload.users
    }


def test_a_trace_takes_as_many_days_as_it_shall() -> None:
    start = datetime(2026, 1, 31, tzinfo=UTC)
    timeline = Timeline(start, 40, 3600.0)
    instants = [timeline.instant_of(Call(1, offset, 1, 1)) for offset in (0.0, 1800.0, 3600.0)]
    assert instants[0] == start
    assert abs(instants[1] - start - timedelta(days=20)) <= timedelta(minutes=1)
    assert start + timedelta(days=39) < instants[2] < timeline.ends_at
    assert [timeline.day_of(instant) for instant in instants] == [0, 19, 39]
    assert Timeline(start, 40, 0.0).instant_of(Call(1, 0.0, 1, 1)) == start


def test_plans_are_enough_for_all_but_every_fourth_user() -> None:
    calls = synthetic_calls(2_000, seed=5)
    workload = plan_months(calls, prefix="p:", users=40, seed=1, days=40)
    assert workload == plan_months(calls, prefix="p:", users=40, seed=1, days=40)
    demands = Counter[int]()
    for call, user in zip(calls, workload.user_of, strict=True):
        demands[user] += call.context_tokens + call.generated_tokens
    for place, user in enumerate(workload.users):
        assert user.plan is not None
        if place % 4 != 3:
            assert user.plan.amount >= demands[place] * 31 // 40
    assert {user.plan.rolls_over for user in workload.users if user.plan} == {True, False}
    shares = [workload.share_of_users(client, 3) for client in range(3)]
    assert sum(map(len, shares)) == len(calls)
    owners = [{account for _, account in share} for share in shares]
    assert not owners[0] & owners[1]
    assert not owners[1] & owners[2]
