"""
Places where a fault test lets a process die: named, and harmless unless the environment names one.

``QUOTA_ENGINE_CRASH_POINT=before_commit`` makes a process that reaches that point kill itself with
SIGKILL, as a power cut would: nothing is cleaned up, no buffer is flushed. For fault tests alone.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "QUOTA_ENGINE_CRASH_POINT"
NAMES = frozenset(
    {"after_read", "in_copy", "before_commit", "after_commit", "before_trim", "mid_trim"}
)
#: Where somebody who thaws a quota may die.
OF_THAWING = frozenset(
    {
        *("before_drop", "after_drop", "after_thaw", "after_applied", "before_repaired"),
        *("after_repaired",),
    }
)
#: Where somebody who sums days may die.
OF_SUMMING = frozenset({"before_sums_commit"})


def reach(name: str) -> None:
    """Die here if the environment says so."""
    assert name in NAMES | OF_THAWING | OF_SUMMING, name
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
