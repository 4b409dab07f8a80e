"""Units moved between accounts by the command line: once by its id, told who and what for."""

from __future__ import annotations

import pytest

from tests.commands import Cli

FROM, TO, TOKENS = "user:42", "user:43", "text_token"


@pytest.fixture
def funded(cli: Cli) -> Cli:
    """The command line, where one account has 1,000 units in a grant of priority 20."""
    cli.done("grants", "issue", FROM, TOKENS, "1000", "--priority", "20", "--expires-at", "+30d")
    return cli


def balances(cli: Cli) -> list[int]:
    return [
        sum(quota["balance"] for quota in cli.json("accounts", "show", account)["quotas"])
        for account in (FROM, TO)
    ]


def test_a_transfer_by_command_moves_units_once_on_their_terms(funded: Cli) -> None:
    words = ("accounts", "transfer", FROM, TO, TOKENS, "300", "--transfer-id", "t1")
    words += ("--actor", "support:ann", "--reference", "ticket-7")
    moved = funded.json(*words)
    assert (moved["transfer_id"], moved["amount"], moved["replayed"]) == ("t1", 300, False)
    assert (moved["from_account"], moved["to_account"]) == (FROM, TO)
    again = funded.json(*words)
    assert (again["transfer_id"], again["amount"], again["replayed"]) == ("t1", 300, True)
    assert balances(funded) == [700, 300]
    old = funded.json("grants", "list", FROM)[0]
    (new,) = funded.json("grants", "list", TO)
    for term in ("priority", "expires_at"):
        assert new[term] == old[term]
    for account in (FROM, TO):
        entry = funded.json("accounts", "history", account, TOKENS)[-1]
        assert entry["details"]["actor"] == "support:ann"
        assert entry["details"]["reference"] == "ticket-7"
        assert "ticket-7" in funded.done("accounts", "history", account, TOKENS)


def test_a_transfer_by_command_without_an_id_is_another_each_time(funded: Cli) -> None:
    words = ("accounts", "transfer", FROM, TO, TOKENS, "100")
    assert "100" in funded.done(*words)
    assert "100" in funded.done(*words)
    assert balances(funded) == [800, 200]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((FROM, TO, TOKENS, "1001"), 1),  # more than there is
        (("user:44", TO, TOKENS, "1"), 1),  # who has nothing
        ((FROM, FROM, TOKENS, "1"), 2),
        ((FROM, TO, TOKENS, "0"), 2),
        ((FROM, TO, TOKENS, "1.5"), 2),
        ((FROM, TO, "tokens", "1"), 2),
        ((FROM, "", TOKENS, "1"), 2),
        ((FROM, TO, TOKENS), 2),
    ],
)
def test_a_transfer_that_cannot_be_is_told_and_moves_nothing(
    funded: Cli, words: tuple[str, ...], code: int
) -> None:
    refused = funded.run("accounts", "transfer", *words)
    assert (refused.code, refused.out) == (code, "")
    assert refused.err
    assert balances(funded) == [1000, 0]


def test_one_transfer_id_for_another_amount_is_refused(funded: Cli) -> None:
    words = ("accounts", "transfer", FROM, TO, TOKENS)
    funded.done(*words, "300", "--transfer-id", "t1")
    assert funded.run(*words, "301", "--transfer-id", "t1").code == 1
    assert balances(funded) == [700, 300]
