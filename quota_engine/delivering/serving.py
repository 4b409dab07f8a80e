"""
Serving all channels that any process may: each that has something due is attended to at once.

A channel that is slow or away keeps one thread, and nobody else. Many workers may do so: each
message is attempted by one at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from quota_engine.alerts.channels import Claimed
from quota_engine.delivering.attending import Messages, Send, attend
from quota_engine.delivering.senders import senders_of
from quota_engine.errors import QuotaError
from quota_engine.settings import Settings

log = logging.getLogger("quota_engine.alerts")

POLL_SECONDS = 0.25
#: Channels that one process attends to at once.
CHANNELS_MAX = 32
STOP_SECONDS = 5.0


class Deliverer:
    """Attends to channels until it is closed."""

    def __init__(
        self,
        messages: Messages,
        settings: Settings,
        stopping: threading.Event | None = None,
        senders: Mapping[str, Send] | None = None,
    ) -> None:
        self._messages = messages
        self._settings = settings
        self._senders = senders_of(settings) if senders is None else senders
        self._stopping = threading.Event() if stopping is None else stopping
        self._threads = ThreadPoolExecutor(CHANNELS_MAX, "quota-engine-alerts")
        self._attended: dict[str, Future[tuple[int, int]]] = {}

    def begin(self) -> None:
        """Have every channel attended to that has something due and nobody of this process yet."""
        for channel in self._messages.due([*self._senders]):
            running = self._attended.get(channel)
            if running is None or running.done():
                self._attended[channel] = self._threads.submit(self._attend, channel)

    def run_once(self) -> tuple[int, int]:
        """Deliver what is due now; return how many messages arrived, and how many did not."""
        self.begin()
        ended = [future.result() for future in self._attended.values()]
        self._attended.clear()
        return sum(arrived for arrived, _ in ended), sum(failed for _, failed in ended)

    def close(self) -> None:
        """End after the messages that are under way, or in a few seconds."""
        self._stopping.set()
        wait(self._attended.values(), STOP_SECONDS)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _attend(self, channel: str) -> tuple[int, int]:
        try:
            return attend(self._messages, channel, self._send, self._settings, self._stopping)
        except QuotaError as error:
            log.warning("alerts of channel %s wait: %s", channel, error)
        except Exception:
            log.exception("the delivery of alerts to %s is broken", channel)
        return 0, 0

    def _send(self, claimed: Claimed) -> None:
        self._senders[claimed.terms.kind](claimed)


def deliver_once(messages: Messages, settings: Settings) -> tuple[int, int]:
    """Deliver what is due now; return how many messages arrived, and how many did not."""
    deliverer = Deliverer(messages, settings)
    try:
        return deliverer.run_once()
    finally:
        deliverer.close()
