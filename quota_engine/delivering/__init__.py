"""
Delivering messages about alerts: by webhook, e-mail, log and callback.

A message is claimed, sent and marked; one that fails is sent again later and later, and given up
in the end. It knows the outbox only as ``Messages``, and no store.
"""

from quota_engine.delivering.attending import COUNTERS
from quota_engine.delivering.listening import Listeners
from quota_engine.delivering.senders import send_test
from quota_engine.delivering.serving import POLL_SECONDS, Deliverer, deliver_once

__all__ = ["COUNTERS", "POLL_SECONDS", "Deliverer", "Listeners", "deliver_once", "send_test"]
