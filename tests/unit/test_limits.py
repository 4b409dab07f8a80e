"""Limits by their words: what may be asked, what is written down, and when periods begin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from quota_engine.errors import InvalidAmountError, InvalidArgumentError
from quota_engine.instants import from_ms, to_ms
from quota_engine.limits import (
    LENGTHS_MS,
    PERIODS_AHEAD,
    STEPS_MS,
    Limit,
    checked_limit,
    limits_text,
    marks_at,
    parse_limits,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
#: Clock changes at midnight, by parts of an hour, and far from UTC.
ZONES = (
    *("UTC", "America/New_York", "Europe/Berlin", "Asia/Beirut", "Asia/Kathmandu"),
    *("Pacific/Apia", "America/St_Johns", "Africa/Cairo"),
)


def limit(per: str, zone: str = "UTC", **more: Any) -> Limit:
    given = {"of": "units", "window": "calendar", **more}
    return checked_limit(5, per=per, time_zone=zone, **given)


def ms(instant: datetime) -> int:
    return to_ms(instant, name="instant")


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("per", ["day", "week", "month"])
def test_periods_begin_when_their_first_day_does_in_the_zone(per: str, zone: str) -> None:
    where = ZoneInfo(zone)
    for day in range(0, 3 * 366, 17):
        now = NOON + timedelta(days=day)
        marks = [from_ms(mark).astimezone(where) for mark in marks_at(limit(per, zone), ms(now))]
        assert marks == sorted(set(marks))
        assert marks[1] <= now < marks[2], "from the period before on"
        assert len(marks) == PERIODS_AHEAD + 1
        for mark in marks:
            before = mark.astimezone(UTC) - timedelta(milliseconds=1)
            assert mark.date() > before.astimezone(where).date(), "a day begins, whenever it does"
            assert per != "week" or mark.weekday() == 0
            assert per != "month" or mark.day == 1
        days = {"day": 1, "week": 7, "month": 31}[per]
        steps = [two.date() - one.date() for one, two in pairwise(marks)]
        assert max(steps) <= timedelta(days=days + 1)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York"])
def test_an_hour_begins_with_the_zone_s_hour(zone: str) -> None:
    hourly = limit("hour", zone)
    for minutes in range(0, 400 * 1440, 977):
        now = NOON + timedelta(minutes=minutes)
        told = Limit(**{**fields(hourly), "marks": marks_at(hourly, ms(now))})
        place = told.place_of(ms(now))
        assert place is not None
        begins = from_ms(place).astimezone(ZoneInfo(zone))
        assert (begins.minute, begins.second) == (0, 0)
        assert timedelta() <= now - begins < timedelta(hours=1)


def fields(one: Limit) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Limit.__dataclass_fields__}


def test_a_zone_whose_clocks_change_by_parts_of_an_hour_has_no_hours() -> None:
    with pytest.raises(InvalidArgumentError, match="parts of an hour"):
        marks_at(limit("hour", "Australia/Lord_Howe"), ms(NOON))
    assert marks_at(limit("day", "Australia/Lord_Howe"), ms(NOON))


def test_limits_are_what_their_line_says() -> None:
    told = (
        limit("day", "Asia/Shanghai", window=None),
        limit("minute", window="sliding"),
        checked_limit(3, of="holds", per=None, window=None, time_zone="UTC"),
    )
    given = [Limit(**{**fields(one), "marks": marks_at(one, ms(NOON))}) for one in told]
    text = limits_text(given)
    assert parse_limits(text) == tuple(given)
    assert parse_limits("") == ()
    assert [one.key for one in given] == ["units:day:calendar", "units:minute:sliding", "holds::"]


@pytest.mark.parametrize(
    "text",
    [
        "units,minute,sliding,,5,0,0,0",
        "units,minute,sliding,,05,0,0,0,",
        "units,minute,often,,5,0,0,0,",
        "tokens,minute,sliding,,5,0,0,0,",
        "holds,minute,sliding,,5,0,0,0,",
        "units,day,calendar,UTC,5,0,0,0,",
        "units,day,calendar,UTC,5,0,0,0,9:7",
        "units,minute,sliding,,x,0,0,0,",
        ";",
    ],
)
def test_what_is_no_limit_is_not_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_limits(text)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"of": "tokens"}, "units, calls or holds"),
        ({"per": "fortnight"}, "second, minute, hour, day, week, month"),
        ({"per": None}, "not per None"),
        ({"window": "rolling"}, "sliding or calendar"),
        ({"of": "holds"}, "no per and no window"),
        ({"time_zone": "Asia/Shanghai"}, "has no time zone"),
        ({"window": "calendar", "time_zone": "Mars"}, "Asia/Shanghai"),
    ],
)
def test_what_no_limit_can_be_is_refused_with_what_can(asked: dict[str, Any], told: str) -> None:
    usual = {"of": "units", "per": "minute", "window": None, "time_zone": "UTC"}
    with pytest.raises(InvalidArgumentError, match=told):
        checked_limit(5, **{**usual, **asked})
    with pytest.raises(InvalidAmountError):
        checked_limit(0, **usual)


def test_steps_divide_their_window_and_the_day() -> None:
    for per, length in LENGTHS_MS.items():
        assert length % STEPS_MS[per] == 0
        assert LENGTHS_MS["day"] % STEPS_MS[per] == 0
