# Written by tools/unasync.py from quota_engine/_async/transport.py. Edit that file instead.
"""Carry steps to Redis and the ledger, and their answers back. Knows nothing of what they mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from hiredis import pack_command
from redis import BlockingConnectionPool, Redis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from quota_engine._sync.asking import ask_ledger
from quota_engine._sync.backlog import look_at_outbox
from quota_engine._sync.resending import Resending
from quota_engine.backing import Backing, Opened
from quota_engine.commands import (
    Command,
    Context,
    Flow,
    HydrateQuota,
    Step,
)
from quota_engine.commands.base import Argument, Reply
from quota_engine.commands.replies import FencedError, error_from
from quota_engine.errors import (
    EngineUnavailableError,
    InvalidArgumentError,
    QuotaError,
    RedisAwayError,
)
from quota_engine.instants import to_ms
from quota_engine.keys import ShardKeys, shard_of
from quota_engine.known_payers import KnownPayers
from quota_engine.metrics.collector import Metrics
from quota_engine.metrics.refused import Refusals
from quota_engine.reach import POOL_EXHAUSTED, Reach
from quota_engine.resending import QUESTIONS, RecentCommands
from quota_engine.scripts import load_scripts
from quota_engine.settings import Settings
from quota_engine.waiting import forgotten_at_fork, in_place

T = TypeVar("T")


Clock = Callable[[], datetime]

#: How often a client looks at how much waits to be persisted.
LOOK_SECONDS = 10.0
#: The first pause before an unanswered call is sent again; it doubles up to the longest.
PAUSE_SECONDS = 0.02
PAUSE_MAX_SECONDS = 0.5


def meaning_of(error: redis_errors.ResponseError) -> QuotaError:
    """Return what an error reply means; the driver has taken its code off when Redis is full."""
    is_full = isinstance(error, redis_errors.OutOfMemoryError)
    return error_from(f"OOM {error}" if is_full else str(error))


def may_pass(error: redis_errors.ResponseError, meaning: QuotaError, *, is_unknown: bool) -> bool:
    """
    Return whether a refusal is to be waited for, and leaves the outcome open.

    A full server runs no script, so it could not say either that this one had been run before.
    """
    is_full = isinstance(error, redis_errors.OutOfMemoryError)
    return isinstance(meaning, EngineUnavailableError) or (is_full and is_unknown)


class IncarnationError(redis_errors.ConnectionError):
    """A new connection reached another incarnation of the server than the deployment's."""


class Transport:
    """
    Runs flows against one deployment, each within the call timeout.

    A mutation is sent again only with the same operation id; the driver itself never retries.
    """

    def __init__(
        self, redis_url: str, backing: Backing, settings: Settings, clock: Clock | None
    ) -> None:
        self._backing = backing
        self._clock = clock
        self._settings = settings
        self._opened: Opened | None = None
        self._contexts: dict[int, Context] = {}
        self._scripts = load_scripts()
        self._redis_url = redis_url
        self._redis: Redis | None = None
        self._is_closed = False
        self._look_at = 0.0
        self._pressed: set[int] = set()
        seconds = settings.resend_seconds
        recent = RecentCommands(seconds, settings.horizon_seconds / 2)
        self._recent = recent if seconds else None
        self.resending = Resending(self, recent)
        self.reach, self._payers = Reach(), KnownPayers()
        self.metrics, self.refusals = Metrics(), Refusals()
        forgotten_at_fork(self.metrics)
        forgotten_at_fork(self.refusals)

    def connect(self) -> None:
        """Ask the gate, and reach the server once. Does nothing when that was done."""
        if self._opened is None:
            self._reopen()

    def begin(self) -> None:
        """Connect; where accounts may be admitted offline, do without a Redis that is away."""
        try:
            self.connect()
        except RedisAwayError:
            if not self._settings.may_admit_offline:
                raise
            in_place(getattr, self._backing, "deployment_id")  # raises if there is none
            self.reach.is_away = True

    def close(self) -> None:
        """Close the connections to Redis; before that, send again what must be."""
        if self._redis is not None and self.resending.recent.is_behind:
            deadline = time.monotonic() + self._settings.call_timeout_seconds
            with suppress(QuotaError):
                self.resending.catch_up(deadline)
        if self._redis is not None:
            self._redis.close()
            self._redis.connection_pool.disconnect()
            self._redis = None
        self._opened = None
        self._is_closed = True
        self.resending.forget()

    def now_ms(self) -> int | None:
        """Return the client's clock in milliseconds, None: the server's decides."""
        return None if self._clock is None else to_ms(self._clock(), name="the clock's answer")

    def drive(self, flow: Flow[T], operation: str = "") -> T:
        """
        Take each step that the flow yields, until it returns or the call timeout is over.

        ``operation``: what metrics count this as; empty: it is a part of something else.
        """
        started = time.monotonic()
        deadline = started + self._settings.call_timeout_seconds
        if not operation:
            return self._drive(flow, deadline)
        try:
            outcome = self._drive(flow, deadline)
        except QuotaError as error:
            self.metrics.failed(operation, time.monotonic() - started, error)
            raise
        self.metrics.done(operation, time.monotonic() - started, outcome)
        return outcome

    def drive_again(self, flow: Flow[T], deadline: float) -> T:
        """Drive a flow that sends something again: it waits for nothing else that is."""
        return self._drive(flow, deadline, is_again=True)

    def _drive(self, flow: Flow[T], deadline: float, *, is_again: bool = False) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    answer = self._take(step, deadline, is_again)
                except QuotaError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as stop:
            outcome: T = stop.value
            return outcome

    def _take(self, step: Step, deadline: float, is_again: bool) -> Any:
        if isinstance(step, Command):
            command = self._payers.send_along(step)
            result = self._run(command, deadline, is_again)
            self._payers.note(command, result)
            return result
        if time.monotonic() >= deadline:
            raise self._too_late("the ledger has not caught up; is a worker running?")
        return ask_ledger(self._backing, step)

    def _run(self, command: Command[T], deadline: float, is_again: bool) -> T:
        """Send one command until it is answered, and return what the answer means."""
        pause, reach = PAUSE_SECONDS, self.reach
        away_deadline = reach.deadline(deadline)
        is_unknown = False
        recent = self._recent
        while True:
            is_away = False
            if recent is not None and recent.is_behind and not is_again:
                self.resending.catch_up(deadline)
            life = self._contexts
            try:
                redis, context, reply = self._send(command)
            except (
                redis_errors.NoScriptError,
                redis_errors.ReadOnlyError,
                IncarnationError,
            ) as error:
                failure = self._reopen_or_say() or f"it was opened again ({error})"
            except redis_errors.ResponseError as error:
                meaning = meaning_of(error)
                failure = str(meaning)
                if isinstance(meaning, FencedError):
                    failure = self._reopen_or_say() or failure
                    if isinstance(command, HydrateQuota):  # what was read is of another epoch
                        raise meaning from error
                elif not may_pass(error, meaning, is_unknown=is_unknown):
                    raise meaning from error
            except (redis_errors.RedisError, RedisAwayError, OSError) as error:
                failure, is_unknown = str(error) or type(error).__name__, True
                is_away = failure != POOL_EXHAUSTED
            else:
                now = time.monotonic()
                if now >= self._look_at:
                    self._look_at = now + LOOK_SECONDS
                    ask = partial(self._exchange, redis)
                    look_at_outbox(ask, context.keys, self._pressed, self._settings)
                result = command.parse(reply)
                if recent is not None and command.is_sent_again and not is_again:
                    self._remember(now, life, context, command, reply)
                return result
            if time.monotonic() + pause >= (away_deadline if is_away else deadline):
                raise reach.away(failure) if is_away else self._too_late(failure)
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX_SECONDS)

    def _remember(
        self, now: float, life: object, context: Context, command: Command[Any], reply: Reply
    ) -> None:
        """Keep what was answered, unless it was a question; mark what was answered too late."""
        recent = self._recent
        if recent is None or reply[0] in QUESTIONS:
            return
        recent.keep(now, life, context.epoch, command)
        if life is not self._contexts:  # the deployment was opened again meanwhile
            recent.mark()

    def _send(self, command: Command[Any]) -> tuple[Redis, Context, Any]:
        """Send a command once (while Redis is away, one at a time); return the reply too."""
        reach = self.reach
        if reach.is_away and not reach.may_try():
            raise redis_errors.ConnectionError("another call is trying to reach it")
        try:
            redis, context = self._context(command)
            keys, sha = command.keys(context.keys), self._scripts[command.script].sha
            words = ("EVALSHA", sha, len(keys), *keys, *command.argv(context))
            reply = self._exchange(redis, *words)
        except redis_errors.ResponseError:
            reach.answered()
            raise
        finally:
            if reach.is_away:
                reach.let_go()
        if reach.is_away:
            reach.answered()
        return redis, context, reply

    def _exchange(self, redis: Redis, *words: Argument) -> Any:
        """
        Send words on a connection of the pool, once, and return the reply.

        Without the client's own ``execute_command``: nothing there may retry, and its counting and
        its packing take as long as the engine's own work. A connection that fails closes itself.
        """
        pool: Any = redis.connection_pool
        connection = pool.get_connection()
        try:
            packed = pack_command(words)  # type: ignore[arg-type]  # its stub means one word
            connection.send_packed_command([packed])
            return connection.read_response()
        finally:
            pool.release(connection)

    def send_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Send commands in one round trip; return their replies, errors among them as values."""
        words: list[tuple[Argument, ...]] = []
        redis: Redis | None = None
        for command in commands:
            redis, context = self._context(command)
            keys, sha = command.keys(context.keys), self._scripts[command.script].sha
            words.append(("EVALSHA", sha, len(keys), *keys, *command.argv(context)))
        if redis is None:
            return []
        pool: Any = redis.connection_pool
        connection = pool.get_connection()
        replies: list[Any] = []
        try:
            connection.send_packed_command([pack_command(each) for each in words])  # type: ignore[arg-type]
            while len(replies) < len(words):
                try:
                    replies.append(connection.read_response())
                except redis_errors.ResponseError as error:
                    replies.append(error)
        finally:
            pool.release(connection)
        return replies

    def opening(self) -> tuple[Opened | None, object]:
        """Return the deployment as it was last opened, and what names that opening."""
        return self._opened, self._contexts

    def _too_late(self, failure: str) -> EngineUnavailableError:
        seconds = self._settings.call_timeout_seconds
        return EngineUnavailableError(
            f"no answer within {seconds:g} s: {failure}. The outcome is unknown: retry with the"
            " same id, or run `quota-engine doctor`."
        )

    def _context(self, command: Command[Any]) -> tuple[Redis, Context]:
        """Return the client and what it adds to this command."""
        if self._opened is None or self._redis is None:
            self._reopen()
        opened, redis = self._opened, self._redis
        if opened is None or redis is None:
            raise EngineUnavailableError("the engine is closed")
        shard = shard_of(command.quota.account, opened.shards)
        now_ms = self.now_ms()
        context = self._contexts.get(shard)
        if context is None or now_ms is not None:
            context = Context(
                ShardKeys(shard),
                opened.epochs[shard],
                now_ms,
                self._settings.horizon_ms,
                self._settings.due_max,
                self._settings.outbox_hard_limit,
                self._settings.unenforced,
            )
            self._contexts[shard] = context
        return redis, context

    def _reopen_or_say(self) -> str:
        """Ask the gate; return why it could not open now, or nothing. A call waits for it."""
        try:
            self._reopen()
        except EngineUnavailableError as error:
            return str(error)
        return ""

    def _reopen(self) -> None:
        """Ask the gate, and forget every connection that was made before."""
        if self._is_closed:
            raise EngineUnavailableError("the engine is closed; open another one")
        seen = self._opened
        opened = in_place(self._backing.reopen, seen)
        if self._redis is None:
            self._redis = self._client()
        elif opened is not seen:
            self._redis.connection_pool.disconnect(inuse_connections=False)
        self._opened = opened
        self._contexts = {}
        if seen is not None:
            self.resending.recent.mark()

    def _client(self) -> Redis:
        settings = self._settings
        try:
            pool = BlockingConnectionPool.from_url(
                self._redis_url,
                max_connections=settings.connections_max,
                timeout=settings.call_timeout_seconds,
                decode_responses=True,
                encoding_errors="surrogateescape",
                protocol=2,
                socket_timeout=settings.socket_timeout_seconds,
                socket_connect_timeout=settings.connect_timeout_seconds,
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
                redis_connect_func=self._check_incarnation,
            )
        except ValueError as error:
            raise InvalidArgumentError(f"the Redis URL is no URL: {error}") from error
        return Redis.from_pool(pool)

    def _check_incarnation(self, connection: Any) -> None:
        """Greet a new connection, and refuse it when another incarnation answers."""
        connection.on_connect()
        connection.send_command("INFO", "server", "replication")
        told = str(connection.read_response())
        rows = dict(line.partition(":")[::2] for line in told.splitlines())
        incarnation = f"{rows.get('run_id', '')}:{rows.get('master_replid', '')}"
        opened = self._opened
        if opened is not None and incarnation != opened.incarnation:
            raise IncarnationError("the server was restarted or replaced")
