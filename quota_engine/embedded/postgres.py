"""A private PostgreSQL in a folder. It must not know which tables are kept in it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from quota_engine.embedded.binaries import PostgresPrograms, find_postgres, programs_for
from quota_engine.embedded.folders import (
    Owner,
    can_reach,
    current_owner,
    make_folder,
    make_socket_folder,
    place_for,
    socket_folder,
    unprivileged_owner,
)
from quota_engine.embedded.process import (
    Server,
    appending,
    explained,
    is_command_line_with,
    run_as,
)
from quota_engine.errors import EngineUnavailableError

SOCKET_NAME = ".s.PGSQL.5432"
"""The port is only a part of this name: no server listens on the network."""
DATABASE = USER = "quota_engine"
PROBE_SECONDS = 5.0
NO_FSYNC = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer(Server):
    """A PostgreSQL that serves one folder through a Unix socket."""

    name: ClassVar[str] = "postgresql"
    stop_signals: ClassVar[tuple[signal.Signals, ...]] = (
        signal.SIGINT,  # "fast": sessions are cut off, a checkpoint is written
        signal.SIGQUIT,  # "immediate": recovers at the next start
        signal.SIGKILL,
    )

    def __init__(
        self,
        place: Path,
        owner: Owner,
        *,
        programs: Path | None,
        settings: Mapping[str, str],
    ) -> None:
        super().__init__(place, owner)
        self.programs = programs
        self.settings = settings
        self.data = place / "data"
        self.socket = socket_folder(place, SOCKET_NAME) / SOCKET_NAME

    @property
    def url(self) -> str:
        """How SQLAlchemy connects to the project's database."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """How SQLAlchemy connects to any database of this server."""
        folder = quote(str(self.socket.parent), safe="")
        return f"postgresql+psycopg://{USER}@/{database}?host={folder}"

    def prepare(self, lock: int) -> Sequence[str]:
        """Make the data folder, if there is none, and return the command line."""
        if not can_reach(self.place, self.owner):
            raise EngineUnavailableError(
                f"PostgreSQL runs as the user {self.owner.name}, who can not reach {self.place} "
                "any more: open the folders above it to others, or move the home to such a place"
            )
        programs = programs_for(self._find(), self.owner)
        make_socket_folder(self.socket.parent, self.owner)
        if not self.data.exists():
            self._make_data(programs, lock)
        self._forget_the_dead()
        options = {
            "listen_addresses": "",
            "unix_socket_directories": '"' + str(self.socket.parent).replace('"', '""') + '"',
            "unix_socket_permissions": "0700",
            "log_min_messages": "warning",
            **self.settings,
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        return [str(programs.postgres), "-D", str(self.data), *arguments]

    def _find(self) -> PostgresPrograms:
        major: int | None = None
        if (self.data / "PG_VERSION").exists():
            major = int((self.data / "PG_VERSION").read_text().split(".")[0])
        if self.programs is None:
            return find_postgres(major)
        if not os.access(self.programs / "postgres", os.X_OK):
            raise EngineUnavailableError(f"there is no PostgreSQL server in {self.programs}")
        return PostgresPrograms(self.programs, major or 0)

    def _make_data(self, programs: PostgresPrograms, lock: int) -> None:
        """Make the data folder and the database, under another name until both are complete."""
        workshop = self.place / "new"
        shutil.rmtree(workshop, ignore_errors=True)
        make_folder(workshop, self.owner)
        draft = workshop / "data"
        initdb = [str(programs.initdb), "-D", str(draft), f"--username={USER}", "--auth=trust"]
        initdb += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
        initdb += ["--no-sync"] if self.settings.get("fsync") == "off" else []
        single = [str(programs.postgres), "--single", "-D", str(draft), "postgres"]
        statement = f"CREATE DATABASE {DATABASE}\n".encode()
        with appending(self.place / "server.log") as log:
            for command, said in ((initdb, b""), (single, statement)):
                try:
                    run_as(self.owner, command, stdin=said, stdout=log, stderr=log, inherited=lock)
                except subprocess.CalledProcessError as error:
                    program = Path(command[0]).name
                    raise EngineUnavailableError(
                        f"{program} can not make {self.data}{self.last_words()}"
                    ) from error
        draft.rename(self.data)
        workshop.rmdir()

    def _forget_the_dead(self) -> None:
        """
        Remove a killed server's traces whose pid somebody else has by now.

        PostgreSQL takes any live process of that number, of the same user, for its predecessor
        and refuses to start. The lock says that there is none.
        """
        for leftover in (
            self.data / "postmaster.pid",
            self.socket.with_name(f"{SOCKET_NAME}.lock"),
        ):
            try:
                pid = abs(int(leftover.read_text().split("\n", 1)[0]))
            except (FileNotFoundError, ValueError):
                continue
            if not is_command_line_with(pid, str(self.data)):
                leftover.unlink()

    def probe(self) -> str:
        """Return the version of the server that lets a client in; OSError while none does."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PROBE_SECONDS)
            connection.connect(str(self.socket))
            body = f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
            connection.sendall(struct.pack("!ii", len(body) + 8, 196608) + body)
            answer = b""
            while b"Z\0\0\0\5" not in answer:  # ReadyForQuery
                chunk = connection.recv(65536)
                answer += chunk
                if not chunk or answer.startswith(b"E"):
                    raise OSError(answer.decode(errors="replace").replace("\0", " ") or "hung up")
            connection.sendall(b"X\0\0\0\4")
        return answer.split(b"server_version\0", 1)[1].split(b"\0", 1)[0].decode()


def start_postgres(
    directory: Path,
    *,
    programs: Path | None = None,
    fsync: bool = True,
    settings: Mapping[str, str] | None = None,
) -> PostgresServer:
    """
    Start a PostgreSQL on a folder, or find the one that serves it; return when it answers.

    ``programs`` is the folder with ``postgres`` and ``initdb``. ``fsync=False`` is for tests: a
    machine's crash loses the data. ``settings`` are server settings by name. A database
    ``quota_engine`` exists. Raises EngineUnavailableError.
    """
    merged = {**({} if fsync else NO_FSYNC), **(settings or {})}
    with explained(f"{directory} can not be made"):
        server = postgres_of(directory, programs=programs, settings=merged, make=True)
    return server.start()


def postgres_of(
    directory: Path,
    *,
    programs: Path | None = None,
    settings: Mapping[str, str] | None = None,
    make: bool = False,
) -> PostgresServer:
    """Return the server of a folder, running or not. Without ``make`` it touches nothing."""
    directory = directory.absolute()
    owner = unprivileged_owner() if os.geteuid() == 0 else current_owner()
    if make:
        directory.parent.mkdir(parents=True, exist_ok=True)
        make_folder(directory, mode=0o700 if owner.is_me else 0o711)
    exists = make or (directory / "place").exists()
    place = place_for(directory, owner) if exists else directory
    return PostgresServer(place, owner, programs=programs, settings=settings or {})
