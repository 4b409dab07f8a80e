"""
Unload: let idle quotas leave Redis, which then holds only what is in use.

The ledger has such a quota whole, and it is loaded again when somebody asks for it. Idle means: no
entry for long, by the ledger; and no reading lately, by Redis, whose idle time alone would not do:
every reconciliation reads every quota.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import redis

from quota_engine.commands import UnloadQuota
from quota_engine.errors import EngineUnavailableError, QuotaError
from quota_engine.jobs.deployed import Deployed
from quota_engine.jobs.running import run_commands
from quota_engine.keys import QuotaName
from quota_engine.ledger.idle import idle_versions

QUOTA_KEYS = "{qe:*}:quota:*"
#: Keys that one SCAN looks at: well below a millisecond of the server's time.
SCAN_COUNT = 1_000
#: A quota of which something begins or ends this soon stays.
CHANGE_AFTER_MS = 60_000


class Unloader:
    """Goes through the keys of Redis, a bounded stretch at a time, and begins again at the end."""

    def __init__(self, deployment: Deployed) -> None:
        self._deployment = deployment
        self._position = 0

    def run(self, now_ms: int, *, seconds_max: float = 1.0) -> int:
        """Go on for a while, or to the end; return how many quotas were unloaded."""
        until = time.monotonic() + seconds_max
        unloaded = 0
        while True:
            self._position, quotas = self._scan()
            unloaded += self._unload(quotas, now_ms) if quotas else 0
            if self._position == 0 or time.monotonic() >= until:
                return unloaded

    def _scan(self) -> tuple[int, list[QuotaName]]:
        """Return where to go on, and the quotas met that nobody reads."""
        client: Any = self._deployment.client
        try:
            position, keys = client.scan(self._position, match=QUOTA_KEYS, count=SCAN_COUNT)
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.object("IDLETIME", key)
            idle = pipeline.execute(raise_on_error=False) if keys else []
        except redis.RedisError as error:
            raise EngineUnavailableError(f"Redis does not answer: {error}") from error
        least = self._unread_seconds()
        names = [
            key.decode().partition(":quota:")[2]
            for key, seconds in zip(keys, idle, strict=True)
            if isinstance(seconds, int) and seconds >= least and _is_legible(key)
        ]
        return int(position), [QuotaName.parse(name) for name in names]

    def _unread_seconds(self) -> float:
        """Return how long nobody may have read a quota; a reconciliation reads them all."""
        settings = self._deployment.settings
        return min(settings.unload_after_seconds, settings.reconcile_every_seconds / 2)

    def _unload(self, quotas: Sequence[QuotaName], now_ms: int) -> int:
        deployment = self._deployment
        idle = timedelta(seconds=deployment.settings.unload_after_seconds)
        with deployment.ledger.transaction() as sql:
            versions = idle_versions(sql, quotas, idle)
        commands = [
            UnloadQuota(quota=quota, version=version, change_after_ms=now_ms + CHANGE_AFTER_MS)
            for quota, version in versions.items()
        ]
        if not commands:
            return 0
        unloaded = 0
        for result in run_commands(deployment.client, deployment.opened, commands):
            if isinstance(result, QuotaError):
                raise result
            unloaded += result == ""
        return unloaded


def _is_legible(key: bytes) -> bool:
    try:
        return "\0" not in key.decode()
    except UnicodeDecodeError:
        return False
