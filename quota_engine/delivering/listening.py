"""
Listening: callbacks of this process, each served by a thread of its own.

A message of a channel goes to one of the processes that listen to it. A callback that raises gets
it again later, as any channel does. A forked child listens to nothing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial

from quota_engine.alerts.channels import Claimed
from quota_engine.alerts.told import AlertMessage, message_of
from quota_engine.delivering.attending import Messages, attend
from quota_engine.errors import QuotaError
from quota_engine.settings import Settings

log = logging.getLogger("quota_engine.alerts")

POLL_SECONDS = 0.25
#: While PostgreSQL does not answer.
TROUBLE_SECONDS = 2.0
STOP_SECONDS = 5.0

Callback = Callable[[AlertMessage], object]


class Listeners:
    """The threads that serve one engine's callbacks."""

    def __init__(self, messages: Messages, settings: Settings) -> None:
        self._messages = messages
        self._settings = settings
        self._stops: list[Callable[[], None]] = []

    def listen(self, channel: str, callback: Callback) -> Callable[[], None]:
        """Give a channel's messages to ``callback``; return what ends that."""
        stopping = threading.Event()
        serve = partial(self._serve, os.getpid(), channel, callback, stopping)
        thread = threading.Thread(target=serve, name=f"quota-engine-alerts-{channel}", daemon=True)

        def stop() -> None:
            stopping.set()
            if thread is not threading.current_thread():
                thread.join(STOP_SECONDS)

        thread.start()
        self._stops.append(stop)
        return stop

    def close(self) -> None:
        """End every thread, after the message that it is at."""
        for stop in self._stops:
            stop()
        self._stops.clear()

    def _serve(
        self, pid: int, channel: str, callback: Callback, stopping: threading.Event
    ) -> None:
        def send(claimed: Claimed) -> None:
            callback(message_of(claimed.body))

        trouble = ""
        while not stopping.is_set() and os.getpid() == pid:
            pause = POLL_SECONDS
            try:
                attend(self._messages, channel, send, self._settings, stopping)
                trouble = ""
            except Exception as error:
                if not trouble:
                    is_bug = not isinstance(error, QuotaError)
                    log.warning("alerts of channel %s wait: %s", channel, error, exc_info=is_bug)
                trouble, pause = str(error), TROUBLE_SECONDS
            stopping.wait(pause)
