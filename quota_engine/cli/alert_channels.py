"""``alerts channels``: where alerts are told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_rows

app = command_group(
    "See and say where alerts are told. Example: quota-engine alerts channels list"
)

Name = Annotated[str, typer.Argument(help="The channel's name, such as ops.")]
Operator = Annotated[str | None, typer.Option(help="Who does it; kept in the history.")]
Remark = Annotated[str | None, typer.Option(help="Why; kept in the history.")]

CHANNEL = ("name", "kind", "target", "per_minute", "pending", "dead", "created_at")
CHANGE = ("at", "action", "operator", "remark", "terms")


@app.command("list")
def list_(*, as_json: JsonFlag = False) -> None:
    """
    List the channels, and how many messages wait for each, or are dead. No secret is shown.

    Example: quota-engine alerts channels list
    """
    with opened_engine() as engine:
        found = engine.alerts.channels()
    print_rows(found, CHANNEL, as_json=as_json, empty="there are no channels")


@app.command()
def add(
    name: Name,
    kind: Annotated[str, typer.Argument(help="webhook, email, log or callback.")],
    target: Annotated[
        str | None, typer.Argument(help="A webhook's URL, or e-mail addresses with commas.")
    ] = None,
    *,
    secret_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the secret that signs webhooks; - reads it from the input."
            " Default: one is made up, and shown this once."
        ),
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option(min=1, help="Messages beyond are told together. Default: 60.")
    ] = None,
    operator: Operator = None,
    remark: Remark = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Make a channel, or change the one of this name.

    Example: quota-engine alerts channels add ops webhook https://example.com/hooks/quota
    """
    secret = None if secret_file is None else _read(secret_file)
    with opened_engine() as engine:
        made = engine.alerts.add_channel(
            name,
            kind,
            target=target,
            secret=secret,
            per_minute=per_minute,
            operator=operator,
            remark=remark,
        )
    print_facts(made, as_json=as_json)


@app.command()
def remove(
    name: Name, *, operator: Operator = None, remark: Remark = None, as_json: JsonFlag = False
) -> None:
    """
    Remove a channel. What waits for it is given up.

    Example: quota-engine alerts channels remove ops --operator ann
    """
    with opened_engine() as engine:
        engine.alerts.remove_channel(name, operator=operator, remark=remark)
    print_facts({"removed": name}, as_json=as_json)


@app.command()
def history(name: Name, *, as_json: JsonFlag = False) -> None:
    """
    Show who made, changed and removed a channel, when and why.

    Example: quota-engine alerts channels history ops
    """
    with opened_engine() as engine:
        found = engine.alerts.channel_history(name)
    print_rows(found, CHANGE, as_json=as_json, empty=f"there was never a channel {name}")


def _read(path: Path) -> str:
    from quota_engine.errors import InvalidArgumentError

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"the secret cannot be read from {path}: {error}") from error
    return text.strip()
