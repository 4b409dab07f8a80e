"""The command line as tests call it: in this process, with what it printed and how it ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from quota_engine import QuotaEngine, cli


@dataclass(frozen=True)
class Ended:
    """How a command ended. ``code``: its exit code."""

    code: int
    out: str
    err: str


class Cli:
    """Runs ``quota-engine …`` against one deployment."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._capture = capture

    def aim(self, redis_url: str, database_url: str) -> None:
        """Have the commands use these servers."""
        self._patch.setenv("QUOTA_ENGINE_REDIS_URL", redis_url)
        self._patch.setenv("QUOTA_ENGINE_DATABASE_URL", database_url)

    def run(self, *arguments: str) -> Ended:
        """Run one command; whatever happens, it shows no trace."""
        self._patch.setattr(sys, "argv", ["quota-engine", *arguments])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = self._capture.readouterr()
        assert "Traceback" not in said.out + said.err
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, said.out, said.err)

    def done(self, *arguments: str) -> str:
        """Run a command that must succeed; return what it printed."""
        ended = self.run(*arguments)
        assert (ended.code, ended.err) == (0, "")
        return ended.out

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with ``--json``; return its document."""
        ended = self.run(*arguments, "--json")
        assert ended.code == code, ended.err
        return json.loads(ended.out)

    @contextmanager
    def engine(self) -> Iterator[QuotaEngine]:
        """Yield an engine on the same deployment."""
        with QuotaEngine.open() as engine:
            yield engine
