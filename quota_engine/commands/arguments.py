"""What commands share when they build KEYS and ARGV."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from quota_engine.commands.base import Argument, Context
from quota_engine.keys import QuotaName, ShardKeys

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def writing_keys(keys: ShardKeys, quota: QuotaName) -> Sequence[str]:
    """Return the eight keys of every script that changes a quota."""
    name = str(quota)
    return (
        keys.versions,
        keys.outbox,
        keys.due,
        keys.quota(name),
        keys.holds(name),
        keys.changes(name),
        keys.ops0(name),
        keys.ops1(name),
    )


def writing_argv(context: Context, quota: QuotaName) -> tuple[Argument, ...]:
    """Return the five arguments that every script that changes a quota begins with."""
    return (context.epoch, str(quota), context.now, context.horizon_ms, context.due_max)


def fingerprint(*arguments: object) -> str:
    """Return a short hash of an operation's arguments: equal arguments, equal fingerprint."""
    text = "\x1f".join(map(str, arguments))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def details_text(details: Mapping[str, object]) -> str:
    """Return the caller's details as one line of JSON, empty ones left out."""
    present = {name: value for name, value in details.items() if value is not None}
    if not present:
        return ""
    return _JSON.encode(present)
