"""
How long an alert takes: from the debit that crosses to the webhook's arrival, while calls run.

    python -m quota_engine.benchmark.alerting 20 1000

Servers and a worker process of its own; so many seconds of so many calls a second, one in fifty of
which crosses a threshold. The instants are Redis' and this machine's, which are one clock.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import quantiles
from typing import Any

from quota_engine.benchmark.servers import TYPE, Lab, account_names, fill_accounts
from quota_engine.deployment import Deployment
from quota_engine.engine import QuotaEngine

ACCOUNTS = 1_000
CALLERS = 2
#: One call in so many takes what an account has, and crosses.
CROSSING = 50
GRANTED = 100
WORKER = "from quota_engine.cli import main; main()"
WAIT_SECONDS = 60.0


class _Receiver(ThreadingHTTPServer):
    """A webhook that remembers when each message came, and of when it is."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Posts)
        self.delays: dict[str, float] = {}

    def wait_for(self, count: int) -> None:
        """Return when so many messages have come, or after a minute."""
        until = time.monotonic() + WAIT_SECONDS
        while len(self.delays) < count and time.monotonic() < until:
            time.sleep(0.1)


class _Posts(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        """Take a message."""
        now = time.time()
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        at = datetime.fromisoformat(told["at"]).timestamp()
        self.server.delays.setdefault(told["id"], now - at)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _call(urls: Any, number: int, rate: float, seconds: float, pipe: Any) -> None:
    """Be one caller: debit at a pace; tell how many calls and crossings that made."""
    with QuotaEngine.open(**urls) as engine:
        names = account_names(ACCOUNTS)
        crossing = int(rate * seconds / CROSSING)
        for one in range(crossing):
            engine.issue_grant(f"crossing:{number}:{one}", TYPE, GRANTED)
        pipe.send(0)
        pipe.recv()
        started, count, crossed = time.perf_counter(), 0, 0
        while (now := time.perf_counter() - started) < seconds:
            if count > now * rate:
                time.sleep(count / rate - now)
            if count % CROSSING == 0 and crossed < crossing:
                engine.debit(f"crossing:{number}:{crossed}", TYPE, GRANTED - 1)
                crossed += 1
            else:
                engine.debit(names[count % ACCOUNTS], TYPE, 1)
            count += 1
        pipe.send((count, crossed))


def measure_alerting(seconds: float, rate: float) -> list[float]:
    """Print and return the delays, in seconds; raise ``AssertionError`` if one never came."""
    lab = Lab()
    try:
        with lab.deployment() as deployment, _receiving() as receiver:
            fill_accounts(deployment, account_names(ACCOUNTS))
            urls: Any = {
                "redis_url": deployment.redis_url,
                "database_url": deployment.database_url,
            }
            port = receiver.server_address[1]
            with QuotaEngine.open(**urls) as engine:
                target = f"http://127.0.0.1:{port}/"
                engine.alerts.add_channel("bench", "webhook", target=target, per_minute=6_000)
                engine.alerts.remove_channel("log")
                engine.alerts.define("low", "balance", warning="20%", channels=["bench"])
                engine.issue_grant("first", TYPE, GRANTED)
                engine.debit("first", TYPE, GRANTED - 1)
            with _working(deployment):
                receiver.wait_for(1)  # the worker has begun
                receiver.delays.clear()
                calls, crossed = _called(urls, rate, seconds)
                receiver.wait_for(crossed)
            delays = sorted(receiver.delays.values())
    finally:
        lab.close()
    assert len(delays) == crossed, f"{crossed} crossed, {len(delays)} messages came"
    places = quantiles(delays, n=100)
    print(
        f"{calls / seconds:.0f} calls/s, {crossed} crossings in {seconds:g} s: delay p50"
        f" {places[49]:.3f} s, p99 {places[98]:.3f} s, longest {delays[-1]:.3f} s;"
        f" load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    )
    return delays


def _called(urls: Any, rate: float, seconds: float) -> tuple[int, int]:
    """Let callers call together; return how many calls and crossings they made."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number in range(CALLERS):
        ours, theirs = context.Pipe()
        told = (urls, number, rate / CALLERS, seconds, theirs)
        process = context.Process(target=_call, args=told, daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send(None)
    counts = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return sum(calls for calls, _ in counts), sum(crossed for _, crossed in counts)


@contextmanager
def _receiving() -> Iterator[_Receiver]:
    receiver = _Receiver()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        receiver.server_close()


@contextmanager
def _working(deployment: Deployment) -> Iterator[None]:
    """Have a worker run meanwhile."""
    environment = {
        "QUOTA_ENGINE_REDIS_URL": deployment.redis_url,
        "QUOTA_ENGINE_DATABASE_URL": deployment.database_url,
    }
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, "worker"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(30)


if __name__ == "__main__":
    measure_alerting(*map(float, sys.argv[1:3] or (20, 1_000)))
