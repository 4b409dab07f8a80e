"""An outbox written by hand, as the scripts and the gate would write it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from sqlalchemy import update

from quota_engine.events import EventId
from quota_engine.keys import ShardKeys
from quota_engine.ledger import Ledger, tables
from quota_engine.outbox import START, Outbox
from tests.entries import Written


class OutboxWriter:
    """One shard's outbox, opened as the gate would open it."""

    def __init__(
        self, client: redis.Redis, ledger: Ledger, shard: int = 0, epoch: int = 1
    ) -> None:
        self.client, self.ledger, self.shard, self.epoch = client, ledger, shard, epoch
        self.keys = ShardKeys(shard)
        self.n = 0

    def open(self) -> OutboxWriter:
        """Write the marker and the fence, and record epoch, cursor and incarnation."""
        self.client.xadd(self.keys.outbox, {"marker": json.dumps({})}, id=f"{self.epoch}-0")
        self.client.hset(self.keys.versions, "@epoch", str(self.epoch))
        self.n = 0
        self.record_opening(self.ledger)
        return self

    def record_opening(self, ledger: Ledger) -> None:
        """Record in a ledger that the shard is open in this epoch, with nothing persisted."""
        incarnation = Outbox(self.client, self.shard).read(START, 1).incarnation
        with ledger.transaction() as connection:
            connection.execute(
                update(tables.shards)
                .where(tables.shards.c.shard == self.shard)
                .values(
                    epoch=self.epoch, cursor_epoch=self.epoch, cursor_n=0, incarnation=incarnation
                )
            )

    def send(self, *written: Written) -> None:
        """Put entries into the outbox."""
        for one in written:
            self.send_raw({"entry": one.text, "chain": one.chain})

    def send_many(self, written: list[Written]) -> None:
        """Put many entries into the outbox at once."""
        pipeline = self.client.pipeline(transaction=False)
        for one in written:
            self.n += 1
            fields: Any = {"entry": one.text, "chain": one.chain}
            pipeline.xadd(self.keys.outbox, fields, id=f"{self.epoch}-{self.n}")
        pipeline.execute()

    def send_call(self, *written: Written) -> None:
        """Put the entries of one call into the outbox: all but the last say that more follows."""
        for one in written[:-1]:
            self.send_raw({"entry": one.text, "chain": one.chain, "more": "1"})
        self.send(written[-1])

    def send_raw(self, fields: dict[Any, Any]) -> EventId:
        """Put any bytes into the outbox, under the next id."""
        self.n += 1
        self.client.xadd(self.keys.outbox, fields, id=f"{self.epoch}-{self.n}")
        return EventId(self.epoch, self.n)


@contextmanager
def opened_world(redis_url: str, database_url: str, shards: int = 1) -> Iterator[OutboxWriter]:
    """Yield the outbox of shard 0 in a new deployment, opened in epoch 1."""
    ledger = Ledger.open(database_url)
    client = redis.Redis.from_url(redis_url)
    try:
        ledger.create_deployment("dep_test", shards)
        yield OutboxWriter(client, ledger).open()
    finally:
        client.close()
        ledger.close()
