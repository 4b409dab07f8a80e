"""``alerts define``, ``rules``, ``remove`` and ``history``: when somebody is told."""

from __future__ import annotations

from typing import Annotated

import typer

from quota_engine.cli.opening import opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_rows
from quota_engine.cli.report_rows import Viewer

Name = Annotated[str, typer.Argument(help="The rule's name, such as low-balance.")]
Operator = Annotated[str | None, typer.Option(help="Who does it; kept in the history.")]
Remark = Annotated[str | None, typer.Option(help="Why; kept in the history.")]

RULE = (
    *("name", "kind", "account", "subtree", "quota_type", "warning", "critical", "period"),
    *("currency", "channels", "changed_at", "changed_by"),
)
CHANGE = ("at", "action", "operator", "remark", "terms")


def define(
    name: Name,
    kind: Annotated[
        str,
        typer.Argument(
            help="balance, debt, shortfall, frozen, usage, cost, unpriced, run_dry, expiring,"
            " pool, drift, drain_late or reconcile_late."
        ),
    ],
    *,
    warning: Annotated[
        str | None, typer.Option(help="A number, or of a balance per cent: 20%.")
    ] = None,
    critical: Annotated[str | None, typer.Option(help="The same, for worse.")] = None,
    account: Annotated[str | None, typer.Option(help="Whom it is about. Default: all.")] = None,
    subtree: Annotated[
        bool, typer.Option("--subtree", help="Also the accounts below --account.")
    ] = False,
    quota_type: Annotated[
        str | None, typer.Option("--type", help="Only this quota type. Default: each.")
    ] = None,
    period: Annotated[
        str | None, typer.Option(help="day (UTC), week, month, quarter or year.")
    ] = None,
    currency: Annotated[str | None, typer.Option(help="Of cost and pools: such as USD.")] = None,
    provider: Annotated[str | None, typer.Option(help="Of pools: only this provider's.")] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Every account for itself, not all together.")
    ] = False,
    channel: Annotated[
        list[str] | None, typer.Option(help="Who is told; several times. Default: every channel.")
    ] = None,
    operator: Operator = None,
    remark: Remark = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Make a rule, or change the one of this name. What is beyond a threshold already fires now.

    Example: quota-engine alerts define low balance --warning 20% --account acme --subtree
    """
    with opened_engine() as engine:
        made = engine.alerts.define(
            name,
            kind,
            warning=warning,
            critical=critical,
            account=account,
            subtree=subtree,
            quota_type=quota_type,
            period=period,
            currency=currency,
            provider=provider,
            each=each,
            channels=channel or None,
            operator=operator,
            remark=remark,
        )
    print_facts(made, as_json=as_json)


def rules(*, viewer: Viewer = None, as_json: JsonFlag = False) -> None:
    """
    List the rules, and who changed them last.

    Example: quota-engine alerts rules
    """
    with opened_engine() as engine:
        found = engine.alerts.rules(viewer=viewer)
    print_rows(found, RULE, as_json=as_json, empty="there are no rules; `alerts define` makes one")


def remove(
    name: Name, *, operator: Operator = None, remark: Remark = None, as_json: JsonFlag = False
) -> None:
    """
    Remove a rule. Its open alerts are resolved, and nobody is told.

    Example: quota-engine alerts remove low --operator ann
    """
    with opened_engine() as engine:
        engine.alerts.remove(name, operator=operator, remark=remark)
    print_facts({"removed": name}, as_json=as_json)


def history(name: Name, *, as_json: JsonFlag = False) -> None:
    """
    Show who made, changed and removed a rule, when and why.

    Example: quota-engine alerts history low
    """
    with opened_engine() as engine:
        found = engine.alerts.rule_history(name)
    print_rows(found, CHANGE, as_json=as_json, empty=f"there was never a rule {name}")
