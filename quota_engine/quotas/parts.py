"""What a quota consists of: grants, open holds, and what is known to begin or end."""

from __future__ import annotations

from dataclasses import dataclass, field

from quota_engine.limits import UNITS

PENDING, LIVE, EXPIRED, VOIDED = "pending", "live", "expired", "voided"


class Refused(Exception):
    """
    An operation that was refused, by its code. ``available``: what could be admitted.

    ``told``: what else the caller is told.
    """

    def __init__(
        self, code: str, available: int | None = None, told: tuple[str, ...] = ()
    ) -> None:
        super().__init__(code if available is None else f"{code} {available}")
        self.code = code
        self.available = available
        self.told = told


@dataclass(slots=True)
class Grant:
    """Quota put in. ``remaining`` of a pending one is its amount; holds reserve the other part."""

    grant_id: str
    priority: int
    starts_at_ms: int
    expires_at_ms: int
    created_at_ms: int
    state: str = LIVE
    remaining: int = 0
    reserved: int = 0

    @property
    def order(self) -> tuple[int, int, int, bytes]:
        """Which grant pays first: the least."""
        return self.priority, self.expires_at_ms, self.created_at_ms, self.grant_id.encode()


@dataclass(slots=True)
class Hold:
    """
    Quota set aside. ``parts``: grants and units in the order taken; the rest is uncovered.

    ``counts_at_ms``: where it counts in limits; ``is_counted``: it does nothing else;
    ``paid_by``: the account that pays in its place, percent-encoded, or empty.
    """

    hold_id: str
    amount: int
    expires_at_ms: int
    parts: list[tuple[str, int]] = field(default_factory=list)
    counts_at_ms: int | None = None
    is_counted: bool = False
    paid_by: str = ""


@dataclass(frozen=True, slots=True)
class Counted:
    """Units and calls that limits let through at an instant; a correction may be negative."""

    at_ms: int
    units: int
    calls: int
    is_correction: bool

    def amount_of(self, what: str) -> int:
        """Return how much it is of what a limit limits."""
        return self.units if what == UNITS else self.calls


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """What begins or ends at an instant. At the same one: holds expire, grants start, end."""

    at_ms: int
    rank: int
    subject: bytes


HOLD_EXPIRES, GRANT_STARTS, GRANT_EXPIRES = range(3)
