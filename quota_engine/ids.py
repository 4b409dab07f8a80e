"""
Identifiers: which texts name an account, a quota type, an operation; and new ids.

Legal texts:

* an account is 1 to 200 characters without control characters, line or paragraph separators and
  lone surrogates, that neither begins nor ends with white space or ``/`` and has no empty path
  part (``a//b``). Spaces inside, ``|``, ``{``, ``}``, ``:`` and any script are legal.
* a quota type is 1 to 64 of ``a-z``, ``0-9`` and ``_``.
* an operation, hold or grant id is 1 to 128 characters without white space and control characters.

New ids are a prefix and a UUIDv7 in hex, so they sort by the time they were made.
"""

from __future__ import annotations

import re
import secrets
import time
import unicodedata

from quota_engine.errors import InvalidArgumentError

ACCOUNT_LENGTH_MAX = 200
QUOTA_TYPE_LENGTH_MAX = 64
ID_LENGTH_MAX = 128

_PLAIN_ACCOUNT = re.compile(r"[A-Za-z0-9_.:@-]+(?:/[A-Za-z0-9_.:@-]+)*\Z")
_PLAIN_ID = re.compile(r"[!-~]{1,128}\Z")
_QUOTA_TYPE = re.compile(r"[a-z0-9_]{1,64}\Z")
#: Unicode categories that no id may hold: control, surrogate, line and paragraph separator.
_ILLEGAL_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def checked_account(account: object) -> str:
    """Return ``account`` if it is a legal account id; raise ``InvalidArgumentError`` if not."""
    if not isinstance(account, str):
        raise InvalidArgumentError(f"account must be a str, not {type(account).__name__}")
    if not 1 <= len(account) <= ACCOUNT_LENGTH_MAX:
        raise InvalidArgumentError(
            f"account must have 1 to {ACCOUNT_LENGTH_MAX} characters, not {len(account)}"
        )
    if _PLAIN_ACCOUNT.match(account):
        return account
    if any(unicodedata.category(letter) in _ILLEGAL_CATEGORIES for letter in account):
        raise InvalidArgumentError(f"account {account!r} holds a control character")
    if account != account.strip() or "" in account.split("/"):
        raise InvalidArgumentError(
            f"account {account!r} must not begin or end with white space or '/', nor hold '//'"
        )
    return account


def checked_quota_type(quota_type: object) -> str:
    """Return ``quota_type`` if it is a legal name; raise ``InvalidArgumentError`` if not."""
    if not isinstance(quota_type, str) or not _QUOTA_TYPE.match(quota_type):
        raise InvalidArgumentError(
            f"quota type must be 1 to {QUOTA_TYPE_LENGTH_MAX} of a-z, 0-9 and _,"
            f" not {quota_type!r:.80}"
        )
    return quota_type


def checked_id(text: object, *, name: str) -> str:
    """Return ``text`` if it is a legal operation, hold or grant id."""
    if isinstance(text, str):
        if _PLAIN_ID.match(text):
            return text
        legal = 1 <= len(text) <= ID_LENGTH_MAX and not any(
            letter.isspace() or unicodedata.category(letter) in _ILLEGAL_CATEGORIES
            for letter in text
        )
        if legal:
            return text
    raise InvalidArgumentError(
        f"{name} must be 1 to {ID_LENGTH_MAX} characters without white space and control"
        f" characters, not {text!r:.80}"
    )


def new_id(prefix: str, now_ms: int | None = None) -> str:
    """Return a fresh id such as ``hold_0190…``, stamped with ``now_ms`` or this machine's time."""
    if now_ms is None:
        now_ms = time.time_ns() // 1_000_000
    random = secrets.randbits(74)
    uuid7 = now_ms << 80 | 7 << 76 | (random >> 62) << 64 | 2 << 62 | random & (1 << 62) - 1
    return f"{prefix}_{uuid7:032x}"
