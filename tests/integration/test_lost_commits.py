"""A PostgreSQL that lost commits is fed again; what is nowhere any more is named, and accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import make_url

from quota_engine.commands import RefundRequest
from quota_engine.commands.quotas import DebitUsed
from quota_engine.embedded import PostgresServer, ValkeyServer
from quota_engine.errors import EngineUnavailableError, IdempotencyConflictError, QuotaFrozenError
from quota_engine.jobs.trim import trim
from quota_engine.keys import QuotaName
from quota_engine.ledger import epochs
from tests.commands import Cli
from tests.deployments import Deployment, restart
from tests.servers import administer

TOKENS = QuotaName("acme/team-7", "text_token")
OTHER = QuotaName("acme/team-8", "text_token")  # of the same shard
SELDOM = QuotaName("acme/team-9", "text_token")

Restore = Callable[[], Deployment]


@pytest.fixture
def restored(
    deployment: Deployment, server: ValkeyServer, postgres_server: PostgresServer
) -> Iterator[tuple[Callable[[], None], Restore]]:
    """Save the ledger as it is now; go on with that copy."""
    url = make_url(str(deployment.ledger.engine.url.render_as_string(hide_password=False)))
    copy = f"{url.database}_copy"
    opened: list[Deployment] = []

    def save() -> None:
        deployment.ledger.close()
        administer(postgres_server, f"CREATE DATABASE {copy} TEMPLATE {url.database}")

    def restore() -> Deployment:
        made = Deployment(server.url, postgres_server.url_of(copy))
        made.opened = deployment.opened
        opened.append(made)
        return made

    yield save, restore
    for one in opened:
        one.__exit__()
    administer(postgres_server, f"DROP DATABASE IF EXISTS {copy} WITH (FORCE)")


def trim_all(deployment: Deployment) -> int:
    return sum(
        trim(deployment.redis, deployment.ledger, shard, trim_after=timedelta(0), keep_max=0)
        for shard in range(deployment.opened.shards)
    )


def fill(deployment: Deployment) -> None:
    deployment.open()
    for quota in (TOKENS, OTHER, SELDOM):
        deployment.issue(quota, 1000)
    deployment.place(TOKENS, 100, "hold-1")
    deployment.drain()


def test_lost_commits_are_noticed_and_fed_again_in_order(
    deployment: Deployment,
    restored: tuple[Callable[[], None], Restore],
    caplog: pytest.LogCaptureFixture,
) -> None:
    save, restore = restored
    fill(deployment)
    save()
    for number in range(5):
        deployment.debit(TOKENS, 10, f"lost-{number}")
    deployment.capture(TOKENS, "hold-1", 60)
    assert deployment.drain() == 6
    deployment.debit(OTHER, 1, "not-yet")
    copy = restore()
    shard = copy.ledger.shard_of(TOKENS)
    cut: dict[str, Any] = {"trim_after": timedelta(0), "keep_max": 0}
    assert trim(copy.redis, copy.ledger, shard, **cut) == 0, "what must be fed again stays"
    assert copy.drain() == 7
    assert "it has lost commits" in caplog.text
    assert copy.operations(TOKENS)[-6:] == [*(f"lost-{n}" for n in range(5)), "hold-1:capture"]
    assert copy.balance(TOKENS).balance == 1000 - 50 - 60
    caplog.clear()
    copy.debit(TOKENS, 1)
    assert copy.drain() == 1
    assert "lost commits" not in caplog.text
    assert trim(copy.redis, copy.ledger, shard, **cut) > 0


def test_a_refund_that_is_fed_again_is_known_by_all_that_was_asked(
    deployment: Deployment, restored: tuple[Callable[[], None], Restore]
) -> None:
    save, restore = restored
    fill(deployment)
    deployment.debit(TOKENS, 10, "d")
    deployment.drain()
    save()
    request = RefundRequest(quota=TOKENS, refund_id="r", operation_id="d", amount=4, grace_ms=1000)
    [promised] = deployment.ledger.record_refunds([request])
    deployment.run(promised.command)
    deployment.drain()
    copy = restore()
    copy.drain()
    [again] = copy.ledger.record_refunds([request])
    assert again.applied is not None
    assert (again.is_new, again.applied.amount) == (False, 4)
    with pytest.raises(IdempotencyConflictError, match="other arguments"):
        copy.ledger.record_refunds([replace(request, grace_ms=2000)])


def test_what_is_gone_from_the_outbox_stops_the_shard_until_somebody_accepts_it(
    deployment: Deployment, restored: tuple[Callable[[], None], Restore]
) -> None:
    save, restore = restored
    fill(deployment)
    save()
    deployment.debit(TOKENS, 300, "lost")
    deployment.drain()
    trim_all(deployment)
    deployment.debit(OTHER, 5, "after-the-gap")
    copy = restore()
    with pytest.raises(EngineUnavailableError, match="gap: 1-6 comes after 1-4"):
        copy.drain()
    assert set(copy.open().epochs.values()) == {1}, "nobody goes on by himself"
    assert set(copy.open(accept_gaps="ada (ticket-7)").epochs.values()) == {2}
    head = {row.quota: row for row in copy.ledger.known_quotas()}
    assert "Redis had issued version 3" in head[TOKENS].frozen
    assert "between 1-4 and 1-6 entries are missing" in head[TOKENS].frozen
    assert (head[OTHER].frozen, head[SELDOM].frozen) == ("", "")
    assert copy.operations(OTHER)[-1] == "after-the-gap"
    with pytest.raises(QuotaFrozenError):
        copy.debit(TOKENS, 1)
    copy.run(DebitUsed(quota=TOKENS, operation_id="used", amount=7))
    copy.capture(TOKENS, "hold-1", 60)
    copy.debit(SELDOM, 1)
    assert copy.drain() == 3, "what was used is kept, in quarantine"
    with copy.ledger.transaction() as sql:
        [told] = epochs.read_recoveries(sql, 5)
    assert told["accepted_by"] == "ada (ticket-7)"
    assert told["lost"] == [str(TOKENS)]
    assert told["gaps"] == ["shard 2: between 1-4 and 1-6 entries are missing"]


def test_a_ledger_of_an_older_epoch_names_what_it_lost(
    deployment: Deployment,
    server: ValkeyServer,
    restored: tuple[Callable[[], None], Restore],
) -> None:
    save, restore = restored
    fill(deployment)
    save()
    deployment.debit(TOKENS, 300, "lost-in-1")
    restart(server)
    deployment.open()
    deployment.debit(TOKENS, 200, "lost-in-2")
    deployment.drain()
    trim_all(deployment)
    copy = restore()
    assert set(copy.open().epochs.values()) == {3}, "above both"
    head = {row.quota: row for row in copy.ledger.known_quotas()}
    assert "Redis had issued version 4" in head[TOKENS].frozen
    assert head[OTHER].frozen == ""
    with copy.ledger.transaction() as sql:
        [told] = epochs.read_recoveries(sql, 5)
    assert "shard 2: between 1-4 and 2-2 entries are missing" in told["gaps"]
    assert told["lost"] == [str(TOKENS)]


def test_a_ledger_of_an_older_epoch_gets_back_what_is_retained(
    deployment: Deployment,
    server: ValkeyServer,
    restored: tuple[Callable[[], None], Restore],
) -> None:
    save, restore = restored
    fill(deployment)
    save()
    deployment.debit(TOKENS, 300, "in-1")
    restart(server)
    deployment.open()
    deployment.debit(TOKENS, 200, "in-2")
    deployment.drain()
    copy = restore()
    assert set(copy.open().epochs.values()) == {3}
    assert copy.operations(TOKENS)[-2:] == ["in-1", "in-2"]
    with copy.ledger.transaction() as sql:
        [told] = epochs.read_recoveries(sql, 5)
    assert (told["gaps"], told["lost"]) == ([], [])
    assert copy.balance(TOKENS).balance == 500


def test_a_gap_is_accepted_by_name(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = Cli(monkeypatch, capsys)
    cli.aim(redis_url, database_url)
    cli.done("grants", "issue", "user:42", "text_token", "5")
    with cli.engine() as engine:
        shard = engine.deployment.ledger.shard_of(QuotaName("user:42", "text_token"))
        engine.deployment.client.xdel(f"{{qe:{shard:02}}}:outbox", "1-1")
    assert cli.run("ledger", "drain").code == 1
    assert cli.run("recovery", "run", "--accept-gap").code == 2
    cli.done("recovery", "run", "--accept-gap", "--actor", "ada", "--reference", "ticket-7")
    said = cli.done("recovery", "status")
    assert "ada accepts that entries are lost (ticket-7)" in said
    assert "user:42|text_token" in said
    cli.done("ledger", "drain")
    assert "5" in cli.done("accounts", "show", "user:42"), "Redis still tells what there was"
    cli.done("quarantine", "resolve", "user:42", "text_token", "--actor", "ada", "--reason", "t7")
    cli.done("grants", "issue", "user:42", "text_token", "4", "--reference", "ticket-7")
    with cli.engine() as engine:
        assert engine.debit("user:42", "text_token", 4).balance == 0
        engine.drain()
        assert engine.reconcile().drifts == ()
