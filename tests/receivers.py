"""Servers on this machine that alerts are told: a webhook's, and one for mails."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/hook/s3cr3t-path"


@dataclass(frozen=True)
class Posted:
    """One request to the webhook."""

    at: datetime
    path: str
    headers: Mapping[str, str]
    body: bytes


class Hook(ThreadingHTTPServer):
    """Takes posts, and answers with the next of ``answers``, then with 204."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Posts)
        self.answers: list[int] = []
        self.posted: list[Posted] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}{PATH}"


class _Posts(BaseHTTPRequestHandler):
    server: Hook

    def do_GET(self) -> None:
        """Whoever follows a redirect comes here."""
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.posted.append(Posted(datetime.now(UTC), self.path, headers, body))
        status = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Mails:
    """What a mail server was given."""

    port: int = 0
    taken: list[str] = field(default_factory=list)
    refusing: bool = False


class _Smtp(socketserver.StreamRequestHandler):
    """As much of SMTP as one mail needs."""

    mails: Mails

    def handle(self) -> None:
        self._say("220 here")
        while line := self.rfile.readline().decode().strip():
            word = line.split(" ")[0].upper()
            if word == "DATA":
                self._say("354 go on")
                self._take()
            elif word == "RCPT" and self.mails.refusing:
                self._say("550 nobody by this name")
            elif word == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 ok")

    def _take(self) -> None:
        lines = []
        while (line := self.rfile.readline().decode()) not in (".\r\n", ""):
            lines.append(line)
        self.mails.taken.append("".join(lines))
        self._say("250 taken")

    def _say(self, answer: str) -> None:
        self.wfile.write(f"{answer}\r\n".encode())


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    """Serve in a thread until the end."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def mail_server() -> Iterator[Mails]:
    """Yield what a mail server on this machine is given."""
    mails = Mails()
    handler = type("Handler", (_Smtp,), {"mails": mails})
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    mails.port = server.server_address[1]
    with serving(server):
        yield mails
