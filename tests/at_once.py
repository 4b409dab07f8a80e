"""Many callers at once, from several processes: what one of them does is given as source."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.programs import Program

CALLERS, PROCESSES = 50, 4
WAIT_SECONDS = 120

_PROCESS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from quota_engine import *

redis_url, database_url, first, count, *arguments = sys.argv[1:]
with QuotaEngine.open(redis_url, database_url, call_timeout_seconds=60) as engine:
    engine.read_balance("user:42", "text_token")
    {caller}
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(int(count)) as threads:
        numbers = range(int(first), int(first) + int(count))
        print(json.dumps(list(threads.map(call, numbers))))
"""


def call_at_once(caller: str, redis_url: str, database_url: str, *arguments: str) -> list[Any]:
    """
    Return what ``CALLERS`` callers answered who began together, in ``PROCESSES`` processes.

    ``caller`` defines ``call(number)``, which may use ``engine`` and ``arguments``.
    """
    script = _PROCESS.format(caller=caller.strip().replace("\n", "\n    "))
    firsts = range(0, CALLERS, -(-CALLERS // PROCESSES))
    processes = [
        Program(
            *(script, redis_url, database_url),
            *(str(first), str(min(firsts.step, CALLERS - first)), *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in firsts
    ]
    told: list[Any] = []
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            out, _ = process.communicate(timeout=WAIT_SECONDS)
            told += json.loads(out)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert len(told) == CALLERS
    return told
