"""
The price book in PostgreSQL: look-ups of the catalog, prices as recorded, new versions, imports.

Every method is one transaction. PostgreSQL's clock says what "now" is, unless the caller does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import new_id
from quota_engine.instants import from_ms, to_ms
from quota_engine.ledger import price_tables as tables
from quota_engine.ledger.ledger import Ledger
from quota_engine.prices.catalog import Model, ModelFacts, Provider
from quota_engine.prices.importing import ImportReport, Offer, Reading, plan
from quota_engine.prices.price import NewPrice, Origin, Price, PricingType, Unit, plain
from quota_engine.prices.versions import PriceList

#: One import at a time ("price" in ASCII): a second one compares with what the first recorded.
IMPORT_LOCK = 0x7072696365
CHUNK = 1_000


class PriceTables:
    """The price book of one ledger's database. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # -- the catalog

    def find_provider(self, name: str) -> Provider | None:
        """Return a provider, or None."""
        query = select(tables.providers).where(tables.providers.c.name == name)
        with self._ledger.transaction() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _provider(row)

    def create_provider(self, name: str) -> Provider:
        """Return a provider, made if there was none."""
        with self._ledger.transaction() as connection:
            _create_providers(connection, [name])
            query = select(tables.providers).where(tables.providers.c.name == name)
            return _provider(connection.execute(query).one())

    def find_model(self, provider: str, name: str) -> Model | None:
        """Return a model, or None."""
        with self._ledger.transaction() as connection:
            return _find_model(connection, provider, name)

    def create_model(self, provider: str, name: str, facts: ModelFacts) -> Model:
        """Return a model as it is; made with these facts, and its provider, if there was none."""
        with self._ledger.transaction() as connection:
            _create_models(connection, [(provider, name, facts)])
            model = _find_model(connection, provider, name)
        assert model is not None, "a model is never removed"
        return model

    def change_model(self, provider: str, name: str, facts: ModelFacts) -> Model | None:
        """Write what is told about a model; return it, or None where there is none."""
        table = tables.models
        with self._ledger.transaction() as connection:
            if told := facts.told():
                connection.execute(
                    table.update()
                    .where(table.c.provider == provider, table.c.name == name)
                    .values(**told)
                )
            return _find_model(connection, provider, name)

    def list_models(self, provider: str | None) -> list[Model]:
        """Return the models of a provider, or all, in the order of their names."""
        table = tables.models
        query = select(table).order_by(table.c.provider, table.c.name)
        if provider is not None:
            query = query.where(table.c.provider == provider)
        with self._ledger.transaction() as connection:
            return [_model(row) for row in connection.execute(query)]

    # -- prices

    def read_prices(self, provider: str | None, model: str | None) -> PriceList:
        """Return every version of the prices of a model, a provider, or all, oldest first."""
        with self._ledger.transaction() as connection:
            known = None
            if provider is not None and model is not None:
                known = _find_model(connection, provider, model)
            return PriceList(
                prices=tuple(_read_prices(connection, provider, model)),
                read_at=_now(connection),
                is_enabled=known is None or known.is_enabled,
            )

    def add_price(self, new: NewPrice, now: datetime | None) -> Price:
        """Record one price, in force from its instant or from ``now``."""
        with self._ledger.transaction() as connection:
            instant = now or _now(connection)
            _create_models(connection, [(new.provider, new.model, ModelFacts())])
            (recorded,) = _record(connection, [new], instant)
            return recorded

    def import_prices(
        self, read: Callable[[datetime], Reading], now: datetime | None, *, dry_run: bool
    ) -> ImportReport:
        """
        Read a list as of now, and record what it says anew; return what changed, or would.

        All of it is in force from the same instant, or nothing is recorded.
        """
        with self._ledger.transaction() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": IMPORT_LOCK})
            instant = now or _now(connection)
            reading = read(instant)
            report = plan(reading, _read_prices(connection, None, None), instant, dry_run=dry_run)
            if not dry_run:
                _create_offered(connection, reading.offers)
                _record(connection, [change.new for change in report.changes], instant)
            return report


def _now(connection: Connection) -> datetime:
    """Return PostgreSQL's time, cut to the millisecond: calls are admitted at milliseconds."""
    found: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return from_ms(to_ms(found, name="PostgreSQL's time"))


def _create_providers(connection: Connection, names: Iterable[str]) -> None:
    rows = [{"name": name} for name in sorted(set(names))]
    statement = upsert(tables.providers).on_conflict_do_nothing()
    for start in range(0, len(rows), CHUNK):
        connection.execute(statement.values(rows[start : start + CHUNK]))


def _create_models(connection: Connection, models: Iterable[tuple[str, str, ModelFacts]]) -> None:
    """Make the models that are missing; the others stay as they are."""
    wanted = sorted(models, key=lambda model: model[:2])  # one order: two writers never cross
    _create_providers(connection, (provider for provider, _, _ in wanted))
    rows = [
        {
            "provider": provider,
            "name": name,
            "usage_type": facts.usage_type,
            "context_tokens_max": facts.context_tokens_max,
            "output_tokens_max": facts.output_tokens_max,
            "is_enabled": facts.is_enabled is not False,
        }
        for provider, name, facts in wanted
    ]
    statement = upsert(tables.models).on_conflict_do_nothing()
    for start in range(0, len(rows), CHUNK):
        connection.execute(statement.values(rows[start : start + CHUNK]))


def _create_offered(connection: Connection, offers: Sequence[Offer]) -> None:
    _create_models(connection, [(offer.provider, offer.model, offer.facts) for offer in offers])


def _find_model(connection: Connection, provider: str, name: str) -> Model | None:
    table = tables.models
    query = select(table).where(table.c.provider == provider, table.c.name == name)
    row = connection.execute(query).one_or_none()
    return None if row is None else _model(row)


def _read_prices(connection: Connection, provider: str | None, model: str | None) -> list[Price]:
    table = tables.prices
    query = select(table).order_by(
        table.c.provider, table.c.model, table.c.effective_at, table.c.number
    )
    if provider is not None:
        query = query.where(table.c.provider == provider)
    if model is not None:
        query = query.where(table.c.model == model)
    return [_price(row) for row in connection.execute(query)]


def _record(connection: Connection, prices: Sequence[NewPrice], now: datetime) -> list[Price]:
    """Insert new versions, in their order, and return them as recorded."""
    rows = [_row(new, now) for new in prices]
    table = tables.prices
    statement = insert(table).returning(table, sort_by_parameter_order=True)
    recorded: list[Price] = []
    for start in range(0, len(rows), CHUNK):
        found = connection.execute(statement, rows[start : start + CHUNK])
        recorded += [_price(row) for row in found]
    return recorded


def _row(new: NewPrice, now: datetime) -> dict[str, Any]:
    effective_at = new.effective_at or now
    if new.expires_at is not None and new.expires_at <= effective_at:
        raise InvalidArgumentError(
            f"a price must end after it begins: it would begin now, {now.isoformat()}, and"
            f" expires_at is {new.expires_at.isoformat()}"
        )
    return {
        "price_id": new_id("price", to_ms(now, name="now")),
        "provider": new.provider,
        "model": new.model,
        "pricing_type": str(new.pricing_type),
        "unit": str(new.unit),
        "price": new.price,
        "currency": new.currency,
        "min_charge_units": new.min_charge_units,
        "above_tokens": new.above_tokens,
        "service_tier": new.service_tier,
        "resolution": new.resolution,
        "effective_at": effective_at,
        "expires_at": new.expires_at,
        "origin": str(new.origin),
        "source": new.source,
    }


def _provider(row: Row[Any]) -> Provider:
    return Provider(name=row.name, created_at=row.created_at.astimezone(UTC))


def _model(row: Row[Any]) -> Model:
    return Model(
        provider=row.provider,
        name=row.name,
        usage_type=row.usage_type,
        context_tokens_max=row.context_tokens_max,
        output_tokens_max=row.output_tokens_max,
        is_enabled=row.is_enabled,
        created_at=row.created_at.astimezone(UTC),
    )


def _price(row: Row[Any]) -> Price:
    return Price(
        price_id=row.price_id,
        provider=row.provider,
        model=row.model,
        pricing_type=PricingType(row.pricing_type),
        unit=Unit(row.unit),
        price=plain(row.price),
        currency=row.currency,
        min_charge_units=plain(row.min_charge_units),
        above_tokens=row.above_tokens,
        service_tier=row.service_tier,
        resolution=row.resolution,
        effective_at=row.effective_at.astimezone(UTC),
        expires_at=None if row.expires_at is None else row.expires_at.astimezone(UTC),
        origin=Origin(row.origin),
        source=row.source,
        number=row.number,
    )
