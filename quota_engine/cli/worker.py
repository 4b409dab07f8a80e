"""``worker``: persists the outboxes and does what is due by the clock, until it is stopped."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer

from quota_engine.cli.lazy import command_group
from quota_engine.cli.output import JsonFlag, print_facts

if TYPE_CHECKING:
    from quota_engine.deployment import Deployment

log = logging.getLogger("quota_engine.worker")

#: Who starts everything at once starts workers before stores answer.
START_SECONDS = 30.0
START_PAUSE_SECONDS = 0.5

app = command_group("Persist what waits, and do what is due by the clock.")


@app.command()
def worker(
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="RQ workers, each a process of its own.")
    ] = 1,
    burst: Annotated[
        bool, typer.Option("--burst", help="Persist what waits, do each duty once, and end.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, help="Tell Prometheus at this port, on this machine; 0: any."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Persist what waits in the outboxes, and do what is due by the clock, until it is stopped.

    Start as many as you like, wherever you like: they share the work, and replace each other
    within seconds. SIGTERM or Ctrl+C ends it after the transaction it is in.

    Example: quota-engine worker --processes 2 --metrics-port 9464
    """
    from quota_engine.workers.logs import begin_logging

    begin_logging(as_json=as_json)
    deployment = _reached(0.0 if burst else START_SECONDS)
    if burst:
        _do_once(deployment, as_json=as_json)
    else:
        port = deployment.settings.metrics_port if metrics_port is None else metrics_port
        _keep(deployment, processes, port, as_json=as_json)
    deployment.close()


def _reached(seconds: float) -> Deployment:
    """Return the open deployment; stores that do not answer yet are waited for so long."""
    from quota_engine.deployment import Deployment
    from quota_engine.errors import EngineUnavailableError
    from quota_engine.settings import Settings

    settings, until, said = Settings(), time.monotonic() + seconds, ""
    while True:
        deployment = None
        try:
            deployment = Deployment(settings)
            deployment.reopen(None)
            return deployment
        except EngineUnavailableError as error:
            if deployment is not None:
                deployment.close()
            if time.monotonic() >= until:
                raise
            if str(error) != said:
                said = str(error)
                log.warning("the worker waits to start: %s", said)
        time.sleep(START_PAUSE_SECONDS)


def _keep(deployment: Deployment, processes: int, port: int | None, *, as_json: bool) -> None:
    from contextlib import nullcontext

    from quota_engine.workers.endpoint import MetricsEndpoint
    from quota_engine.workers.keeper import Keeper

    stopping = threading.Event()

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # the second one ends it at once
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    keeper = Keeper(deployment, processes=processes, stopping=stopping, as_json=as_json)
    with nullcontext() if port is None else MetricsEndpoint(deployment, port) as endpoint:
        url = None if endpoint is None else endpoint.url
        print_line(deployment, processes, url, as_json=as_json)
        has_ended = keeper.run()
    if not has_ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # a duty that only reads is broken off


def print_line(
    deployment: Deployment, processes: int, metrics_url: str | None, *, as_json: bool
) -> None:
    """Say what runs, in one line."""
    import json

    opened = deployment.opened
    if as_json:
        facts = {"deployment": opened.deployment_id, "shards": opened.shards}
        running = facts | {"processes": processes, "pid": os.getpid(), "metrics": metrics_url}
        typer.echo(json.dumps({"running": running}))
    else:
        typer.echo(
            f"quota-engine worker {os.getpid()}: deployment {opened.deployment_id},"
            f" {opened.shards} shards, {processes} RQ worker{'s' * (processes > 1)};"
            f"{f' metrics at {metrics_url};' if metrics_url else ''} Ctrl+C ends it"
        )
    sys.stdout.flush()


def _do_once(deployment: Deployment, *, as_json: bool) -> None:
    from quota_engine.delivering import deliver_once
    from quota_engine.jobs.respool import SpoolDuty
    from quota_engine.jobs.schedule import DUTIES, Scheduler

    spool = SpoolDuty(deployment)
    replayed = spool.run()
    spool.close()
    persisted = deployment.drain()
    scheduler = Scheduler(deployment)
    outcomes = {duty.name: scheduler.run(duty) for duty in DUTIES}
    scheduler.close()
    persisted += deployment.drain()
    arrived, failed = deliver_once(
        deployment.statement_store.alerts.deliveries, deployment.settings
    )
    print_facts(
        {"persisted": persisted, "spool": f"{replayed.replayed if replayed else 0} replayed"}
        | {name: outcome.text for name, outcome in outcomes.items()}
        | {"messages": f"{arrived} told of alerts, {failed} not taken"},
        as_json=as_json,
    )
    if not all(outcome.is_ok for outcome in outcomes.values()):
        raise typer.Exit(1)
