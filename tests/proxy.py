"""
A small TCP proxy before a server: it passes bytes on, and does to them what networks do.

For Redis and PostgreSQL alike: it knows nothing of what passes. All faults are of one direction of
one connection, or of all connections; each is switched while they are open.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

#: Host and port, or the path of a Unix socket.
Address = tuple[str, int] | str


def address_of(url: str) -> Address:
    """Return where a Redis URL leads."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    assert parts.hostname is not None
    return parts.hostname, parts.port or 6379


class Proxy:
    """
    Listens on ``port`` and passes everything to ``target``, which may be changed meanwhile.

    ``cuts`` counts the connections that were hung up on instead of a reply.
    """

    def __init__(self, target: str | tuple[str, int]) -> None:
        """``target``: a Redis URL, a path of a Unix socket, or host and port."""
        self.target: Address
        self._database = "0"
        self.retarget(target)
        #: Bytes of this direction are read and thrown away; the connections stay open.
        self.drops_requests = False
        self.drops_replies = False
        #: Every chunk waits so long, in seconds.
        self.delay = 0.0
        #: New connections are hung up on at once, as by a server that is gone.
        self.refuses = False
        self.cuts = 0
        self._mark: bytes | None = None
        self._share, self._chance = 0.0, random.Random()
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """How clients reach a Redis through it."""
        return f"redis://127.0.0.1:{self.port}/{self._database}"

    def retarget(self, target: str | tuple[str, int]) -> None:
        """Lead new connections elsewhere, as a changed address does; open ones stay (``cut``)."""
        if isinstance(target, str) and "://" in target:
            self._database = parse_qs(urlsplit(target).query).get("db", ["0"])[0]
            target = address_of(target)
        self.target = target

    def cut_reply_to(self, mark: str) -> None:
        """Swallow the reply to the next request that holds ``mark``, and hang up."""
        self._mark = mark.encode()

    def cut_replies_to(self, mark: str, share: float, seed: int = 0) -> None:
        """Do so to a random share of such requests, until it is called with a share of 0."""
        self._mark, self._share = (mark.encode() if share else None), share
        self._chance = random.Random(seed)

    def cut(self) -> None:
        """Hang up on every connection, both ways."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop listening, and hang up."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refuses:
                    client.close()
                    continue
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        target = self.target
        family = socket.AF_UNIX if isinstance(target, str) else socket.AF_INET
        with client, socket.socket(family) as server, suppress(OSError):
            server.connect(target)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            try:
                self._pass_both_ways(client, server)
            finally:
                with self._lock:
                    self._pairs.discard(pair)
                with suppress(OSError):  # closing alone does not end what another thread reads
                    server.shutdown(socket.SHUT_RDWR)

    def _pass_both_ways(self, client: socket.socket, server: socket.socket) -> None:
        doomed = threading.Event()
        threading.Thread(target=self._answer, args=(server, client, doomed), daemon=True).start()
        while request := client.recv(65_536):
            self._wait()
            if self._is_doomed(request):
                doomed.set()
            if not self.drops_requests:
                server.sendall(request)

    def _is_doomed(self, request: bytes) -> bool:
        if self._mark is None or self._mark not in request:
            return False
        if self._share:
            return self._chance.random() < self._share
        self._mark = None
        return True

    def _answer(
        self, server: socket.socket, client: socket.socket, doomed: threading.Event
    ) -> None:
        with suppress(OSError):
            while reply := server.recv(65_536):
                self._wait()
                if doomed.is_set():
                    self.cuts += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                if not self.drops_replies:
                    client.sendall(reply)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _wait(self) -> None:
        if self.delay:
            time.sleep(self.delay)
