"""``ledger``: the tables made, filled and proved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import opened_engine
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows
from quota_engine.cli.report_rows import parse_day
from quota_engine.errors import InvalidArgumentError

app = command_group("Make the ledger's tables, fill them from Redis, and prove them.")

FINDINGS = ("account", "quota_type", "version", "cause", "detail")


def database_url() -> str:
    """Return the ledger's URL. The home's own servers are started; a set URL needs no other."""
    from quota_engine.engine import read_settings
    from quota_engine.stores import server_urls

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


@app.command()
def archive(
    before: Annotated[
        str | None, typer.Option("--before", help="Write what is older than this day (UTC).")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="An empty folder to write to.")] = None,
    proved: Annotated[
        Path | None, typer.Option("--verify", help="Prove the archive in this folder instead.")
    ] = None,
    *,
    as_json: JsonFlag = False,
) -> None:
    """
    Write old entries and usage records to files that prove themselves; delete nothing.

    What was written is proved at once, as --verify does later: by checksums, by each log's own
    chain, and by the ledger. Exits with 3 when something is wrong.

    Example: quota-engine ledger archive --before 2026-10-01 --out archive-2026-10

    Example: quota-engine ledger archive --verify archive-2026-10
    """
    day = parse_day(before, name="--before")
    if (proved is None) == (day is None or out is None):
        raise InvalidArgumentError("give --before and --out to write an archive, or --verify")
    url = database_url()
    from quota_engine.jobs.archive import read_manifest, write_archive
    from quota_engine.jobs.archive_proof import archive_problems
    from quota_engine.ledger import Ledger
    from quota_engine.ledger.migrate import check_migrated

    with Ledger.open(url) as ledger:
        check_migrated(ledger.engine)
        if out is not None and day is not None:
            write_archive(ledger, out, day)
        folder = proved or out
        assert folder is not None
        manifest, problems = read_manifest(folder), list(archive_problems(ledger, folder))
    rows = {name: file.rows for name, file in manifest.files.items()}
    facts = {"folder": folder, "before": manifest.before, **rows, "problems": problems}
    if as_json:
        print_json(facts)
    else:
        told = f"{rows['ledger_entries']} entries and {rows['usage_records']} usage records"
        typer.echo(f"{folder}: {told} of {rows['balances']} quotas, before {manifest.before}")
        typer.echo("\n".join(problems) or "every checksum, chain and balance is right")
    if problems:
        raise typer.Exit(3)
