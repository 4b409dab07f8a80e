"""
Offline rules: which accounts may be admitted while Redis is away, and how much of each quota.

A rule belongs to accounts: ``acme`` means ``acme`` and what is below it (``acme/team-7``), and a
name that ends with ``*`` means every account that begins so (``user:*``). The longest name that
fits wins, whatever it says. This module must not know what was admitted already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from quota_engine.keys import QuotaName

Policy = Literal["closed", "open"]
#: Units of each quota; or of each quota by its quota type, and 0 of the types that are not named.
Allowance = NonNegativeInt | Mapping[str, NonNegativeInt]


class OfflineRule(BaseModel):
    """What one rule says: nothing is admitted (``closed``), or up to an allowance (``open``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Policy = "closed"
    allowance: Allowance = 0


def offline_allowance(
    rules: Mapping[str, OfflineRule], default: OfflineRule, quota: QuotaName
) -> int:
    """Return how many units of a quota may be admitted while Redis is away; 0 when closed."""
    fitting = [name for name in rules if _fits(name, quota.account)]
    rule = rules[max(fitting, key=len)] if fitting else default
    if rule.policy == "closed":
        return 0
    if isinstance(rule.allowance, int):
        return rule.allowance
    return rule.allowance.get(quota.quota_type, 0)


def _fits(name: str, account: str) -> bool:
    if name.endswith("*"):
        return account.startswith(name[:-1])
    return account == name or account.startswith(f"{name}/")
