"""
The page that Prometheus reads: ``http://127.0.0.1:9464/metrics``.

It knows HTTP and nothing of what it shows. Each reader has a thread; a slow one harms nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar

from quota_engine.deployment import Deployment
from quota_engine.errors import InvalidArgumentError
from quota_engine.jobs.looking import LOOK_SECONDS_MAX, DeploymentLook
from quota_engine.ledger.connection import open_engine
from quota_engine.ledger.ledger import Ledger
from quota_engine.metrics.described import DEPLOYMENT
from quota_engine.stores import redis_client

PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: A reader that says nothing for so long is left.
SILENCE_SECONDS = 5.0


class Endpoint:
    """Serves one page until it is closed."""

    def __init__(self, host: str, port: int, page: Callable[[], bytes]) -> None:
        """Listen at once; raises ``InvalidArgumentError`` where that is impossible."""
        try:
            self._server = _Server((host, port), _Reader)
        except (OSError, OverflowError) as error:
            raise InvalidArgumentError(
                f"metrics cannot be served at {host}:{port}: {error}; choose another"
                " --metrics-port (QUOTA_ENGINE_METRICS_PORT)"
            ) from error
        self._server.page = page
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="quota-engine-metrics", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}{PATH}"

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    page: Callable[[], bytes]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of readers that left: the next look tells what is wrong."""


class _Reader(BaseHTTPRequestHandler):
    server: _Server
    timeout: ClassVar[float] = SILENCE_SECONDS
    server_version = "quota-engine"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the page, at its path only."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, f"the page is {PATH}")
            return
        body = self.server.page()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep readers out of the worker's log."""


class MetricsEndpoint(Endpoint):
    """The page of one deployment, with connections of its own."""

    def __init__(self, deployment: Deployment, port: int) -> None:
        """Needs the extra ``quota-engine[metrics]``: else ``InvalidArgumentError``."""
        try:
            from quota_engine.metrics.prometheus import SampleCollector, exposed
        except ImportError as error:
            raise InvalidArgumentError(str(error)) from error

        settings = deployment.settings
        seconds = min(LOOK_SECONDS_MAX, settings.socket_timeout_seconds)
        hurried = settings.model_copy(
            update={"socket_timeout_seconds": seconds, "connect_timeout_seconds": seconds}
        )
        ledger = Ledger(
            open_engine(
                deployment.database_url, connect_timeout_seconds=seconds, connections_max=2
            )
        )
        client = redis_client(deployment.redis_url, hurried)
        self._look = DeploymentLook(deployment, client, ledger)
        super().__init__(
            settings.metrics_host,
            port,
            lambda: exposed(SampleCollector(DEPLOYMENT, self._look.samples())),
        )

    def close(self) -> None:
        """Listen no more, and close the connections."""
        super().close()
        self._look.close()
