"""
Levels of provider pools, and providers' exports as they are read.

Goal: a level is what the thresholds say, and no small recharge talks it down; of a file that can
not be read the line is told. Method: values by hand.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from quota_engine.errors import InvalidArgumentError, PoolEmptyError
from quota_engine.pools import (
    base_of,
    checked_correction,
    checked_pool_terms,
    checked_recharge,
    level_of,
    thresholds_of,
)
from quota_engine.provider_exports import checked_comparison, read_export

HEADING = b"Timestamp,Request ID,Model,Prompt Tokens,Completion Tokens,Cost,Currency\n"
LINE = b"2026-10-01T12:00:00Z,call-1,gpt-x,100,20,0.0125,usd\n"


@pytest.mark.parametrize(
    ("balance", "level"),
    [
        ("100.000000000001", "ok"),
        ("100", "warning"),
        ("20.01", "warning"),
        ("20", "critical"),
        ("0.000000000001", "critical"),
        ("0", "empty"),
        ("-5", "empty"),
    ],
)
def test_a_level_is_the_worst_threshold_that_is_reached(balance: str, level: str) -> None:
    assert level_of(Decimal(balance), Decimal(100), Decimal(20)) == level


def test_per_cent_is_of_the_largest_of_the_last_three_recharges() -> None:
    recharges = [Decimal(amount) for amount in (10, 1000, 300, 50_000)]
    assert base_of(recharges) == 1000
    assert base_of([]) == 0
    terms = checked_pool_terms(warning="10%")
    assert thresholds_of(terms, Decimal(1000)) == (100, 20)
    assert thresholds_of(terms, Decimal(0)) == (0, 0)
    amounts = checked_pool_terms(warning=500, critical="50.5")
    assert thresholds_of(amounts, Decimal(1000)) == (500, Decimal("50.5"))
    above = checked_pool_terms(warning="100", critical="90%")
    assert thresholds_of(above, Decimal(1000)) == (100, 100), "critical is never above warning"
    exact = Decimal("999999999999999999.000000000001")
    warning_at, _ = thresholds_of(checked_pool_terms(warning="50%"), exact)
    assert warning_at == Decimal("499999999999999999.5000000000005")


@pytest.mark.parametrize("said", ["10 percent", "101%", "-1", "", "1e400", True, 1.5, None])
def test_a_threshold_that_means_nothing_is_refused(said: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="warning must be"):
        checked_pool_terms(warning=said)


def test_amounts_are_exact_and_have_the_right_sign() -> None:
    assert checked_recharge("99.50") == Decimal("99.5")
    assert checked_correction("-12.5") == Decimal("-12.5")
    assert checked_correction(3) == 3
    for said in ("0", "-1", "0.0000000000001", "many", 1.5, "NaN"):
        with pytest.raises(InvalidArgumentError):
            checked_recharge(said)
    for said in ("0", "-0.0000000000001", "many", -1.5, "-Infinity"):
        with pytest.raises(InvalidArgumentError):
            checked_correction(said)


def test_an_error_says_what_is_left() -> None:
    error = PoolEmptyError("openai", "USD", Decimal("-0.000001"))
    assert "-0.000001 USD left" in str(error)
    assert "pools recharge openai" in str(error)


def lines(text: bytes, **options: Any) -> Any:
    named = {"columns": None, "since": None, "until": None, "time_zone": "UTC", "limit": 10}
    tolerances = {"cost_tolerance": 0, "token_tolerance": 0}
    comparison = checked_comparison("openai", "USD", **{**named, **tolerances, **options})
    return list(read_export(text.splitlines(keepends=True), comparison))


def test_usual_headings_times_and_delimiters_are_understood() -> None:
    [one] = lines(b"\xef\xbb\xbf" + HEADING + b"\n" + LINE)
    assert (one.line, one.id, one.model, one.cost) == (3, "call-1", "gpt-x", Decimal("0.0125"))
    assert (one.input_tokens, one.output_tokens, one.currency) == (100, 20, "USD")
    noon_ms = int(datetime(2026, 10, 1, 12, tzinfo=UTC).timestamp()) * 1000
    assert one.at_ms == noon_ms
    for said, zone in (
        ("2026-10-01 20:00:00", "Asia/Shanghai"),
        ("2026/10/01 12:00:00", "UTC"),
        ("2026-10-01T20:00:00+08:00", "UTC"),
        (str(noon_ms // 1000), "Asia/Shanghai"),
        (str(noon_ms), "UTC"),
    ):
        text = f"created;id;Betrag\n{said};;-1.5e-3\n".encode()
        [one] = lines(text, time_zone=zone, columns={"cost": "Betrag"})
        assert (one.at_ms, one.id, one.model) == (noon_ms, None, None)
        assert (one.cost, one.currency) == (Decimal("-0.0015"), None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEADING + LINE.replace(b"0.0125", b"1,25"), r"line 2: 8 columns, the heading has 7"),
        (HEADING + LINE + LINE.replace(b"0.0125", b"free"), r"line 3: the cost must be a number"),
        (HEADING + LINE.replace(b",100,", b",1e2,"), r"line 2: input_tokens must be a whole"),
        (HEADING + LINE.replace(b"2026-10-01T", b"yesterday "), r"line 2: the time 'yester"),
        (HEADING + LINE.replace(b"usd", b"dollars"), r"line 2: currency must be three letters"),
        (
            HEADING + LINE + LINE.replace(b"gpt-x", "模型".encode("gbk")),
            r"line 3: it is not UTF-8",
        ),
        (HEADING + LINE.replace(b"gpt", b"\0"), r"line 2: it holds a NUL"),
        (HEADING + LINE + b'"' + b"x" * 200_000 + b"\n", r"line 3: it is no CSV"),
        (b"\xff\xfeT\0", r"line 1: the file is UTF-16"),
        (b"PK\3\4", r"line 1: the file is packed or a spreadsheet"),
        (b"time,id,tokens\n", r"line 1: no column is known to be the cost; .*'tokens'"),
        (b"", r"line 1: no column is known to be the time or the id or the cost"),
    ],
)
def test_a_bad_export_is_refused_with_the_line(text: bytes, told: str) -> None:
    with pytest.raises(InvalidArgumentError, match=told):
        lines(text)


def test_columns_are_told_by_words_that_there_are() -> None:
    with pytest.raises(InvalidArgumentError, match=r"not for 'price'"):
        lines(HEADING, columns={"price": "Cost"})
    with pytest.raises(InvalidArgumentError, match=r"line 1: column 'Total' is there 0 times"):
        lines(HEADING, columns={"cost": "Total"})
