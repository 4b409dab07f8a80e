"""The price book on a real PostgreSQL: look-ups, versions, what calls cost, and the cache."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, text

from quota_engine import (
    EngineUnavailableError,
    InvalidArgumentError,
    PricingNotFoundError,
    QuotaEngine,
    Usage,
)
from quota_engine.ledger.connection import open_engine
from quota_engine.prices.versions import PriceList
from tests.engines import NOON, Engines, TestClock

pytestmark = pytest.mark.anyio

GPT = {"provider": "openai", "model": "gpt-4o"}
MILLION = Usage(input_tokens=1_000_000)


class Book:
    """The catalog and the prices of an engine of either flavour."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    async def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        found = self.engine
        for part in name.split("."):
            found = getattr(found, part)
        result = found(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result


@pytest.fixture
def book(call: Engines) -> Book:
    return Book(call.engine)


@pytest.fixture
def sql(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


async def test_providers_and_models_are_found_or_made(book: Book) -> None:
    assert await book("catalog.find_provider", "OpenAI") is None
    made = await book("catalog.find_or_create_provider", "OpenAI")
    assert made.name == "openai"
    assert await book("catalog.find_or_create_provider", "openai") == made
    assert await book("catalog.find_provider", " OPENAI ") == made
    assert await book("catalog.find_model", "openai", "gpt-4o") is None
    facts = {"usage_type": "text_generation", "context_tokens_max": 128_000}
    model = await book("catalog.find_or_create_model", "openai", "gpt-4o", **facts)
    assert (model.provider, model.name, model.is_enabled) == ("openai", "gpt-4o", True)
    assert (model.context_tokens_max, model.output_tokens_max) == (128_000, None)
    again = await book("catalog.find_or_create_model", "openai", "gpt-4o", context_tokens_max=1)
    assert again == model
    assert await book("catalog.find_model", "OpenAI", "gpt-4o") == model
    assert await book("catalog.find_model", "openai", "GPT-4o") is None
    changed = await book("catalog.change_model", "openai", "gpt-4o", is_enabled=False)
    assert (changed.is_enabled, changed.context_tokens_max) == (False, 128_000)
    await book("catalog.change_model", "阿里云", "通义千问", output_tokens_max=8192)
    names = [(m.provider, m.name) for m in await book("catalog.list_models")]
    assert names == [("openai", "gpt-4o"), ("阿里云", "通义千问")]
    assert await book("catalog.list_models", "openai") == [changed]
    for wrong in ({"context_tokens_max": 0}, {"usage_type": "a b"}, {"is_enabled": 1}):
        with pytest.raises(InvalidArgumentError):
            await book("catalog.change_model", "openai", "gpt-4o", **wrong)


async def test_a_price_that_is_set_counts_at_once(book: Book) -> None:
    usage = Usage(input_tokens=1000, cached_input_tokens=800, output_tokens=200)
    with pytest.raises(PricingNotFoundError, match="no price in force"):
        await book("cost", usage, **GPT)
    for kind, amount in {"input_token": "2.5", "output_token": "10"}.items():
        await book("prices.set", "openai", "gpt-4o", kind, amount, unit="per_1m_tokens")
    cached = await book("prices.set", "openai", "gpt-4o", "cached_input_token", Decimal("1.25"))
    found = await book("cost", usage, usage_type="text_generation", **GPT)
    assert (found.amount, found.currency) == (Decimal("0.0035"), "USD")
    assert cached.price_id in found.price_ids
    assert len(found.price_ids) == len(found.lines) == 3
    assert (await book("catalog.find_model", "openai", "gpt-4o")).is_enabled
    with pytest.raises(PricingNotFoundError) as refused:
        await book("cost", Usage(images=1), **GPT)
    assert refused.value.missing == ("image",)
    with pytest.raises(InvalidArgumentError):
        await book("cost", {"input_tokens": 1}, **GPT)
    with pytest.raises(InvalidArgumentError):
        await book("prices.set", "openai", "gpt-4o", "input_token", 2.5)


async def test_every_term_of_a_price_comes_back_as_it_was_set(book: Book) -> None:
    starts, ends = NOON + timedelta(microseconds=1), NOON + timedelta(days=1)
    terms = {
        "unit": "per_1k_tokens",
        "currency": "CNY",
        "effective_at": starts,
        "expires_at": ends,
        "min_charge_units": Decimal("0.5"),
        "above_tokens": 32_000,
        "service_tier": "batch",
    }
    made = await book("prices.set", "dashscope", "qwen3-max", "input_token", "0.010", **terms)
    for name, value in terms.items():
        assert getattr(made, name) == value, name
    assert (str(made.price), made.origin, made.source) == ("0.01", "own", None)
    assert await book("prices.history", "dashscope", "qwen3-max") == (made,)
    assert await book("prices.list", at=starts) == (made,)
    assert await book("prices.list", at=ends) == ()
    with pytest.raises(InvalidArgumentError, match="end after it begins"):
        await book("prices.set", "p", "m", "image", 1, expires_at=NOON - timedelta(days=9999))


async def test_a_new_version_counts_from_its_instant_and_history_stays(
    redis_url: str, database_url: str
) -> None:
    clock = TestClock()
    with QuotaEngine.open(redis_url, database_url, clock=clock) as engine:
        price = engine.prices.set("openai", "gpt-4o", "input_token", "2.5")
        assert price.effective_at == NOON
        change = NOON + timedelta(days=30)
        engine.prices.set("openai", "gpt-4o", "input_token", "2", effective_at=change)
        clock.now = change - timedelta(milliseconds=1)
        assert engine.cost(MILLION, **GPT).amount == Decimal("2.5")
        clock.now = change
        assert engine.cost(MILLION, **GPT).amount == 2
        assert engine.cost(MILLION, at=NOON, **GPT).price_ids == (price.price_id,)
        with pytest.raises(PricingNotFoundError):
            engine.cost(MILLION, at=NOON - timedelta(microseconds=1), **GPT)
        assert [p.price for p in engine.prices.list("openai")] == [2]
        versions = engine.prices.history("openai", "gpt-4o", "input_token")
        assert [p.price for p in versions] == [Decimal("2.5"), 2]
        assert engine.prices.history("openai", "gpt-4o", "output_token") == ()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE prices SET price = 0", "DELETE FROM prices", "TRUNCATE prices"],
)
async def test_a_recorded_price_cannot_be_changed(book: Book, sql: Engine, statement: str) -> None:
    await book("prices.set", "openai", "gpt-4o", "input_token", 1)
    with pytest.raises(Exception, match="a price is never changed"), sql.begin() as connection:
        connection.execute(text(statement))


async def test_another_process_sees_a_price_after_the_refresh(
    redis_url: str, database_url: str
) -> None:
    def opened(**settings: Any) -> QuotaEngine:
        return QuotaEngine.open(redis_url, database_url, **settings)

    with opened() as setter, opened() as patient, opened(price_refresh_seconds=0) as eager:
        setter.prices.set("openai", "gpt-4o", "input_token", 1)
        assert [engine.cost(MILLION, **GPT).amount for engine in (patient, eager)] == [1, 1]
        setter.prices.set("openai", "gpt-4o", "input_token", 2)
        found = [engine.cost(MILLION, **GPT).amount for engine in (setter, patient, eager)]
        assert found == [2, 1, 2]


async def test_prices_are_read_once_and_outlive_postgresql_for_a_while(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.prices.set("openai", "gpt-4o", "input_token", 1)
        store, reads, is_down = engine.deployment.price_store, 0, False
        read_prices = store.read_prices

        def read(provider: str | None, model: str | None) -> PriceList:
            nonlocal reads
            reads += 1
            if is_down:
                raise EngineUnavailableError("PostgreSQL is down")
            return read_prices(provider, model)

        now = 1_000.0
        monkeypatch.setattr(store.__class__, "read_prices", lambda _, *names: read(*names))
        monkeypatch.setattr("quota_engine._sync.pricing.time.monotonic", lambda: now)
        for _ in range(5):
            assert engine.cost(MILLION, **GPT).amount == 1
        assert reads == 1
        is_down = True
        now += 30
        assert [engine.cost(MILLION, **GPT).amount for _ in range(5)] == [1] * 5
        assert reads == 2  # tried once, then not again for a while
        now += 3_601
        with pytest.raises(EngineUnavailableError):
            engine.cost(MILLION, **GPT)
        is_down = False
        assert engine.cost(MILLION, **GPT).amount == 1


async def test_the_deployments_currency_is_a_setting(redis_url: str, database_url: str) -> None:
    with QuotaEngine.open(redis_url, database_url, currency="CNY") as engine:
        price = engine.prices.set("dashscope", "qwen-plus", "input_token", "0.8")
        engine.prices.set("dashscope", "qwen-plus", "input_token", "0.115", currency="USD")
        names = {"provider": "dashscope", "model": "qwen-plus"}
        assert price.currency == "CNY"
        assert engine.cost(MILLION, **names).currency == "CNY"
        assert engine.cost(MILLION, currency="USD", **names).nano_units == 115_000_000
    with pytest.raises(InvalidArgumentError):
        QuotaEngine.open(redis_url, database_url, currency="yuan")


async def test_an_instant_must_have_a_time_zone(book: Book) -> None:
    await book("prices.set", "openai", "gpt-4o", "input_token", 1)
    with pytest.raises(InvalidArgumentError):
        await book("cost", MILLION, at=datetime(2026, 1, 1), **GPT)
    found = await book("cost", MILLION, at=datetime.now(UTC) + timedelta(hours=1), **GPT)
    assert found.amount == 1
