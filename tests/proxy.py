"""A small TCP proxy before a server: it passes bytes on, and can swallow a reply and hang up."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


def address_of(url: str) -> tuple[str, int] | str:
    """Return where a Redis URL leads: host and port, or the path of a Unix socket."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    assert parts.hostname is not None
    return parts.hostname, parts.port or 6379


class CuttingProxy:
    """Passes everything, but cuts the connection instead of the next reply to a marked command."""

    def __init__(self, url: str) -> None:
        self._target = address_of(url)
        self._database = parse_qs(urlsplit(url).query).get("db", ["0"])[0]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._mark: bytes | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return f"redis://127.0.0.1:{port}/{self._database}"

    def cut_reply_to(self, mark: str) -> None:
        """Swallow the reply to the next request that holds ``mark``, and hang up."""
        self._mark = mark.encode()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        is_path = isinstance(self._target, str)
        family = socket.AF_UNIX if is_path else socket.AF_INET
        with client, socket.socket(family) as server, suppress(OSError):
            server.connect(str(Path(self._target)) if is_path else self._target)  # type: ignore[arg-type]
            doomed = threading.Event()
            back = threading.Thread(
                target=self._answer, args=(server, client, doomed), daemon=True
            )
            back.start()
            while request := client.recv(65_536):
                if self._mark is not None and self._mark in request:
                    self._mark = None
                    doomed.set()
                server.sendall(request)

    def _answer(
        self, server: socket.socket, client: socket.socket, doomed: threading.Event
    ) -> None:
        with suppress(OSError):
            while reply := server.recv(65_536):
                if doomed.is_set():
                    self.cuts += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(reply)
