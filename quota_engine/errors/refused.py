"""The base of every error, and the refusal of a call by what a quota has or lets through."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar


class QuotaError(Exception):
    """
    Base class of every error the engine raises on purpose.

    ``http_status`` is what a web server answers for it: see docs/errors.md. ``retry_after``:
    seconds after which the same call may be admitted; None: nobody knows, or never.
    """

    http_status: ClassVar[int] = 500
    retry_after: float | None = None

    @property
    def http_headers(self) -> Mapping[str, str]:
        """What a web server adds to its answer: ``Retry-After``, in whole seconds, rounded up."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(math.ceil(self.retry_after))}


@dataclass(frozen=True, slots=True)
class ScopeStanding:
    """What a refused call asked of one quota, and what that could have admitted, in its units."""

    account: str
    quota_type: str
    required: int
    available: int


class QuotaInsufficientError(QuotaError):
    """
    The quota cannot pay that much. Nothing was changed.

    ``required`` and ``available`` are units of the quota type; ``available`` is what could have
    been admitted. ``account`` and ``quota_type`` name the quota that refused, which may be that of
    an account above the caller's; ``scopes`` tells of every quota that the call acts on.
    """

    http_status = 402

    def __init__(
        self,
        account: str,
        quota_type: str,
        *,
        required: int,
        available: int,
        scopes: tuple[ScopeStanding, ...] = (),
    ) -> None:
        super().__init__(f"{account} has {available} {quota_type} available, {required} required")
        self.account = account
        self.quota_type = quota_type
        self.required = required
        self.available = available
        self.scopes = scopes or (ScopeStanding(account, quota_type, required, available),)

    def __reduce__(self) -> tuple[object, ...]:
        again = partial(
            QuotaInsufficientError,
            self.account,
            self.quota_type,
            required=self.required,
            available=self.available,
            scopes=self.scopes,
        )
        return again, ()


@dataclass(frozen=True, slots=True)
class LimitTold:
    """
    A limit that refused: ``amount`` of units, calls or holds in one ``per``, as it was then.

    ``per`` and ``window`` are empty for holds, ``time_zone`` but for calendar windows.
    """

    of: str
    amount: int
    per: str = ""
    window: str = ""
    time_zone: str = ""

    def __str__(self) -> str:
        if not self.per:
            return f"{self.amount:,} {self.of} at once"
        zone = f" in {self.time_zone}" if self.time_zone else ""
        return f"{self.amount:,} {self.of} a {self.per}{zone}"


class LimitExceededError(QuotaInsufficientError):
    """
    A limit of the quota lets no more through now. Nothing was changed.

    ``limit``: which; ``required`` and ``available`` are of what it limits: units, calls or holds.
    ``retry_after``: seconds until it would let this call through, if nothing else happens; None:
    never, or when another hold closes.
    """

    http_status = 429

    def __init__(
        self,
        account: str,
        quota_type: str,
        *,
        required: int,
        available: int,
        limit: LimitTold,
        retry_after: float | None,
        scopes: tuple[ScopeStanding, ...] = (),
    ) -> None:
        super().__init__(
            account, quota_type, required=required, available=available, scopes=scopes
        )
        wait = "" if retry_after is None else f"; try again in {retry_after:.1f} s"
        self.args = (
            f"{account} is limited to {limit} of {quota_type}: {available:,} are left,"
            f" {required:,} required{wait}",
        )
        self.limit = limit
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        again = partial(
            LimitExceededError,
            self.account,
            self.quota_type,
            required=self.required,
            available=self.available,
            limit=self.limit,
            retry_after=self.retry_after,
            scopes=self.scopes,
        )
        return again, ()
