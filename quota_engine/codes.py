"""
Redemption codes: texts that are worth one package, once.

A code is 20 letters of Crockford's alphabet (100 random bits) in four groups. Only its SHA-256 is
kept: whoever reads the tables can redeem nothing, and no code can be shown again. Pure but for the
randomness of new codes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from quota_engine.amounts import checked_amount
from quota_engine.errors import CodeNotFoundError, InvalidArgumentError
from quota_engine.instants import to_ms

#: No I, L, O and U: they are read as other letters, or read as words.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LETTERS, GROUP = 20, 5
#: Codes of one batch.
CODES_MAX = 10_000

OPEN, REDEEMED, EXPIRED, REVOKED = "open", "redeemed", "expired", "revoked"

_ALIKE = str.maketrans("OIL", "011", " -\t\n\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedemptionCode:
    """
    What is known of a code: never the code itself.

    ``state``: open, redeemed, expired or revoked. ``version``: of the package, as it was when the
    code was made. ``expires_at`` None: never; at that instant it is over.
    """

    code_id: str
    batch_id: str
    package: str
    version: int
    state: str
    created_at: datetime
    expires_at: datetime | None
    redeemed_by: str | None
    redeemed_at: datetime | None
    revoked_at: datetime | None

    @property
    def order_id(self) -> str:
        """The order that redeeming it makes."""
        return order_id_of(self.code_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBatch:
    """Codes that were made together. ``codes`` are told here, and never again."""

    batch_id: str
    package: str
    version: int
    expires_at: datetime | None
    codes: tuple[str, ...]
    replayed: bool


def order_id_of(code_id: str) -> str:
    """Return the id of the order that redeeming a code makes."""
    return f"code:{code_id}"


def new_codes(count: int) -> tuple[str, ...]:
    """Return fresh codes, such as ``7ZK3M-0QX8A-91TBV-CD4EF``."""
    return tuple(_new_code() for _ in range(checked_count(count)))


def _new_code() -> str:
    letters = "".join(secrets.choice(ALPHABET) for _ in range(LETTERS))
    return "-".join(letters[at : at + GROUP] for at in range(0, LETTERS, GROUP))


def code_hash(code: object) -> str:
    """
    Return what is kept of a code, however a person wrote it: spaces, small letters, O for 0.

    Raises ``CodeNotFoundError`` for a text that no code can be.
    """
    if not isinstance(code, str):
        raise InvalidArgumentError(f"a code must be a str, not {type(code).__name__}")
    letters = code.upper().translate(_ALIKE)
    if len(letters) != LETTERS or not set(letters) <= set(ALPHABET):
        raise CodeNotFoundError("there is no such code: it may be mistyped")
    return hashlib.sha256(letters.encode()).hexdigest()


def checked_count(count: object) -> int:
    """Return how many codes are asked for."""
    number = checked_amount(count, name="count")
    if number > CODES_MAX:
        raise InvalidArgumentError(f"a batch has at most {CODES_MAX} codes, not {number}")
    return number


def checked_codes(codes: object) -> tuple[str, ...]:
    """Return codes that were made before; raise for texts that are none, or there twice."""
    if not isinstance(codes, list | tuple) or not 1 <= len(codes) <= CODES_MAX:
        raise InvalidArgumentError(f"codes must be 1 to {CODES_MAX} texts")
    try:
        hashes = {code_hash(code) for code in codes}
    except CodeNotFoundError as error:
        raise InvalidArgumentError("one of the codes is none: make them with new_codes") from error
    if len(hashes) < len(codes):
        raise InvalidArgumentError("one of the codes is there twice")
    return tuple(codes)


def checked_expiry(expires_at: datetime | None) -> datetime | None:
    """Return when codes end, or None: never."""
    if expires_at is not None:
        to_ms(expires_at, name="expires_at")
    return expires_at


def state_of(
    *,
    redeemed_by: str | None,
    revoked_at: datetime | None,
    expires_at: datetime | None,
    now: datetime,
) -> str:
    """Return the state of a code at an instant."""
    if redeemed_by is not None:
        return REDEEMED
    if revoked_at is not None:
        return REVOKED
    return EXPIRED if expires_at is not None and expires_at <= now else OPEN


def hashes_of(codes: Sequence[str]) -> list[str]:
    """Return what is kept of codes, in their order."""
    return [code_hash(code) for code in codes]
