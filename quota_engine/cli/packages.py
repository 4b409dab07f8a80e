"""``packages`` and ``purchases``: what is sold, who bought it, and what was given back."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from quota_engine.arguments import SPAN_MAX
from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows
from quota_engine.errors import InvalidArgumentError, PackageNotFoundError

packages = command_group("Define and list what is sold. No version is ever changed.")
purchases = command_group("Record orders and their payments, list them, and give them back.")

Name = Annotated[str, typer.Argument(help="The package's name.")]
OrderId = Annotated[str, typer.Argument(help="Your shop's id of the order.")]

PACKAGE = (
    *("name", "version", "quota_type", "amount", "bonus", "price", "currency"),
    *("original_price", "valid_for", "per_user_limit", "sort_order", "is_active", "description"),
)
LINE = (
    *("order_id", "line", "account", "package", "version", "quota_type", "units", "price"),
    *("currency", "state", "paid_at", "expires_at", "refunded_at"),
)
REFUNDED = ("line", "package", "voided", "expired", "used", "grant_id")


@packages.command()
def define(
    name: Name,
    *,
    quota_type: Annotated[str, typer.Option("--type", help="What is sold: text_token.")],
    amount: Annotated[int, typer.Option(help="Units of the type.")],
    price: Annotated[str, typer.Option(help="What one costs, such as 9.90.")],
    currency: Annotated[
        str | None, typer.Option(help="Such as CNY. Default: the deployment's.")
    ] = None,
    bonus: Annotated[int, typer.Option(help="Units on top.")] = 0,
    original_price: Annotated[str | None, typer.Option(help="A higher price to show.")] = None,
    valid_days: Annotated[
        float | None, typer.Option(help="Days from the payment on. Default: for ever.")
    ] = None,
    per_user_limit: Annotated[
        int | None, typer.Option(help="How often one account may buy it.")
    ] = None,
    priority: Annotated[int, typer.Option(help="Of its grants; the lowest pays first.")] = 50,
    sort_order: Annotated[int, typer.Option(help="Its place in lists.")] = 0,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Say what a package gives and costs; other terms make a new version.

    Example: quota-engine packages define starter --type text_token --amount 1000000 --price 9.90
    """
    valid_for = _days(valid_days)
    with opened_engine() as engine:
        made = engine.packages.define(
            name,
            quota_type=quota_type,
            amount=amount,
            price=price,
            currency=currency,
            bonus=bonus,
            original_price=original_price,
            valid_for=valid_for,
            per_user_limit=per_user_limit,
            priority=priority,
            sort_order=sort_order,
            description=description,
        )
    print_facts(_row(made), as_json=as_json)


@packages.command("list")
def list_(
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those not sold any more.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    List the newest version of each package.

    Example: quota-engine packages list
    """
    with opened_engine() as engine:
        found = engine.packages.list(only_active=not every)
    rows = [_row(package) for package in found]
    print_rows(rows, PACKAGE, as_json=as_json, empty="no package is sold; define one")


@packages.command()
def history(name: Name, as_json: JsonFlag = False) -> None:
    """
    List every version of a package, oldest first.

    Example: quota-engine packages history starter
    """
    with opened_engine() as engine:
        found = engine.packages.history(name)
    if not found:
        raise PackageNotFoundError(f"there is no package {name}; `quota-engine packages list`")
    print_rows([_row(package) for package in found], PACKAGE, as_json=as_json)


@packages.command()
def activate(
    name: Name,
    *,
    off: Annotated[bool, typer.Option("--off", help="End its sale.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    Begin to sell a package, or with --off end it. Pending orders may still be paid.

    Example: quota-engine packages activate starter --off
    """
    with opened_engine() as engine:
        found = engine.packages.activate(name, not off)
    print_facts(_row(found), as_json=as_json)


@purchases.command()
def order(
    order_id: OrderId,
    *,
    account: Annotated[str, typer.Option(help="Who buys.")],
    package: Annotated[list[str], typer.Option(help="What is bought; several times for several.")],
    as_json: JsonFlag = False,
) -> None:
    """
    Record an order that is not paid yet: pay or cancel it later. It grants nothing.

    Example: quota-engine purchases order order-7 --account user:42 --package starter
    """
    with opened_engine() as engine:
        made = engine.order(account, package, order_id)
    print_rows(made.lines, LINE, as_json=as_json)


@purchases.command()
def pay(
    order_id: OrderId,
    account: Annotated[str | None, typer.Option(help="Who bought, unless it is recorded.")] = None,
    package: Annotated[
        list[str] | None, typer.Option(help="What was bought; several times for several.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Record the payment of an order, and issue its grants. Safe to say twice.

    Example: quota-engine purchases pay order-7 --account user:42 --package starter
    """
    with opened_engine() as engine:
        if account is None and not package:
            paid = engine.pay_order(order_id)
        elif account is None or not package:
            raise InvalidArgumentError("--account and --package go together")
        else:
            paid = engine.purchase(account, package, order_id)
    print_rows(paid.lines, LINE, as_json=as_json)


@purchases.command("list")
def list_purchases(
    account: Annotated[str, typer.Argument(help="Who bought.")], as_json: JsonFlag = False
) -> None:
    """
    List what an account has ordered, oldest first.

    Example: quota-engine purchases list user:42
    """
    with opened_engine() as engine:
        found = engine.purchases(account)
    print_rows(found, LINE, as_json=as_json, empty=f"{account} has ordered nothing")


@purchases.command()
def cancel(order_id: OrderId, as_json: JsonFlag = False) -> None:
    """
    Give up an order that was not paid.

    Example: quota-engine purchases cancel order-7
    """
    with opened_engine() as engine:
        cancelled = engine.cancel_order(order_id)
    print_rows(cancelled.lines, LINE, as_json=as_json)


@purchases.command()
def refund(
    order_id: OrderId,
    *,
    actor: Annotated[str | None, typer.Option(help="Who does it; kept with the entry.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; kept with the entry.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Void what is left of a paid order's grants, and say what had been used.

    Example: quota-engine purchases refund order-7 --actor support:ann --reason "never used"
    """
    with opened_engine() as engine:
        refunded = engine.refund_purchase(order_id, actor=actor, reason=reason)
    if as_json:
        print_json(refunded)
    else:
        print_rows(refunded.lines, REFUNDED, as_json=False)


def _days(days: float | None) -> timedelta | None:
    """Return so many days; the engine says which it takes."""
    try:
        return None if days is None else timedelta(days=days)
    except (ValueError, OverflowError):
        raise InvalidArgumentError(
            f"--valid-days must be above 0 and at most {SPAN_MAX.days}, not {days}"
        ) from None


def _row(package: Any) -> dict[str, Any]:
    """Return a package as one flat row."""
    return {name: getattr(package, name, getattr(package.terms, name, None)) for name in PACKAGE}
