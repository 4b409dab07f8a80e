"""
Amounts: whole numbers of a quota type's unit, exact in Lua's doubles and in SQL's BIGINT.

An amount is an ``int`` with 0 < amount < 2**53. Above that, Lua would round.
"""

from __future__ import annotations

from quota_engine.errors import InvalidAmountError

#: The greatest amount: 2**53 - 1, the last whole number before a double skips one.
AMOUNT_MAX = 2**53 - 1


def checked_amount(amount: object, *, zero_allowed: bool = False, name: str = "amount") -> int:
    """Return ``amount`` if it is one; raise ``InvalidAmountError`` if not."""
    least = 0 if zero_allowed else 1
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise InvalidAmountError(
            f"{name} must be a whole number (int), not {type(amount).__name__} {amount!r}"
        )
    if not least <= amount <= AMOUNT_MAX:
        shown = amount if abs(amount) < 10**20 else "a number of more than 20 digits"
        raise InvalidAmountError(f"{name} must be from {least} to 2**53 - 1, not {shown}")
    return amount
