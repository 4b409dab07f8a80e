"""A code is worth its package once, whoever asks how often; and nobody can read it anywhere."""

from __future__ import annotations

import csv
import inspect
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import (
    CodeNotFoundError,
    CodeRefusedError,
    IdempotencyConflictError,
    InvalidArgumentError,
    PackageNotFoundError,
    PurchaseRefusedError,
    QuotaEngine,
)
from quota_engine.codes import ALPHABET, LETTERS, code_hash, new_codes
from quota_engine.jobs.verify import verify
from tests.at_once import CALLERS, call_at_once
from tests.commands import Cli
from tests.engines import NOON, Engines, TestClock

pytestmark = pytest.mark.anyio

ACCOUNT, TYPE = "user:42", "text_token"
STARTER: dict[str, Any] = {
    "quota_type": TYPE,
    "amount": 100,
    "price": "9.90",
    "currency": "CNY",
    "valid_for": timedelta(days=30),
}
DAY = timedelta(days=1)


async def said(call: Engines, noun: str, method: str, *args: Any, **kwargs: Any) -> Any:
    result = getattr(getattr(call.engine, noun), method)(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def made(call: Engines, count: int = 1, **terms: Any) -> tuple[str, ...]:
    await said(call, "packages", "define", "starter", **STARTER)
    batch = await said(call, "codes", "create", "starter", count, **terms)
    codes: tuple[str, ...] = batch.codes
    return codes


async def balance(call: Engines, account: str = ACCOUNT) -> int:
    return int((await call("read_balance", account, TYPE)).balance)


async def test_a_code_is_redeemed_once_and_replayed_for_the_same_account(
    timed: Engines, clock: TestClock
) -> None:
    (code,) = await made(timed)
    order = await timed("redeem", ACCOUNT, code)
    (line,) = order.lines
    assert (order.state, order.replayed, line.units) == ("paid", False, 100)
    assert line.expires_at == NOON + timedelta(days=30)
    clock.forward(hours=1)
    again = await timed("redeem", ACCOUNT, f" {code.lower().replace('-', '')} ")
    assert (again.replayed, again.order_id) == (True, order.order_id)
    assert await balance(timed) == 100
    with pytest.raises(CodeRefusedError, match="redeemed already"):
        await timed("redeem", "user:43", code)
    assert await balance(timed, "user:43") == 0
    (known,) = await said(timed, "codes", "list", account=ACCOUNT)
    assert (known.state, known.redeemed_by, known.redeemed_at) == ("redeemed", ACCOUNT, NOON)
    assert known.order_id == order.order_id
    assert list(verify(timed.engine.deployment.ledger)) == []


async def test_letters_that_look_alike_are_read_as_what_was_printed(call: Engines) -> None:
    """A person writes O for 0, and I or L for 1."""
    code = "01ABC-DEFGH-JKMNP-QRSTV"
    await said(call, "packages", "define", "starter", **STARTER)
    await said(call, "codes", "create", "starter", codes=[code])
    assert (await call("redeem", ACCOUNT, "oLabc defgh jkmnp qrstv")).state == "paid"


async def test_a_code_ends_to_the_instant(timed: Engines, clock: TestClock) -> None:
    first, second = await made(timed, 2, expires_at=NOON + DAY)
    clock.now = NOON + DAY - timedelta(milliseconds=1)
    await timed("redeem", ACCOUNT, first)
    clock.now = NOON + DAY
    with pytest.raises(CodeRefusedError, match="valid until"):
        await timed("redeem", ACCOUNT, second)
    assert (await timed("redeem", ACCOUNT, first)).replayed, "what was redeemed stays so"
    assert await balance(timed) == 100


async def test_a_code_keeps_the_version_and_outlives_the_sale(call: Engines) -> None:
    (code,) = await made(call)
    await said(call, "packages", "define", "starter", **{**STARTER, "amount": 7})
    await said(call, "packages", "activate", "starter", False)
    order = await call("redeem", ACCOUNT, code)
    assert (order.lines[0].version, order.lines[0].units) == (1, 100)


async def test_the_limit_of_a_package_counts_for_codes_too(call: Engines) -> None:
    await said(call, "packages", "define", "starter", **STARTER, per_user_limit=1)
    batch = await said(call, "codes", "create", "starter", 2)
    await call("redeem", ACCOUNT, batch.codes[0])
    with pytest.raises(PurchaseRefusedError):
        await call("redeem", ACCOUNT, batch.codes[1])
    order = await call("redeem", "user:43", batch.codes[1])
    assert order.account == "user:43", "who was refused has not used it up"


async def test_what_is_revoked_is_worth_nothing_and_what_was_redeemed_stays(call: Engines) -> None:
    codes = await made(call, 4, batch_id="spring")
    await call("redeem", ACCOUNT, codes[0])
    (one,) = await said(call, "codes", "revoke", codes[1])
    assert one.state == "revoked"
    assert await said(call, "codes", "revoke", one.code_id) == [one]
    ended = await said(call, "codes", "revoke", batch_id="spring")
    assert sorted(code.state for code in ended) == ["redeemed", *["revoked"] * 3]
    for code in codes[1:]:
        with pytest.raises(CodeRefusedError, match="revoked"):
            await call("redeem", ACCOUNT, code)
    order = await call("redeem", ACCOUNT, codes[0])
    refunded = await call("refund_purchase", order.order_id)
    assert refunded.lines[0].voided == 100
    with pytest.raises(CodeRefusedError, match="refunded"):
        await call("redeem", ACCOUNT, codes[0])
    assert await balance(call) == 0
    with pytest.raises(CodeNotFoundError):
        await said(call, "codes", "revoke", batch_id="autumn")


async def test_a_batch_is_made_once(call: Engines) -> None:
    codes = await made(call, 3, batch_id="spring")
    again = await said(call, "codes", "create", "starter", codes=codes, batch_id="spring")
    assert (again.replayed, again.version) == (True, 1)
    assert len(await said(call, "codes", "list", batch_id="spring")) == 3
    for other in (
        {"codes": new_codes(3), "batch_id": "spring"},
        {"codes": codes, "batch_id": "spring", "expires_at": NOON},
        {"codes": codes[:2], "batch_id": "summer"},
    ):
        with pytest.raises(IdempotencyConflictError):
            await said(call, "codes", "create", "starter", **other)
    assert await said(call, "codes", "list", batch_id="summer") == []


async def test_what_cannot_be_meant_is_refused(timed: Engines) -> None:
    await made(timed)
    for wrong in (
        {"count": 0},
        {"count": 10_001},
        {},
        {"count": 1, "codes": new_codes(1)},
        {"codes": ["7ZK3M"]},
        {"codes": new_codes(1) * 2},
        {"count": 1, "expires_at": NOON},
        {"count": 1, "batch_id": "two words"},
    ):
        with pytest.raises(InvalidArgumentError):
            await said(timed, "codes", "create", "starter", **wrong)
    with pytest.raises(PackageNotFoundError):
        await said(timed, "codes", "create", "platinum", 1)
    await said(timed, "packages", "activate", "starter", False)
    with pytest.raises(PurchaseRefusedError):
        await said(timed, "codes", "create", "starter", 1)
    for wrong_code in (new_codes(1)[0], "7ZK3M", "", "x" * 20, "Ü" * 20):
        with pytest.raises(CodeNotFoundError):
            await timed("redeem", ACCOUNT, wrong_code)
    with pytest.raises(InvalidArgumentError):
        await timed("redeem", ACCOUNT, 7)


async def test_no_code_is_written_down_anywhere(call: Engines) -> None:
    """Neither in the tables nor in what the grant tells of where it came from."""
    (code,) = await made(call)
    await call("redeem", ACCOUNT, code)
    await call("drain")
    with call.engine.deployment.ledger.transaction() as sql:
        kept = sql.execute(text("SELECT * FROM redemption_codes")).one()
        written = sql.execute(text("SELECT details FROM ledger_entries")).scalars().all()
    assert kept.code_hash == code_hash(code)
    told = f"{kept} {written}"
    assert code not in told
    assert code.replace("-", "") not in told


def test_codes_have_a_hundred_random_bits() -> None:
    codes = [code.replace("-", "") for code in new_codes(2_000)]
    assert len(set(codes)) == len(codes)
    assert all(len(code) == LETTERS for code in codes)
    assert len(ALPHABET) == 32
    for place in range(LETTERS):
        assert len({code[place] for code in codes}) == len(ALPHABET)


#: Many callers in one process: each redeems the code of one account, and the code that all want.
REDEEM = """
def call(number):
    mine, wanted = arguments
    order = engine.redeem("user:42", mine)
    try:
        won = not engine.redeem(f"rival:{number}", wanted).replayed
    except CodeRefusedError:
        won = False
    return [not order.replayed, won]
"""


def test_many_redeemers_in_several_processes_get_one_grant(
    redis_url: str, database_url: str
) -> None:
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.packages.define("starter", **STARTER)
        codes = engine.codes.create("starter", 2).codes
        told = call_at_once(REDEEM, redis_url, database_url, *codes)
        assert [sum(column) for column in zip(*told, strict=True)] == [1, 1]
        assert engine.read_balance(ACCOUNT, TYPE).balance == 100
        rivals = [engine.read_balance(f"rival:{one}", TYPE).balance for one in range(CALLERS)]
        assert sorted(rivals) == [0] * (CALLERS - 1) + [100]
        engine.drain()
        assert list(verify(engine.deployment.ledger)) == []


def test_codes_by_command(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    cli = Cli(monkeypatch, capsys)
    cli.aim(redis_url, database_url)
    terms = ("--type", TYPE, "--amount", "100", "--price", "9.90")
    cli.done("packages", "define", "starter", *terms)
    out = tmp_path / "codes.csv"
    create = ("codes", "create", "--package", "starter", "--count", "3", "--out", str(out))
    facts = cli.json(*create, "--expires", "+90d", "--batch", "spring")
    assert (facts["codes"], facts["batch_id"], facts["replayed"]) == (3, "spring", False)
    assert out.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["codes.csv"]
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    assert {row["batch_id"] for row in rows} == {"spring"}
    assert cli.json(*create)["replayed"], "the file is there: its codes, once more"
    assert cli.run(*create[:-3], "4", "--out", str(out)).code == 2
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    assert cli.run(*create[:-1], str(tmp_path / "other.csv")).code == 2
    assert cli.run(*create[:-1], str(tmp_path / "no" / "codes.csv")).code == 2
    gone = ("codes", "create", "--package", "gone", "--count", "1", "--out")
    assert cli.run(*gone, str(tmp_path / "gone.csv")).code == 1
    assert not (tmp_path / "gone.csv").exists(), "no codes that are worth nothing lie about"
    assert cli.json("codes", "redeem", ACCOUNT, rows[0]["code"])[0]["units"] == 100
    assert "paid" in cli.done("codes", "redeem", ACCOUNT, rows[0]["code"])
    assert cli.run("codes", "redeem", "user:43", rows[0]["code"]).code == 1
    assert cli.run("codes", "redeem", ACCOUNT, "7ZK3M").code == 1
    assert "revoked" in cli.done("codes", "revoke", rows[1]["code"])
    states = {one["state"] for one in cli.json("codes", "list", "--batch", "spring")}
    assert states == {"redeemed", "revoked", "open"}
    assert rows[2]["code"] not in cli.done("codes", "list")
    assert "no such codes" in cli.done("codes", "list", "--account", "user:43")
    assert cli.run("codes", "revoke").code == 2
