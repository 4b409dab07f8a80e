"""
Writers in a process of their own, perhaps of another release of the engine.

``python -m tests.faults.client URL DATABASE NAME SEED``: writes until its input ends, then tells
what it was told, pickled. ``Client`` is such a process, seen from the test.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

from quota_engine import QuotaEngine
from tests.faults.history import Call
from tests.faults.world import ACCOUNTS, ENGINE_SETTINGS, World
from tests.faults.writers import Writers
from tests.servers import CHECKOUT

THREADS = 4


class Client:
    """Four writers in another process, of the release in the folder ``release``."""

    def __init__(self, world: World, name: str, *, release: Path = CHECKOUT) -> None:
        self.world = world
        arguments = [world.url, world.database_url, name, str(world.seed)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.client", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{release}{os.pathsep}{CHECKOUT}"},
            cwd=CHECKOUT.parent,
        )
        assert self.process.stdout is not None
        #: Where the engine was imported from, told after its first calls.
        self.engine_file = Path(self.process.stdout.readline().decode().strip())

    def stop(self) -> list[Call]:
        """Let it finish; return its calls, which the world's check then counts, too."""
        told, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        calls: list[Call]
        calls, faults = pickle.loads(told)
        assert faults == []
        self.world.calls.extend(calls)
        return calls

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def main() -> None:
    """Write until the input ends."""
    import quota_engine

    redis_url, database_url, name, seed = sys.argv[1:]
    with QuotaEngine.open(redis_url, database_url, **ENGINE_SETTINGS) as engine:
        with Writers([engine], ACCOUNTS, count=THREADS, seed=int(seed), name=name) as writers:
            writers.wait_for(50)
            print(quota_engine.__file__, flush=True)
            sys.stdin.read()
        sys.stdout.buffer.write(pickle.dumps((writers.calls, writers.faults)))


if __name__ == "__main__":
    main()
