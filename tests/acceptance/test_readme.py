"""
A newcomer's first minute: what README and examples show runs, on servers that start themselves.

Method: each script is a process of its own, with nothing in its environment but a new home.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quota_engine.embedded import stop_servers
from tests.servers import TestServers

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TIMEOUT_SECONDS = 120

pytestmark = pytest.mark.slow


def run(home: Path, *arguments: str) -> list[str]:
    """Run Python as a user would, elsewhere than in the checkout; return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "QUOTA_ENGINE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def new_home(servers: TestServers) -> Iterator[Path]:
    """A home that nobody has used; its servers end with these tests."""
    folder = servers.folder_named("home")
    folder.mkdir(parents=True)
    yield folder
    stop_servers(folder)


def test_the_readme_s_first_hold_runs_as_it_is_and_again(new_home: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    refusal = "user:42 has {} text_token available, 1000000000 required"
    assert run(new_home, "-c", code) == [refusal.format(8_766), "8766"]
    assert run(new_home, "-c", code) == [refusal.format(17_532), "17532"]


def test_a_hundred_calls_at_once_are_admitted_as_far_as_the_quota_goes(new_home: Path) -> None:
    assert run(new_home, str(ROOT / "examples/async_hold.py")) == [
        "40 admitted, 60 refused, 0 left"
    ]


def test_many_processes_take_no_more_than_there_is_and_nothing_twice(new_home: Path) -> None:
    taken, drained = run(new_home, str(ROOT / "examples/many_processes.py"))
    assert taken == "994 taken, 6 left of 1000"
    assert re.fullmatch(r"\d+ entries persisted, 0 drifts", drained)


def test_every_example_is_run_here() -> None:
    named = Path(__file__).read_text(encoding="utf-8")
    elsewhere = {"first_hold.py", "openai_metered.py"}  # the README; the tests of the SDKs
    examples = {path.name for path in (ROOT / "examples").glob("*.py")} - elsewhere
    assert [name for name in examples if name not in named] == []
