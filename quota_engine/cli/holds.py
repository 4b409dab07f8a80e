"""``holds``: what is set aside, and giving it back by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import Account, QuotaType, opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_rows

app = command_group("See open holds, and release one that nobody will capture.")

COLUMNS = ("account", "quota_type", "hold_id", "amount", "expires_at")


@app.command("list")
def list_(
    account: Annotated[str | None, typer.Argument(help="Default: every account.")] = None,
    quota_type: Annotated[str | None, typer.Argument(help="Default: every quota type.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Show open holds, those that expire first first.

    Example: quota-engine holds list user:42
    """
    from quota_engine.cli.standing import holds_of, quotas_of, quotas_with_holds

    with opened_engine() as engine:
        if account is None:
            quotas = quotas_with_holds(engine)
        else:
            quotas = quotas_of(engine, account, quota_type)
        holds = holds_of(engine, quotas)
    print_rows(holds, COLUMNS, as_json=as_json, empty="no holds are open")


@app.command()
def release(
    account: Account,
    quota_type: QuotaType,
    hold_id: Annotated[str, typer.Argument(help="The hold, as `holds list` shows it.")],
    as_json: JsonFlag = False,
) -> None:
    """
    Give a hold back unused. One that is closed already stays as it is.

    Example: quota-engine holds release user:42 text_token hold_0190…
    """
    with opened_engine() as engine:
        released = engine.release_hold(hold_id, account=account, quota_type=quota_type)
    print_facts(released, as_json=as_json)
    if not as_json and not released.amount:
        typer.echo("it had been closed before: nothing changed")
