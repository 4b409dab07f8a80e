"""
What a run's calls cost: which model each is of, the prices, the sums by model, and their proofs.

A price has at most six places per million tokens, so every call's cost is exact in twelve, and the
sum of all costs is the cost of all tokens, to the last digit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from sqlalchemy import text

from quota_engine.deployment import Deployment
from quota_engine.engine import QuotaEngine
from quota_engine.errors import InvalidArgumentError
from quota_engine.prices.price import EXACT, PricingType, checked_model, checked_money, plain
from quota_engine.replay.trace import Call

PROVIDER = "replay"
PLACES_MAX = 6
MILLION = Decimal(10**6)


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a million tokens of one model cost, in the deployment's currency."""

    model: str
    input_price: Decimal
    output_price: Decimal


#: A dear model and a cheap one, priced like those that people use.
DEMO_PRICES = (
    ModelPrice("large", Decimal("2.5"), Decimal(10)),
    ModelPrice("small", Decimal("0.15"), Decimal("0.6")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """What a run's calls of one model used and cost. ``cost`` None: they had no price."""

    model: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    currency: str | None
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Costs:
    """A run's costs by model, and what is wrong with its usage records."""

    by_model: tuple[ModelCost, ...]
    wrong_amounts: tuple[str, ...]
    wrong_costs: tuple[str, ...]


_AMOUNTS = text("""
SELECT account, coalesce(captures, 0) AS captures, coalesce(captured, 0) AS captured,
    coalesce(records, 0) AS records, coalesce(recorded, 0) AS recorded
FROM (
    SELECT account, count(*) AS captures, sum(amount) AS captured FROM ledger_entries
    WHERE account LIKE :pattern AND kind = 'hold.captured' GROUP BY account
) AS entries
FULL JOIN (
    SELECT account, count(*) AS records, sum(amount) AS recorded FROM usage_records
    WHERE account LIKE :pattern GROUP BY account
) AS told USING (account)
WHERE (captures, captured) IS DISTINCT FROM (records, recorded)
ORDER BY account LIMIT 10
""")
_COSTS = text("""
SELECT provider, model, currency, price_ids, count(*) AS calls, count(cost) AS priced,
    coalesce(sum(input_tokens), 0) AS input_tokens,
    coalesce(sum(output_tokens), 0) AS output_tokens, sum(cost) AS cost
FROM usage_records WHERE account LIKE :pattern
GROUP BY provider, model, currency, price_ids ORDER BY model, currency, price_ids
""")
_PRICES = text("""
SELECT price_id, pricing_type, price FROM prices
WHERE price_id = ANY(:price_ids) AND unit = 'per_1m_tokens' AND min_charge_units = 0
""")


def parse_prices(words: str) -> tuple[ModelPrice, ...]:
    """Return what ``large=2.5/10,small=0.15/0.6`` says: MODEL=INPUT/OUTPUT, and more of them."""
    found = []
    for word in words.split(","):
        model, _, prices = word.partition("=")
        said = prices.split("/")
        if len(said) != 2:
            raise InvalidArgumentError(
                f"--prices {word!r:.80} must be MODEL=INPUT/OUTPUT, such as large=2.5/10: the"
                " prices of a million tokens"
            )
        found.append(ModelPrice(checked_model(model), *map(_checked_price, said)))
    if len({price.model for price in found}) < len(found):
        raise InvalidArgumentError("--prices names a model twice")
    return tuple(found)


def _checked_price(word: str) -> Decimal:
    price = checked_money(word.strip(), name="--prices: a price")
    if -int(price.as_tuple().exponent) > PLACES_MAX:
        raise InvalidArgumentError(
            f"--prices: {word} has more than {PLACES_MAX} places; with fewer, sums are exact"
        )
    return price


def model_of(call: Call, models: Sequence[str]) -> str:
    """Return the model that a call is of: the calls are dealt out in turn."""
    return models[call.number % len(models)]


def write_prices(engine: QuotaEngine, prices: Sequence[ModelPrice]) -> None:
    """Write the prices into the price book, those that are not in force there already."""
    currency = engine.deployment.settings.currency
    for price in prices:
        in_force = {
            known.pricing_type: known.price
            for known in engine.prices.list(PROVIDER, price.model)
            if known.currency == currency and known.service_tier is None
        }
        wanted = {
            PricingType.INPUT_TOKEN: price.input_price,
            PricingType.OUTPUT_TOKEN: price.output_price,
        }
        for kind, amount in wanted.items():
            if in_force.get(kind) != amount:
                engine.prices.set(PROVIDER, price.model, kind, amount)


def read_costs(deployment: Deployment, prefix: str) -> Costs:
    """Return what the usage records of a drained run say, and compare it with what they are of."""
    asked = {"pattern": f"{prefix}%"}
    with deployment.ledger.transaction() as sql:
        wrong_amounts = tuple(
            f"{row.account}: {row.captures} captures of {row.captured}, {row.records} records of"
            f" {row.recorded}"
            for row in sql.execute(_AMOUNTS, asked)
        )
        rows = sql.execute(_COSTS, asked).all()
        price_ids = sorted({price_id for row in rows for price_id in row.price_ids or ()})
        prices = {
            row.price_id: (str(row.pricing_type), Decimal(row.price))
            for row in sql.execute(_PRICES, {"price_ids": price_ids})
        }
    costs: dict[tuple[str | None, str | None], ModelCost] = {}
    wrong: list[str] = []
    for row in rows:
        found = ModelCost(
            model=row.model,
            calls=row.calls,
            input_tokens=int(row.input_tokens),
            output_tokens=int(row.output_tokens),
            currency=row.currency,
            cost=row.cost,
        )
        wrong += _wrong(found, row.priced, row.price_ids or (), prices)
        key = (row.model, row.currency)
        costs[key] = _sum(costs[key], found) if key in costs else found
    return Costs(tuple(map(_short, costs.values())), wrong_amounts, tuple(wrong))


def _wrong(
    found: ModelCost,
    priced: int,
    price_ids: Sequence[str],
    prices: Mapping[str, tuple[str, Decimal]],
) -> Iterator[str]:
    """Compute a cost again from tokens and prices; yield where it differs."""
    if found.cost is None or priced < found.calls:
        yield f"{found.model}: {found.calls - priced} of {found.calls} calls have no cost"
        return
    tokens = {"input_token": found.input_tokens, "output_token": found.output_tokens}
    cost = Decimal(0)
    for price_id in price_ids:
        kind, price = prices.get(price_id, ("", Decimal(0)))
        whole = EXACT.multiply(price, Decimal(tokens.pop(kind, 0)))
        cost = EXACT.add(cost, EXACT.divide(whole, MILLION))
    left = sum(tokens.values())
    if left or cost != found.cost:
        yield (
            f"{found.model}: recorded {plain(found.cost)} {found.currency}, computed"
            f" {plain(cost)}, {left} tokens without a price"
        )


def _sum(one: ModelCost, other: ModelCost) -> ModelCost:
    """Add what the same model's calls cost by other versions of its prices."""
    cost = None
    if one.cost is not None and other.cost is not None:
        cost = EXACT.add(one.cost, other.cost)
    return replace(
        one,
        calls=one.calls + other.calls,
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cost=cost,
    )


def _short(cost: ModelCost) -> ModelCost:
    return cost if cost.cost is None else replace(cost, cost=plain(cost.cost))
