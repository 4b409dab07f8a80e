"""``prices``: what models cost, from when on, and what a call would."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quota_engine.cli.calculate import calculate
from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import opened_engine, parse_instant
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows
from quota_engine.cli.rerate import rerate
from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from quota_engine.engine import QuotaEngine
    from quota_engine.prices.importing import ImportReport

app = command_group(
    "Set, import and try what calls cost. No price is ever changed: a new one begins."
)

app.command()(rerate)
app.command()(calculate)

ProviderName = Annotated[str, typer.Argument(help="Who serves the model, such as openai.")]
ModelName = Annotated[str, typer.Argument(help="The model's name, exactly.")]

PRICE_COLUMNS = (
    *("provider", "model", "pricing_type", "price", "currency", "unit", "above_tokens"),
    *("service_tier", "resolution", "min_charge_units", "effective_at", "expires_at", "origin"),
)
LINE_COLUMNS = (
    *("pricing_type", "count", "units", "unit", "price", "amount", "above_tokens"),
    *("resolution", "price_id"),
)
CHANGE_COLUMNS = (
    *("provider", "model", "pricing_type", "above_tokens", "service_tier", "resolution"),
    *("old_price", "new_price", "unit", "effective_at", "is_shadowed"),
)
GENAI_PRICES = "genai-prices"
ROWS_SHOWN = 20


@app.command("set")
def set_(
    provider: ProviderName,
    model: ModelName,
    pricing_type: Annotated[
        str,
        typer.Argument(
            help="input_token, output_token, cached_input_token, cache_write_token,"
            " cache_write_1h_token, reasoning_token, image, audio_tts, audio_minute, video_second"
            " or request."
        ),
    ],
    price: Annotated[str, typer.Argument(help="In the currency, per unit, such as 2.50.")],
    *,
    unit: Annotated[
        str | None, typer.Option(help="Default: the usual one, such as per_1m_tokens.")
    ] = None,
    currency: Annotated[
        str | None, typer.Option(help="Such as CNY. Default: the deployment's.")
    ] = None,
    effective_at: Annotated[
        str | None, typer.Option(help="Instant, or +7d. Default: now.")
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="Instant, or +30d. Default: until another begins.")
    ] = None,
    min_charge_units: Annotated[
        str, typer.Option(help="Where anything is used, at least so many units are charged.")
    ] = "0",
    above_tokens: Annotated[
        int | None, typer.Option(help="For calls with more input tokens than that.")
    ] = None,
    service_tier: Annotated[
        str | None, typer.Option(help="Such as batch. Default: the ordinary one.")
    ] = None,
    resolution: Annotated[str | None, typer.Option(help="Of images and video: 1080p.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Set a price from an instant on. Own prices win over imported ones.

    Example: quota-engine prices set openai gpt-4o input_token 2.50 --currency USD
    """
    with opened_engine() as engine:
        recorded = engine.prices.set(
            provider,
            model,
            pricing_type,
            price,
            unit=unit,
            currency=currency,
            effective_at=parse_instant(effective_at, name="--effective-at"),
            expires_at=parse_instant(expires_at, name="--expires-at"),
            min_charge_units=min_charge_units,
            above_tokens=above_tokens,
            service_tier=service_tier,
            resolution=resolution,
        )
    print_facts(recorded, as_json=as_json, fields=(*PRICE_COLUMNS, "price_id"))


@app.command("list")
def list_(
    provider: Annotated[str | None, typer.Argument(help="Default: every provider.")] = None,
    model: Annotated[str | None, typer.Argument(help="Default: every model.")] = None,
    at: Annotated[str | None, typer.Option(help="Instant, or +7d. Default: now.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show the prices in force.

    Example: quota-engine prices list openai gpt-4o
    """
    with opened_engine() as engine:
        found = engine.prices.list(provider, model, at=parse_instant(at, name="--at"))
    print_rows(found, PRICE_COLUMNS, as_json=as_json, empty="no price in force")


@app.command()
def history(
    provider: ProviderName,
    model: ModelName,
    pricing_type: Annotated[str | None, typer.Argument(help="Default: all.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show every version of a model's prices, those to come included, oldest first.

    Example: quota-engine prices history openai gpt-4o input_token
    """
    with opened_engine() as engine:
        found = engine.prices.history(provider, model, pricing_type)
    print_rows(found, PRICE_COLUMNS, as_json=as_json, empty="no price was ever set")


@app.command()
def cost(
    provider: ProviderName,
    model: ModelName,
    *,
    input_tokens: Annotated[int, typer.Option(help="Cached and cache-write ones included.")] = 0,
    cached_input_tokens: Annotated[int, typer.Option(help="Of the input.")] = 0,
    cache_write_tokens: Annotated[int, typer.Option(help="Of the input.")] = 0,
    cache_write_1h_tokens: Annotated[
        int, typer.Option("--cache-write-1h-tokens", help="Of the input.")
    ] = 0,
    output_tokens: Annotated[int, typer.Option(help="Reasoning included.")] = 0,
    reasoning_tokens: Annotated[int, typer.Option(help="Of the output.")] = 0,
    images: Annotated[int, typer.Option(help="Images made.")] = 0,
    characters: Annotated[int, typer.Option(help="Characters spoken.")] = 0,
    audio_seconds: Annotated[str, typer.Option(help="Audio heard.")] = "0",
    video_seconds: Annotated[str, typer.Option(help="Video made.")] = "0",
    resolution: Annotated[str | None, typer.Option(help="Of images and video.")] = None,
    requests: Annotated[int, typer.Option(help="Requests, where they cost.")] = 1,
    usage_type: Annotated[str | None, typer.Option(help="Such as image_generation.")] = None,
    at: Annotated[str | None, typer.Option(help="Instant, or +7d. Default: now.")] = None,
    service_tier: Annotated[str | None, typer.Option(help="Such as batch.")] = None,
    currency: Annotated[str | None, typer.Option(help="Only prices in this one.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Compute what a call would cost, line by line. Ends with 1 when a price is missing.

    Example: quota-engine prices cost openai gpt-4o --input-tokens 1000 --output-tokens 200
    """
    from quota_engine.prices.price import checked_money
    from quota_engine.usage import Usage

    usage = Usage(
        input_tokens=input_tokens,
        cached_input_tokens=cached_input_tokens,
        cache_write_tokens=cache_write_tokens,
        cache_write_1h_tokens=cache_write_1h_tokens,
        output_tokens=output_tokens,
        reasoning_tokens=reasoning_tokens,
        images=images,
        characters=characters,
        audio_seconds=checked_money(audio_seconds, name="--audio-seconds"),
        video_seconds=checked_money(video_seconds, name="--video-seconds"),
        resolution=resolution,
        requests=requests,
    )
    with opened_engine() as engine:
        found = engine.cost(
            usage,
            provider=provider,
            model=model,
            usage_type=usage_type,
            at=parse_instant(at, name="--at"),
            service_tier=service_tier,
            currency=currency,
        )
    if as_json:
        fields = (*("provider", "model", "amount", "currency", "nano_units"), "service_tier", "at")
        told = {name: getattr(found, name) for name in fields}
        print_json({**told, "lines": found.lines, "price_ids": found.price_ids})
        return
    print_rows(found.lines, LINE_COLUMNS, as_json=False, empty="nothing that costs anything")
    typer.echo(f"\n{found.amount:f} {found.currency}")


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="A LiteLLM price file (JSON), or genai-prices: the installed.")
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change; record nothing.")
    ] = False,
    provider: Annotated[
        list[str] | None, typer.Option(help="Only this provider; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only this model; may be repeated.")
    ] = None,
    zero_is_free: Annotated[
        bool, typer.Option("--zero-is-free", help="Take zeros as prices, not as unknown.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every change and every entry that was not read.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    Take over prices that others keep: what is new or changed is in force from now on.

    Example: quota-engine prices import model_prices.json --provider openai --dry-run
    """
    options: dict[str, Any] = {
        "dry_run": dry_run,
        "providers": provider or (),
        "models": model or (),
        "zero_is_free": zero_is_free,
    }
    entries = None if source == GENAI_PRICES else _entries(Path(source))
    with opened_engine() as engine:
        report = _import(engine, entries, Path(source).name, options)
    _print_report(report, everything=everything, as_json=as_json)


def _entries(path: Path) -> dict[str, Any]:
    import json
    from decimal import Decimal

    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidArgumentError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidArgumentError(
            f"{path} is no LiteLLM price file: expected an object of models"
        )
    return found


def _import(
    engine: QuotaEngine, entries: dict[str, Any] | None, name: str, options: dict[str, Any]
) -> ImportReport:
    if entries is None:
        return engine.prices.import_genai_prices(**options)
    return engine.prices.import_litellm(entries, source=f"litellm {name}", **options)


def _print_report(report: ImportReport, *, everything: bool, as_json: bool) -> None:
    facts = {
        "source": report.source,
        "dry_run": report.dry_run,
        "entries": report.entries,
        "priced": report.priced,
        "partly": len(report.partly),
        "unread": len(report.unread),
        "added": report.added,
        "changed": report.changed,
        "unchanged": report.unchanged,
        "gone": len(report.gone),
    }
    changes = [
        {
            "provider": change.new.provider,
            "model": change.new.model,
            "pricing_type": change.new.pricing_type,
            "above_tokens": change.new.above_tokens,
            "service_tier": change.new.service_tier,
            "resolution": change.new.resolution,
            "old_price": None if change.old is None else change.old.price,
            "new_price": change.new.price,
            "unit": change.new.unit,
            "effective_at": change.new.effective_at,
            "is_shadowed": change.is_shadowed,
        }
        for change in report.changes
    ]
    if as_json:
        lists = {"changes": changes, "gone": report.gone}
        print_json({**facts, **lists, "partly": report.partly, "unread": report.unread})
        return
    print_facts(facts, as_json=False)
    shown = None if everything else ROWS_SHOWN
    for title, rows, columns in (
        ("changes", changes, CHANGE_COLUMNS),
        ("gone from the list, and still in force", report.gone, PRICE_COLUMNS[:8]),
        ("read in part", report.partly, ("entry", "reason")),
        ("not read", report.unread, ("entry", "reason")),
    ):
        if rows:
            typer.echo(f"\n{title}")
            print_rows(rows[:shown], columns, as_json=False)
            if len(rows) > len(rows[:shown]):
                typer.echo(f"… and {len(rows) - ROWS_SHOWN} more: --all or --json shows them")
