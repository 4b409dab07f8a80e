"""
Refused calls are counted by the client and reach the reports without slowing any call.

Goal: what is refused is told by account, model, day and reason: after some seconds, when an engine
closes, when a process ends in order, and after PostgreSQL was away. Method: real refusals of both
engines, by hand and by metered calls; processes that end with an engine open.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import pytest

from quota_engine import QuotaEngine, QuotaError, Usage
from quota_engine.jobs import refusing
from quota_engine.ledger import Ledger
from quota_engine.ledger.refusals import add_refusals
from quota_engine.refusals import Refused
from tests.commands import Cli
from tests.engines import NOON, Engines

pytestmark = pytest.mark.anyio
WHO, TYPE = "acme/ann", "text_token"


async def refused(call: Engines, **asked: Any) -> dict[Any, int]:
    """Return how often was refused, by account, model and reason."""
    report = call.engine.reports.refusals(("account", "model"), **asked)
    report = await report if inspect.isawaitable(report) else report
    return {
        (row.account, row.model, reason): count
        for row in report.rows
        for reason, count in row.reasons.items()
    }


async def test_refusals_are_told_by_account_model_and_reason(
    timed: Engines, redis_url: str, database_url: str, cli: Cli
) -> None:
    call = await Engines(timed.flavour).open(redis_url, database_url, clock=lambda: NOON)
    try:
        await refuse(call)
        assert await refused(call) == {}, "no call waits for its counting"
    finally:
        await call.close()
    told = {
        (WHO, "gpt-x", "insufficient"): 2,
        (WHO, None, "insufficient"): 2,
        ("eve", "gpt-x", "insufficient"): 1,
        ("eve", "closed", "disabled"): 1,
        ("eve", "new", "unpriced"): 1,
    }
    assert await refused(timed) == told
    assert await refused(timed, viewer="acme") == {
        key: count for key, count in told.items() if key[0] == WHO
    }
    [day] = cli.json("reports", "refusals", "--by", "day")["rows"]
    assert (day["day"], day["refused"], day["calls"]) == (f"{NOON:%Y-%m-%d}", 7, 0)
    assert "insufficient" in cli.done("reports", "refusals", "--as", "acme")
    assert cli.run("reports", "refusals", "--by", "status").code == 2


async def refuse(call: Engines) -> None:
    """Have calls refused by hand, and metered ones."""
    await call("issue_grant", WHO, TYPE, 50)
    with suppress(QuotaError):
        await call("place_hold", WHO, TYPE, 51)
    for model in ("gpt-x", "gpt-x", None):
        with suppress(QuotaError):
            await call("debit", WHO, TYPE, 51, provider="OpenAI", model=model)
    await call("debit", WHO, TYPE, 90, already_used=True)
    await metered(call)


async def metered(call: Engines) -> None:
    """Let metered calls be refused: for want of quota, and by the catalog."""
    catalog = call.engine.catalog
    for made in (
        catalog.find_or_create_model("openai", "closed"),
        catalog.change_model("openai", "closed", is_enabled=False),
        call.engine.prices.set("openai", "gpt-x", "input_token", "1", currency="USD"),
    ):
        if inspect.isawaitable(made):
            await made
    for model in ("gpt-x", "closed", "new"):
        plan: dict[str, Any] = {"provider": "openai", "model": model}
        plan |= {"account": lambda: "eve", "unconfigured": "deny"}
        plan["estimate"] = Usage(input_tokens=7)

        def ask() -> None:
            raise AssertionError("it was not admitted")

        async def ask_later() -> None:
            raise AssertionError("it was not admitted")

        function: Any = ask if call.flavour == "sync" else ask_later
        with suppress(QuotaError):
            done = call.engine.requires_quota(TYPE, **plan)(function)()
            if inspect.isawaitable(done):
                await done


def test_the_background_writes_while_an_engine_is_open(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusing, "FIRST_SECONDS", 0.02)
    with QuotaEngine.open(redis_url, database_url) as engine:
        fails = [True]

        def away(*arguments: Any) -> None:
            if fails:
                fails.clear()
                raise QuotaError("PostgreSQL is away")
            add_refusals(*arguments)

        monkeypatch.setattr(refusing, "add_refusals", away)
        for expected in (1, 2):
            with suppress(QuotaError):
                engine.debit(WHO, TYPE, 5)
            until = time.monotonic() + 60
            while engine.reports.refusals().total.refused < expected:
                assert time.monotonic() < until
                time.sleep(0.01)
        assert not fails, "what could not be written waited"


def test_an_engine_closes_whatever_becomes_of_its_counts(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = QuotaEngine.open(redis_url, database_url)
    with suppress(QuotaError):
        engine.debit(WHO, TYPE, 5)

    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(refusing, "add_refusals", fail)
    engine.close()
    with pytest.raises(QuotaError, match="closed"):
        engine.debit(WHO, TYPE, 5)


def test_clients_add_to_one_count(database_url: str) -> None:
    one = Refused(20_000, "a\\b", TYPE, "", 'x"y', "frozen")
    with Ledger.open(database_url) as ledger:
        for count in (1, 2**40):
            add_refusals(ledger, {one: count, one._replace(account=""): 1})
        add_refusals(ledger, {})
        with ledger.transaction() as sql:
            rows = sql.exec_driver_sql("SELECT account, model, refused FROM refusals ORDER BY 1")
            assert [tuple(row) for row in rows] == [("", 'x"y', 2), ("a\\b", 'x"y', 2**40 + 1)]


FORGETFUL = """
import sys
from quota_engine import QuotaEngine, QuotaError

engine = QuotaEngine.open(sys.argv[1], sys.argv[2])
try:
    engine.place_hold("forgetful", "image", 1, model="m")
except QuotaError:
    pass
"""


def test_a_process_that_closes_nothing_has_counted(redis_url: str, database_url: str) -> None:
    subprocess.run([sys.executable, "-c", FORGETFUL, redis_url, database_url], check=True)
    with QuotaEngine.open(redis_url, database_url) as engine:
        [row] = engine.reports.refusals(("account", "quota_type", "model")).rows
    assert (row.account, row.quota_type, row.model, row.refused) == ("forgetful", "image", "m", 1)
