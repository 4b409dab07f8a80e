"""
Periods by anchor and time zone.

Method: instants worked out by hand from the IANA rules of each zone, and every period's end is the
next one's start.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, reset_tzpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota_engine import InvalidArgumentError
from quota_engine.periods import (
    Period,
    PeriodLength,
    checked_period,
    checked_time_zone,
    period_at,
    starts_at,
)

MONTH = checked_period("month")
SHANGHAI, BERLIN, NEW_YORK = (
    ZoneInfo(name) for name in ("Asia/Shanghai", "Europe/Berlin", "America/New_York")
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def starts(period: str, anchor: datetime, zone: ZoneInfo, numbers: range | list[int]) -> list[str]:
    length = checked_period(period)
    found = [starts_at(length, anchor, zone, number).astimezone(zone) for number in numbers]
    return [one.strftime("%Y-%m-%d %H:%M") for one in found]


def test_the_31st_is_the_last_day_of_shorter_months_and_comes_back() -> None:
    assert starts("month", utc("2026-01-31T00:00"), ZoneInfo("UTC"), range(5)) == [
        "2026-01-31 00:00",
        "2026-02-28 00:00",
        "2026-03-31 00:00",
        "2026-04-30 00:00",
        "2026-05-31 00:00",
    ]
    assert starts("quarter", utc("2025-11-30T00:00"), ZoneInfo("UTC"), [1, 2]) == [
        "2026-02-28 00:00",
        "2026-05-30 00:00",
    ]


def test_a_leap_day_is_the_28th_in_common_years_and_comes_back() -> None:
    assert starts("year", utc("2024-02-29T00:00"), ZoneInfo("UTC"), [0, 1, 4, 76]) == [
        "2024-02-29 00:00",
        "2025-02-28 00:00",
        "2028-02-29 00:00",
        "2100-02-28 00:00",
    ]


def test_a_period_begins_at_the_anchor_s_local_time_whatever_the_offset() -> None:
    anchor = datetime(2026, 3, 15, 9, tzinfo=BERLIN)
    assert starts("month", anchor, BERLIN, [0, 1]) == ["2026-03-15 09:00", "2026-04-15 09:00"]
    assert starts_at(MONTH, anchor, BERLIN, 0) == utc("2026-03-15T08:00")
    assert starts_at(MONTH, anchor, BERLIN, 1) == utc("2026-04-15T07:00")


def test_a_time_that_is_skipped_is_the_instant_the_change_leads_to() -> None:
    anchor = datetime(2026, 3, 28, 2, 30, tzinfo=BERLIN)
    assert starts("day", anchor, BERLIN, range(3)) == [
        "2026-03-28 02:30",
        "2026-03-29 03:30",
        "2026-03-30 02:30",
    ]


def test_a_time_that_comes_twice_is_its_first() -> None:
    anchor = datetime(2026, 10, 31, 1, 30, tzinfo=NEW_YORK)
    assert starts_at(checked_period("day"), anchor, NEW_YORK, 1) == utc("2026-11-01T05:30")


def test_the_day_is_that_of_the_zone_not_of_utc() -> None:
    anchor = datetime(2026, 1, 31, tzinfo=SHANGHAI)
    assert starts_at(MONTH, anchor, SHANGHAI, 1) == utc("2026-02-27T16:00")
    found = period_at(MONTH, anchor, SHANGHAI, utc("2026-02-27T15:59:59.999"))
    assert found is not None
    assert (found.number, found.ends_at) == (0, utc("2026-02-27T16:00"))


def test_the_end_of_a_period_is_in_the_next() -> None:
    anchor = utc("2026-01-31T00:00")
    last = utc("2026-02-28T00:00")
    assert period_at(MONTH, anchor, ZoneInfo("UTC"), last - timedelta(microseconds=1)) == Period(
        0, anchor, last
    )
    assert period_at(MONTH, anchor, ZoneInfo("UTC"), last) == Period(
        1, last, utc("2026-03-31T00:00")
    )
    assert period_at(MONTH, anchor, ZoneInfo("UTC"), anchor - timedelta(microseconds=1)) is None


@given(
    anchor=st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1)),
    later=st.timedeltas(timedelta(0), timedelta(days=20_000)),
    length=st.sampled_from(["day", "week", "month", "quarter", "year", "10 days", "5 months"]),
    zone=st.sampled_from([SHANGHAI, BERLIN, NEW_YORK, ZoneInfo("Australia/Lord_Howe")]),
)
def test_every_instant_is_in_one_period(
    anchor: datetime, later: timedelta, length: str, zone: ZoneInfo
) -> None:
    begins, parsed = anchor.replace(tzinfo=UTC), checked_period(length)
    found = period_at(parsed, begins, zone, begins + later)
    assert found is not None
    assert found.starts_at <= begins + later < found.ends_at
    assert found.ends_at == starts_at(parsed, begins, zone, found.number + 1)
    assert period_at(parsed, begins, zone, found.ends_at) == Period(
        found.number + 1, found.ends_at, starts_at(parsed, begins, zone, found.number + 2)
    )


def test_lengths_and_zones_are_checked() -> None:
    assert checked_period("2 weeks") == PeriodLength(0, 14)
    assert checked_period("1 year") == checked_period("12 months")
    for wrong in ("", "months", "0 days", "-1 day", "1.5 days", "99999 years", 30, None):
        with pytest.raises(InvalidArgumentError, match="period"):
            checked_period(wrong)
    for nowhere in ("", "Mars/Olympus", "../etc/passwd", 8, None):
        with pytest.raises(InvalidArgumentError, match="time_zone"):
            checked_time_zone(nowhere)
    assert checked_time_zone("UTC").key == "UTC"
    with pytest.raises(InvalidArgumentError, match="calendar"):
        starts_at(checked_period("9999 years"), utc("2026-01-01T00:00"), ZoneInfo("UTC"), 9)


def test_zones_are_known_on_a_system_that_has_none() -> None:
    reset_tzpath(to=[])
    try:
        assert ZoneInfo.no_cache("Asia/Shanghai").utcoffset(datetime(2026, 1, 1)) is not None
    finally:
        reset_tzpath()
