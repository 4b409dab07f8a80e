"""
Who pays in place of a quota, as entries, holds and policies write it.

An account's name may hold anything but control characters, so where it stands among words it is
percent-encoded, as ``lua/lib/paying.lua`` decodes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from quota_engine.keys import QuotaName

#: Payers that one account may name for a quota type.
PAYERS_MAX = 3
#: What a flag begins with that says who paid.
BY = "by:"

_UNSAFE, _ENCODED = re.compile(rb"[^A-Za-z0-9_.~/-]"), re.compile(rb"%([0-9A-F]{2})")


def payer_word(account: str) -> str:
    """Return an account as one word."""
    return _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], account.encode()).decode()


def payer_of(word: str) -> str:
    """Return the account that a word names."""
    return _ENCODED.sub(lambda found: bytes.fromhex(found[1].decode()), word.encode()).decode()


def payer_in(flags: str) -> str | None:
    """Return the account that an entry says has paid in its quota's place, or None."""
    if BY not in flags:
        return None
    words = (word for word in flags.split() if word.startswith(BY))
    return payer_of(next(words, BY).removeprefix(BY)) or None


def quota_of(word: str) -> QuotaName:
    """Return the quota that ``<account, percent-encoded>|<quota type>`` names."""
    named = QuotaName.parse(word)
    return QuotaName(payer_of(named.account), named.quota_type)


def payers_text(pays_after: Mapping[str, tuple[str, ...]]) -> str:
    """Return who pays for each quota type as one line: ``*=acme/pool,acme text_token=``."""
    return " ".join(
        f"{name}={','.join(map(payer_word, pays_after[name]))}" for name in sorted(pays_after)
    )


def parse_payers(text: str) -> dict[str, tuple[str, ...]]:
    """Return what such a line says."""
    said = (word.split("=") for word in text.split())
    return {
        name: tuple(payer_of(word) for word in words.split(",") if word) for name, words in said
    }
