"""Senders: one message to one place. What goes wrong is raised, with no secret in its words."""

from __future__ import annotations

import base64
import json
import logging
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

from quota_engine.alerts.channels import EMAIL, LOG, WEBHOOK, Claimed
from quota_engine.alerts.rules import CRITICAL
from quota_engine.alerts.signing import signed_headers
from quota_engine.delivering.attending import Send
from quota_engine.errors import EngineUnavailableError, InvalidArgumentError
from quota_engine.settings import Settings

log = logging.getLogger("quota_engine.alerts")

#: More of an answer nobody reads.
ANSWER_MAX = 1_024
AGENT = "quota-engine"
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
SUBMISSION_PORT, TLS_PORT = 587, 465


class NotTakenError(Exception):
    """The other side did not take the message: what it said."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A message goes where the operator said, and nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Take a redirect for a refusal."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def senders_of(settings: Settings) -> Mapping[str, Send]:
    """Return what sends by each kind of channel that any process may serve."""
    return {
        WEBHOOK: lambda claimed: send_webhook(claimed, settings.alert_timeout_seconds),
        EMAIL: lambda claimed: send_email(claimed, settings),
        LOG: send_log,
    }


def send_test(claimed: Claimed, settings: Settings) -> None:
    """Send a message that tries a channel out; raise ``EngineUnavailableError`` if it fails."""
    send = senders_of(settings).get(claimed.terms.kind)
    if send is None:
        raise InvalidArgumentError(
            f"only a process that listens to {claimed.channel} can be told:"
            " engine.alerts.on(callback)"
        )
    try:
        send(claimed)
    except InvalidArgumentError:
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        raise EngineUnavailableError(f"channel {claimed.channel}: {said}") from error


def send_webhook(claimed: Claimed, timeout_seconds: float) -> None:
    """Post a message, signed; anything but a 2xx is a failure."""
    body = json.dumps(claimed.body, ensure_ascii=False, separators=(",", ":")).encode()
    headers = signed_headers(claimed.terms.secret, claimed.delivery_id, datetime.now(UTC), body)
    headers |= {"Content-Type": "application/json", "User-Agent": AGENT}
    url = urlsplit(claimed.terms.target)
    if url.username:
        said = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(said).decode()}"
        url = url._replace(netloc=url.netloc.rpartition("@")[2])
    request = urllib.request.Request(url.geturl(), body, headers, method="POST")
    try:
        with _OPENER.open(request, timeout=timeout_seconds) as answer:
            answer.read(ANSWER_MAX)
    except urllib.error.HTTPError as error:
        error.close()
        raise NotTakenError(f"answered {error.code}") from None
    except urllib.error.URLError as error:
        raise NotTakenError(f"cannot be reached: {error.reason}") from None
    except OSError as error:  # a timeout while reading the answer
        raise NotTakenError(f"does not answer: {error}") from None


def send_log(claimed: Claimed) -> None:
    """Write a message as a line of this process's log."""
    alert = claimed.body.get("alert") or {}
    worst = alert.get("severity") if "resolved" not in claimed.body["type"] else None
    level = logging.ERROR if worst == CRITICAL else logging.WARNING
    log.log(level, "%s", json.dumps(claimed.body, ensure_ascii=False))


def send_email(claimed: Claimed, settings: Settings) -> None:
    """Send a message by the SMTP server of the settings."""
    if settings.smtp_url is None or settings.smtp_sender is None:
        raise InvalidArgumentError(
            "e-mails need QUOTA_ENGINE_SMTP_URL and QUOTA_ENGINE_SMTP_SENDER"
        )
    url = urlsplit(settings.smtp_url.get_secret_value())
    is_tls = url.scheme == "smtps"
    port = url.port or (TLS_PORT if is_tls else SUBMISSION_PORT)
    host, timeout = url.hostname or "", settings.alert_timeout_seconds
    context = ssl.create_default_context()
    try:
        server = (
            smtplib.SMTP_SSL(host, port, timeout=timeout, context=context)
            if is_tls
            else smtplib.SMTP(host, port, timeout=timeout)
        )
        with server:
            server.ehlo()
            if not is_tls and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
            elif not is_tls and url.username and host not in LOCAL:
                raise NotTakenError(f"{host} offers no TLS, and would get the password in clear")
            if url.username:
                server.login(unquote(url.username), unquote(url.password or ""))
            server.send_message(_email(claimed, settings.smtp_sender))
    except smtplib.SMTPException as error:
        raise NotTakenError(f"{host} did not take it: {_said(error)}") from None
    except OSError as error:
        raise NotTakenError(f"{host} does not answer: {error}") from None


def _said(error: smtplib.SMTPException) -> str:
    """Return what a server said; what it refused may hold addresses, never a password."""
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {error.smtp_error!r:.200}"
    return f"{type(error).__name__} {error}"


def _email(claimed: Claimed, sender: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(claimed.terms.target.split(","))
    message["Subject"] = " ".join(f"[quota-engine] {claimed.body['text']}".split())[:200]
    message["Message-ID"] = f"<{claimed.delivery_id}@{claimed.body['deployment']}>"
    message["Auto-Submitted"] = "auto-generated"
    details = json.dumps(claimed.body, ensure_ascii=False, indent=2)
    message.set_content(f"{claimed.body['text']}\n\n{details}\n")
    return message
