"""
A world to do faults to: a server of its own, a database of its own, clients, and the oracle.

A test reads::

    with world.writing() as writers:        # 8 threads on a few hot accounts, over 3 engines
        writers.wait_for(200)               # so many answers more
        since = world.drain()               # all that was answered before it is persisted now
        writers.wait_for(100)
        with world.fault():                 # checks that the outbox is not empty
            world.server.kill()
        world.heal()
        writers.wait_for(100)               # they go on
    world.check()                           # nothing lost, every invariant, what clients saw

``check(may_lose=Window(since, until))`` permits the loss of calls that were answered in that time,
counts them and returns a ``Verdict`` that names them.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import text

from quota_engine import EngineUnavailableError, QuotaEngine
from quota_engine.embedded import ValkeyServer
from quota_engine.events import MalformedEntryError, parse_entry
from tests.faults import history, oracle
from tests.faults.history import Call, Verdict, Window
from tests.faults.writers import QUOTA_TYPE, Asked, Writers, ask, issue_grant
from tests.workers import pending, wait_until

SHARDS = 2
#: Most calls go to the first three; the poor one is refused now and then; "cold" ones hydrate.
HOT = ("hot:1", "hot:2", "hot:3")
POOR = "poor"
COLD = tuple(f"cold:{number}" for number in range(8))
ACCOUNTS = HOT * 4 + (POOR,) * 3 + COLD
RICH_GRANT, POOR_GRANT = 1_000_000, 60

ENGINE_SETTINGS = {
    "shards": SHARDS,
    "call_timeout_seconds": 3.0,
    "socket_timeout_seconds": 1.0,
    "connect_timeout_seconds": 1.0,
}


class World:
    """
    One deployment, its clients and its calls. Made by the fixture ``make_world``.

    ``url`` is what clients are given: the server's own, or that of a proxy before it. ``engine``
    is the oracle's own client, always at ``url``; ``admin`` is an operator's, at the server.
    """

    def __init__(
        self,
        server: ValkeyServer,
        database_url: str,
        *,
        url: str | None = None,
        seed: int | None = None,
        accounts: Sequence[str] = ACCOUNTS,
        **settings: Any,
    ) -> None:
        self.server = server
        self.url = url or server.url
        self.database_url = database_url
        if seed is None:
            seed = int(os.environ.get("QUOTA_ENGINE_TEST_SEED") or random.randrange(10**6))
            print(f"QUOTA_ENGINE_TEST_SEED={seed}")
        self.seed = seed
        self.admin = redis.Redis.from_url(server.url)
        self.calls: list[Call] = []
        self._settings = {**ENGINE_SETTINGS, **settings}
        self._closing = ExitStack()
        self._writings = 0
        self.engine = self.open_engine()
        for account in dict.fromkeys(accounts):
            grant = POOR_GRANT if account == POOR else RICH_GRANT
            self.ask(issue_grant(account, f"{account}-first", grant))

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.admin.close()
        self._closing.close()

    def open_engine(self, url: str | None = None, **settings: Any) -> QuotaEngine:
        """Return one more client, at another URL if given; it is closed with the world."""
        given = {**self._settings, **settings}
        engine = QuotaEngine.open(url or self.url, self.database_url, **given)
        return self._closing.enter_context(engine)

    def ask(
        self, asked: Asked, *, seconds: float = 30.0, engine: QuotaEngine | None = None
    ) -> Any:
        """Make one call, remember it for the check, and return its answer (None: refused)."""
        call, method = asked
        self.calls.append(call)
        until = time.monotonic() + seconds
        answer = ask(call, method, lambda: engine or self.engine, lambda: until)
        assert call.outcome != "unknown", call.error
        return answer

    def writing(
        self,
        count: int = 8,
        *,
        engines: Sequence[QuotaEngine] | None = None,
        accounts: Sequence[str] = ACCOUNTS,
        **options: Any,
    ) -> Writers:
        """Return ``count`` writers, not started yet, over three engines of their own or these."""
        self._writings += 1
        chosen = engines or [self.open_engine() for _ in range(3)]
        name = f"w{self._writings}-"
        writers = Writers(chosen, accounts, count=count, seed=self.seed, name=name, **options)
        writers.calls = self.calls
        return writers

    # -- persisting

    def drain(self) -> float:
        """Persist what waits; return an instant: what was answered before it is persisted."""
        started = time.monotonic()
        self.engine.drain()
        return started

    def pending(self) -> int:
        """Return how many entries wait in the outboxes."""
        return pending(self.engine)

    def epochs(self) -> list[int]:
        """Return each shard's epoch, as the ledger has it."""
        return [row.epoch for row in self.engine.deployment.ledger.read_shards()]

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Inject a fault inside: checks first that something waits to be persisted."""
        assert self.pending() > 0, "a fault is injected while the outbox is not empty"
        yield

    # -- the server, and its files

    def move_to(self, server: ValkeyServer) -> None:
        """Let another server be this world's; where its clients' URL leads is the caller's."""
        self.server = server
        self.admin.close()
        self.admin = redis.Redis.from_url(server.url)

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.server.place / "data"

    @staticmethod
    def is_empty(server: ValkeyServer) -> bool:
        """Whether a server holds no key at all."""
        with redis.Redis.from_url(server.url) as client:
            return client.dbsize() == 0

    def restart(self) -> None:
        """Kill the server, and start it on the same data."""
        self.server.kill()
        self.server.start()

    # -- the oracle

    def heal(self) -> None:
        """Let everything run again, ask the gate as a worker would, wait for a first answer."""
        self.server.start()
        seen = self.engine.deployment.opened

        def answers() -> bool:
            try:
                self.engine.deployment.reopen(seen)
                self.engine.read_balance(POOR, QUOTA_TYPE)
            except EngineUnavailableError:
                return False
            return True

        wait_until(answers, "calls are answered", 30)

    def check(
        self,
        *,
        may_lose: Window | None = None,
        may_lose_promises: bool = False,
        excepting: Collection[str] = (),
        writers: Sequence[Writers] = (),
    ) -> Verdict:
        """
        Heal, drain to empty; fail unless all invariants hold and clients were told the truth.

        ``may_lose``: answered calls that the fault may have lost. ``excepting``: invariants that
        it is meant to break, such as ``"I12"`` where quotas are frozen; what is in the quarantine
        then counts as kept. Promised grants are issued first, as workers do: none is ever lost,
        unless the ledger itself comes back older (``may_lose_promises``).
        """
        self.heal()
        wrong = [fault for one in writers for fault in one.faults]
        self.drain()
        self.engine.run_schedule()
        self.drain()
        if self.pending():
            wrong.append(f"{self.pending()} entries still wait")
        wrong.extend(oracle.broken(self.engine, excepting))
        verdict = history.check(
            self.calls,
            self.entries(),
            may_lose=may_lose,
            elsewhere=self.quarantined() if "I12" in excepting else (),
        )
        wrong.extend(verdict.wrong)
        if not may_lose_promises:
            wrong.extend(f"a promise: {one}" for one in verdict.lost if one.verb == "issue_grant")
        print(verdict)
        print("lost:", "; ".join(map(str, verdict.lost)))
        assert wrong == [], "\n".join(wrong[:20])
        return verdict

    def entries(self) -> list[Any]:
        """Return the ledger's rows."""
        with self.engine.deployment.ledger.transaction() as sql:
            return list(sql.execute(text("SELECT * FROM ledger_entries")))

    def quarantined(self) -> set[str]:
        """Return the operation ids that are in the quarantine."""
        with self.engine.deployment.ledger.transaction() as sql:
            found = sql.execute(text("SELECT raw_entry FROM quarantine")).scalars()
            return set(filter(None, map(_operation_of, found)))


def _operation_of(raw: bytes) -> str:
    """Return whose entry these bytes are, or nothing: they may be junk."""
    try:
        return parse_entry(bytes(raw).decode()).operation_id
    except (UnicodeDecodeError, MalformedEntryError):
        return ""
