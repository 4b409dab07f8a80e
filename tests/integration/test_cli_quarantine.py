"""``quarantine``: what an operator sees and does, and how each command ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import redis

from quota_engine.events import next_chain
from quota_engine.jobs import crash_points
from quota_engine.keys import ShardKeys, shard_of
from tests.commands import Cli
from tests.programs import COMMAND_LINE, killed

KEYS = ShardKeys(shard_of("user:42", 8))
WHO = ("--actor", "王芳", "--reason", "ticket:7")
#: Of version 1, like the grant: another history's.
FORGED = "1\nquota.debited\nuser:42|text_token\n1\n5\nforged\nff\n7\n-7\n0\n-7\n0\n7\n0\n\n\n\n\n"


@pytest.fixture
def cli(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """A deployment in which user:42 has 100 of text_token."""
    made = Cli(monkeypatch, capsys)
    made.aim(redis_url, database_url)
    made.done("grants", "issue", "user:42", "text_token", "100", "--grant-id", "g")
    return made


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def put(cli: Cli, client: redis.Redis, entry: str) -> None:
    """Put an entry of another history into the outbox, and persist it."""
    fields = {"entry": entry, "chain": next_chain("0" * 40, entry)}
    client.xadd(KEYS.outbox, fields, id="1-*")  # type: ignore[arg-type]
    cli.done("ledger", "drain")


def balance_of(cli: Cli) -> int:
    """Return what user:42 has."""
    balance: int = cli.json("accounts", "show", "user:42")["quotas"][0]["balance"]
    return balance


def test_nothing_is_in_doubt(cli: Cli) -> None:
    assert cli.json("quarantine", "list") == []
    assert "nothing is frozen" in cli.done("quarantine", "list")
    said = cli.done("quarantine", "resolve", "user:42", "text_token", *WHO)
    assert "is not frozen" in said


def test_a_frozen_quota_is_seen_planned_and_resolved(cli: Cli, client: redis.Redis) -> None:
    put(cli, client, FORGED)
    [listed] = cli.json("quarantine", "list")
    assert (listed["quota"], listed["entries"]) == ("user:42|text_token", 1)
    assert (listed["cause"], listed["first_id"]) == ("fork_or_rollback", listed["last_id"])
    refused = cli.run("holds", "list", "user:42")
    assert refused.code == 0
    doctor = cli.run("doctor").out
    assert "quota-engine quarantine show 'user:42' text_token" in doctor

    shown = cli.json("quarantine", "show", str(listed["first_id"]))
    lines = {line["line"]: line for line in shown["lines"]}
    assert (lines["version"]["entry"], lines["version"]["expected"]) == ("1", "2")
    assert not lines["chain"]["fits"]
    assert "forged" in cli.done("quarantine", "show", str(listed["first_id"]))

    planned = cli.json("quarantine", "show", "user:42", "text_token")
    assert [(one["operation_id"], one["fate"]) for one in planned["entries"]] == [
        ("forged", "again")
    ]
    dry = cli.json("quarantine", "resolve", "user:42", "text_token", *WHO, "--dry-run")
    assert dry == planned
    assert dry["repaired_version"] is None

    done = cli.json("quarantine", "resolve", "user:42", "text_token", *WHO)
    assert done["repaired_version"] == 3
    assert cli.json("quarantine", "list") == []
    [resolved] = cli.json("quarantine", "list", "--all")
    assert resolved["entries"] == 1
    assert balance_of(cli) == 93
    history = cli.json("accounts", "history", "user:42", "text_token")
    assert history[-1]["kind"] == "quota.repaired"
    assert history[-1]["details"]["actor"] == "王芳"
    cli.done("ledger", "drain")
    cli.done("ledger", "verify")
    cli.done("reconcile")


def test_what_cannot_be_read_is_shown_as_bytes_and_discarded_by_a_person(
    cli: Cli, client: redis.Redis
) -> None:
    put(cli, client, "junk of\nsomebody\nuser:42|text_token\nelse")
    refused = cli.run("quarantine", "resolve", "user:42", "text_token", *WHO)
    assert refused.code == 1
    assert "are no entry" in refused.err
    assert refused.err.count("\n") == 1
    id_ = str(cli.json("quarantine", "list")[0]["first_id"])
    assert "somebody" in cli.done("quarantine", "show", id_)
    assert cli.run("quarantine", "resolve", id_, *WHO).code == 2
    done = cli.json("quarantine", "resolve", id_, "--discard", *WHO)
    assert (done["resolution"], done["resolved_by"]) == ("discarded: ticket:7", "王芳")
    assert "is thawed" in cli.done("quarantine", "resolve", "user:42", "text_token", *WHO)


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "user:42"),
        ("show", "77"),
        ("show", "nobody", "text_token"),
        ("show", "user:42", "gold"),
        ("resolve", "user:42", "text_token"),
        ("resolve", "77", "--discard", *WHO),
        ("resolve", "nobody", "text_token", *WHO),
        ("freeze", "nobody", "text_token", *WHO),
    ],
)
def test_a_command_that_cannot_be_meant_is_misused(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli.done("ledger", "drain")
    assert cli.run("quarantine", *arguments).code == 2


def test_a_quota_is_frozen_by_hand(cli: Cli) -> None:
    frozen = cli.json("quarantine", "freeze", "user:42", "text_token", *WHO)
    assert frozen["frozen"] == "operator: ticket:7 (王芳)"
    assert cli.json("quarantine", "list")[0]["entries"] == 0
    cli.done("quarantine", "resolve", "user:42", "text_token", *WHO)
    assert cli.json("quarantine", "list") == []


@pytest.mark.fault
@pytest.mark.parametrize("point", ["after_drop", "after_applied"])
def test_an_operator_s_killed_process_is_followed_by_another(
    cli: Cli, client: redis.Redis, point: str
) -> None:
    put(cli, client, FORGED)
    command = ("quarantine", "resolve", "user:42", "text_token", *WHO)
    killed(COMMAND_LINE, *command, env={**os.environ, crash_points.VARIABLE: point})
    cli.done(*command)
    cli.done("ledger", "drain")
    cli.done("ledger", "verify")
    cli.done("reconcile")
    assert balance_of(cli) == 93
