"""
Channels: where alerts are told, and how a failed attempt is tried again. Pure.

Nothing here shows a secret: ``Channel`` has none, and its ``target`` is what may be shown of it.
"""

from __future__ import annotations

import base64
import random
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import Url

from quota_engine.alerts.rules import checked_rule_name
from quota_engine.amounts import checked_amount
from quota_engine.arguments import checked_text
from quota_engine.errors import InvalidArgumentError

WEBHOOK, EMAIL, LOG, CALLBACK = "webhook", "email", "log", "callback"
CHANNEL_KINDS = (WEBHOOK, EMAIL, LOG, CALLBACK)

PER_MINUTE = 60
PER_MINUTE_MAX = 6_000
RETRY_SECONDS_MAX = 3_600.0
#: A pause is longer or shorter by up to this part, so that many do not come back at once.
JITTER = 0.25
SECRET_PREFIX = "whsec_"
SECRET_BYTES = 24
SECRET_LENGTH_LEAST = 16

_ADDRESS = re.compile(r"[^\s@,;<>\"]+@[^\s@,;<>\"]+\Z")

PENDING, DELIVERED, DEAD, JOINED = "pending", "delivered", "dead", "joined"
DELIVERY_STATES = (PENDING, DELIVERED, DEAD, JOINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTerms:
    """What a channel is told at its making. ``target``: a URL, or addresses with commas."""

    kind: str
    target: str
    secret: str | None
    per_minute: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """
    A channel as it may be shown. ``target``: of a URL scheme and host alone.

    ``per_minute``: so many messages at most; what is beyond is told together. ``pending``: how
    many deliveries wait; ``dead``: how many were given up. ``secret``: only in the answer to its
    making, where the engine has made it up.
    """

    name: str
    kind: str
    target: str
    per_minute: int
    created_at: datetime
    pending: int = 0
    dead: int = 0
    secret: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """
    One message to one channel, as far as it is.

    ``state``: pending, delivered, dead (given up: see ``retry``), or joined: told by another one,
    ``joined_to``, with many more. ``due_at``: when it is tried next.
    """

    delivery_id: str
    channel: str
    alert_id: str | None
    sequence: int | None
    action: str
    state: str
    attempts: int
    created_at: datetime
    due_at: datetime
    ended_at: datetime | None
    error: str | None
    joined_to: str | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is this process's to attempt. ``body``: what is told, in JSON's kinds."""

    delivery_id: str
    attempts: int
    channel: str
    terms: ChannelTerms
    body: dict[str, Any]


def checked_channel(
    name: object,
    kind: object,
    *,
    target: object,
    secret: object,
    per_minute: object,
) -> tuple[str, ChannelTerms]:
    """Return a channel's name and terms; raise ``InvalidArgumentError`` for what it can't be."""
    if kind not in CHANNEL_KINDS:
        raise InvalidArgumentError(
            f"kind must be one of {', '.join(CHANNEL_KINDS)}, not {kind!r:.80}"
        )
    if secret is not None and kind != WEBHOOK:
        raise InvalidArgumentError("only a webhook has a secret")
    checks = {WEBHOOK: checked_url, EMAIL: _checked_addresses}
    if kind in checks:
        place = checks[str(kind)](target)
    elif target is not None:
        raise InvalidArgumentError(f"a channel of kind {kind} has no target")
    else:
        place = ""
    count = checked_amount(PER_MINUTE if per_minute is None else per_minute, name="per_minute")
    if count > PER_MINUTE_MAX:
        raise InvalidArgumentError(f"per_minute must be at most {PER_MINUTE_MAX}, not {count}")
    terms = ChannelTerms(
        kind=str(kind), target=place, secret=_checked_secret(secret), per_minute=count
    )
    return checked_rule_name(name), terms


def checked_url(url: object) -> str:
    """Return the URL of a webhook."""
    said = checked_text(url, name="url")
    try:
        parts = Url(said or "")
        if parts.scheme in {"http", "https"} and parts.host and parts.port:
            return str(said)
    except ValueError:
        pass
    raise InvalidArgumentError(
        "a webhook needs a URL such as https://example.com/hooks/quota (it is not shown: it may"
        " hold a secret)"
    )


def _checked_addresses(said: object) -> str:
    given = [said] if isinstance(said, str) else said
    if not isinstance(given, Sequence) or not given:
        raise InvalidArgumentError("an e-mail channel needs an address such as ops@example.com")
    split = [part.strip() for one in given for part in str(one).split(",")]
    if wrong := [one for one in split if not _ADDRESS.match(one)]:
        raise InvalidArgumentError(f"{wrong[0]!r:.80} is no e-mail address")
    return ",".join(dict.fromkeys(split))


def _checked_secret(secret: object) -> str | None:
    if secret is None:
        return None
    said = checked_text(secret, name="secret") or ""
    if len(said) < SECRET_LENGTH_LEAST:
        raise InvalidArgumentError(f"secret must have at least {SECRET_LENGTH_LEAST} characters")
    if said.startswith(SECRET_PREFIX):
        try:
            base64.b64decode(said.removeprefix(SECRET_PREFIX), validate=True)
        except ValueError:
            raise InvalidArgumentError(f"a secret after {SECRET_PREFIX} is base64") from None
    return said


def new_secret() -> str:
    """Return a secret that nobody knows yet."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def shown_target(terms: ChannelTerms) -> str:
    """Return what may be shown of a target: paths, queries and passwords of URLs are secrets."""
    if terms.kind != WEBHOOK:
        return terms.target
    parts = Url(terms.target)
    return f"{parts.scheme}://{parts.host}:{parts.port}/…"


def pause_seconds(attempts: int, first: float, dice: random.Random) -> float:
    """Return how long to wait after so many failed attempts: twice as long each time."""
    pause = min(first * 2.0 ** min(attempts - 1, 30), RETRY_SECONDS_MAX)
    return pause * (1 + JITTER * (2 * dice.random() - 1))
