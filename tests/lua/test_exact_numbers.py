"""
Numbers leave a script with every digit.

Goal: the conversion that all scripts use is exact on every server. Method: send the greatest
amounts through it.
"""

from __future__ import annotations

import pytest
import redis

from quota_engine.amounts import AMOUNT_MAX


@pytest.mark.parametrize("number", [0, 1, -1, 2**31, 10**15 + 1, AMOUNT_MAX, -AMOUNT_MAX])
def test_the_greatest_amounts_are_written_exactly(any_redis_url: str, number: int) -> None:
    with redis.Redis.from_url(any_redis_url, decode_responses=True) as client:
        written = client.eval("return string.format('%d', tonumber(ARGV[1]))", 0, number)
    assert written == str(number)
