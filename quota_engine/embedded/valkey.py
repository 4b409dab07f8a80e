"""A private Valkey in a folder. It must not know which keys are kept in it."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from quota_engine.embedded.binaries import find_valkey
from quota_engine.embedded.folders import (
    current_owner,
    make_folder,
    make_socket_folder,
    socket_folder,
)
from quota_engine.embedded.process import Server

SOCKET_NAME = "valkey.sock"
PROBE_SECONDS = 2.0


class ValkeyServer(Server):
    """A Valkey (or Redis) that serves one folder, through a Unix socket or a loopback port."""

    name: ClassVar[str] = "valkey"
    stop_signals: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGTERM, signal.SIGKILL)

    def __init__(
        self, place: Path, *, binary: Path | None, port: int | None, settings: Mapping[str, str]
    ) -> None:
        super().__init__(place, current_owner())
        self.binary = binary
        self.port = port
        self.settings = settings
        self.socket = socket_folder(place, SOCKET_NAME) / SOCKET_NAME

    @property
    def url(self) -> str:
        """How clients connect, as redis-py reads it."""
        if self.port is not None:
            return f"redis://127.0.0.1:{self.port}/0"
        return f"unix://{quote(str(self.socket))}?db=0"

    def prepare(self, lock: int) -> Sequence[str]:
        """Write the settings file and return the command line."""
        binary = self.binary or find_valkey()
        make_socket_folder(self.socket.parent, self.owner)
        data = make_folder(self.place / "data")
        path = self.place / "valkey.conf"
        path.write_text("".join(f"{name} {value}\n" for name, value in self._lines(data)))
        return [str(binary), str(path)]

    def _lines(self, data: Path) -> list[tuple[str, str]]:
        """
        Return the settings, the caller's last.

        noeviction, AOF: no key that carries money may go missing. ``set-proc-title no`` keeps the
        folder visible in the process list, by which the server is recognised.
        """
        return [
            ("bind", "127.0.0.1"),
            ("port", str(self.port or 0)),
            ("unixsocket", _quoted(str(self.socket))),
            ("unixsocketperm", "700"),
            ("dir", _quoted(str(data))),
            ("appendonly", "yes"),
            ("appendfsync", "everysec"),
            ("save", '""'),
            ("maxmemory-policy", "noeviction"),
            ("daemonize", "no"),
            ("set-proc-title", "no"),
            ("always-show-logo", "no"),
            *self.settings.items(),
        ]

    def probe(self) -> str:
        """Return the version of the server that answers; OSError while none does, or it loads."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PROBE_SECONDS)
            connection.connect(str(self.socket))
            connection.sendall(b"PING\r\nINFO server\r\n")
            answer = b""
            while not answer.endswith(b"\r\n") or answer.count(b"\r\n") < 3:
                chunk = connection.recv(65536)
                answer += chunk
                if not chunk or answer.startswith(b"-"):
                    raise OSError(answer.decode(errors="replace").strip() or "it hung up")
        text = answer.decode(errors="replace")
        found = re.search(r"valkey_version:(\S+)", text) or re.search(r"redis_version:(\S+)", text)
        return found[1] if found else "unknown"


def start_valkey(
    directory: Path,
    *,
    binary: Path | None = None,
    port: int | None = None,
    appendfsync: str = "everysec",
    settings: Mapping[str, str] | None = None,
) -> ValkeyServer:
    """
    Start a Valkey on a folder, or find the one that serves it; return when it answers.

    ``port`` None: a Unix socket only; 0: also a free loopback port, which ``.port`` tells and a
    later ``.start()`` uses again. ``settings`` are lines of its settings file, written last.
    Raises EngineUnavailableError.
    """
    server = valkey_of(
        directory,
        binary=binary,
        port=_free_port() if port == 0 else port,
        settings={"appendfsync": appendfsync, **(settings or {})},
    )
    return server.start()


def valkey_of(
    directory: Path,
    *,
    binary: Path | None = None,
    port: int | None = None,
    settings: Mapping[str, str] | None = None,
) -> ValkeyServer:
    """Return the server of a folder, running or not. It touches nothing."""
    return ValkeyServer(directory.absolute(), binary=binary, port=port, settings=settings or {})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _quoted(text: str) -> str:
    """Return ``text`` as one word of a settings file."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
