"""``recovery``: see for which server the shards are open, and open them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import hush
from quota_engine.cli.output import JsonFlag, print_rows

if TYPE_CHECKING:
    from quota_engine.deployment import Deployment

app = command_group("Open the shards again after Redis was restarted, wiped or replaced.")

COLUMNS = ("shard", "epoch", "cursor", "incarnation", "opened_at", "stopped")


@contextmanager
def reached_deployment() -> Iterator[Deployment]:
    """Yield the deployment without asking its gate, and close it at the end."""
    from quota_engine.deployment import Deployment
    from quota_engine.engine import read_settings

    hush()
    deployment = Deployment(read_settings(None, None))
    try:
        yield deployment
    finally:
        deployment.close()


@app.command()
def status(as_json: JsonFlag = False) -> None:
    """
    Show each shard's epoch, the Redis that it was opened for, and why it may be stopped.

    Example: quota-engine recovery status
    """
    with reached_deployment() as deployment:
        print_rows(_shards(deployment), COLUMNS, as_json=as_json)


@app.command()
def run(
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="This very server is meant, although it is empty or was superseded.",
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """
    Ask the recovery gate: it opens what must be opened again, and leaves the rest alone.

    Every client does the same at its first call; run it to see what keeps them out, or to adopt
    a new empty server in place of one that is lost. What the lost one had not persisted is lost.

    Example: quota-engine recovery run --adopt
    """
    with reached_deployment() as deployment:
        deployment.recover(adopt=adopt)
        print_rows(_shards(deployment), COLUMNS, as_json=as_json)


def _shards(deployment: Deployment) -> list[dict[str, object]]:
    return [
        {name: getattr(row, name) for name in COLUMNS} | {"cursor": str(row.cursor)}
        for row in deployment.ledger.read_shards()
    ]
