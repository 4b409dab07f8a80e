"""``recovery``: see for which server the shards are open, and open them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import Actor, Reference, hush
from quota_engine.cli.output import JsonFlag, print_json, print_rows
from quota_engine.errors import InvalidArgumentError

if TYPE_CHECKING:
    from quota_engine.deployment import Deployment

app = command_group("Open the shards again after Redis was restarted, wiped or replaced.")

RECOVERIES_SHOWN = 5
PROGRESS_SECONDS = 2.0
RECOVERY_COLUMNS = (
    *("opened_at", "last_entry_at", "epoch", "reason"),
    *("entries", "appended", "quarantined", "dropped", "accepted_by"),
)
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

    Before that: how far a recovery is that runs now, and what the last ones found: entries read,
    entries that only Redis had (appended, quarantined), quotas dropped because the ledger had
    them otherwise, and, line by line, what was in no store any more (of the last that has any).

    Example: quota-engine recovery status
    """
    from quota_engine.jobs.gate_progress import described, read_progress
    from quota_engine.ledger.epochs import read_recoveries

    with reached_deployment() as deployment:
        progress = read_progress(deployment.client)
        with deployment.ledger.transaction() as sql:
            recoveries = read_recoveries(sql, RECOVERIES_SHOWN)
        shards = _shards(deployment)
    if as_json:
        print_json({"progress": progress, "recoveries": recoveries, "shards": shards})
        return
    if running := described(progress):
        typer.echo(f"{running}\n")
    if recoveries:
        print_rows(recoveries, RECOVERY_COLUMNS, as_json=False)
        typer.echo("")
        told = [lines for recovery in recoveries if (lines := missing_lines(recovery))]
        for line in told[0] if told else []:
            typer.echo(line)
        if len(told) > 1:
            typer.echo(f"{len(told) - 1} recoveries before it lacked entries, too: see --json")
        if told:
            typer.echo("")
    print_rows(shards, COLUMNS, as_json=False)


@app.command()
def run(
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="This very server is meant, although it is empty or was superseded.",
        ),
    ] = False,
    accept_gap: Annotated[
        bool,
        typer.Option(
            "--accept-gap",
            help="Entries that a stopped shard misses are lost: go on without them, and freeze the"
            " quotas concerned. Needs --actor.",
        ),
    ] = False,
    actor: Actor = None,
    reference: Reference = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Ask the recovery gate: it opens what must be opened again, and leaves the rest alone.

    Every client does the same at its first call; run it to see what keeps them out, or to adopt
    a new empty server in place of one that is lost. What the lost one had not persisted is lost.
    Ends when the QUOTA_ENGINE_PREWARM_MAX busiest quotas are loaded, or after a minute; calls pass
    meanwhile.

    Example: quota-engine recovery run --adopt
    Example: quota-engine recovery run --accept-gap --actor ada --reference ticket-7
    """
    if accept_gap and not actor:
        raise InvalidArgumentError("--accept-gap is kept with who said so: name --actor")
    said = f"{actor} accepts that entries are lost" + (f" ({reference})" if reference else "")
    accepted = said if accept_gap else ""
    with reached_deployment() as deployment:
        deployment.recover(adopt=adopt, accept_gaps=accepted)
        told = _await_warming(deployment, as_json=as_json)
        print_rows(_shards(deployment), COLUMNS, as_json=as_json)
        if told and not as_json:
            typer.echo(told)


def _await_warming(deployment: Deployment, *, as_json: bool) -> str:
    """Wait until the busiest quotas are loaded, a minute at most; return what came of it."""
    warming = deployment.warming
    if warming is None:
        return ""
    while not warming.ended.wait(PROGRESS_SECONDS):
        if not as_json:
            typer.echo(f"{warming.loaded} of {warming.wanted} quotas loaded", err=True)
    text = f"{warming.loaded} of the {warming.wanted} busiest quotas were loaded ahead"
    return f"{text}: {warming.trouble}" if warming.trouble else text


def missing_lines(recovery: Mapping[str, Any]) -> list[str]:
    """Return what one recovery did not find, and which quotas were frozen for it, in words."""
    words = [*recovery["losses"], *recovery["gaps"]]
    if recovery["lost"]:
        words.append(f"frozen, because entries of theirs are lost: {', '.join(recovery['lost'])}")
    return [f"epoch {recovery['epoch']}: {one}" for one in words]


def _shards(deployment: Deployment) -> list[dict[str, object]]:
    return [
        {name: getattr(row, name) for name in COLUMNS} | {"cursor": str(row.cursor)}
        for row in deployment.ledger.read_shards()
    ]
