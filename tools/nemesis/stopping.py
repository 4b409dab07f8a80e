"""
A run that is told to stop ends what it started: a signal becomes an exception, once.

Python ends at once by SIGTERM, and a shell's background job ignores SIGINT; both would leave
servers, workers and clients behind.
"""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def unwind_when_told() -> None:
    """Let the first signal to end raise ``SystemExit`` in the main thread, and ignore others."""
    for number in SIGNALS:
        signal.signal(number, _unwind)


def _unwind(number: int, _: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
