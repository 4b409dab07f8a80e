"""
What rules find that look at the ledger as it is: sums of calls, ends of grants, forecasts, pools.

Each is asked for all its subjects at once; what is not found is well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Row, text

from quota_engine.alerts.crossing import Crossing, Limits, Subject
from quota_engine.alerts.rules import (
    CRITICAL,
    OF_SUMS,
    PERIODS,
    WARNING,
    AlertRule,
    first_day,
)
from quota_engine.commands import Balance, Grant
from quota_engine.forecasts import forecast
from quota_engine.instants import from_ms, from_ms_or_none, to_ms
from quota_engine.ledger.pool_rows import standing, standing_rows
from quota_engine.pools import CRITICAL as POOL_CRITICAL
from quota_engine.pools import OK
from quota_engine.pools import WARNING as POOL_WARNING
from quota_engine.viewing import bounds_below

DAY_MS = 86_400_000
#: The pace of a forecast is that of so many whole days, and of today.
PACE_DAYS = 7
EVERYTHING = "*"

Found = list[tuple[Subject, Crossing]]

_COST = "CASE r.kind WHEN 'cost' THEN d.cost ELSE d.unbilled_calls + d.unpriced_calls END"
_COSTS = f"""
SELECT r.name, CASE WHEN r.each THEN d.account ELSE coalesce(r.account, '*') END AS account,
    CASE WHEN r.kind = 'unpriced' THEN d.provider || '/' || d.model ELSE '' END AS model,
    sum({_COST}) AS value
FROM alert_rules r
JOIN unnest(CAST(:periods AS text[]), CAST(:first_days AS date[])) AS p (period, first_day)
    ON p.period = r.period
JOIN daily_costs d ON d.day >= p.first_day AND d.day <= :today AND {{scope}}
    AND (r.quota_type IS NULL OR d.quota_type = r.quota_type)
    AND (r.currency IS NULL OR d.currency = r.currency)
WHERE r.kind IN ('cost', 'unpriced') AND {{which}}
GROUP BY r.name, 2, 3
HAVING sum({_COST}) >= min(CAST(coalesce(r.warning, r.critical) AS numeric))
"""
# Of several quotas together each call counts once, with its own account.
_ONE = "r.each OR r.account IS NOT NULL AND NOT r.subtree"
_USE = f"CASE WHEN {_ONE} THEN d.charged ELSE d.called END"
_USAGE = f"""
SELECT r.name, CASE WHEN r.each THEN d.account ELSE coalesce(r.account, '*') END AS account,
    '' AS model, sum({_USE}) AS value
FROM alert_rules r
JOIN unnest(CAST(:periods AS text[]), CAST(:first_days AS date[])) AS p (period, first_day)
    ON p.period = r.period
JOIN daily_charges d ON d.day >= p.first_day AND d.day <= :today AND {{scope}}
    AND (r.quota_type IS NULL OR d.quota_type = r.quota_type)
WHERE r.kind = 'usage' AND {{which}}
GROUP BY r.name, 2
HAVING sum({_USE}) >= min(CAST(coalesce(r.warning, r.critical) AS numeric))
"""
# A rule is in one of the three, so that each goes along an index of accounts.
_SUMS = text(
    " UNION ALL ".join(
        f"({query.format(scope=scope, which=which)})"
        for query in (_COSTS, _USAGE)
        for scope, which in (
            ("true", "r.account IS NULL"),
            ("d.account = r.account", "NOT r.subtree"),
            (
                "d.account >= r.account AND d.account < r.account || '0'"
                " AND (d.account = r.account OR d.account >= r.account || '/')",
                "r.subtree",
            ),
        )
    )
)

_FROZEN = "SELECT account, quota_type FROM quotas q WHERE q.frozen <> '' {scope}"

# The conditions on state, remaining and end are those of the index grants_ending.
_EXPIRING = """
SELECT q.account, q.quota_type, q.grant_id, q.starts_at_ms, q.expires_at_ms
FROM grants q
JOIN quotas h ON h.account = q.account AND h.quota_type = q.quota_type AND h.frozen = ''
WHERE q.state = 'live' AND q.remaining > 0
    AND q.expires_at_ms > :now_ms AND q.expires_at_ms <= :last_ms {scope}
"""

_USED = """
SELECT u.account, u.quota_type, u.paid, q.balance, q.held, q.debt, q.overdraft_limit,
    (SELECT min(d.day) FROM daily_charges d
        WHERE d.account = u.account AND d.quota_type = u.quota_type) AS first_day
FROM (
    SELECT account, quota_type, sum(paid) AS paid FROM daily_charges q
    WHERE day >= :begin {scope}
    GROUP BY 1, 2 HAVING sum(paid) > 0
) AS u
JOIN quotas q ON q.account = u.account AND q.quota_type = u.quota_type
WHERE q.overdraft_limit IS NOT NULL AND q.frozen = ''
"""
_GRANTS = text("""
SELECT g.* FROM unnest(CAST(:accounts AS text[]), CAST(:quota_types AS text[]))
    AS n (account, quota_type)
JOIN grants g ON g.account = n.account AND g.quota_type = n.quota_type
WHERE g.state IN ('live', 'pending') AND g.remaining > 0
""")


def sums(connection: Connection, rules: Sequence[AlertRule], now: datetime) -> dict[str, Found]:
    """Return what usage, costs and calls without a price cross, by rule."""
    asked = {rule.name: rule for rule in rules if rule.kind in OF_SUMS}
    if not asked:
        return {}
    periods = {
        "periods": list(PERIODS),
        "first_days": [first_day(period, now.date()) for period in PERIODS],
        "today": now.date(),
    }
    found: dict[str, Found] = {name: [] for name in asked}
    for row in connection.execute(_SUMS, periods):
        rule = asked.get(row.name)
        crossing = None if rule is None else Limits.of(rule).crossed(row.value)
        if rule is None or crossing is None:
            continue
        account = None if row.account == EVERYTHING else row.account
        name = row.model or row.account
        if rule.kind == "usage":
            name = f"{row.account}|{rule.quota_type}"
        found[rule.name].append((Subject(name, account, rule.quota_type), crossing))
    return found


def frozen(connection: Connection, rule: AlertRule) -> Found:
    """Return the frozen quotas of a rule."""
    return [(_quota(row), Crossing(CRITICAL, 1)) for row in _scoped(connection, _FROZEN, rule, {})]


def expiring(connection: Connection, rule: AlertRule, now: datetime) -> Found:
    """Return grants with something left that end soon; of none that lives no longer than that."""
    now_ms, limits = to_ms(now, name="now"), Limits.of(rule)
    spans = [one.value for one in (limits.warning, limits.critical) if one is not None]
    asked = {"now_ms": now_ms, "last_ms": now_ms + int(max(spans) * DAY_MS)}
    found: Found = []
    for row in _scoped(connection, _EXPIRING, rule, asked):
        days = Decimal(row.expires_at_ms - now_ms) / DAY_MS
        crossing = limits.crossed(days)
        life = Decimal(row.expires_at_ms - row.starts_at_ms) / DAY_MS
        if crossing is None or crossing.threshold is None or crossing.threshold >= life:
            continue
        quota = _quota(row)
        subject = Subject(f"{quota.name}|{row.grant_id}", row.account, row.quota_type)
        found.append((subject, _rounded(crossing)))
    return found


def running_dry(connection: Connection, rule: AlertRule, now: datetime) -> Found:
    """Return quotas that have nothing left within some days, at the pace of the last seven."""
    limits, begin = Limits.of(rule), now.date() - timedelta(days=PACE_DAYS)
    rows = _scoped(connection, _USED, rule, {"begin": begin})
    grants = _grants(connection, rows)
    found: Found = []
    for row in rows:
        balance = _balance(row, grants.get((row.account, row.quota_type), []))
        since = _midnight(max(begin, row.first_day))
        left = forecast(balance, now, int(row.paid), since).days_left
        crossing = None if left is None else limits.crossed(left)
        if crossing is not None:
            found.append((_quota(row), _rounded(crossing)))
    return found


def pools(connection: Connection, rule: AlertRule) -> Found:
    """Return the provider pools that are low by their own thresholds."""
    found: Found = []
    for row in standing_rows(connection):
        one = standing(row)
        if rule.provider not in (None, one.provider) or rule.currency not in (None, one.currency):
            continue
        if one.level != OK:
            is_warning = one.level == POOL_WARNING
            at = {POOL_WARNING: one.warning_at, POOL_CRITICAL: one.critical_at}.get(one.level)
            crossing = Crossing(WARNING if is_warning else CRITICAL, one.balance, at or 0)
            found.append((Subject(f"{one.provider} in {one.currency}"), crossing))
    return found


def _scoped(
    connection: Connection, query: str, rule: AlertRule, asked: dict[str, Any]
) -> list[Row[Any]]:
    """Return the rows of a query, whose accounts are those of ``q``, in a rule's scope."""
    parts, values = [], dict(asked)
    if rule.account is not None:
        parts.append("AND (q.account = :account")
        values["account"] = rule.account
        if rule.subtree:
            parts.append("OR q.account >= :first AND q.account < :after")
            values["first"], values["after"] = bounds_below(rule.account)
        parts.append(")")
    if rule.quota_type is not None:
        parts.append("AND q.quota_type = :quota_type")
        values["quota_type"] = rule.quota_type
    return list(connection.execute(text(query.format(scope=" ".join(parts))), values))


def _quota(row: Row[Any]) -> Subject:
    return Subject(f"{row.account}|{row.quota_type}", row.account, row.quota_type)


def _rounded(crossing: Crossing) -> Crossing:
    value = Decimal(crossing.value).quantize(Decimal("0.01"))
    return Crossing(crossing.severity, value, crossing.threshold)


def _grants(
    connection: Connection, rows: Iterable[Row[Any]]
) -> dict[tuple[str, str], list[Row[Any]]]:
    names = [(row.account, row.quota_type) for row in rows]
    asked = {"accounts": [one for one, _ in names], "quota_types": [one for _, one in names]}
    found: dict[tuple[str, str], list[Row[Any]]] = defaultdict(list)
    for grant in connection.execute(_GRANTS, asked) if names else ():
        found[grant.account, grant.quota_type].append(grant)
    return found


def _balance(row: Row[Any], grants: Iterable[Row[Any]]) -> Balance:
    listed = list(grants)
    return Balance(
        account=row.account,
        quota_type=row.quota_type,
        balance=row.balance,
        held=row.held,
        debt=row.debt,
        overdraft_limit=row.overdraft_limit,
        grants=tuple(_in_state(listed, "live")),
        pending_grants=tuple(_in_state(listed, "pending")),
    )


def _in_state(grants: Iterable[Row[Any]], state: str) -> Iterator[Grant]:
    for one in grants:
        if one.state == state:
            yield Grant(
                grant_id=one.grant_id,
                remaining=one.remaining,
                reserved=one.reserved,
                priority=one.priority,
                starts_at=from_ms(one.starts_at_ms),
                expires_at=from_ms_or_none(one.expires_at_ms),
                created_at=from_ms(one.created_at_ms),
                state=one.state,
            )


def _midnight(day: date) -> datetime:
    return from_ms((day - date(1970, 1, 1)).days * DAY_MS)
