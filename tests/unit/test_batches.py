"""A table of grants is read whole: what it says, or every line that cannot be meant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from quota_engine.arguments import checked_type
from quota_engine.batches import PROBLEMS_TOLD, Batch, read_grants
from quota_engine.errors import BatchRefusedError, InvalidArgumentError
from quota_engine.opening_balances import plain_sums, read_opening
from quota_engine.settings import Settings

SETTINGS = Settings()
ENDS = datetime(2026, 6, 1, tzinfo=UTC)
PLAIN = "account,quota_type,amount\nuser:1,text_token,100\n"
OPENING = (
    "account,quota_type,monthly_total,monthly_used,permanent_total,permanent_used\n"
    "user:1,text_token,100,30,50,50\n"
    "user:2,text_token,100,100,5,0\n"
    "user:2,image,7,0,0,0\n"
)


def known(name: str) -> str:
    return checked_type(name, SETTINGS)


def read(text: str | bytes, batch_id: str = "may") -> Batch:
    return read_grants(text if isinstance(text, bytes) else text.encode(), batch_id, known)


def test_a_line_is_a_grant_with_an_id_of_its_own() -> None:
    table = (
        "\ufeffquota_type, account ,amount,expires_at,priority,description\r\n"
        'text_token,"组/用户, 1",100,2026-12-31T00:00:00+08:00,,"送 ""100"""\r\n'
        "\r\n"
        "image,user:2,9007199254740991,,-5,\r\n"
    )
    batch = read(table)
    first, second = batch.grants
    assert (first.line, first.grant_id, second.line, second.grant_id) == (
        *(2, "batch:may:2", 4),
        "batch:may:4",
    )
    assert (str(first.quota), first.terms.amount, first.terms.priority) == (
        *("组/用户, 1|text_token", 100),
        50,
    )
    assert first.terms.description == '送 "100"'
    assert (second.terms.amount, second.terms.priority) == (2**53 - 1, -5)
    assert {one.terms.source for one in batch.grants} == {"batch_admin_grant"}


def test_the_same_content_has_the_same_digest_whatever_its_bytes() -> None:
    same = ("\ufeff" + PLAIN, PLAIN.replace("\n", "\r\n"), PLAIN + "\n\n", PLAIN.strip())
    assert {read(text).digest for text in same} == {read(PLAIN).digest}
    others = (PLAIN.replace("100", "101"), PLAIN.replace("user:1", "user:2"), PLAIN + "u,image,1")
    assert len({read(text).digest for text in (PLAIN, *others)}) == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: the columns must be account, quota_type, amount"),
        ("account,quota_type\n", "missing 'amount'"),
        ("account,quota_type,amount,colour\n", "unknown 'colour'"),
        ("account,quota_type,amount,amount\n", "twice 'amount'"),
        ("account;quota_type;amount\n", "missing 'account', 'quota_type', 'amount'"),
        ("account,quota_type,amount\n", "no lines"),
        (PLAIN + "user:2,text_token\n", "line 3: 2 columns instead of 3"),
        (PLAIN + "user:2,text_token,-5\n", "line 3: amount must be"),
        (PLAIN + "user:2,text_token,0\n", "line 3: amount must be"),
        (PLAIN + "user:2,text_token,1.5\n", "line 3: amount must be a whole number, not '1.5'"),
        (PLAIN + 'user:2,text_token,"1,000"\n', "line 3: amount must be a whole number"),
        (PLAIN + "user:2,text_token,\n", "line 3: amount must be a whole number, not ''"),
        (PLAIN + "user:2,text_token,9007199254740992\n", "line 3: amount must be"),
        (PLAIN + "user:2,tokens,5\n", "line 3: unknown quota type tokens"),
        (PLAIN + ",text_token,5\n", "line 3: account must have 1 to"),
        (PLAIN + "user:1,text_token,100\n", "line 3: it says the same as line 2"),
        (PLAIN + 'user:2,"text_token,5\n', "it is no CSV"),
        (PLAIN.encode() + "user:中,image,1\n".encode("gbk"), "line 3: it is not UTF-8"),
        (PLAIN.encode("utf-16"), "UTF-16"),
        (PLAIN + "user:\0,image,1\n", "line 3: it holds a NUL"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_line(text: str | bytes, told: str) -> None:
    with pytest.raises(BatchRefusedError, match=r"^nothing was changed") as refused:
        read(text)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("column", "word", "told"),
    [
        ("expires_at", "tomorrow", "no instant"),
        ("expires_at", "2026-12-31", "time zone"),
        ("priority", "first", "priority must be a whole number"),
        ("priority", "1000001", "priority must be within"),
    ],
)
def test_terms_that_no_grant_can_have_are_told(column: str, word: str, told: str) -> None:
    table = f"account,quota_type,amount,{column}\nuser:1,image,1,\nuser:2,image,1,{word}\n"
    with pytest.raises(BatchRefusedError, match="line 3") as refused:
        read(table)
    assert told in str(refused.value)


def test_a_grant_that_would_end_before_it_starts_is_told() -> None:
    table = (
        "account,quota_type,amount,starts_at,expires_at\n"
        "user:1,image,1,2026-02-01T00:00Z,2026-01-01T00:00Z\n"
    )
    with pytest.raises(BatchRefusedError, match="line 2: a grant must end after it starts"):
        read(table)


def test_every_problem_is_told_and_the_first_in_words() -> None:
    table = "account,quota_type,amount\n" + "user:1,text_token,x\n" * (PROBLEMS_TOLD + 5)
    with pytest.raises(BatchRefusedError, match="and 5 more") as refused:
        read(table)
    assert [line for line, _ in refused.value.problems] == list(range(2, PROBLEMS_TOLD + 7))


def test_what_is_left_of_opening_balances_is_granted_and_adds_up() -> None:
    opening = read_opening(OPENING.encode(), "move", ENDS, known)
    grants = [
        (one.grant_id, str(one.quota), one.terms.amount, one.terms.expires_at_ms)
        for one in opening.batch.grants
    ]
    ends, never = int(ENDS.timestamp() * 1000), 2**53 - 1
    assert grants == [
        ("opening:move:2:monthly", "user:1|text_token", 70, ends),
        ("opening:move:3:permanent", "user:2|text_token", 5, never),
        ("opening:move:4:monthly", "user:2|image", 7, ends),
    ]
    image, tokens = plain_sums(opening.sums)
    assert (image["quota_type"], image["accounts"], image["granted"]) == ("image", 1, 7)
    assert (tokens["monthly_total"], tokens["monthly_used"], tokens["monthly_left"]) == (
        *(200, 130),
        70,
    )
    assert (tokens["permanent_left"], tokens["granted"]) == (5, 75)


def test_who_used_more_than_the_total_is_refused_by_name_or_forgiven() -> None:
    over = OPENING + "user:3,text_token,10,15,5,6\n"
    with pytest.raises(BatchRefusedError, match="line 5: monthly_used 15 is 5 above"):
        read_opening(over.encode(), "move", ENDS, known)
    opening = read_opening(over.encode(), "move", ENDS, known, overused="forgive")
    for of_type in opening.sums.values():
        for part in ("monthly", "permanent"):
            total, used, forgiven, left = (
                getattr(of_type, f"{part}_{name}")
                for name in ("total", "used", "forgiven", "left")
            )
            assert total - used + forgiven == left
    tokens = opening.sums["text_token"]
    assert (tokens.monthly_forgiven, tokens.permanent_forgiven) == (5, 1)
    assert tokens.left == sum(
        one.terms.amount for one in opening.batch.grants if one.quota.quota_type == "text_token"
    )
    with pytest.raises(InvalidArgumentError, match="overused"):
        read_opening(OPENING.encode(), "move", ENDS, known, overused="ignore")


def test_an_account_has_one_opening_balance_of_a_type() -> None:
    twice = OPENING + "user:1,text_token,1,0,0,0\n"
    with pytest.raises(BatchRefusedError, match=r"line 5: user:1\|text_token is on line 2"):
        read_opening(twice.encode(), "move", ENDS, known)
    for wrong in ("user:3,text_token,-1,0,0,0\n", "user:3,text_token,1,,0,0\n"):
        with pytest.raises(BatchRefusedError, match="line 5: monthly"):
            read_opening((OPENING + wrong).encode(), "move", ENDS, known)
