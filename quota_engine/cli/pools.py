"""``pools``: what is still there of what was paid to providers in advance."""

from __future__ import annotations

from typing import Annotated

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import opened_engine, parse_instant
from quota_engine.cli.output import JsonFlag, print_facts, print_rows
from quota_engine.cli.pool_exports import reconcile

app = command_group("See and recharge what is left at each provider; check a provider's bill.")

Provider = Annotated[str, typer.Argument(help="Who was paid in advance, such as openai.")]
Amount = Annotated[str, typer.Argument(help="In the pool's currency, such as 1000 or 99.50.")]
Currency = Annotated[
    str | None, typer.Option(help="Such as USD. Default: that of the provider's only pool.")
]
Operator = Annotated[str | None, typer.Option(help="Who does it; kept in the history.")]
Remark = Annotated[str | None, typer.Option(help="Why, or what for; kept in the history.")]

POOL = (
    *("provider", "currency", "level", "balance", "warning_at", "critical_at", "recharged"),
    *("corrected", "spent", "last_recharge", "last_recharged_at"),
)
ENTRY = ("at", "kind", "day", "amount", "balance_after", "entry_id", "operator", "remark")
WRONG = 3


@app.command()
def define(
    provider: Provider,
    *,
    currency: Annotated[
        str | None, typer.Option(help="Such as CNY. Default: the deployment's.")
    ] = None,
    warning: Annotated[
        str,
        typer.Option(
            help="A balance, or per cent of the largest of the last three recharges: 10%."
        ),
    ] = "10%",
    critical: Annotated[
        str | None, typer.Option(help="The same, for worse. Default: a fifth of --warning.")
    ] = None,
    starts_at: Annotated[
        str | None, typer.Option(help="Calls from then on are deducted. Default: now.")
    ] = None,
    operator: Operator = None,
    remark: Remark = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Begin to count what is left at a provider, or change when to warn.

    Example: quota-engine pools define openai --currency USD --warning 10%
    """
    begin = parse_instant(starts_at, name="--starts-at")
    with opened_engine() as engine:
        made = engine.pools.define(
            provider,
            currency=currency,
            warning=warning,
            critical=critical,
            starts_at=begin,
            operator=operator,
            remark=remark,
        )
    print_facts(made, as_json=as_json)


@app.command()
def recharge(
    provider: Provider,
    amount: Amount,
    *,
    recharge_id: Annotated[
        str | None,
        typer.Option("--id", help="Such as the payment's: by it, it counts once. Say one."),
    ] = None,
    currency: Currency = None,
    operator: Operator = None,
    remark: Remark = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Record what was paid in. Safe to say twice with the same --id.

    Example: quota-engine pools recharge openai 1000 --id invoice-7 --operator ann
    """
    with opened_engine() as engine:
        entry = engine.pools.recharge(
            provider,
            amount,
            recharge_id=recharge_id,
            currency=currency,
            operator=operator,
            remark=remark,
        )
    print_facts(entry, as_json=as_json)


@app.command(context_settings={"ignore_unknown_options": True})
def correct(
    provider: Provider,
    amount: Amount,
    *,
    correction_id: Annotated[
        str | None, typer.Option("--id", help="By it, it counts once. Say one.")
    ] = None,
    currency: Currency = None,
    operator: Operator = None,
    remark: Remark = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Add to a balance, or with a negative amount take away, what no usage record tells.

    Example: quota-engine pools correct openai -12.5 --id fees-may --remark "monthly fee"
    """
    with opened_engine() as engine:
        entry = engine.pools.correct(
            provider,
            amount,
            correction_id=correction_id,
            currency=currency,
            operator=operator,
            remark=remark,
        )
    print_facts(entry, as_json=as_json)


@app.command("list")
def list_(*, as_json: JsonFlag = False) -> None:
    """
    List every pool with its level: ok, warning, critical or empty.

    Example: quota-engine pools list
    """
    with opened_engine() as engine:
        found = engine.pools.list()
    print_rows(found, POOL, as_json=as_json, empty="there are no pools; define one")


@app.command()
def show(provider: Provider, *, currency: Currency = None, as_json: JsonFlag = False) -> None:
    """
    Show a pool: what was paid in, what calls cost, what is left and when it warns.

    Example: quota-engine pools show openai
    """
    with opened_engine() as engine:
        found = engine.pools.standing(provider, currency=currency)
    print_facts(found, as_json=as_json)


@app.command()
def history(provider: Provider, *, currency: Currency = None, as_json: JsonFlag = False) -> None:
    """
    List recharges, corrections and the costs of each day (UTC), with the balance after each.

    Example: quota-engine pools history openai
    """
    with opened_engine() as engine:
        found = engine.pools.history(provider, currency=currency)
    print_rows(found, ENTRY, as_json=as_json)


@app.command()
def rebuild(
    provider: Provider,
    *,
    currency: Currency = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say which days are wrong; exit 3 if any is.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    Sum what calls cost again from the usage records. It comes out the same, unless edited.

    Example: quota-engine pools rebuild openai --check
    """
    with opened_engine() as engine:
        wrong = engine.pools.wrong_days(provider, currency=currency)
        days = None if check else engine.pools.rebuild(provider, currency=currency)
    print_facts({"wrong_days": wrong, "days_summed": days}, as_json=as_json)
    if check and wrong:
        raise typer.Exit(WRONG)


app.command()(reconcile)
