"""Plans are versioned, and none is defined that could not be meant."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from quota_engine import InvalidAmountError, InvalidArgumentError, PlanNotFoundError
from quota_engine.plans import Rollover
from tests.commands import Cli
from tests.engines import Engines

pytestmark = pytest.mark.anyio

PRO: dict[str, Any] = {"period": "month", "amounts": {"text_token": 100_000, "image": 10}}


async def plans(call: Engines, method: str, *args: Any, **kwargs: Any) -> Any:
    result = getattr(call.engine.plans, method)(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def test_a_plan_is_versioned(call: Engines) -> None:
    first = await plans(call, "define", "pro", **PRO, rollover={"max": 5, "periods": 2})
    assert (first.version, first.terms.amounts) == (1, {"image": 10, "text_token": 100_000})
    assert first.terms.rollover["image"] == Rollover(max=5, periods=2)
    again = {**PRO, "amounts": {"image": 10, "text_token": 100_000}}
    same = await plans(call, "define", "pro", **again, rollover=Rollover(max=5, periods=2))
    assert same == first
    second = await plans(call, "define", "pro", **PRO, rollover={"image": "all"})
    assert (second.version, second.terms.rollover) == (2, {"image": Rollover()})
    assert await plans(call, "list") == [second]
    assert await plans(call, "history", "pro") == [first, second]
    assert await plans(call, "show", "pro", 1) == first
    assert await plans(call, "find", "basic") is None
    for wanted in (("basic",), ("pro", 3)):
        with pytest.raises(PlanNotFoundError):
            await plans(call, "show", *wanted)
    with pytest.raises(PlanNotFoundError):
        await plans(call, "activate", "basic")


async def test_a_plan_that_ended_is_listed_no_more(call: Engines) -> None:
    await plans(call, "define", "pro", **PRO)
    await plans(call, "activate", "pro", False)
    assert await plans(call, "list", only_active=True) == []
    assert len(await plans(call, "list")) == 1


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"period": "fortnight"}, InvalidArgumentError),
        ({"period": "0 days"}, InvalidArgumentError),
        ({"period": None}, InvalidArgumentError),
        ({"amounts": {}}, InvalidArgumentError),
        ({"amounts": 5}, InvalidArgumentError),
        ({"amounts": {"text_token": 0}}, InvalidAmountError),
        ({"amounts": {"text_token": -5}}, InvalidAmountError),
        ({"amounts": {"text_token": 1.5}}, InvalidAmountError),
        ({"amounts": {"nonsense": 5}}, InvalidArgumentError),
        ({"priority": "high"}, InvalidArgumentError),
        ({"priority": 1_000_000}, InvalidArgumentError),
        ({"rollover": "some"}, InvalidArgumentError),
        ({"rollover": {}}, InvalidArgumentError),
        ({"rollover": {"most": 5}}, InvalidArgumentError),
        ({"rollover": {"min": 6, "max": 5}}, InvalidArgumentError),
        ({"rollover": {"max": 0}}, InvalidAmountError),
        ({"rollover": {"min": -1}}, InvalidAmountError),
        ({"rollover": {"periods": 0}}, InvalidAmountError),
        ({"rollover": {"periods": 1_001}}, InvalidArgumentError),
        ({"rollover": {"audio": "all"}}, InvalidArgumentError),
        ({"debt": "sell"}, InvalidArgumentError),
        ({"extras": {"text_token": 0}}, InvalidAmountError),
        ({"trial_period": "a while"}, InvalidArgumentError),
        ({"trial_amounts": {"text_token": 5}}, InvalidArgumentError),
        ({"trial_period": "7 days", "trial_amounts": {"image": 0}}, InvalidAmountError),
        ({"description": 5}, InvalidArgumentError),
    ],
)
async def test_bad_terms_are_refused(
    call: Engines, wrong: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await plans(call, "define", "pro", **{**PRO, **wrong})
    assert await plans(call, "find", "pro") is None


def test_plans_by_command(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = Cli(monkeypatch, capsys)
    cli.aim(redis_url, database_url)
    assert "no plan is offered" in cli.done("plans", "list")
    pro = ("--period", "month", "--amount", "text_token=100", "--amount", "image=3")
    caps = ("--rollover", "caps", "--rollover-max", "50", "--rollover-periods", "1")
    trial = ("--trial", "14 days", "--trial-amount", "text_token=7", "--extra", "image=1")
    made = cli.json("plans", "define", "pro", *pro, *caps, *trial, "--forgive-debt")
    assert made["amounts"] == {"image": 3, "text_token": 100}
    assert made["rollover"]["image"] == {"min": 0, "max": 50, "periods": 1}
    assert (made["debt"], made["trial_amounts"]) == ("forgive", {"text_token": 7})
    assert cli.json("plans", "define", "pro", *pro)["version"] == 2
    assert cli.json("plans", "show", "pro")["rollover"] == {}
    assert cli.json("plans", "show", "pro", "--version", "1")["debt"] == "forgive"
    assert len(cli.json("plans", "history", "pro")) == 2
    assert "pro" in cli.done("plans", "list")
    cli.done("plans", "activate", "pro", "--off")
    assert "no plan is offered" in cli.done("plans", "list")
    assert "pro" in cli.done("plans", "list", "--all")
    assert cli.run("plans", "show", "basic").code == 1
    assert cli.run("plans", "history", "basic").code == 1
    for wrong, why in (
        (("--rollover", "some"), "--rollover is none, all or caps, not 'some'"),
        (("--rollover-max", "5"), "contradict --rollover none; use caps"),
        (("--rollover", "caps"), "--rollover caps needs --rollover-min, -max or -periods"),
        (("--amount", "image=x"), "not 'image=x'"),
        (("--amount", "image=4"), "image has two amounts"),
        (("--amount", "audio=-5"), "amounts of audio must be from 1"),
    ):
        refused = cli.run("plans", "define", "bad", *pro, *wrong)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert why in refused.err
    assert cli.run("plans", "show", "bad").code == 1
    assert cli.run("plans", "define", "bad", "--period", "age", "--amount", "image=3").code == 2
