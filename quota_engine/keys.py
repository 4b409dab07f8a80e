"""
Every Redis key the engine touches, and nothing else.

Accounts are spread over a fixed number of shards by their root (``acme`` of ``acme/team-7``).
The shard is the hash tag, so every key of a script lives in one cluster slot, and one worker can
drain one outbox for many accounts. ``<quota>`` is ``<account>|<quota type>``; a quota type has no
``|``, so the last one divides.

==============================  ======  ==========================================================
key                             type    holds
==============================  ======  ==========================================================
``{qe:07}:outbox``              stream  one event per entry, id ``<epoch>-<n>``
``{qe:07}:versions``            hash    ``@epoch``, and quota -> last version ever issued; how many
                                        persisted events the outbox keeps, and up to which:
                                        ``@persisted``, ``@cursor``; ``<account>|`` -> its policy,
                                        and ``@accounts`` where one of them may restrict
``{qe:07}:due``                 zset    quotas by ``next_change_at``
``{qe:07}:quota:<quota>``       hash    version, chain, sums, ``head``, ``g:<grant>``, limits ...
``{qe:07}:holds:<quota>``       hash    open holds: hold id -> amount, allocations, expiry
``{qe:07}:changes:<quota>``     zset    what will begin or end: grants and holds by their instant
``{qe:07}:ops0:<quota>``        hash    operation id -> fingerprint and first answer, even periods
``{qe:07}:ops1:<quota>``        hash    the same, odd periods; each lives for two periods
``qe:deployment``               string  the random id of this deployment
``qe:recovery``                 string  JSON: how far the last recovery is; nothing depends on it
``qe:late_syncs``               string  of which server, how many syncs of its append-only file
                                        were late, and when that was seen to grow
==============================  ======  ==========================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from zlib import crc32

DEPLOYMENT_KEY = "qe:deployment"
RECOVERY_KEY = "qe:recovery"
LATE_SYNCS_KEY = "qe:late_syncs"


@dataclass(frozen=True, slots=True)
class QuotaName:
    """What one account has of one quota type."""

    account: str
    quota_type: str

    def __str__(self) -> str:
        return f"{self.account}|{self.quota_type}"

    @classmethod
    def parse(cls, text: str) -> QuotaName:
        """Return the quota that ``<account>|<quota type>`` names."""
        account, _, quota_type = text.rpartition("|")
        return cls(account, quota_type)


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The keys of one shard."""

    shard: int
    _base: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_base", f"{{qe:{self.shard:02d}}}")

    @property
    def outbox(self) -> str:
        return f"{self._base}:outbox"

    @property
    def versions(self) -> str:
        return f"{self._base}:versions"

    @property
    def due(self) -> str:
        return f"{self._base}:due"

    def quota(self, quota: str) -> str:
        return f"{self._base}:quota:{quota}"

    def holds(self, quota: str) -> str:
        return f"{self._base}:holds:{quota}"

    def changes(self, quota: str) -> str:
        return f"{self._base}:changes:{quota}"

    def ops0(self, quota: str) -> str:
        return f"{self._base}:ops0:{quota}"

    def ops1(self, quota: str) -> str:
        return f"{self._base}:ops1:{quota}"


def is_quota_name(field: str) -> bool:
    """Return whether a field of ``versions`` is a quota's, neither a mark nor an account's."""
    return "|" in field and not field.endswith("|")


def shard_in(key: str) -> int:
    """Return the shard that a key of one belongs to."""
    return int(key.removeprefix("{qe:").partition("}")[0])


@lru_cache(maxsize=65_536)
def parents_of(account: str) -> tuple[str, ...]:
    """Return the accounts above an account, the nearest first."""
    parts = account.split("/")
    return tuple("/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))


def root_of(account: str) -> str:
    """Return the first part of an account's path: the account whose shard all share."""
    return account.partition("/")[0]


@lru_cache(maxsize=65_536)
def shard_of(account: str, shards: int) -> int:
    """Return the shard of an account: crc32 of its root account, modulo ``shards``."""
    return crc32(root_of(account).encode()) % shards
