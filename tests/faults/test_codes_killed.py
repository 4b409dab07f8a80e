"""
Who redeems or makes codes dies on the way: what was recorded happens once, all else not at all.

Method: a process of its own kills itself at a step; then the schedule runs in two engines at once,
and somebody asks for the same again.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quota_engine import CodeNotFoundError, QuotaEngine
from quota_engine.jobs.verify import verify
from tests.programs import COMMAND_LINE, killed, run

pytestmark = pytest.mark.fault

ACCOUNT, TYPE = "user:42", "text_token"
STARTER: dict[str, Any] = {"quota_type": TYPE, "amount": 100, "price": "9.90"}

REDEEMER = """
import os, signal, sys
from quota_engine import QuotaEngine

step, code, redis_url, database_url = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

engine = QuotaEngine.open(redis_url, database_url)
store = engine.deployment.sale_store.codes
if step == "before_order":
    store.redeem = die
elif step == "before_grant":
    engine._transport.drive = die
engine.redeem("user:42", code)
die()
"""

#: The command, dying once its file is written, or once its codes are valid.
MAKER = """
import os, signal, sys
from quota_engine.cli import codes, main

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv.pop(1) == "before_valid":
    codes.opened_engine = die
else:
    codes.print_facts = die
main()
"""


@pytest.mark.parametrize("step", ["before_order", "before_grant", "done"])
def test_a_redeemer_who_dies_is_made_up_for_once(
    redis_url: str, database_url: str, step: str
) -> None:
    with (
        QuotaEngine.open(redis_url, database_url) as engine,
        QuotaEngine.open(redis_url, database_url) as other,
    ):
        engine.packages.define("starter", **STARTER)
        (code,) = engine.codes.create("starter", 1).codes
        killed(REDEEMER, step, code, redis_url, database_url)
        balance = engine.read_balance(ACCOUNT, TYPE).balance
        assert balance == (100 if step == "done" else 0)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda one: one.run_schedule(), (engine, other)))
        balance = engine.read_balance(ACCOUNT, TYPE).balance
        assert balance == (0 if step == "before_order" else 100)
        assert engine.redeem(ACCOUNT, code).replayed == (step != "before_order")
        assert engine.read_balance(ACCOUNT, TYPE).balance == 100
        engine.drain()
        assert list(verify(engine.deployment.ledger)) == []


@pytest.mark.parametrize("step", ["before_valid", "valid"])
def test_a_batch_whose_maker_died_is_finished_by_the_same_command(
    redis_url: str, database_url: str, tmp_path: Path, step: str
) -> None:
    out = tmp_path / "codes.csv"
    urls = {
        **os.environ,
        "QUOTA_ENGINE_REDIS_URL": redis_url,
        "QUOTA_ENGINE_DATABASE_URL": database_url,
    }
    create = ("codes", "create", "--package", "starter", "--count", "2", "--out", str(out))
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.packages.define("starter", **STARTER)
        killed(MAKER, step, *create, env=urls)
        codes = [line.split(",")[0] for line in out.read_text(encoding="utf-8").splitlines()[1:]]
        if step == "before_valid":
            with pytest.raises(CodeNotFoundError):
                engine.redeem(ACCOUNT, codes[0])
        assert run(COMMAND_LINE, *create, env=urls).returncode == 0
        for code in codes:
            engine.redeem(ACCOUNT, code)
        assert engine.read_balance(ACCOUNT, TYPE).balance == 200
        assert len(engine.codes.list()) == 2
