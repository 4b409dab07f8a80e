"""
The wheel is whole: outside the checkout, its CLI, migrations, worker and a script all work.

Method: a new environment gets the built wheel alone; the libraries it needs are lent to it from
the present one, so that nothing is downloaded but the build's own tools.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quota_engine.embedded import stop_servers
from tests.servers import TestServers

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import quota_engine
from quota_engine import QuotaEngine
with QuotaEngine.open() as engine:
    engine.issue_grant("user:42", "text_token", 1_000)
    with engine.hold("user:42", "text_token", 600) as hold:
        hold.capture(250)
    print(quota_engine.__file__)
    print(engine.read_balance("user:42", "text_token").available)
"""

pytestmark = pytest.mark.slow

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(servers: TestServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a program of an environment that has nothing of this checkout but the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    programs = folder / "env" / "bin"
    lent = sysconfig.get_path("purelib")
    home = servers.folder_named("wheel-home")
    home.mkdir(parents=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "QUOTA_ENGINE_HOME": str(home),
        "PYTHONPATH": lent,
    }
    install = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install"]
    subprocess.run(
        [*install, "--no-deps", "--ignore-installed", "--quiet", str(wheel)],
        check=True,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    )

    def run_program(name: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(programs / name), *arguments],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield run_program
    stop_servers(home)


def test_the_wheel_works_outside_the_checkout(run: Run) -> None:
    assert "grants" in run("quota-engine", "--help")
    module, available = run("python", "-c", SCRIPT).splitlines()
    assert not Path(module).is_relative_to(ROOT)
    assert "site-packages" in module
    assert available == "750"
    run("quota-engine", "ledger", "migrate")
    run("quota-engine", "worker", "--burst")
    shown = json.loads(
        run("quota-engine", "accounts", "history", "user:42", "text_token", "--json")
    )
    entries = shown["entries"] if isinstance(shown, dict) else shown
    assert [entry["kind"] for entry in entries] == ["grant.issued", "hold.placed", "hold.captured"]
    assert all(entry["recorded_at"] for entry in entries)
