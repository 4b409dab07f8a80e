"""``ledger``: the tables made, filled and proved."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows

app = command_group("Make the ledger's tables, fill them from Redis, and prove them.")

FINDINGS = ("account", "quota_type", "version", "cause", "detail")


def database_url() -> str:
    """Return the ledger's URL. The home's own servers are started; a set URL needs no other."""
    from quota_engine.deployment import server_urls
    from quota_engine.engine import read_settings

    settings = read_settings(None, None)
    return settings.database_url or server_urls(settings)[1]


@app.command()
def migrate(as_json: JsonFlag = False) -> None:
    """
    Bring the tables to what this release wants. Safe to run twice, and beside others.

    Example: quota-engine ledger migrate
    """
    url = database_url()
    from quota_engine.ledger.migrate import current, newest, upgrade

    before = current(url)
    upgrade(url)
    facts = {"before": before, "after": current(url), "wanted": newest()}
    if as_json:
        print_json(facts)
    elif facts["before"] == facts["after"]:
        typer.echo(f"the tables are at revision {facts['after']} already")
    else:
        typer.echo(f"the tables are at revision {facts['after']} now")


@app.command()
def drain(as_json: JsonFlag = False) -> None:
    """
    Persist everything that waits in the outboxes now, without a worker.

    Example: quota-engine ledger drain
    """
    with opened_engine() as engine:
        persisted = engine.drain()
    print_facts({"persisted": persisted}, as_json=as_json)


@app.command()
def verify(
    prefix: Annotated[
        str, typer.Option(help="Only accounts that begin with this. Default: all.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """
    Replay every quota's log from nothing, and say where numbers, chains or sums disagree.

    Exits with 3 when something does.

    Example: quota-engine ledger verify --prefix acme/
    """
    url = database_url()
    from quota_engine.jobs.verify import verify as findings_of
    from quota_engine.ledger import Ledger
    from quota_engine.ledger.migrate import check_migrated

    entries = 0

    def count(so_far: int) -> None:
        nonlocal entries
        entries = so_far

    with Ledger.open(url) as ledger:
        check_migrated(ledger.engine)
        found: list[dict[str, Any]] = [
            {
                "account": finding.quota.account if finding.quota else None,
                "quota_type": finding.quota.quota_type if finding.quota else None,
                "version": finding.version,
                "cause": finding.cause,
                "detail": finding.detail,
            }
            for finding in findings_of(ledger, count, prefix=prefix)
        ]
    if as_json:
        print_json({"entries": entries, "findings": found})
    else:
        print_rows(found, FINDINGS, as_json=False, empty=f"{entries} entries, all in order")
    if found:
        raise typer.Exit(3)
