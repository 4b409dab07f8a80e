"""``servers``: the Valkey and the PostgreSQL that the processes of one home share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote, urlsplit

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.output import JsonFlag, print_json, print_rows
from quota_engine.embedded import ServerStatus, ensure_servers, server_status, stop_servers

app = command_group(
    "Start, stop and see the servers of QUOTA_ENGINE_HOME (~/.quota-engine).\n\n"
    "The engine starts them by itself where no URL is set; they run until they are stopped."
)

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="The servers' folder, instead of QUOTA_ENGINE_HOME."),
]
COLUMNS = ("name", "state", "version", "pid", "connect", "data_dir")


@app.command()
def start(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """
    Start what isn't running, and print how to connect.

    Example: quota-engine servers start --home /srv/quota
    """
    folder = _home(home)
    ensure_servers(folder)
    _print(server_status(folder), as_json=as_json)


@app.command()
def stop(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """
    Stop both servers in an orderly way. Their data stay.

    Example: quota-engine servers stop
    """
    stopped = stop_servers(_home(home))
    if as_json:
        print_json({"stopped": stopped})
    else:
        typer.echo(f"stopped: {', '.join(stopped)}" if stopped else "none was running")


@app.command()
def status(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """
    Show both servers, running or not. It starts nothing.

    Example: quota-engine servers status --json
    """
    _print(server_status(_home(home)), as_json=as_json)


def _home(named: Path | None) -> Path:
    if named is not None:
        return named
    from quota_engine.settings import Settings

    return Settings().home


def _print(servers: Iterable[ServerStatus], *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "name": server.name,
            "running": server.running,
            "state": server.message,
            "version": server.version,
            "pid": server.pid,
            "url": server.url,
            "connect": _connect(server.url),
            "data_dir": server.data_dir,
        }
        for server in servers
    ]
    print_rows(rows, COLUMNS, as_json=as_json)
    for name in ("QUOTA_ENGINE_REDIS_URL", "QUOTA_ENGINE_DATABASE_URL"):
        if os.environ.get(name):
            typer.echo(f"{name} is set: the engine uses that server, not the home's", err=True)


def _connect(url: str) -> str:
    """Return the command with which a person connects."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"redis-cli -s {unquote(parts.path)}"
    folder = parse_qs(parts.query)["host"][0]
    return f"psql -h {folder} -U {parts.username} {parts.path.removeprefix('/')}"
