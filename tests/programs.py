"""
Python programs in processes of their own, forked from one that has imported the engine already.

To import it takes a second, and many tests need processes that die. A program is what stands
behind ``python -c``: it finds its arguments in ``sys.argv``, and ``tests`` can be imported.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import IO, Any

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: What the first process runs; each of its forks goes on with a program.
STEM = """
import sys
sys.path.insert(0, sys.argv[2])
from tests import programs
programs.end_with(programs.born(int(sys.argv[1])))
"""
COMMAND_LINE = "from quota_engine.cli import main; main()"
TIMEOUT_SECONDS = 90.0


class Program:
    """A program that runs, with the methods of ``subprocess.Popen`` that tests use."""

    def __init__(
        self,
        program: str,
        *arguments: str,
        stdin: int | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
        text: bool = False,
    ) -> None:
        self.args = arguments
        self.returncode: int | None = None
        mode = "" if text else "b"
        self.stdin, given = _piped(stdin, f"w{mode}", 0)
        self.stdout, taken = _piped(stdout, f"r{mode}", 1)
        told = taken if stderr == subprocess.STDOUT else 2 if stderr is None else _fd(stderr)
        self._report, reporting = os.pipe()
        asked = {
            "program": program,
            "arguments": arguments,
            "environment": dict(os.environ if env is None else env),
        }
        _fork(asked, [given, taken, told, reporting])
        os.close(reporting)
        for ours, theirs in ((self.stdin, given), (self.stdout, taken)):
            if ours is not None:
                os.close(theirs)
        self.pid = int(os.read(self._report, 20))

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_pipes()
        self.wait()

    def poll(self) -> int | None:
        """Return how it has ended, None while it runs."""
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float = TIMEOUT_SECONDS) -> int:
        """Return how it has ended; a signal's number is negative."""
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = os.waitstatus_to_exitcode(int(os.read(self._report, 20)))
            os.close(self._report)
        return self.returncode

    def communicate(
        self, told: str | bytes | None = None, timeout: float = TIMEOUT_SECONDS
    ) -> tuple[Any, None]:
        """Tell it something, read all that it says, and wait for its end."""
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self.kill()

        timer = threading.Timer(timeout, give_up)
        timer.start()
        try:
            if self.stdin is not None and told:
                self.stdin.write(told)
            said = self._close_pipes(is_read=True)
            self.wait()
        finally:
            timer.cancel()
            timer.join()
        if is_late.is_set():
            raise subprocess.TimeoutExpired(self.args, timeout)
        return said, None

    def _close_pipes(self, *, is_read: bool = False) -> Any:
        said = None
        if self.stdin is not None and not self.stdin.closed:
            self.stdin.close()
        if self.stdout is not None and not self.stdout.closed:
            said = self.stdout.read() if is_read else None
            self.stdout.close()
        return said

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


def run(
    program: str, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; return what it printed, and how it ended."""
    with tempfile.TemporaryFile("w+") as errors:
        ran = Program(
            program, *arguments, env=env, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        said, _ = ran.communicate()
        errors.seek(0)
        return subprocess.CompletedProcess(arguments, ran.wait(), said, errors.read())


def killed(program: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
    """Run a program, and check that it was killed, as it was meant to be."""
    ended = run(program, *arguments, env=env)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def _piped(wanted: int | IO[Any] | None, mode: str, inherited: int) -> tuple[IO[Any] | None, int]:
    """Return our end of a pipe if one is wanted, and the program's file descriptor."""
    if wanted is None:
        return None, inherited
    if wanted != subprocess.PIPE:
        return None, _fd(wanted)
    reading, writing = os.pipe()
    ours, theirs = (writing, reading) if "w" in mode else (reading, writing)
    return os.fdopen(ours, mode, buffering=1 if "b" not in mode and "w" in mode else -1), theirs


def _fd(given: int | IO[Any]) -> int:
    if given == subprocess.DEVNULL:
        return _null()
    return given if isinstance(given, int) else given.fileno()


@cache
def _null() -> int:
    return os.open(os.devnull, os.O_RDWR)


# -- the process that programs are forked from


@cache
def _stem(_owner: int) -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    command = [sys.executable, "-c", STEM, str(theirs.fileno()), CHECKOUT]
    os.posix_spawn(sys.executable, command, os.environ)  # it ends with the socket
    theirs.close()
    return ours


_asking = threading.Lock()


def _fork(asked: Mapping[str, Any], fds: list[int]) -> None:
    told = json.dumps(asked).encode()
    with _asking:
        stem = _stem(os.getpid())
        socket.send_fds(stem, [len(told).to_bytes(4, "big")], fds)
        stem.sendall(told)


def born(socket_fd: int) -> str:
    """Fork whenever it is asked for; return the program in each process that is to run one."""
    import quota_engine.cli
    import quota_engine.engine
    import quota_engine.workers.keeper  # noqa: F401

    assert threading.active_count() == 1, "what has threads is not forked"
    gc.freeze()  # a fork shares what it does not write to
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asking = socket.socket(fileno=socket_fd)
    while True:
        length, fds, _, _ = socket.recv_fds(asking, 4, 4)
        if not length:
            os._exit(0)
        told = b""
        while len(told) < int.from_bytes(length, "big"):
            told += asking.recv(2**16)
        if os.fork() == 0:
            if _keep(fds[3], fds[:3]):
                break
            os._exit(0)
        for fd in fds:
            os.close(fd)
        _reap()
    asking.close()
    asked = json.loads(told)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["-c", *asked["arguments"]]
    return str(asked["program"])


def _keep(reporting: int, standard: list[int]) -> bool:
    """Fork the program's process, in which this is true; in its parent, report how it ended."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, fd in enumerate(standard):
            os.dup2(fd, number)
        for fd in (*standard, reporting):
            os.close(fd)
        return True
    for fd in standard:
        os.close(fd)
    os.write(reporting, b"%20d" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(reporting, b"%20d" % status)
    return False


def _reap() -> None:
    """Forget the keepers that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_with(program: str) -> None:
    """Run a program, and end as Python would, but without taking apart what was imported."""
    code = 0
    try:
        exec(compile(program, "<program>", "exec"), vars(sys.modules["__main__"]))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
