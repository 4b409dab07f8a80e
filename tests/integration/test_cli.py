"""
Every command does what it says, prints JSON when asked, and knows its exit code.

Goal: a person and a script can both administer a deployment. Method: ``main`` is called in this
process against real servers; each command runs for people and, with ``--json``, for programs.
"""

from __future__ import annotations

import time

import pytest
import redis
from sqlalchemy import create_engine, text

from quota_engine import OperationCancelledError
from quota_engine.keys import ShardKeys, shard_of
from tests.commands import Cli

ACCOUNT = "acme/研发 team/用户 42"
SHARDS = 8


def issue(cli: Cli, account: str = ACCOUNT, amount: int = 1_000) -> str:
    grant_id: str = cli.json("grants", "issue", account, "text_token", str(amount))["grant_id"]
    return grant_id


def edit(database_url: str, statement: str) -> None:
    """Change rows behind the ledger's back."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        assert connection.execute(text(statement)).rowcount
    engine.dispose()


def change_balance(redis_url: str, account: str) -> None:
    """Give away units behind the engine's back."""
    keys = ShardKeys(shard_of(account, SHARDS))
    with redis.Redis.from_url(redis_url) as client:
        client.hincrby(keys.quota(f"{account}|text_token"), "remaining", 5)


def test_a_grant_is_issued_listed_and_voided(cli: Cli) -> None:
    said = cli.done(
        *("grants", "issue", ACCOUNT, "text_token", "5_000", "--source", "purchase"),
        *("--expires-at", "+30d", "--reference", "单:7", "--actor", "王芳", "--grant-id", "g1"),
    )
    assert "g1" in said
    assert "5000" in said
    again = cli.json("grants", "issue", ACCOUNT, "text_token", "7", "--grant-id", "g2")
    assert (again["amount"], again["source"], again["expires_at"]) == (7, "admin_grant", None)
    listed = cli.json("grants", "list", ACCOUNT)
    assert [(row["grant_id"], row["remaining"], row["state"]) for row in listed] == [
        ("g1", 5_000, "active"),
        ("g2", 7, "active"),
    ]
    assert listed[0]["reference"] == "单:7"
    voided = cli.json("grants", "void", ACCOUNT, "text_token", "g1", "--actor", "李")
    assert voided["amount"] == 5_000
    assert [row["grant_id"] for row in cli.json("grants", "list", ACCOUNT, "text_token")] == ["g2"]
    cli.done("ledger", "drain")
    everything = cli.done("grants", "list", ACCOUNT, "--all")
    assert "voided" in everything
    history = cli.json("accounts", "history", ACCOUNT, "text_token")
    assert [entry["details"].get("actor") for entry in history] == ["王芳", None, "李"]
    assert "actor 王芳" in cli.done("accounts", "history", ACCOUNT, "text_token")


def test_an_unknown_outcome_is_told_or_made_to_never_happen(cli: Cli) -> None:
    with cli.engine() as engine:
        engine.issue_grant(ACCOUNT, "text_token", 100)
        engine.debit(ACCOUNT, "text_token", 7, operation_id="there")
        asked = ("accounts", "cancel", ACCOUNT, "text_token")
        told = cli.json(*asked, "there")
        assert (told["was_applied"], told["amount"]) == (True, 7)
        assert "it has happened" in cli.run(*asked, "there").out
        assert cli.json(*asked, "lost", "--reference", "ticket-7")["was_applied"] is False
        assert "it will never happen" in cli.run(*asked, "lost").out
        with pytest.raises(OperationCancelledError):
            engine.debit(ACCOUNT, "text_token", 7, operation_id="lost")
        last = engine.history(ACCOUNT, "text_token")[-1]
        assert (last.kind, last.details["reference"]) == ("operation.cancelled", "ticket-7")


def test_an_account_is_shown_with_grants_and_holds(cli: Cli) -> None:
    assert cli.json("accounts", "show", "nobody") == {"account": "nobody", "quotas": []}
    assert cli.done("accounts", "show", "nobody") == "nobody has nothing\n"
    assert cli.json("accounts", "show", "nobody", "image")["quotas"][0]["balance"] == 0
    issue(cli)
    with cli.engine() as engine:
        hold = engine.place_hold(ACCOUNT, "text_token", 300)
        engine.set_overdraft_limit(ACCOUNT, "credit", None)
    shown = {
        quota["quota_type"]: quota for quota in cli.json("accounts", "show", ACCOUNT)["quotas"]
    }
    assert shown.keys() == {"credit", "text_token"}
    assert shown["credit"]["spendable"] is None
    tokens = shown["text_token"]
    assert (tokens["balance"], tokens["held"], tokens["available"]) == (1_000, 300, 700)
    assert [grant["reserved"] for grant in tokens["grants"]] == [300]
    assert [found["hold_id"] for found in tokens["holds"]] == [hold.hold_id]
    said = cli.done("accounts", "show", ACCOUNT)
    assert "unlimited" in said
    assert hold.hold_id in said


def test_history_shows_what_is_pending_and_can_be_short(cli: Cli) -> None:
    issue(cli)
    cli.done("ledger", "drain")
    with cli.engine() as engine:
        engine.debit(ACCOUNT, "text_token", 10, reference="a call")
    said = cli.done("accounts", "history", ACCOUNT, "text_token", "--last", "1")
    assert "quota.debited" in said
    assert "reference a call, pending" in said
    assert "grant.issued" not in said
    entries = cli.json("accounts", "history", ACCOUNT, "text_token")
    assert [entry["version"] for entry in entries] == [1, 2]
    assert "no image entries" in cli.done("accounts", "history", ACCOUNT, "image")


@pytest.mark.parametrize("is_drained", [False, True])
def test_holds_are_listed_and_released_once(cli: Cli, is_drained: bool) -> None:
    issue(cli)
    issue(cli, "other")
    with cli.engine() as engine:
        mine = engine.place_hold(ACCOUNT, "text_token", 5)
        other = engine.place_hold("other", "text_token", 6)
        engine.place_hold("other", "text_token", 7, ttl=0.001)
        engine.capture_hold(engine.place_hold("other", "text_token", 8), 8)
    time.sleep(0.01)
    if is_drained:
        cli.done("ledger", "drain")
    assert {hold["hold_id"] for hold in cli.json("holds", "list")} == {mine.hold_id, other.hold_id}
    (listed,) = cli.json("holds", "list", ACCOUNT)
    assert (listed["amount"], listed["expires_at"]) == (5, mine.expires_at.isoformat())
    assert mine.hold_id in cli.done("holds", "list", ACCOUNT, "text_token")
    assert cli.json("holds", "release", ACCOUNT, "text_token", mine.hold_id)["amount"] == 5
    replayed = cli.json("holds", "release", ACCOUNT, "text_token", mine.hold_id)
    assert replayed["replayed"] is True
    assert cli.done("holds", "list", ACCOUNT) == "no holds are open\n"
    refused = cli.run("holds", "release", ACCOUNT, "text_token", "never")
    assert refused.code == 1
    assert "never placed" in refused.err


def test_the_ledger_is_drained_and_verified(cli: Cli, database_url: str) -> None:
    issue(cli)
    issue(cli, "other")
    assert cli.json("ledger", "drain") == {"persisted": 2}
    assert cli.json("ledger", "drain") == {"persisted": 0}
    assert cli.json("ledger", "verify") == {"entries": 2, "findings": []}
    assert "1 entries, all in order" in cli.done("ledger", "verify", "--prefix", "acme/")
    edit(database_url, "UPDATE ledger_entries SET amount = 1 WHERE account = 'other'")
    assert cli.json("ledger", "verify", "--prefix", "acme/")["findings"] == []
    found = cli.json("ledger", "verify", code=3)["findings"]
    assert {finding["account"] for finding in found} == {"other"}
    ended = cli.run("ledger", "verify")
    assert ended.code == 3
    assert "chain" in ended.out


def test_drift_is_found_with_3_and_repaired(cli: Cli, redis_url: str) -> None:
    issue(cli)
    cli.done("ledger", "drain")
    assert "1 quotas checked, 0 drifts" in cli.done("reconcile")
    change_balance(redis_url, ACCOUNT)
    (drift,) = cli.json("reconcile", code=3)["drifts"]
    assert (drift["account"], drift["redis"], drift["ledger"]) == (ACCOUNT, 1_005, 1_000)
    ended = cli.run("reconcile")
    assert ended.code == 3
    assert "--repair" in ended.out
    ended = cli.run("reconcile", "--repair")
    assert ended.code == 3
    assert "1 drifts, 1 repaired, 0 frozen" in ended.out
    assert cli.json("reconcile", "--repair")["drifts"] == []


def test_tables_are_migrated_once(
    cli: Cli, redis_url: str, empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.aim(redis_url, empty_database_url)
    for command in (["accounts", "show", "a"], ["ledger", "verify"]):
        refused = cli.run(*command)
        assert refused.code == 1
        assert "run `quota-engine ledger migrate`" in refused.err
    assert cli.run("doctor").code == 1
    facts = cli.json("ledger", "migrate")
    assert facts["before"] is None
    assert facts["after"] == facts["wanted"]
    assert "already" in cli.done("ledger", "migrate")
    assert cli.run("doctor").code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["grants", "issue", "a", "text_token", "0"], 2, "from 1 to"),
        (["grants", "issue", "a", "text_token", "1.5"], 2, "amount"),
        (["grants", "issue", "a", "no_such", "5"], 2, "unknown quota type"),
        (["grants", "issue", "a//b", "text_token", "5"], 2, "account"),
        (["grants", "issue", "a", "text_token", "5", "--source", "gift"], 2, "source must be"),
        (["grants", "issue", "a", "text_token", "5", "--expires-at", "soon"], 2, "no instant"),
        (["grants", "issue", "a", "text_token", "5", "--expires-at", "2031-01-01"], 2, "zone"),
        (["grants", "issue", "a", "text_token", "5", "--expires-at", "2001-01-01T00Z"], 2, "end"),
        (["grants", "void", "a", "text_token", "g"], 1, "not in this quota"),
        (["grants", "list"], 2, "Usage"),
        (["accounts", "show", ""], 2, "account must have"),
        (["accounts", "history", "a", "Text"], 2, "quota type must be"),
        (["holds", "release", "a", "text_token", "a b"], 2, "white space"),
        (["accounts", "cancel", "a", "text_token", "g:expire"], 2, "the clock"),
        (["ledger", "nonsense"], 2, "Usage"),
    ],
)
def test_what_can_not_be_is_one_sentence(cli: Cli, words: list[str], code: int, said: str) -> None:
    ended = cli.run(*words)
    assert ended.code == code
    assert said in ended.err
    assert "Usage" in ended.err or ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("redis_at", "database_at", "code", "said"),
    [
        ("redis://127.0.0.1:1", "", 1, "see that it runs"),
        ("", "postgresql://u:secret@127.0.0.1:1/x", 1, "see that it runs"),
        ("nonsense", "", 2, "no URL"),
        ("", "mysql://x", 2, "must begin with postgresql://"),
        ("", "no url", 2, "cannot be read"),
    ],
)
@pytest.mark.parametrize("words", [["accounts", "show", "a"], ["reconcile"]])
def test_a_wrong_url_is_one_sentence_that_says_what_to_do(
    cli: Cli,
    *,
    redis_url: str,
    database_url: str,
    words: list[str],
    redis_at: str,
    database_at: str,
    code: int,
    said: str,
) -> None:
    cli.aim(redis_at or redis_url, database_at or database_url)
    ended = cli.run(*words)
    assert ended.code == code
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert "secret" not in ended.err
