"""
What the duties need of the deployment that they serve: a description, no code.

``quota_engine.deployment`` stands above the jobs and is one; a test may bring another.
"""

from __future__ import annotations

from typing import Protocol

import redis

from quota_engine.backing import Backing
from quota_engine.jobs.gate import Opened
from quota_engine.keys import QuotaName
from quota_engine.ledger.ledger import Ledger
from quota_engine.settings import Settings


class Deployed(Backing, Protocol):
    """A deployment as workers use it. Every method may block."""

    settings: Settings
    redis_url: str
    client: redis.Redis
    ledger: Ledger

    @property
    def opened(self) -> Opened: ...
    def reopen(self, seen: object) -> Opened: ...
    def freeze(self, quota: QuotaName, reason: str) -> None: ...
