"""Each public error says what a web server answers for it, and the docs say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quota_engine import errors, refusals
from quota_engine.errors import (
    AccountBarredError,
    AccountClosedError,
    AccountSuspendedError,
    BackpressureError,
    EngineUnavailableError,
    QuotaError,
)
from quota_engine.instants import from_ms
from quota_engine.metrics import collector

PAGE = Path(__file__).resolve().parents[2] / "docs/errors.md"
PUBLIC = {
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, QuotaError)
    and kind is not QuotaError
    and not kind.__name__.startswith("_")
}


def rows() -> dict[str, tuple[int, str]]:
    """Return status and Retry-After of each error, as the page has them."""
    found = re.findall(r"^\| (`.*?) \| (\d+) \| (\d*) ?\|", PAGE.read_text("utf-8"), re.MULTILINE)
    return {
        name: (int(status), seconds)
        for names, status, seconds in found
        for name in re.findall(r"`(\w+)`", names)
    }


def test_every_public_error_has_its_http_status_and_the_page_says_it() -> None:
    told = {
        kind.__name__: (
            kind.http_status,
            "" if kind.retry_after is None else f"{kind.retry_after:g}",
        )
        for kind in PUBLIC
    }
    assert told == rows()
    assert [kind for kind in PUBLIC if kind.http_status == 500] == [errors.EngineFault]


def test_retry_after_is_whole_seconds_rounded_up_where_it_is_known() -> None:
    error = QuotaError("no")
    assert error.http_headers == {}
    error.retry_after = 0.2
    assert error.http_headers == {"Retry-After": "1"}
    error.retry_after = 59.0
    assert error.http_headers == {"Retry-After": "59"}


@pytest.mark.parametrize("kind", [BackpressureError, EngineUnavailableError])
def test_what_passes_by_itself_may_be_tried_again(kind: type[QuotaError]) -> None:
    assert kind("later").http_headers.keys() == {"Retry-After"}


@pytest.mark.parametrize("kind", [AccountSuspendedError, AccountClosedError])
def test_a_barred_account_s_calls_are_counted_by_its_state(kind: type[AccountBarredError]) -> None:
    error = kind("acme", reason="", since=from_ms(0))
    assert str(error) == f"acme is {kind.state}"
    assert refusals.reason_of(error) == kind.state
    assert collector.reason_of(error) == ("refused", kind.state)
