"""
One quota by its rules, in plain Python: what each operation does, entry by entry.

The rules are those of the scripts in ``lua/``, written once more and simply, so that tests can run
both side by side and compare every answer and every entry. All sums are computed anew from grants
and holds; nothing is kept twice. It must not know Redis, SQL or a clock: the time is an argument.

A refused operation raises ``Refused`` and changes nothing, what had come due included. An answer
is what the script replies: its outcome, then the lines of the entry (see ``docs/format.md``).
"""

from quota_engine.quotas.counting import Asking
from quota_engine.quotas.parts import Grant, Hold, Refused
from quota_engine.quotas.quota import Quota

__all__ = ["Asking", "Grant", "Hold", "Quota", "Refused"]
