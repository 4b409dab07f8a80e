"""One quota, with all that can be done to it."""

from __future__ import annotations

from quota_engine.quotas.charging import Charging
from quota_engine.quotas.granting import Granting
from quota_engine.quotas.limiting import Limiting
from quota_engine.quotas.refunding import Refunding
from quota_engine.quotas.transferring import Transferring


class Quota(Granting, Charging, Refunding, Transferring, Limiting):
    """What one account has of one quota type, by its rules."""
