"""A charge as the ledger knows it, with everything that was done to it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeEntry:
    """One entry of a charge or of its corrections. ``usage``: what its details tell, or empty."""

    operation_id: str
    kind: str
    at_ms: int
    #: Units charged; of a refund, units given back.
    amount: int
    shortfall: int
    #: What refunds have given back of this very entry, or have promised; corrections do not count.
    refunded: int
    usage: Mapping[str, Any]
    #: The account that paid in place of the quota; None: the quota itself.
    paid_by: str | None = None
    #: What it is about: of a capture the hold, of a refund the charge.
    subject: str = ""
    #: Whose call charged this quota too; None: the account's own.
    called_by: str | None = None
    #: Of a call of several quota types the first, with which its record is; None: this one.
    first_type: str | None = None
    #: Accounts not above its own that the call named, and charged too.
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeFate:
    """
    What the ledger knows of a charge, as of ``version``, its head of the quota.

    ``charge`` None: nothing. ``corrections`` in the order in which they were made.
    """

    version: int
    charge: ChargeEntry | None = None
    corrections: tuple[ChargeEntry, ...] = ()
