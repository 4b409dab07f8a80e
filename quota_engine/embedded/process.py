"""
One server process per folder: started once, found again, stopped. It must not know which server.

The server inherits a locked file (``flock``). The lock is held exactly as long as the server, or
a child of its own, lives, whoever started it and however it ends; so no stale pid file and no
reused pid can be mistaken for a running server, and two starters never start two. The server has
a session of its own: it survives its starter's exit, SIGKILL and Ctrl-C.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

from quota_engine.embedded.folders import Owner, make_folder
from quota_engine.errors import EngineUnavailableError

POLL_SECONDS = 0.01
READY_SECONDS = 60.0
"""Long enough for recovery after a kill; a server that is still loading says so."""
REPEAT_SECONDS = 1.0
"""A process that has only just begun ignores a signal, so it is sent again."""
LOG_BYTES_MAX = 10_000_000
INHERITED_VARIABLES = ("PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Server(ABC):
    """A server that serves one folder, running or not. Every method may be called at any time."""

    name: ClassVar[str]
    stop_signals: ClassVar[tuple[signal.Signals, ...]]
    """Asked in this order, each when the one before had no effect for long enough."""

    def __init__(self, place: Path, owner: Owner) -> None:
        self.place = place
        """The folder that holds the server's files."""
        self.owner = owner
        self._said_before = 0

    @property
    @abstractmethod
    def url(self) -> str:
        """How clients connect."""

    @abstractmethod
    def prepare(self, lock: int) -> Sequence[str]:
        """
        Make the folder ready and return the command line, which names ``place``.

        Called with the lock held: nothing else serves the folder. A program that takes its time
        inherits ``lock``, so that it keeps others out when this process is killed meanwhile.
        """

    @abstractmethod
    def probe(self) -> str:
        """Return the version of the server that answers now; OSError when none does."""

    def version(self) -> str | None:
        """Return the version of the server that answers now, or None."""
        with suppress(OSError):
            return self.probe()
        return None

    @property
    def pid(self) -> int | None:
        """The server's process, or None when none runs."""
        if not self.is_locked():
            return None
        with suppress(OSError, ValueError):
            pid = int((self.place / "server.pid").read_text())
            return pid if is_command_line_with(pid, str(self.place)) else None
        return None

    def is_locked(self) -> bool:
        """Whether a server of this folder lives, or is being started."""
        try:
            descriptor = os.open(self.place / "server.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def start(self, *, ready_seconds: float = READY_SECONDS) -> Self:
        """
        Return when the server answers; start it if nobody else has.

        Raises EngineUnavailableError with the server's last words when it dies or takes too long.
        """
        with explained(f"{self.name} in {self.place} can not be started"):
            self._start(time.monotonic() + ready_seconds)
        return self

    def _start(self, deadline: float) -> None:
        make_folder(self.place)
        launched = False
        while self.version() is None:
            descriptor = self._try_lock()
            if descriptor is not None:
                try:
                    if launched:
                        raise EngineUnavailableError(f"{self.name} ended{self.last_words()}")
                    self._launch(descriptor)
                    launched = True
                finally:
                    os.close(descriptor)
            if time.monotonic() > deadline:
                raise EngineUnavailableError(
                    f"{self.name} in {self.place} does not answer{self.last_words()}"
                )
            time.sleep(POLL_SECONDS)

    def stop(self, *, patience_seconds: float = 30.0) -> bool:
        """Stop the server in an orderly way; False when none ran."""
        with explained(f"{self.name} in {self.place} can not be stopped"):
            return self._end(self.stop_signals, patience_seconds)

    def kill(self) -> bool:
        """End the server at once (SIGKILL), as a crash would; False when none ran."""
        with explained(f"{self.name} in {self.place} can not be killed"):
            return self._end((signal.SIGKILL,), 30.0)

    def _end(self, signals: Sequence[signal.Signals], patience_seconds: float) -> bool:
        if not self.is_locked():
            return False
        for number in signals:
            deadline = time.monotonic() + patience_seconds
            next_signal = time.monotonic()
            while time.monotonic() < deadline:
                if time.monotonic() >= next_signal and (pid := self.pid) is not None:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                    next_signal += REPEAT_SECONDS
                if not self.is_locked():
                    return True
                time.sleep(POLL_SECONDS)
        raise EngineUnavailableError(
            f"{self.name} in {self.place} does not end{self.last_words()}"
        )

    def _try_lock(self) -> int | None:
        """Return a descriptor that holds the folder's lock, or None when it is taken."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.place / "server.lock", flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def _launch(self, lock: int) -> None:
        """
        Start the process, detached.

        A shell starts it in the background and ends, so that it is nobody's child: its end leaves
        no zombie here. The shell writes the pid, so that a starter killed now loses nothing.
        """
        pid_file, log = self.place / "server.pid", self.place / "server.log"
        pid_file.unlink(missing_ok=True)
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))
        self._said_before = log.stat().st_size if log.exists() else 0
        command = self.prepare(lock)
        with appending(log) as said, appending(pid_file) as pids:
            run_as(
                self.owner,
                ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *command],
                stdout=pids,
                stderr=said,
                inherited=lock,
            )

    def last_words(self) -> str:
        """Return the end of what the process has logged, as the end of an error message."""
        try:
            text = (self.place / "server.log").read_bytes()[self._said_before :]
        except OSError:
            return ""
        lines = [line.strip() for line in text.decode(errors="replace").splitlines()]
        said = " | ".join([line for line in lines if line][-4:])
        return f": {said}" if said else ""


def appending(path: Path) -> BinaryIO:
    """Open a file that processes append to; a symbolic link in its place is refused."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "ab", buffering=0)


def run_as(
    owner: Owner,
    command: Sequence[str],
    *,
    stdout: BinaryIO,
    stderr: BinaryIO,
    stdin: bytes = b"",
    inherited: int | None = None,
) -> None:
    """
    Run a program to its end as ``owner``, in a session of its own and a clean environment.

    Variables such as PGOPTIONS or LC_ALL must not change what a server does.
    Raises CalledProcessError, or OSError when it can not be run at all.
    """
    environment = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    identity: dict[str, Any] = {}
    if not owner.is_me:
        identity = {"user": owner.uid, "group": owner.gid, "extra_groups": []}
    subprocess.run(
        command,
        input=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=() if inherited is None else (inherited,),
        check=True,
        start_new_session=True,
        umask=0o077,
        cwd="/",
        env={**environment, "LC_ALL": "C"},
        **identity,
    )


def is_command_line_with(pid: int, text: str) -> bool:
    """Whether a process of that number runs with ``text`` in its command line."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        if Path("/proc/self/cmdline").exists():
            return False
        try:
            line = subprocess.run(
                ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, check=False
            ).stdout
        except FileNotFoundError:
            return True  # neither /proc nor ps: the lock's word must do
    return os.fsencode(text) in line


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what the operating system says into one sentence."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        raise EngineUnavailableError(f"{what}: {error}") from error
    except PermissionError as error:
        raise EngineUnavailableError(
            f"{what}: permission denied on {error.filename}; "
            "run as the user who owns it, or set QUOTA_ENGINE_HOME to a folder of your own"
        ) from error
    except OSError as error:
        raise EngineUnavailableError(f"{what}: {error}") from error
