"""``models``: which models there are, and what is known of them."""

from __future__ import annotations

from typing import Annotated

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows
from quota_engine.cli.prices import PRICE_COLUMNS, ModelName, ProviderName
from quota_engine.errors import PricingNotFoundError

app = command_group("See which models are known, what they cost, and change what is known.")

COLUMNS = (
    *("provider", "name", "usage_type", "context_tokens_max", "output_tokens_max"),
    *("is_enabled", "created_at"),
)


@app.command("list")
def list_(
    provider: Annotated[str | None, typer.Argument(help="Default: every provider.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show the models of the catalog.

    Example: quota-engine models list openai
    """
    with opened_engine() as engine:
        models = engine.catalog.list_models(provider)
    print_rows(models, COLUMNS, as_json=as_json, empty="no models: set or import prices")


@app.command()
def show(provider: ProviderName, model: ModelName, as_json: JsonFlag = False) -> None:
    """
    Show what is known of a model, and its prices in force now.

    Example: quota-engine models show openai gpt-4o
    """
    with opened_engine() as engine:
        found = engine.catalog.find_model(provider, model)
        prices = engine.prices.list(provider, model)
    if found is None:
        raise PricingNotFoundError(
            f"{provider}/{model} is not in the catalog; `quota-engine models list` shows what is",
            provider=provider,
            model=model,
        )
    if as_json:
        print_json({"model": found, "prices": prices})
        return
    print_facts(found, as_json=False)
    typer.echo()
    print_rows(prices, PRICE_COLUMNS[2:], as_json=False, empty="no price in force")


@app.command("set")
def set_(
    provider: ProviderName,
    model: ModelName,
    *,
    usage_type: Annotated[
        str | None, typer.Option(help="What it is for, such as text_generation.")
    ] = None,
    context_tokens_max: Annotated[
        int | None, typer.Option(help="The most tokens that it reads.")
    ] = None,
    output_tokens_max: Annotated[
        int | None, typer.Option(help="The most tokens that it writes.")
    ] = None,
    is_enabled: Annotated[
        bool | None, typer.Option("--enabled/--disabled", help="Whether new calls may use it.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Add a model to the catalog, or change what is known of it. What is not told stays.

    Example: quota-engine models set openai gpt-4o --output-tokens-max 16384
    """
    with opened_engine() as engine:
        changed = engine.catalog.change_model(
            provider,
            model,
            usage_type=usage_type,
            context_tokens_max=context_tokens_max,
            output_tokens_max=output_tokens_max,
            is_enabled=is_enabled,
        )
    print_facts(changed, as_json=as_json)
