"""
Signatures of webhooks, as https://www.standardwebhooks.com has them. Pure.

``webhook-signature`` is ``v1,`` and the base64 of HMAC-SHA256 over *id* + ``.`` + *timestamp* +
``.`` + *body*, by the channel's secret: its bytes, or those that base64 after ``whsec_`` says.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

from quota_engine.alerts.channels import SECRET_PREFIX
from quota_engine.errors import InvalidArgumentError
from quota_engine.instants import to_ms

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
#: A message is refused that is this much older, or newer, than the receiver's clock.
REPLAY_SECONDS = 300


def signed_headers(
    secret: str | None, delivery_id: str, at: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers of one attempt; without a secret there is no signature."""
    timestamp = str(to_ms(at, name="at") // 1000)
    headers = {ID: delivery_id, TIMESTAMP: timestamp}
    if secret is not None:
        headers[SIGNATURE] = f"v1,{_signature(secret, delivery_id, timestamp, body)}"
    return headers


def check_webhook(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    tolerance_seconds: float = REPLAY_SECONDS,
) -> str:
    """
    Return the id of a webhook's message, by which a receiver takes each once.

    Raises ``InvalidArgumentError`` for a signature that is missing or wrong, and for a message
    that is older or newer than it may be. ``headers``: in any case; ``body``: as it came.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp, signatures = (lowered[name] for name in (ID, TIMESTAMP, SIGNATURE))
        seconds = int(timestamp)
    except (KeyError, ValueError):
        raise InvalidArgumentError(f"a webhook needs {ID}, {TIMESTAMP} and {SIGNATURE}") from None
    wanted = _signature(secret, message_id, timestamp, body).encode()
    given = [one.removeprefix("v1,").encode() for one in signatures.split(" ")]
    if not any(hmac.compare_digest(wanted, one) for one in given):
        raise InvalidArgumentError("the webhook's signature is not that of its body")
    if abs(now.timestamp() - seconds) > tolerance_seconds:
        raise InvalidArgumentError("the webhook's timestamp is too far from now: a replay?")
    return message_id


def _signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    key = secret.encode()
    if secret.startswith(SECRET_PREFIX):
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
