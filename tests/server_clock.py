"""A Redis server with a clock of its own, which a test sets while it runs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from quota_engine.embedded.binaries import find_valkey
from tests.servers import CHECKOUT


class ServerClock:
    """The clock of servers that are started with ``binary``. Monotonic time goes on as it does."""

    def __init__(self, folder: Path, faketime: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        self.binary = folder / "valkey-by-another-clock"
        variables = {
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        told = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        command = f"{shlex.quote(str(faketime))} {shlex.quote(str(find_valkey()))}"
        self.binary.write_text(f'#!/bin/sh\nexport {told}\nexec {command} "$@"\n')
        self.binary.chmod(0o755)

    def set(self, ahead_seconds: int) -> None:
        """Let the clock be so far ahead of the others from now on; below 0: behind."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{ahead_seconds:+d}")
        draft.replace(self._file)


def faketime_program() -> Path | None:
    """Return what runs a program by another clock, as tools/debian_parts.py put it."""
    path = CHECKOUT / ".cache/debian/bin/faketime"
    return path if os.access(path, os.X_OK) else None
