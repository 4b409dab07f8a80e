"""``accounts suspend`` and its like: what is said of an account, for all its quotas."""

from __future__ import annotations

from typing import Annotated

import typer

from quota_engine.cli.opening import Account, opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows
from quota_engine.errors import InvalidArgumentError
from quota_engine.payers import payers_text

Reason = Annotated[str, typer.Option(help="Why: callers are told, and the history keeps it.")]
Why = Annotated[str | None, typer.Option("--reason", help="Why; kept in the history.")]
Operator = Annotated[str | None, typer.Option(help="Who does it; kept in the history.")]
OperationId = Annotated[
    str | None, typer.Option("--id", help="Your own id: by it, it is done once.")
]

POLICY = (
    *("account", "state", "since", "reason", "enforcement", "pays_after", "revision"),
    *("changed_by", "changed_at"),
)
CHANGES = ("at", "action", "before", "after", "operator", "reason", "operation_id")


def suspend(
    account: Account,
    *,
    reason: Reason,
    operator: Operator = None,
    operation_id: OperationId = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Refuse new calls of an account and of every account below it, from now on.

    No new holds, debits, growth of holds. What is held may be captured and released.

    Example: quota-engine accounts suspend acme --reason "unpaid since May" --operator ann
    """
    with opened_engine() as engine:
        changed = engine.accounts.suspend(
            account, reason=reason, operator=operator, operation_id=operation_id
        )
    print_facts(changed, as_json=as_json, fields=POLICY)


def close(
    account: Account,
    *,
    reason: Reason,
    operator: Operator = None,
    operation_id: OperationId = None,
    as_json: JsonFlag = False,
) -> None:
    """
    As suspend, and refuse grants, transfers to it, purchases and subscriptions as well.

    Example: quota-engine accounts close acme/team-7 --reason "team dissolved"
    """
    with opened_engine() as engine:
        changed = engine.accounts.close(
            account, reason=reason, operator=operator, operation_id=operation_id
        )
    print_facts(changed, as_json=as_json, fields=POLICY)


def activate(
    account: Account,
    *,
    reason: Why = None,
    operator: Operator = None,
    operation_id: OperationId = None,
    as_json: JsonFlag = False,
) -> None:
    """
    End a suspension, or open a closed account again.

    Example: quota-engine accounts activate acme --reason "paid" --operator ann
    """
    with opened_engine() as engine:
        changed = engine.accounts.activate(
            account, reason=reason, operator=operator, operation_id=operation_id
        )
    print_facts(changed, as_json=as_json, fields=POLICY)


def move(
    account: Account,
    to: Annotated[str | None, typer.Option(help="The account that it becomes.")] = None,
    parent: Annotated[
        str | None, typer.Option(help="Or: the account that it goes below, by its own name.")
    ] = None,
    *,
    reason: Reason,
    operator: Operator = None,
    operation_id: OperationId = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Give an account, and all below it, another place of the same root or of another one.

    Grants, overdraft limits, subscriptions, orders and policies go with it. The old account is
    closed and says where it went; open holds are settled there, and workers bring what they leave.

    Example: quota-engine accounts move acme/ann --parent globex --reason "acme sold the team"
    """
    with opened_engine() as engine:
        moved = engine.accounts.move(
            *(account, to),
            parent=parent,
            reason=reason,
            operator=operator,
            operation_id=operation_id,
        )
    print_facts(moved, as_json=as_json)
    if not as_json and moved.finished_at is None:
        typer.echo("open holds are left at the old place: the workers bring what they leave over")


def enforcement(
    account: Account,
    mode: Annotated[str, typer.Argument(help="shadow, enforce, or inherit: as the one above.")],
    *,
    quota_types: Annotated[
        list[str] | None, typer.Option("--type", help="Of this quota type; several. Default: all.")
    ] = None,
    reason: Why = None,
    operator: Operator = None,
    operation_id: OperationId = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Say whether an account's quotas, and those below it, refuse, or only tell what they would.

    In the shadow nothing is refused but what is suspended, frozen or presses; what would have been
    is let through and counted: see reports refusals.

    Example: quota-engine accounts enforcement acme shadow --type text_token --reason "trial run"
    """
    with opened_engine() as engine:
        changed = engine.accounts.set_enforcement(
            *(account, mode, quota_types or None),
            reason=reason,
            operator=operator,
            operation_id=operation_id,
        )
    print_facts(changed, as_json=as_json, fields=POLICY)


def pays_after(
    account: Account,
    payers: Annotated[
        list[str] | None, typer.Argument(help="Who pays, in order, up to three. Default: nobody.")
    ] = None,
    *,
    inherit: Annotated[bool, typer.Option(help="As the account above says.")] = False,
    quota_types: Annotated[
        list[str] | None, typer.Option("--type", help="Of this quota type; several. Default: all.")
    ] = None,
    reason: Why = None,
    operator: Operator = None,
    operation_id: OperationId = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Say which accounts pay, one after the other, when the own quota of an account cannot.

    It counts for every account below it, too. Each call is paid whole by one of them.

    Example: quota-engine accounts pays-after acme/team-7 acme/pool --reason "pool for all"
    """
    if inherit and payers:
        raise InvalidArgumentError("give payers, or --inherit, not both")
    with opened_engine() as engine:
        changed = engine.accounts.set_pays_after(
            *(account, None if inherit else payers or (), quota_types or None),
            reason=reason,
            operator=operator,
            operation_id=operation_id,
        )
    print_facts(changed, as_json=as_json, fields=POLICY)


def policy(
    account: Annotated[
        str | None, typer.Argument(help="Default: every account that was ever changed.")
    ] = None,
    *,
    state: Annotated[
        str | None, typer.Option(help="Only those that are active, suspended or closed.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show what is said of an account, which account decides, and who changed it when and why.

    Example: quota-engine accounts policy acme/team-7/user-42
    """
    with opened_engine() as engine:
        if account is None:
            found = engine.accounts.list(state=state)
            print_rows(found, POLICY, as_json=as_json, empty="nothing is said of any")
            return
        standing, history = engine.accounts.get(account), engine.accounts.history(account)
    if as_json:
        print_json({"standing": standing, "history": history})
        return
    said = f"{account} is {standing.state}"
    if standing.decided_by not in (None, account):
        said += f", since {standing.decided_by} is"
    typer.echo(f"{said}: {standing.reason}" if standing.reason else said)
    if standing.enforcement:
        said = ", ".join(f"{name} {mode}" for name, mode in standing.enforcement.items())
        typer.echo(f"enforcement: {said}")
    if standing.pays_after:
        typer.echo(f"pays after its own quota: {payers_text(standing.pays_after)}")
    print_rows((standing.own, *standing.above), POLICY, as_json=False)
    if history:
        typer.echo("\nchanges:")
        print_rows(history, CHANGES, as_json=False)
