"""The worker beside a run: a process of its own, as in production."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from typing import IO

from quota_engine.errors import EngineUnavailableError

STOP_SECONDS = 20.0
_WORKER = "from quota_engine.cli import main; main()"


class Worker:
    """A ``quota-engine worker`` for the length of a ``with`` block."""

    def __init__(self, redis_url: str, database_url: str) -> None:
        self._environment = {
            **os.environ,
            "QUOTA_ENGINE_REDIS_URL": redis_url,
            "QUOTA_ENGINE_DATABASE_URL": database_url,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit

    def __enter__(self) -> Worker:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _WORKER,
                "worker",
            ],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends it in order
        )
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._said.close()

    def check(self) -> None:
        """Raise with its last words if the worker has ended."""
        if self._process is None or self._process.poll() is None:
            return
        self._said.seek(0)
        words = self._said.read().decode(errors="replace").strip().splitlines()
        last = words[-1] if words else "it said nothing"
        raise EngineUnavailableError(
            f"`quota-engine worker` ended with code {self._process.returncode}: {last}"
        )
