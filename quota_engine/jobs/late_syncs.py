"""
Were syncs of the append-only file late, and when last? Redis counts them since it started.

A count that never falls says nothing of today, so workers note in Redis when they have seen it
grow. This module must not know how either is read.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Nothing late for so long: the disk keeps up again.
TOLD_FOR_MS = 3_600_000
NO_NOTE = ("", 0, 0)


def count_of(info: Mapping[str, str]) -> int:
    """Return how many syncs of the append-only file were late since the server started."""
    return int(info.get("aof_delayed_fsync", "0"))


def late_at_ms(info: Mapping[str, str], note: str, now_ms: int) -> int | None:
    """
    Return when syncs were last seen to be late; None: not within the last hour, or never.

    Late ones that nobody has noted yet count as of now.
    """
    run_id, count, at_ms = _parsed(note)
    if not count_of(info):
        return None
    if (run_id, count) != (info.get("run_id", ""), count_of(info)):
        return now_ms
    return at_ms if now_ms - at_ms <= TOLD_FOR_MS else None


def next_note(info: Mapping[str, str], note: str, now_ms: int) -> str | None:
    """Return what to note now: of which server, how many, as of when; None: all is noted."""
    seen = info.get("run_id", ""), count_of(info)
    if not count_of(info) or _parsed(note)[:2] == seen:
        return None
    return f"{seen[0]} {seen[1]} {now_ms}"


def _parsed(note: str) -> tuple[str, int, int]:
    run_id, _, rest = note.partition(" ")
    count, _, at_ms = rest.partition(" ")
    if not (count.isdecimal() and at_ms.isdecimal()):
        return NO_NOTE
    return run_id, int(count), int(at_ms)
