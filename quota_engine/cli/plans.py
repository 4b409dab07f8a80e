"""``plans``: what accounts may subscribe to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_rows
from quota_engine.errors import InvalidArgumentError, PlanNotFoundError

app = command_group("Define and list what may be subscribed to. No version is ever changed.")

Name = Annotated[str, typer.Argument(help="The plan's name.")]
PLAN = (
    *("name", "version", "period", "amounts", "priority", "rollover", "debt", "extras"),
    *("trial_period", "trial_amounts", "is_active", "description"),
)


def amounts_of(pairs: Iterable[str]) -> dict[str, int]:
    """Return what ``text_token=100000`` says, several times."""
    found: dict[str, int] = {}
    for pair in pairs:
        quota_type, _, units = pair.partition("=")
        try:
            amount = int(units)
        except ValueError:
            raise InvalidArgumentError(
                f"amounts are whole units of a type, such as text_token=100000, not {pair!r:.80}"
            ) from None
        if quota_type in found:
            raise InvalidArgumentError(f"{quota_type} has two amounts; each type has one")
        found[quota_type] = amount
    return found


@app.command()
def define(
    name: Name,
    *,
    period: Annotated[
        str, typer.Option(help="day, week, month, quarter, year, or such as '10 days'.")
    ],
    amount: Annotated[
        list[str], typer.Option(help="In each period: text_token=100000. Once for each type.")
    ],
    priority: Annotated[int, typer.Option(help="Of its grants; the lowest pays first.")] = 50,
    rollover: Annotated[
        str, typer.Option(help="What becomes of a period's rest: none, all or caps.")
    ] = "none",
    rollover_min: Annotated[int | None, typer.Option(help="Units kept at least.")] = None,
    rollover_max: Annotated[int | None, typer.Option(help="Units kept at most.")] = None,
    rollover_periods: Annotated[
        int | None, typer.Option(help="Periods that they live. Default: for ever.")
    ] = None,
    forgive_debt: Annotated[
        bool, typer.Option("--forgive-debt", help="A new period owes nothing of the old one.")
    ] = False,
    extra: Annotated[
        list[str] | None, typer.Option(help="Once and for good: text_token=5000.")
    ] = None,
    trial: Annotated[str | None, typer.Option(help="A first period: '14 days'.")] = None,
    trial_amount: Annotated[
        list[str] | None, typer.Option(help="In the trial. Default: as in a period.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Say what a plan gives; other terms make a new version.

    Example: quota-engine plans define pro --period month --amount text_token=100000
    """
    caps = {"min": rollover_min, "max": rollover_max, "periods": rollover_periods}
    given = {key: value for key, value in caps.items() if value is not None}
    if rollover not in ("none", "all", "caps"):
        raise InvalidArgumentError(f"--rollover is none, all or caps, not {rollover!r:.80}")
    if given and rollover != "caps":
        raise InvalidArgumentError(
            f"--rollover-min, -max and -periods contradict --rollover {rollover}; use caps"
        )
    if rollover == "caps" and not given:
        raise InvalidArgumentError("--rollover caps needs --rollover-min, -max or -periods")
    with opened_engine() as engine:
        made = engine.plans.define(
            name,
            period=period,
            amounts=amounts_of(amount),
            priority=priority,
            rollover={"none": None, "all": "all", "caps": given}[rollover],
            debt="forgive" if forgive_debt else "carry",
            extras=amounts_of(extra or []),
            trial_period=trial,
            trial_amounts=amounts_of(trial_amount) if trial_amount else None,
            description=description,
        )
    print_facts(_row(made), as_json=as_json)


@app.command("list")
def list_(
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those not offered any more.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    List the newest version of each plan.

    Example: quota-engine plans list
    """
    with opened_engine() as engine:
        found = engine.plans.list(only_active=not every)
    rows = [_row(plan) for plan in found]
    print_rows(rows, PLAN, as_json=as_json, empty="no plan is offered; define one")


@app.command()
def show(
    name: Name,
    *,
    version: Annotated[int | None, typer.Option(help="Default: the newest.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show a plan, or one version of it.

    Example: quota-engine plans show pro --version 1
    """
    with opened_engine() as engine:
        found = engine.plans.show(name, version)
    print_facts(_row(found), as_json=as_json)


@app.command()
def history(name: Name, as_json: JsonFlag = False) -> None:
    """
    List every version of a plan, oldest first.

    Example: quota-engine plans history pro
    """
    with opened_engine() as engine:
        found = engine.plans.history(name)
    if not found:
        raise PlanNotFoundError(f"there is no plan {name}; `quota-engine plans list`")
    print_rows([_row(plan) for plan in found], PLAN, as_json=as_json)


@app.command()
def activate(
    name: Name,
    *,
    off: Annotated[bool, typer.Option("--off", help="Offer it no more.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    Begin to offer a plan, or with --off end it. Who has it keeps it.

    Example: quota-engine plans activate pro --off
    """
    with opened_engine() as engine:
        found = engine.plans.activate(name, not off)
    print_facts(_row(found), as_json=as_json)


def _row(plan: Any) -> dict[str, Any]:
    """Return a plan as one flat row."""
    return {name: getattr(plan, name, getattr(plan.terms, name, None)) for name in PLAN}
