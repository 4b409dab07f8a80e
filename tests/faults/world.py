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
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import text

from quota_engine import EngineUnavailableError, QuotaEngine
from quota_engine.embedded import ValkeyServer
from quota_engine.events import MalformedEntryError, parse_entry
from quota_engine.keys import QuotaName
from tests.faults import caps, history, oracle, shares
from tests.faults.history import Call, Key, Verdict, Window, extension_id
from tests.faults.shares import Quota, Sums
from tests.faults.writers import QUOTA_TYPE, Asked, Writers, ask, issue_grant, set_limit
from tests.workers import pending, wait_until

SHARDS = 2
#: Two organisations, of different shards. Their teams have nothing but limits.
ORGANISATIONS = ("acme", "contoso")
TEAM, SLOTS, FEW = "contoso/team", "acme/slots", "contoso/few"
#: Most calls go to the first three; the poor one is refused now and then; "cold" ones hydrate; the
#: last two are below limits that refuse.
HOT = ("acme/hot-1", "contoso/team/hot-2", "hot:3")
POOR = "acme/poor"
COLD = (*(f"cold:{number}" for number in range(4)), f"{TEAM}/cold-4", "acme/cold-5")
LIMITED = (f"{SLOTS}/cold-6", f"{FEW}/cold-7")
#: Who pays for calls of accounts whose own quota is soon used up: one beside them, whose is one
#: day, then one above.
PAYERS = {
    "acme/lean-1": ("acme/pool", "acme"),
    f"{TEAM}/lean-2": (f"{TEAM}/pool", "contoso"),
}
LEAN, POOLS = tuple(PAYERS), tuple(payers[0] for payers in PAYERS.values())
ACCOUNTS = HOT * 4 + (POOR,) * 3 + LEAN * 2 + COLD + LIMITED
RICH_GRANT = 1_000_000
GRANTS = {
    POOR: 60,
    **dict.fromkeys(LEAN, 10),
    POOLS[0]: 200,
    **dict.fromkeys(ORGANISATIONS, 10_000_000),
}
#: Of each account above: how many, of what, per what. Refused by: ``SLOTS``, ``FEW``.
LIMITS: tuple[tuple[str, int, str, str | None], ...] = (
    *((name, 100_000_000, "units", "day") for name in ORGANISATIONS),
    *((name, 1_000_000, "calls", "hour") for name in ORGANISATIONS),
    (TEAM, 100_000_000, "units", "minute"),
    (SLOTS, 1, "holds", None),
    (FEW, 12, "calls", "hour"),
)

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
        types: Sequence[str] = (QUOTA_TYPE,),
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
        #: The quotas that are asked by calls of the accounts below them.
        self.acting: frozenset[Quota] = frozenset(
            [(name, QUOTA_TYPE) for name, *_ in LIMITS]
            + [(name, of_type) for name in ORGANISATIONS for of_type in types]
        )
        for account in dict.fromkeys((*ORGANISATIONS, *POOLS, *accounts)):
            grant = GRANTS.get(account, RICH_GRANT)
            for of_type in types:
                self.ask(issue_grant(account, f"{account}-first", grant, quota_type=of_type))
        for account, payers in PAYERS.items():
            self.engine.accounts.set_pays_after(account, payers)
        for number, (account, amount, of, per) in enumerate(LIMITS):
            self.ask(set_limit(account, f"limit-{number}", amount, of, per))

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
        entries = self.entries()
        verdict = history.check(
            shares.spread(self.calls, self.acting, shares.payers_in(entries)),
            entries,
            may_lose=may_lose,
            elsewhere=self.quarantined() if "I12" in excepting else (),
        )
        for of_quota in by_quota(entries):
            wrong.extend(caps.exceeded(of_quota))
        if "I13" not in excepting:
            wrong.extend(f"{call} is in some of its quotas only" for call in verdict.torn)
        if not {"I12", "I13"} & set(excepting):
            wrong.extend(self._wrong_sums(entries))
        wrong.extend(verdict.wrong)
        if not may_lose_promises:
            wrong.extend(f"a promise: {one}" for one in verdict.lost if one.verb == "issue_grant")
        print(verdict)
        print("lost:", "; ".join(map(str, verdict.lost)))
        assert wrong == [], "\n".join(wrong[:20])
        return verdict

    def _wrong_sums(self, entries: list[Any]) -> Iterator[str]:
        """Say where an account was not charged the sum of what those below it were."""
        sums = Sums(shares.apart(self.calls))
        for row in entries:
            sums.add(row, row.caller)
        yield from sums.wrong(self.acting)

    def entries(self) -> list[Any]:
        """Return the ledger's rows in the order of their logs; ``caller``: of whom a share is."""
        with self.engine.deployment.ledger.transaction() as sql:
            return list(sql.execute(_ENTRIES))

    def quarantined(self) -> set[Key]:
        """Return what calls are in the quarantine."""
        with self.engine.deployment.ledger.transaction() as sql:
            found = sql.execute(text("SELECT raw_entry FROM quarantine")).scalars()
            return set(filter(None, map(_call_of, found)))


def by_quota(entries: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield each quota's rows of all, which stand in the order of their logs."""
    for _, of_quota in groupby(entries, key=lambda row: (row.account, row.quota_type)):
        yield list(of_quota)


_ENTRIES = text(f"""
    SELECT *, CASE WHEN operation_id ~ '{history.SUFFIX}' THEN {oracle.CALLER} END AS caller
    FROM ledger_entries ORDER BY account, quota_type, version
""")


def _call_of(raw: bytes) -> Key | None:
    """Return which call these bytes tell of, if any: they may be junk."""
    try:
        entry = parse_entry(bytes(raw).decode())
    except (UnicodeDecodeError, MalformedEntryError):
        return None
    quota = QuotaName.parse(entry.quota)
    is_growth = entry.kind == "hold.extended"
    id_ = extension_id(entry.subject, entry.amount) if is_growth else entry.operation_id
    return quota.account, quota.quota_type, id_
