"""
Packages of quota that are sold, and their purchases: what they are, and what may become of them.

A package is never changed: defining it with other terms makes a new version, and what was ordered
keeps the version it was ordered with. An order goes from pending to paid to refunded, or from
pending to cancelled. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from quota_engine.amounts import AMOUNT_MAX, checked_amount
from quota_engine.arguments import checked_span, checked_text
from quota_engine.commands import GrantTerms, IssueGrant
from quota_engine.commands.arguments import details_text
from quota_engine.errors import InvalidAmountError, InvalidArgumentError
from quota_engine.ids import checked_id, checked_quota_type
from quota_engine.instants import NEVER_MS, to_ms
from quota_engine.keys import QuotaName
from quota_engine.prices.price import checked_currency, checked_money

PENDING, PAID, REFUNDED, CANCELLED = "pending", "paid", "refunded", "cancelled"
#: Lines of one order, and days that a package is valid at most.
LINES_MAX = 100
ORDER_ID_LENGTH_MAX = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageTerms:
    """
    What a package gives, and for how much. ``price`` in ``currency``; ``original_price`` to show.

    ``amount`` and ``bonus`` in units of the quota type. ``valid_for``: from the payment on, None
    for ever. ``per_user_limit``: how often one account may buy it, None: as it likes.
    """

    quota_type: str
    amount: int
    price: Decimal
    currency: str
    bonus: int = 0
    original_price: Decimal | None = None
    valid_for: timedelta | None = None
    per_user_limit: int | None = None
    priority: int = 50
    sort_order: int = 0
    description: str | None = None

    @property
    def units(self) -> int:
        """What the grant of one purchase is worth: amount and bonus."""
        return self.amount + self.bonus


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One version of a package. Only the newest is sold, while ``is_active``."""

    name: str
    version: int
    terms: PackageTerms
    is_active: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """
    One line of an order. ``units``: of the grant that its payment makes; ``price`` as ordered.

    ``line`` counts from 1. ``paid_at`` and ``refunded_at`` are None until then.
    """

    order_id: str
    line: int
    account: str
    package: str
    version: int
    quota_type: str
    units: int
    priority: int
    price: Decimal
    currency: str
    state: str
    ordered_at: datetime
    paid_at: datetime | None
    expires_at: datetime | None
    refunded_at: datetime | None

    @property
    def grant_id(self) -> str:
        """The grant of a line takes its id from the order: so it is issued once."""
        return f"order:{self.order_id}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order with all its lines. ``replayed``: it was in this state already."""

    order_id: str
    account: str
    state: str
    lines: tuple[Purchase, ...]
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundedLine:
    """
    What was left of a line's grant, and was voided; what had expired; what was used. In units.

    ``used`` is all the rest: also what holds have, and what went to others.
    """

    line: int
    package: str
    grant_id: str
    voided: int
    expired: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundedOrder:
    """An order that was given back. How much money goes back is the caller's decision."""

    order_id: str
    account: str
    lines: tuple[RefundedLine, ...]
    replayed: bool = False


def issue_of(line: Purchase) -> IssueGrant:
    """Return the command that issues the grant of a paid line."""
    terms = GrantTerms(
        amount=line.units,
        source="purchase",
        reference=line.order_id,
        description=f"{line.package} v{line.version}",
        priority=line.priority,
        expires_at_ms=NEVER_MS
        if line.expires_at is None
        else to_ms(line.expires_at, name="expires_at"),
    )
    told = {"source": terms.source, "reference": terms.reference}
    return IssueGrant(
        quota=QuotaName(line.account, line.quota_type),
        grant_id=line.grant_id,
        terms=terms,
        details=details_text({**told, "description": terms.description}),
    )


def checked_order_id(order_id: object) -> str:
    """Return an order's id; ids of grants are made of it, so it is shorter than others."""
    text = checked_id(order_id, name="order id")
    if len(text) > ORDER_ID_LENGTH_MAX:
        raise InvalidArgumentError(
            f"order id must have at most {ORDER_ID_LENGTH_MAX} characters, not {len(text)}"
        )
    return text


def checked_package_name(name: object) -> str:
    """Return a package's name: an id."""
    return checked_id(name, name="package name")


def checked_package_terms(
    *,
    quota_type: object,
    amount: object,
    price: object,
    currency: object,
    bonus: object = 0,
    original_price: object = None,
    valid_for: object = None,
    per_user_limit: object = None,
    priority: object = 50,
    sort_order: object = 0,
    description: object = None,
) -> PackageTerms:
    """Return the terms of a package; raise ``InvalidArgumentError`` for what none can have."""
    terms = PackageTerms(
        quota_type=checked_quota_type(quota_type),
        amount=checked_amount(amount),
        bonus=checked_amount(bonus, zero_allowed=True, name="bonus"),
        price=checked_money(price, name="price"),
        currency=checked_currency(currency),
        original_price=None
        if original_price is None
        else checked_money(original_price, name="original_price"),
        valid_for=None if valid_for is None else checked_span(valid_for, name="valid_for"),
        per_user_limit=None
        if per_user_limit is None
        else checked_amount(per_user_limit, name="per_user_limit"),
        priority=_checked_number(priority, name="priority"),
        sort_order=_checked_number(sort_order, name="sort_order"),
        description=checked_text(description, name="description"),
    )
    if terms.original_price is not None and terms.original_price < terms.price:
        raise InvalidArgumentError(
            f"original_price {terms.original_price} is below price {terms.price}: leave it out"
            " where a package was never dearer"
        )
    if terms.units > AMOUNT_MAX:
        raise InvalidAmountError(f"amount and bonus must be below 2**53, not {terms.units}")
    return terms


def _checked_number(number: object, *, name: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or abs(number) > 1_000_000:
        raise InvalidArgumentError(
            f"{name} must be a whole number within ±1000000, not {number!r:.80}"
        )
    return number


def checked_lines(packages: object) -> tuple[str, ...]:
    """Return the packages of an order, in its order; one may be there several times."""
    names = (packages,) if isinstance(packages, str) else packages
    if not isinstance(names, list | tuple) or not 1 <= len(names) <= LINES_MAX:
        raise InvalidArgumentError(
            f"an order has 1 to {LINES_MAX} packages, told by their names, not {packages!r:.80}"
        )
    return tuple(checked_package_name(name) for name in names)
