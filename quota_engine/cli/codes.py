"""``codes``: redemption codes made, listed, ended and redeemed; and the file that keeps them."""

from __future__ import annotations

import csv
import io
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import Account, opened_engine, parse_instant
from quota_engine.cli.output import JsonFlag, print_facts, print_rows
from quota_engine.errors import EngineUnavailableError, InvalidArgumentError, QuotaError

app = command_group("Make codes that are worth a package once, and redeem them.")

CODE = (
    *("code_id", "batch_id", "package", "version", "state", "expires_at", "redeemed_by"),
    *("redeemed_at", "revoked_at"),
)
LINE = ("order_id", "account", "package", "version", "quota_type", "units", "state", "expires_at")
FILE = ("code", "batch_id", "package", "expires_at")

Batch = Annotated[str | None, typer.Option("--batch", help="The batch's id.")]


class Kept(NamedTuple):
    """What a file of codes says."""

    batch_id: str
    package: str
    expires_at: datetime | None
    codes: tuple[str, ...]


@app.command()
def create(
    *,
    package: Annotated[str, typer.Option(help="What each code is worth.")],
    count: Annotated[int, typer.Option(help="How many codes.")],
    out: Annotated[Path, typer.Option(help="The file that will have the codes: CSV.")],
    expires: Annotated[str | None, typer.Option(help="Instant, or +90d. Default: never.")] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", help="Your own id of the batch. Default: a new one.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Make a batch of codes, and write them to a file: the only place that ever has them.

    The file comes first and is for your eyes alone; then its codes become valid. If that was
    interrupted, the same command finishes it with the codes of the file.

    Example: quota-engine codes create --package starter --count 100 --expires +90d --out codes.csv
    """
    from quota_engine.codes import new_codes
    from quota_engine.ids import new_id

    is_new = not out.exists()
    if is_new:
        ends = parse_instant(expires, name="--expires")
        kept = Kept(batch or new_id("batch"), package, ends, new_codes(count))
        _write(out, kept)
    else:
        kept = _read(out)
        if (kept.package, len(kept.codes), batch or kept.batch_id) != (
            *(package, count, kept.batch_id),
        ):
            raise InvalidArgumentError(
                f"{out} is there already, with {len(kept.codes)} codes of batch {kept.batch_id}"
                f" for {kept.package}: name another file"
            )
    try:
        with opened_engine() as engine:
            made = engine.codes.create(
                kept.package,
                codes=kept.codes,
                expires_at=kept.expires_at,
                batch_id=kept.batch_id,
            )
    except EngineUnavailableError:
        typer.echo(f"{out} has codes that may not be valid yet: run the same again", err=True)
        raise
    except QuotaError:
        if is_new:
            out.unlink()
        raise
    facts = {
        **{name: getattr(made, name) for name in ("batch_id", "package", "version", "expires_at")},
        "codes": len(made.codes),
        "file": str(out),
        "replayed": made.replayed,
    }
    print_facts(facts, as_json=as_json)


@app.command("list")
def list_(
    *,
    batch: Batch = None,
    account: Annotated[
        str | None, typer.Option(help="Only those that this account redeemed.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    List codes by their ids, and what became of them. The codes themselves nobody knows.

    Example: quota-engine codes list --batch spring
    """
    with opened_engine() as engine:
        found = engine.codes.list(batch_id=batch, account=account)
    print_rows(found, CODE, as_json=as_json, empty="there are no such codes")


@app.command()
def revoke(
    code: Annotated[str | None, typer.Argument(help="A code, or its id.")] = None,
    *,
    batch: Batch = None,
    as_json: JsonFlag = False,
) -> None:
    """
    End a code, or all of a batch. What was redeemed stays: give its order back instead.

    Example: quota-engine codes revoke --batch spring
    """
    with opened_engine() as engine:
        found = engine.codes.revoke(code, batch_id=batch)
    print_rows(found, CODE, as_json=as_json)


@app.command()
def redeem(
    account: Account,
    code: Annotated[str, typer.Argument(help="As the customer wrote it.")],
    as_json: JsonFlag = False,
) -> None:
    """
    Give an account what a code is worth. Safe to say twice.

    Example: quota-engine codes redeem user:42 7ZK3M-0QX8A-91TBV-CD4EF
    """
    with opened_engine() as engine:
        order = engine.redeem(account, code)
    print_rows(order.lines, LINE, as_json=as_json)


def _write(path: Path, kept: Kept) -> None:
    """Write a file of codes: whole or not at all, never over another, for its owner alone."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(FILE)
    ends = kept.expires_at.isoformat() if kept.expires_at else ""
    rows.writerows((code, kept.batch_id, kept.package, ends) for code in kept.codes)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> Kept:
    """Return what a file of codes says; raise ``InvalidArgumentError`` for another file."""
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        is_ours = (
            len(rows) > 1 and rows[0] == list(FILE) and len({(*row[1:],) for row in rows[1:]})
        )
        if is_ours != 1:
            raise ValueError("other columns")
        _, batch_id, package, ends = rows[1]
        codes = tuple(row[0] for row in rows[1:])
        return Kept(batch_id, package, parse_instant(ends or None, name="expires_at"), codes)
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"{path} is there already, and has no codes") from error
