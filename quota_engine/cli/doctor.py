"""``doctor``: one look at everything, and a sentence for each thing that is wrong."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows

if TYPE_CHECKING:
    from quota_engine.jobs.health import Health

app = typer.Typer(add_completion=False, rich_markup_mode=None)

DUTIES = ("duty", "finished_at", "age_seconds", "is_ok", "outcome")
SHARDS = ("shard", "epoch", "length", "pending", "lag_seconds", "last_drain_at", "stopped")


@app.command()
def doctor(as_json: JsonFlag = False) -> None:
    """
    Look at both stores, the gate, the outboxes and the ledger. It changes nothing.

    Exits with 1 when something needs a person, else with 0.

    Example: quota-engine doctor --json
    """
    from quota_engine.engine import read_settings
    from quota_engine.jobs.health import examine
    from quota_engine.jobs.spool_health import examine_spool
    from quota_engine.ledger.migrate import upgrade
    from quota_engine.stores import redis_client, server_urls

    settings = read_settings(None, None)
    redis_url, database_url = server_urls(settings)
    if settings.database_url is None:  # the home's own: every command prepares it
        upgrade(database_url)
    with redis_client(redis_url, settings) as client:
        health = examine(client, _place(redis_url), database_url, settings)
    examine_spool(health, settings.spool_place)
    if as_json:
        print_json({"is_well": health.is_well, **dataclasses.asdict(health)})
    else:
        _print(health)
    if not health.is_well:
        raise typer.Exit(1)


def _print(health: Health) -> None:
    print_facts(health.facts, as_json=False)
    rows = [
        {**dataclasses.asdict(shard), "lag_seconds": f"{shard.lag_seconds:.1f}"}
        for shard in health.shards
    ]
    if rows:
        typer.echo("")
        print_rows(rows, SHARDS, as_json=False)
    duties = [
        {**dataclasses.asdict(duty), "age_seconds": f"{duty.age_seconds:.0f}"}
        for duty in health.duties
    ]
    if duties:
        typer.echo("")
        print_rows(duties, DUTIES, as_json=False)
    typer.echo("")
    for problem in health.problems:
        word = "PROBLEM" if problem.is_fatal else "note"
        typer.echo(f"{word}: {problem.message}; {problem.fix}")
    typer.echo("all is well" if health.is_well else "something needs you")


def _place(redis_url: str) -> str:
    """Return what a message may show of a URL: no password."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(redis_url)
    if parts.scheme == "unix":
        return unquote(parts.path)
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
