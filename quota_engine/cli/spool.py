"""``spool``: what waits on this machine because Redis was away, and bringing it there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import hush, opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows

if TYPE_CHECKING:
    from quota_engine.spool import Spool

app = command_group("See and replay what waits on this machine since Redis was away.")

COLUMNS = ("deployment", "waiting", "refused", "oldest_at", "offline_holds", "replayed", "path")
ROWS = ("state", "account", "quota_type", "kind", "operation_id", "amount", "noted_at")


@app.command()
def status(as_json: JsonFlag = False) -> None:
    """
    Show what waits in the spools of this machine. It needs no server.

    Waiting: will be replayed. Refused: never will be, see `spool list`. Exits with 1 when
    something was refused, or a file was found broken.

    Example: quota-engine spool status
    """
    now_ms = time.time_ns() // 1_000_000
    found = [spool.status(now_ms) for spool in _spools()]
    print_rows(found, COLUMNS, as_json=as_json, empty="nothing was ever spooled here")
    broken = [path for one in found for path in one.broken]
    if not as_json:
        for path in broken:
            typer.echo(f"set aside as broken, delete it when it was looked at: {path}")
    if broken or any(one.refused for one in found):
        raise typer.Exit(1)


@app.command("list")
def list_(as_json: JsonFlag = False) -> None:
    """
    Show each operation in the spools of this machine, oldest first. It needs no server.

    Example: quota-engine spool list
    """
    rows = [row for spool in _spools() for row in spool.rows()]
    print_rows(rows, (*ROWS, "last_error"), as_json=as_json, empty="nothing waits")


@app.command()
def replay(
    refused: Annotated[
        bool, typer.Option("--refused", help="Also try what was refused before.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    Bring what waits to Redis now; engines and workers do it by themselves. Each counts once.

    Exits with 1 when something is left.

    Example: quota-engine spool replay
    """
    with opened_engine() as engine:
        if refused:
            engine.spool.retry_refused()
        outcome = engine.replay_spool()
        left = engine.spool.status(time.time_ns() // 1_000_000)
    if as_json:
        print_json(outcome)
    else:
        print_facts(outcome, as_json=False)
    if left.waiting or left.refused:
        raise typer.Exit(1)


@app.command()
def drop(
    operation_id: Annotated[str, typer.Argument(help="As `spool list` shows it.")],
    as_json: JsonFlag = False,
) -> None:
    """
    Give up a refused operation: it is never charged. It stays in the file as dropped.

    Example: quota-engine spool drop hold_0190…:capture
    """
    dropped = sum(spool.drop(operation_id) for spool in _spools())
    print_facts({"dropped": dropped}, as_json=as_json)
    if not dropped:
        if not as_json:
            typer.echo("no refused operation has this id")
        raise typer.Exit(1)


def _spools() -> list[Spool]:
    from quota_engine.engine import read_settings
    from quota_engine.spool import spools_in

    hush()
    return list(spools_in(read_settings(None, None).spool_place))
