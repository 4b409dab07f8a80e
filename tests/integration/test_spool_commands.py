"""The commands that show and replay the spool, as an operator runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from quota_engine import (
    QuotaEngine,
)
from quota_engine.embedded import ValkeyServer
from tests.programs import COMMAND_LINE, run
from tests.spools import (
    ACCOUNT,
    PATIENCE,
    TYPE,
)


def test_commands_show_and_replay_what_waits(
    server: ValkeyServer, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "spools"
    environment = {
        "QUOTA_ENGINE_REDIS_URL": server.url,
        "QUOTA_ENGINE_DATABASE_URL": database_url,
        "QUOTA_ENGINE_SPOOL_FOLDER": str(folder),
        "QUOTA_ENGINE_CALL_TIMEOUT_SECONDS": "1",
    }

    def cli(*words: str, code: int = 0) -> Any:
        ended = run(COMMAND_LINE, *words, "--json", env={**os.environ, **environment})
        assert ended.returncode == code, ended.stderr + ended.stdout
        return json.loads(ended.stdout) if ended.stdout else ended.stderr

    assert cli("spool", "status") == []
    assert cli("spool", "list") == []
    settings = {**PATIENCE, "spool_folder": str(folder)}
    with QuotaEngine.open(server.url, database_url, **settings) as engine:
        engine.issue_grant(ACCOUNT, TYPE, 100)
        hold = engine.place_hold(ACCOUNT, TYPE, 10)
        server.kill()
        engine.capture_hold(hold, 4)
        engine.capture_hold("no-such", 1, account=ACCOUNT, quota_type=TYPE)
    [status] = cli("spool", "status")
    assert (status["waiting"], status["refused"]) == (2, 0)
    assert [row["amount"] for row in cli("spool", "list")] == [4, 1]
    facts = cli("doctor", code=1)["facts"]
    assert facts["spool"].startswith("2 operations wait")
    assert "does not answer" in cli("spool", "replay", code=1)
    server.start()
    outcome = cli("spool", "replay", code=1)
    assert (outcome["replayed"], outcome["refused"], outcome["waiting"]) == (1, 1, 0)
    assert cli("spool", "status", code=1)[0]["refused"] == 1
    codes = [problem["code"] for problem in cli("doctor", code=1)["problems"]]
    assert "spool_refused" in codes
    assert cli("spool", "replay", "--refused", code=1)["refused"] == 1
    assert cli("spool", "drop", "no-such:capture") == {"dropped": 1}
    assert cli("spool", "drop", "no-such:capture", code=1) == {"dropped": 0}
    assert cli("spool", "replay")["replayed"] == 0
    with QuotaEngine.open(server.url, database_url, **settings) as engine:
        assert engine.read_balance(ACCOUNT, TYPE).balance == 96
