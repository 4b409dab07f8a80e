"""
What tells of one account takes the viewer's scope, and says nothing of an account beyond it.

Goal: whoever asks on behalf of an account sees it and those below, as an operator does; of others
it learns not even whether they exist.
"""

from __future__ import annotations

from typing import Any

import pytest

from quota_engine import InvalidArgumentError, NotSeenError
from tests.commands import Cli
from tests.engines import Engines

pytestmark = pytest.mark.anyio

VIEWER, BELOW = "acme/team-7", "acme/team-7/user-42"
#: Above, beside, of a name that begins alike, with a letter of patterns, and nobody.
BEYOND = ("acme", "acme/team-8", "acme/team-70", "acme/team_7", "nobody")
TOKENS = "text_token"

#: Each call, and what it takes after the account.
CALLS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("usage", ()),
    ("usage", (TOKENS,)),
    ("statement", (TOKENS,)),
    ("statements", ()),
    ("grants", ()),
    ("grants", (TOKENS,)),
    ("history", (TOKENS,)),
)


def told(method: str, answer: Any) -> Any:
    """Return what an answer says; a statement's period ends when it was asked for."""
    if method not in {"statement", "statements"}:
        return answer
    made = [answer] if method == "statement" else answer
    return [(one.account, one.quota_type, one.granted, one.used, one.closing) for one in made]


async def fill(call: Engines) -> None:
    for account in (VIEWER, BELOW, *BEYOND[:-1]):
        await call("issue_grant", account, TOKENS, 100)
        usage = {"input_tokens": 5}
        await call("debit", account, TOKENS, 5, usage=usage, already_used=True, scopes=[])


async def test_a_viewer_is_told_of_its_own_accounts_as_an_operator_is(call: Engines) -> None:
    await fill(call)
    for method, rest in CALLS:
        for account in (VIEWER, BELOW):
            seen = told(method, await call(method, account, *rest, viewer=VIEWER))
            assert seen == told(method, await call(method, account, *rest))
            assert seen, method


async def test_a_viewer_is_told_nothing_of_others_not_even_whether_they_are(call: Engines) -> None:
    await fill(call)
    for method, rest in CALLS:
        for account in BEYOND:
            with pytest.raises(NotSeenError) as refused:
                await call(method, account, *rest, viewer=VIEWER)
            only = f"{VIEWER} sees itself and the accounts below it, not {account}"
            assert str(refused.value) == only
        for wrong in ("", " ", 7):
            with pytest.raises(InvalidArgumentError):
                await call(method, VIEWER, *rest, viewer=wrong)


def test_a_viewer_by_command(cli: Cli) -> None:
    with cli.engine() as engine:
        engine.issue_grant(BELOW, TOKENS, 100)
        engine.debit(BELOW, TOKENS, 5, usage={"input_tokens": 5})
    for words in (
        ("accounts", "usage", BELOW),
        ("accounts", "statement", BELOW),
        ("accounts", "statement", BELOW, TOKENS),
        ("accounts", "history", BELOW, TOKENS),
        ("grants", "list", BELOW),
    ):
        assert cli.json(*words, "--as", VIEWER)
        assert TOKENS in cli.run(*words, "--as", VIEWER, "--json").out
        refused = cli.run(*words, "--as", "acme/team-70")
        assert (refused.code, refused.out) == (1, "")
        assert "sees itself" in refused.err
