"""Quotas put in doubt by hand, and what must be true when they are mended."""

from __future__ import annotations

from dataclasses import replace

from quota_engine.events import Entry, next_chain, parse_entry
from quota_engine.jobs.driving import Driver
from quota_engine.jobs.reconcile import reconcile
from quota_engine.jobs.thaw import Order, ThawReport
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from quota_engine.ledger.quarantine import in_doubt, open_repairs
from tests.deployments import Deployment

TOKENS = QuotaName("acme/team-7", "text_token")
OTHER = QuotaName("acme/team-8", "text_token")
ORDER = Order("王芳", "ticket:7")


def driver_of(deployment: Deployment) -> Driver:
    return Driver(deployment.redis, deployment.ledger, deployment.opened, timeout_s=20.0)


def drain(deployment: Deployment) -> None:
    """Persist everything, and mark in Redis what was frozen, as workers do."""
    for quota in (TOKENS, OTHER):
        driver_of(deployment).drain(quota)


def forge(deployment: Deployment, **lines: object) -> None:
    """Put an entry into the outbox that no script wrote: of the newest version, again."""
    events = deployment.redis.xrange(deployment.keys(TOKENS).outbox)
    texts = [fields[b"entry"].decode() for _, fields in events if b"entry" in fields]
    last = [one for one in map(parse_entry, texts) if one.quota == str(TOKENS)][-1]
    given: dict[str, object] = {"operation_id": "forged", "kind": "quota.debited", **lines}
    text_ = replace(last, **given).text()  # type: ignore[arg-type]
    fields = {"entry": text_, "chain": next_chain("0" * 40, text_)}
    deployment.redis.xadd(deployment.keys(TOKENS).outbox, fields, id="1-*")  # type: ignore[arg-type]


def junk(deployment: Deployment, quota: object = TOKENS) -> None:
    """Put bytes into the outbox that are no entry."""
    fields = {"entry": f"1\nnonsense\n{quota}\n\x00", "chain": "-"}
    deployment.redis.xadd(deployment.keys(TOKENS).outbox, fields, id="1-*")  # type: ignore[arg-type]


def fates(report: ThawReport) -> list[tuple[str | None, str]]:
    return [
        (one.entry.operation_id if one.entry else None, str(one.fate)) for one in report.decisions
    ]


def check(deployment: Deployment) -> None:
    """Nothing waits, differs, is frozen or in quarantine."""
    drain(deployment)
    report = reconcile(deployment.redis, deployment.ledger, opened=deployment.opened)
    assert report.drifts == ()
    assert list(verify(deployment.ledger)) == []
    with deployment.ledger.transaction() as sql:
        assert in_doubt(sql) == []
        assert open_repairs(sql) == []


def repairs(deployment: Deployment) -> list[Entry]:
    history = deployment.ledger.history(TOKENS)
    return [row.entry for row in history if row.entry.kind == "quota.repaired"]
